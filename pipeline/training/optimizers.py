"""Optimizers (the guide's hand-written update and Keras optimizers) and learning rates."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_calls, user_code
from pipeline.training import losses, norms
from pipeline.training import task as task_lib

_TENTH = 0.1  # --schedule=exponential multiplies the rate by this every --decay_steps

Optimizer = Any  # GradientDescent or a keras.optimizers.Optimizer, which has no stubs
Rate = Any  # a float, or a Keras LearningRateSchedule


class WarmUp(tf.keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate that rises linearly in the first steps, then follows another schedule."""

    def __init__(self, rate: Rate, *, steps: int):
        """Reaches the rate, or the start of a schedule, with update `steps`."""
        self._rate, self._steps = rate, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rates [...] of the updates step + 1, from int64 steps [...]."""
        risen = tf.minimum(1.0, tf.cast(step + 1, tf.float32) / self._steps)
        after = tf.maximum(step - self._steps, tf.cast(0, step.dtype))
        return risen * (self._rate(after) if callable(self._rate) else self._rate)


class OwnRate(tf.keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate that is the user's function of the step."""

    def __init__(self, function: Callable[[tf.Tensor], Any]):
        """Takes a function of float32 steps, so that it may divide and multiply them."""
        self._function = losses.with_autograph(function)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of the update step + 1."""
        return tf.cast(self._function(tf.cast(step, tf.float32)), tf.float32)


class GradientDescent(tf.Module):  # type: ignore[misc]
    """The guide's hand-written update, with the interface of a Keras optimizer."""

    def __init__(self, learning_rate: Rate, *, clip_norm: float):
        super().__init__()
        self.rate, self._clip_norm = learning_rate, clip_norm
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False)

    def apply_gradients(self, pairs: Iterable[tuple[Any, tf.Variable]]) -> None:
        """Subtracts the gradient times the learning rate from each variable."""
        gradients, variables = zip(*pairs, strict=True)
        if self._clip_norm:
            norm = norms.global_norm(gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        rate = self.rate(self.iterations) if callable(self.rate) else tf.constant(self.rate)
        for gradient, variable in zip(gradients, variables, strict=True):
            gradient = tf.convert_to_tensor(
                gradient
            )  # IndexedSlices (from embeddings) become dense
            variable.assign_sub(tf.cast(rate, gradient.dtype) * gradient)
        self.iterations.assign_add(1)


class Several(tf.Module):  # type: ignore[misc]
    """The optimizers of a model whose own train_step uses several, or none, by their names."""

    def __init__(self, named: Mapping[str, Any]):
        super().__init__()
        self.named = dict(named)

    @property
    def variables(self) -> list[Any]:
        """The variables of all optimizers."""
        return [variable for each in self.named.values() for variable in each.variables]


def of_own_step(model: Any) -> Optimizer:
    """The optimizer, or Several, that a model's own train_step uses; it must have been traced."""
    found = {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, tf.keras.optimizers.Optimizer) and value.built
    }
    return next(iter(found.values())) if len(found) == 1 else Several(found)


def create(config: config_lib.Config, task: task_lib.Task, *, last_step: int) -> Optimizer:
    """Makes the optimizer of a task's model, or returns the compiled model's own optimizer.

    In the custom loop, 'sgd' is the guide's update. The optimizer's variables are created, so a
    compiled function can use it.

    Raises:
      errors.InputError: this version of Keras has no optimizer with that name, or the optimizer or
        the schedule of the user's own can't be used.
    """
    if task.is_compiled and task.has_own_step:
        return of_own_step(task.model)
    optimizer = task.model.optimizer if task.is_compiled else _create(config, last_step)
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # inside a loss-scaling optimizer
    errors.require(
        not getattr(inner, "use_ema", False),
        "the optimizer has use_ema=True, whose averages would replace the weights at the end of "
        "--loop=fit only, also of a run that goes on later: leave it out",
    )
    if not isinstance(optimizer, GradientDescent) and not optimizer.built:
        optimizer.build(task.model.trainable_variables)
    with user_calls.user_errors("computing the learning rate", *_own(config).values()):
        found = _rates(optimizer, np.array([0, last_step - 1]))
        errors.require(
            found.shape == (2,) and np.isfinite(found).all(),
            f"the learning rate must be one finite number for each step; received {found.tolist()}",
        )
    return optimizer


