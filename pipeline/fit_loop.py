"""The same training through Keras compile and fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import data as data_lib
from pipeline import metrics, optimizers
from pipeline import model as model_lib


class _StepLoss(tf.keras.metrics.Metric):  # type: ignore[misc]
    """The loss of the last step alone: Keras' own `loss` is a mean over the epoch so far."""

    def __init__(self) -> None:
        super().__init__(name="step_loss")
        self._loss = self.add_variable(shape=(), initializer="zeros")

    def update_state(self, y: tf.Tensor, prediction: tf.Tensor, sample_weight: Any = None) -> None:
        """Takes y [b] and the prediction [b] from before the step's update."""
        del sample_weight
        self._loss.assign(tf.reduce_mean(tf.square(y - prediction)))

    def result(self) -> tf.Tensor:
        """A scalar float32."""
        return tf.convert_to_tensor(self._loss)


class _Points(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Turns Keras' batch ends into the points that the custom loop hands out."""

    def __init__(self, model: model_lib.KerasLinearModel, step: int, observe: metrics.Observer):
        super().__init__()
        self._linear_model = model
        self._step = step
        self._observe = observe
        self._W, self._b = model.W.numpy(), model.b.numpy()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Hands out the point from before the update that has just been made."""
        del batch
        assert logs is not None
        self.hand_out(logs["step_loss"])

    def hand_out(self, loss: float) -> None:
        """Hands out the current point and moves to the next."""
        point = ([self._step], [self._W], [self._b], [loss])
        self._step += 1
        self._W, self._b = self._linear_model.W.numpy(), self._linear_model.b.numpy()
        self._observe(
            metrics.StepMetrics(
                np.array(point[0], np.int64), *(np.array(part, np.float32) for part in point[1:])
            )
        )


def train(
    model: model_lib.KerasLinearModel,
    data: data_lib.TrainingData,
    *,
    optimizer: optimizers.Optimizer,
    first_step: int,
    last_step: int,
    observe: metrics.Observer,
    next_stop: Callable[[int], int] | None = None,
    run_eagerly: bool = False,
) -> None:
    """Trains from the point first_step to the point last_step.

    The arguments are those of custom_loop.train; last_step must end an epoch. Keras' own
    TensorBoard callback is left out: it numbers its points by calls and writes means over
    the epoch, and its graph is empty.
    """
    del next_stop  # every stretch is a single point
    model.compile(
        optimizer=optimizer,
        loss="mean_squared_error",
        metrics=[_StepLoss()],
        run_eagerly=run_eagerly,
    )
    points = _Points(model, first_step, observe)
    per_epoch = data.steps_per_epoch
    # A first epoch that was begun before is finished by itself: Keras counts whole ones.
    end_of_epoch = min(-(-first_step // per_epoch) * per_epoch, last_step)
    for first, last in ((first_step, end_of_epoch), (end_of_epoch, last_step)):
        if first < last:
            model.fit(
                data.batches(first, last - 1),
                initial_epoch=first // per_epoch,
                epochs=-(-last // per_epoch),
                steps_per_epoch=min(per_epoch, last - first),
                callbacks=[points],
                shuffle=False,
                verbose=0,
            )
    x, y = next(iter(data.batches(last_step, last_step)))
    points.hand_out(float(tf.reduce_mean(tf.square(y - model(x)))))
