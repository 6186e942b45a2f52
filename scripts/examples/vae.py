"""A variational autoencoder with a train_step of its own, on points of a noisy circle.

python -m pipeline.train --data=scripts/examples/vae.py:circle --model=scripts/examples/vae.py:vae \
  --loop=fit --batch_size=64 --epochs=20 --run_name=vae
"""

import numpy as np
import tensorflow as tf

keras, layers, ops = tf.keras, tf.keras.layers, tf.keras.ops


def circle():
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, 1000)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (points + random.normal(0, 0.05, points.shape),)  # x alone


class VAE(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(2)])
        self.decoder = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(2)])
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        return self.decoder(self.encoder(x)[:, :1])

    def train_step(self, x):
        with tf.GradientTape() as tape:
            mean, log_var = ops.split(self.encoder(x), 2, axis=1)
            noise = keras.random.normal(ops.shape(mean), seed=self.seed)
            decoded = self.decoder(mean + ops.exp(0.5 * log_var) * noise)
            reconstruction = 50 * ops.mean(ops.sum(ops.square(x - decoded), axis=1))
            kl = 0.5 * ops.mean(ops.exp(log_var) + ops.square(mean) - 1 - log_var)
            loss = reconstruction + kl
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}


def vae():
    model = VAE()
    model.compile(keras.optimizers.Adam(0.01))
    return model