def _own(config: config_lib.Config) -> dict[str, user_code.UserFunction]:
    return user_code.find(config, ("schedule", "optimizer"))


def _create(config: config_lib.Config, last_step: int) -> Optimizer:
    own = _own(config).get("optimizer")
    rate = _rate(config, last_step)
    if own:
        optimizer = own.make(learning_rate=rate, last_step=last_step)
        errors.require(
            isinstance(optimizer, tf.keras.optimizers.Optimizer) and not optimizer.built,
            f"{own.flag} must be a new Keras optimizer, or a function that returns one and takes "
            f"nothing but learning_rate and last_step; received {optimizer!r} ({own})",
        )
        return optimizer
    if config.optimizer == "sgd" and config.loop == "custom":
        return GradientDescent(rate, clip_norm=config.clip_norm)
    classes = {name.lower(): value for name, value in vars(tf.keras.optimizers).items()}
    errors.require(
        config.optimizer in classes,
        f"--optimizer={config.optimizer} needs a newer Keras than {tf.keras.version()}",
    )
    return classes[config.optimizer](rate, global_clipnorm=config.clip_norm or None)


def rates(optimizer: Optimizer, steps: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float32]]:
    """The learning rates [K] of the updates steps + 1, by name."""
    if not isinstance(optimizer, Several):
        return {"learning_rate": _rates(optimizer, steps)}
    return {f"{n}_learning_rate": _rates(each, steps) for n, each in optimizer.named.items()}


def _rates(optimizer: Any, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # inside a loss-scaling optimizer
    rate = getattr(optimizer, "rate", None) or optimizer._learning_rate
    if not callable(rate):
        return np.full(steps.shape, np.asarray(rate), np.float32)
    with contextlib.suppress(ValueError, TypeError, tf.errors.OpError):
        found = np.asarray(rate(tf.constant(steps)), np.float32)
        if found.shape == steps.shape:
            return found
    return np.asarray(_one_by_one(rate)(tf.constant(steps)))


@functools.lru_cache(maxsize=1)
def _one_by_one(rate: Rate) -> Any:
    """Makes a function of steps [K] from a schedule that takes one step at a time."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)  # type: ignore[untyped-decorator]
    def run(steps: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(rate, steps, fn_output_signature=tf.float32)

    return run


def scaled_loss(optimizer: Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Scales the loss as a Keras optimizer does, so 16-bit gradients don't vanish."""
    return loss if isinstance(optimizer, GradientDescent) else optimizer.scale_loss(loss)


def unscaled_norm(optimizer: Optimizer, norm: tf.Tensor) -> tf.Tensor:
    """Converts the gradient norm of the scaled loss to that of the loss."""
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        return norm / tf.convert_to_tensor(optimizer.dynamic_scale)
    factor = getattr(optimizer, "loss_scale_factor", None)
    return norm / factor if factor else norm


def _rate(config: config_lib.Config, last_step: int) -> Rate:
    """The learning rate, which depends on the step only; None for one that is not given.

    Cosine: Loshchilov and Hutter, SGDR, 2017, section 3, without restarts. Without --decay_steps,
    the schedule spans the whole run, up to last_step.
    """
    rate: Rate = config.learning_rate
    schedules = tf.keras.optimizers.schedules
    decay_steps = config.decay_steps or max(1, last_step - config.warmup_steps)
    if config.schedule == "cosine":
        rate = schedules.CosineDecay(rate, decay_steps)
    elif config.schedule == "exponential":
        rate = schedules.ExponentialDecay(rate, decay_steps, _TENTH)
    elif own := _own(config).get("schedule"):
        rate = own.make()
        errors.require(
            callable(rate),
            f"{own.flag} must be a function of the step, or a Keras LearningRateSchedule; received "
            f"{rate!r} ({own})",
        )
        rate = rate if isinstance(rate, schedules.LearningRateSchedule) else OwnRate(rate)
    return WarmUp(rate, steps=config.warmup_steps) if config.warmup_steps else rate
