"""Optimizers: the hand-written update of the guide, and those of Keras; the learning rate."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.training import norms


class LearningRate(tf.keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The learning rate of a step, a function of the step alone.

    It rises evenly in the first `warmup_steps`. Then, s steps later, it is that of the config
    times 1 (constant), (1 + cos(pi * s / decay_steps)) / 2 up to decay_steps and 0 after that
    (cosine: Loshchilov and Hutter, SGDR, 2017, section 3, without restarts), or
    0.1 ** (s / decay_steps) (exponential).
    """

    def __init__(self, config: config_lib.Config, last_step: int):
        """Without --decay_steps, the schedule takes the steps of the run, up to last_step."""
        assert config.learning_rate is not None  # learning_rate.choose has settled it
        self._rate, self._schedule = config.learning_rate, config.schedule
        self._warmup = config.warmup_steps
        self._decay = config.decay_steps or max(1, last_step - self._warmup)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate [...] of the updates step + 1, from int64 steps [...]."""
        past = tf.cast(step - self._warmup, tf.float32) / self._decay
        past = tf.maximum(past, 0.0)
        if self._schedule == "cosine":
            factor = (1 + tf.cos(math.pi * tf.minimum(past, 1.0))) / 2
        elif self._schedule == "exponential":
            factor = tf.pow(0.1, past)
        else:
            factor = tf.ones_like(past)
        rate = self._rate * factor
        if not self._warmup:
            return rate
        return rate * tf.minimum(1.0, tf.cast(step + 1, tf.float32) / self._warmup)

    def at(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The same in numpy."""
        if self.is_constant:  # as the operations below would find, in a hundred times as long
            return np.full(steps.shape, self._rate, np.float32)
        rates: npt.NDArray[np.float32] = self(tf.constant(steps)).numpy()
        return rates

    @property
    def is_constant(self) -> bool:
        """Whether it is the same at every step."""
        return self._schedule == "constant" and not self._warmup


class GradientDescent(tf.Module):  # type: ignore[misc]
    """The guide's hand-written update, with the interface of a Keras optimizer."""

    def __init__(self, learning_rate: LearningRate, *, clip_norm: float):
        super().__init__()
        self._learning_rate, self._clip_norm = learning_rate, clip_norm
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False)

    def apply_gradients(self, pairs: Iterable[tuple[tf.Tensor, tf.Variable]]) -> None:
        """Subtracts from each variable its gradient, times the learning rate."""
        gradients, variables = zip(*pairs, strict=True)
        if self._clip_norm:
            norm = norms.global_norm(gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        rate = self._learning_rate(self.iterations)
        for gradient, variable in zip(gradients, variables, strict=True):
            variable.assign_sub(tf.cast(rate, gradient.dtype) * gradient)
        self.iterations.assign_add(1)


Optimizer = Any  # GradientDescent or a keras.optimizers.Optimizer, which has no stubs


def create(config: config_lib.Config, variables: list[tf.Variable], *, last_step: int) -> Optimizer:
    """Makes the optimizer of some variables; in the custom loop 'sgd' is the guide's update.

    Its own variables exist, so that a compiled function can use it.

    Raises:
      errors.InputError: this version of Keras has no optimizer of that name.
    """
    rate = LearningRate(config, last_step)
    if config.optimizer == "sgd" and config.loop == "custom":
        return GradientDescent(rate, clip_norm=config.clip_norm)
    classes = {name.lower(): value for name, value in vars(tf.keras.optimizers).items()}
    errors.require(
        config.optimizer in classes,
        f"--optimizer={config.optimizer} needs a newer Keras than {tf.keras.version()}",
    )
    optimizer = classes[config.optimizer](
        config.learning_rate if rate.is_constant else rate, global_clipnorm=config.clip_norm or None
    )
    optimizer.build(variables)
    return optimizer
