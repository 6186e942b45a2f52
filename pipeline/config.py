"""The settings of a run: each flag is a field of one of these groups.

Each group is defined beside the code that reads it. Only the standard library is imported, so a
wrong flag is reported before TensorFlow is imported.
"""

import dataclasses
import itertools
from typing import Any

from pipeline import errors, fields
from pipeline.data import settings as data
from pipeline.reporting import settings as reporting
from pipeline.run import settings as run
from pipeline.training import settings as training

# The settings that decide what the examples are.
_DATA = map(fields.names, (data.Synthetic, data.Table, data.Validation))
OF_DATA = ("model", "loss", "seed", *itertools.chain(*_DATA))
_LENGTH = ("epochs", "early_stopping_patience")


@dataclasses.dataclass(frozen=True)
class Config(  # the last group is the first in --help
    run.Workers,
    training.Compilation,
    run.Checkpoints,
    reporting.TensorBoard,
    training.Start,
    data.Synthetic,
    run.Export,
    training.Schedule,
    training.Evaluation,
    run.Output,
    data.Validation,
    data.Table,
    training.Training,
    training.Solution,
):
    """The settings of one training run.

    Raises:
      errors.InputError: a value is out of its bounds, or two values contradict each other.
    """

    def __post_init__(self) -> None:
        values: dict[str, Any] = {"loss": training.loss_name(self.loss)}
        for name in ("optimizer", "schedule"):
            given = getattr(self, name)
            values[name] = given if ":" in given else given.lower()
        is_own = ":" in self.optimizer + self.schedule
        if self.is_synthetic and self.learning_rate is None and not is_own:
            values["learning_rate"] = training.GUIDE["learning_rate"]
        if self.is_linear and not self.is_standardized:
            for name in ("initial_w", "initial_b"):
                if getattr(self, name) is None:
                    values[name] = training.GUIDE[name]
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for field in dataclasses.fields(self):
            fields.check(field, getattr(self, field.name))
        for group in GROUPS.values():
            if hasattr(group, "_check"):
                group._check(self)
        for name in ("initial_w", "initial_b"):
            value = getattr(self, name)
            errors.require(
                self.is_linear or value is None,
                f"--{name}={value} is for the linear models, module and keras; "
                f"received --model={self.model}",
            )
        errors.require(
            self.learning_rate is None or ":" not in self.schedule,
            f"--learning_rate={self.learning_rate} is not for --schedule={self.schedule}, which "
            "gives the learning rate itself",
        )
        errors.require(
            not (self.validation_fraction and self.is_synthetic),
            f"--validation_fraction={self.validation_fraction} is for a table; say which one with "
            "--data",
        )

    @property
    def applied(self) -> dict[str, Any]:
        """The settings that apply to this model and this kind of data."""
        table = (*fields.names(data.Table), "validation_fraction")
        others = table if self.is_synthetic else fields.names(data.Synthetic)
        if self.initialize_from or not self.is_linear:
            others = (*others, "initial_w", "initial_b")
        return {name: v for name, v in dataclasses.asdict(self).items() if name not in others}

    @property
    def compared(self) -> dict[str, Any]:
        """The settings that a sweep may vary and that the result depends on."""
        metadata = {field.name: field.metadata for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in self.applied.items()
            if metadata[name]["may_sweep"] and value is not None
            if not metadata[name]["may_change"] or name in _LENGTH
        }

    def last_step(self, steps_per_epoch: int) -> int:
        """The number of updates of the whole run; raises errors.InputError if it is impossible."""
        last_step = self.epochs * steps_per_epoch
        errors.require(
            last_step <= fields.MAX_STEPS,
            f"--epochs={self.epochs} makes more steps than can be counted ({fields.MAX_STEPS:,})",
        )
        errors.require(
            not self.profiled or self.profiled[0] < last_step,
            f"--profile_steps={self.profile_steps} begins after the last step, {last_step:,}; "
            "raise --epochs or choose earlier steps",
        )
        return last_step


_TITLES = (  # the most used first
    *("solution", "training", "your data", "validation", "output", "evaluation", "learning rate"),
    *("export", "synthetic data", "start", "TensorBoard", "checkpoints", "compilation"),
    "several machines",
)
GROUPS: dict[str, type[Any]] = dict(zip(_TITLES, reversed(Config.__bases__), strict=True))
