"""Keras models with a train_step or test_step of their own, for --model and --data."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests import kinds

keras, layers, ops = tf.keras, tf.keras.layers, tf.keras.ops
IMAGES = (kinds.IMAGES > 0).astype(np.float32)


class Sampling(layers.Layer):
    """Draws z from a normal distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs: Any) -> Any:
        """Returns z [B, 2] from its means and log variances."""
        mean, log_var = inputs
        epsilon = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * epsilon


class VAE(keras.Model):
    """A variational autoencoder; what it returns are running means, as in the examples of Keras."""

    def __init__(self) -> None:
        super().__init__()
        x = keras.Input([8, 8])
        hidden = layers.Dense(16, "relu")(layers.Flatten()(x))
        mean, log_var = layers.Dense(2)(hidden), layers.Dense(2)(hidden)
        self.encoder = keras.Model(x, [mean, log_var, Sampling()([mean, log_var])])
        decoder = [keras.Input([2]), layers.Dense(64, "sigmoid"), layers.Reshape([8, 8])]
        self.decoder = keras.Sequential(decoder)
        names = "loss", "reconstruction_loss", "kl_loss"
        self.trackers = [keras.metrics.Mean(name=name) for name in names]

    @property
    def metrics(self) -> list[Any]:
        """What Keras resets at the start of an epoch."""
        return list(self.trackers)

    def call(self, x: Any) -> Any:
        """The reconstruction from the mean."""
        return self.decoder(self.encoder(x)[0])

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update."""
        with tf.GradientTape() as tape:
            mean, log_var, z = self.encoder(data)
            differences = keras.losses.binary_crossentropy(data, self.decoder(z))
            reconstruction = ops.mean(ops.sum(differences, axis=1))
            kl = -0.5 * (1 + log_var - ops.square(mean) - ops.exp(log_var))
            kl_loss = ops.mean(ops.sum(kl, axis=1))
            total = reconstruction + kl_loss
        gradients = tape.gradient(total, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        for tracker, loss in zip(self.trackers, (total, reconstruction, kl_loss), strict=True):
            tracker.update_state(loss)
        return {tracker.name: tracker.result() for tracker in self.trackers}


def vae() -> Any:
    model = VAE()
    model.compile(keras.optimizers.Adam())
    return model


def vae_data() -> Any:
    return (IMAGES,)


class GAN(keras.Model):
    """Two networks with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        inputs = keras.Input([8, 8]), keras.Input([4])
        hidden = layers.LeakyReLU()(layers.Dense(16)(layers.Flatten()(inputs[0])))
        self.discriminator = keras.Model(inputs[0], layers.Dense(1)(layers.Dropout(0.2)(hidden)))
        image = layers.Reshape([8, 8])(layers.Dense(64, "sigmoid")(inputs[1]))
        self.generator = keras.Model(inputs[1], image)
        self.seed_generator = keras.random.SeedGenerator(7)

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        """Keeps the optimizers and the loss."""
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn
        self.d_metric = keras.metrics.Mean(name="d_loss")
        self.g_metric = keras.metrics.Mean(name="g_loss")

    def call(self, x: Any) -> Any:
        """How real images are."""
        return self.discriminator(x)

    def train_step(self, real: Any) -> dict[str, Any]:
        """One update of each network."""
        count = ops.shape(real)[0]
        latent = keras.random.normal((count, 4), seed=self.seed_generator)
        images = ops.concatenate([self.generator(latent), real], axis=0)
        labels = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(images, training=True))
        gradients = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply(gradients, self.discriminator.trainable_weights)
        latent = keras.random.normal((count, 4), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            found = self.discriminator(self.generator(latent), training=True)
            g_loss = self.loss_fn(ops.zeros((count, 1)), found)
        gradients = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply(gradients, self.generator.trainable_weights)
        self.d_metric.update_state(d_loss)
        self.g_metric.update_state(g_loss)
        return {"d_loss": self.d_metric.result(), "g_loss": self.g_metric.result()}


def gan() -> Any:
    model = GAN()
    adam = keras.optimizers.Adam
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(d_optimizer=adam(3e-4), g_optimizer=adam(1e-3), loss_fn=loss)
    return model


gan_data = vae_data


class Guide(keras.Model):
    """The CustomModel of Keras' guide, with the loss and the metrics of compile."""

    def train_step(self, data: Any) -> Any:
        """Supports sample weights."""
        x, y, weight = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=weight)
        return {metric.name: metric.result() for metric in self.metrics}


