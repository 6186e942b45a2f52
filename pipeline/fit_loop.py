"""The same training through Keras compile and fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import data as data_lib
from pipeline import losses, metrics, optimizers
from pipeline import model as model_lib

_STEPS_PER_EXECUTION = 256  # steps in one call of Keras' compiled function


class _Trajectory(tf.keras.metrics.Metric):  # type: ignore[misc]
    """Keeps the loss of each step, and W and b after it, until they are handed out.

    Keras itself hands out a running mean of the loss, once in a call. A metric is the
    one part of compile and fit that sees every step from inside the compiled function.

    Attributes:
      count: Steps kept.
    """

    def __init__(self, model: model_lib.KerasLinearModel, *, capacity: int):
        super().__init__(name="trajectory")
        self._parts = [
            tf.Variable(tf.zeros([capacity, *part.shape]), trainable=False)
            for part in (model.W, model.b, model.b)
        ]
        # In a closure: Keras would take an attribute for a variable of the metric.
        self._parameters: Callable[[], tuple[tf.Variable, ...]] = lambda: (
            model.W.value,
            model.b.value,
        )
        self.count = tf.Variable(0, trainable=False)

    def update_state(self, y: tf.Tensor, prediction: tf.Tensor, sample_weight: Any = None) -> None:
        """Takes y [b] and the prediction [b] from before the step's update."""
        del sample_weight
        loss = losses.mean_squared_error(y, prediction)
        for part, value in zip(self._parts, (*self._parameters(), loss), strict=True):
            part.scatter_update(tf.IndexedSlices(value, self.count))
        self.count.assign_add(1)

    def take(self) -> list[Any]:
        """Hands out W [K] or [K, D], b [K] and loss [K] of the steps kept, and forgets them."""
        count = int(self.count.numpy())
        self.count.assign(0)
        return [part.numpy()[:count] for part in self._parts]

    def result(self) -> tf.Tensor:
        """The number of steps kept; Keras wants some scalar."""
        return tf.convert_to_tensor(self.count)

    def reset_state(self) -> None:
        """Does nothing: what was kept has been handed out."""


class _HandOut(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Turns what Keras has trained into the points that the custom loop hands out."""

    def __init__(
        self,
        model: model_lib.KerasLinearModel,
        trajectory: _Trajectory,
        *,
        step: int,
        observe: metrics.Observer,
    ):
        super().__init__()
        self._trajectory = trajectory
        self._step = step
        self._observe = observe
        self._W, self._b = model.W.numpy()[None], model.b.numpy()[None]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hands out the points from before the updates that have just been made."""
        del batch, logs
        W, b, loss = self._trajectory.take()
        W, b = np.concatenate([self._W, W]), np.concatenate([self._b, b])
        self._W, self._b = W[-1:], b[-1:]
        self._give(W[:-1], b[:-1], loss)

    def last(self, loss: float) -> None:
        """Hands out the point after the last update."""
        self._give(self._W, self._b, np.array([loss], np.float32))

    def _give(self, W: Any, b: Any, loss: Any) -> None:
        steps = np.arange(self._step, self._step + len(loss))
        self._step += len(loss)
        self._observe(metrics.StepMetrics(steps, W, b, loss))


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

    The arguments are those of custom_loop.train. What Keras calls an epoch is here all
    that is left to train, up to the next stop: each of its epochs costs as much as many
    steps, and it could not begin in the middle of one. Its own TensorBoard callback is left
    out: it numbers its points by calls and writes means over the epoch, and its graph is
    empty.
    """
    # Fewer where a step is slow, so that it can be stopped and saved between them.
    capacity = 1 if run_eagerly else min(_STEPS_PER_EXECUTION, data.block_steps)
    trajectory = _Trajectory(model, capacity=capacity)
    model.compile(
        optimizer=optimizer,
        loss="mean_squared_error",
        metrics=[trajectory],
        run_eagerly=run_eagerly,
        steps_per_execution=capacity,
    )
    hand_out = _HandOut(model, trajectory, step=first_step, observe=observe)
    done = first_step
    while done < last_step:
        end = last_step if next_stop is None else min(last_step, next_stop(done))
        batches = data.batches(done, end - 1)
        model.fit(batches, callbacks=[hand_out], shuffle=False, verbose=0)
        done = end
    x, y = next(iter(data.batches(last_step, last_step)))
    hand_out.last(float(losses.mean_squared_error(y, model(x))))