def guide() -> Any:
    x = keras.Input([12])
    hidden = layers.Dropout(0.3)(layers.BatchNormalization()(layers.Dense(8)(x)))
    model = Guide(x, layers.Dense(3)(hidden))
    model.compile("adam", kinds._entropy(), metrics=["accuracy"])
    return model


def guide_data() -> Any:
    return kinds.X, kinds.CLASSES, kinds.WEIGHTS


class Tested(keras.Sequential):
    """Has a test_step only, whose random numbers must not change training."""

    def test_step(self, data: Any) -> Any:
        """The error with noise."""
        x, y = data
        y_pred = self(x, training=True)
        return {"loss": ops.mean(ops.square(y[:, None] - y_pred)), "largest": ops.max(y_pred)}


def tested() -> Any:
    model = Tested([keras.Input([12]), layers.Dropout(0.5), layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def tested_data() -> Any:
    return kinds.X, kinds.X[:, 0]


def without_call() -> Any:
    model = type("WithoutCall", (keras.Model,), {"train_step": GAN.train_step})()
    model.compile("adam")
    return model


def uncompiled() -> Any:
    return VAE()


def ordinary() -> Any:
    model = keras.Sequential([keras.Input([8, 8]), layers.Dense(8)])
    model.compile("adam", "mse")
    return model


def without_names() -> Any:
    def train_step(self: Any, data: Any) -> Any:
        return ops.mean(self(data))

    model = type("WithoutNames", (keras.Sequential,), {"train_step": train_step})()
    model.add(layers.Dense(1))
    model.compile("adam")
    return model


def untested() -> Any:
    model = keras.Sequential([keras.Input([12]), layers.Dropout(0.5), layers.Dense(1)])
    model.compile("adam", "mse")
    return model


untested_data = tested_data
uncompiled_data = without_call_data = ordinary_data = without_names_data = vae_data


CALLS: list[tuple[Any, ...]] = []  # of the callback below


class Calls(keras.callbacks.Callback):
    """Notes what it is called with, the learning rate, and how many epochs it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.last = np.zeros(1)

    def on_train_begin(self, logs: Any = None) -> None:
        """Once in a process."""
        del logs
        CALLS.append(("begin",))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """At the first step of an epoch."""
        del logs
        CALLS.append(("epoch", epoch, float(self.model.optimizer.learning_rate)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """After the evaluation."""
        self.seen += 1
        self.last = np.ones(1)
        CALLS.append(("end", epoch, self.seen, dict(logs)))

    def on_train_end(self, logs: Any = None) -> None:
        """After the last epoch."""
        del logs
        CALLS.append(("finish",))


def plateau() -> Any:
    model = keras.Sequential([keras.Input([12]), layers.Dense(8, "relu"), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
    return model


plateau_data = tested_data


def plateau_callbacks() -> Any:
    """They decide by the validation loss."""
    reduce = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.02)
    return [Calls(), reduce, keras.callbacks.EarlyStopping(patience=3, min_delta=0.01)]


def scheduled() -> Any:
    """A list that is no function."""
    return plateau()


scheduled_data = tested_data
scheduled_callbacks = [
    keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.1 / (epoch + 1)),
    keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True),
    keras.callbacks.EarlyStopping(patience=1, start_from_epoch=1, restore_best_weights=True),
    keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: 1 / 0),
]


def one_callback() -> Any:
    return Calls()


def unknown_direction() -> Any:
    return [keras.callbacks.EarlyStopping("val_unknown")]


def tensorboard() -> Any:
    return [keras.callbacks.TensorBoard()]


def backup() -> Any:
    return [keras.callbacks.BackupAndRestore("folder")]


def raising() -> Any:
    return [keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logs["missing"])]
