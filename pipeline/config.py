"""The settings of a run, one field a flag, checked with messages for people.

Standard library only: a wrong flag is answered before TensorFlow is imported.
"""

import dataclasses
import os
import re
from typing import Any

from pipeline import errors

_LARGEST_FLOAT32 = float.fromhex("0x1.fffffep127")
_LARGEST_INT32 = 2**31 - 1
_MOST_STEPS = 10**15  # exact in a float64, too


def _field(
    default: Any,
    help_text: str,
    *,
    may_change: bool = False,
    choices: tuple[str, ...] = (),
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A dataclass field that knows its help text and its bounds.

    `may_change` says that a run may be resumed with another value, because the
    trajectory does not depend on it.
    """
    metadata = {
        "may_change": may_change,
        "help": help_text,
        "choices": choices,
        "above": above,
        "at_least": at_least,
        "at_most": at_most,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one training run.

    Raises:
      errors.InputError: a value is out of its bounds, or two values contradict
        each other.
    """

    model: str = _field(
        "module",
        "The model: 'module' is a tf.Module, 'keras' a keras.Model.",
        choices=("module", "keras"),
    )
    loop: str = _field(
        "custom",
        "The training loop: 'custom' is the hand-written GradientTape loop, 'fit' is "
        "Keras compile and fit.",
        choices=("custom", "fit"),
    )
    epochs: int = _field(
        10,
        "Passes over the training examples. May be raised to extend a run.",
        at_least=1,
        may_change=True,
    )
    learning_rate: float = _field(0.1, "Step size of the optimizer.", above=0)
    batch_size: int = _field(0, "Examples in a batch; 0 makes all of them one batch.", at_least=0)
    optimizer: str = _field(
        "sgd",
        "'sgd' (in the custom loop the hand-written assign_sub) or another name that "
        "tf.keras.optimizers.get knows.",
    )
    run_eagerly: bool = _field(False, "Run the training step as plain Python, to debug it. Slow.")
    seed: int = _field(
        0,
        "Seed of the noise, of the order of the examples and of the choice of validation rows.",
        at_least=0,
        at_most=2**32 - 1,
    )
    initial_w: float = _field(5.0, "W at the start of training.")
    initial_b: float = _field(0.0, "b at the start of training.")
    num_examples: int = _field(
        201, "Synthetic training examples.", at_least=2, at_most=_LARGEST_INT32
    )
    validation_examples: int | None = _field(
        None,
        "Examples that are measured but not trained on. Synthetic data: drawn "
        "independently from the same line, 201 by default. A file: so many of its "
        "rows, chosen by the seed and set apart, none by default.",
        at_least=0,
        at_most=_LARGEST_INT32,
    )
    true_w: float = _field(3.0, "W of the line that synthetic data are drawn from.")
    true_b: float = _field(2.0, "b of the line that synthetic data are drawn from.")
    noise_stddev: float = _field(
        1.0, "Standard deviation of the Gaussian noise on synthetic y.", at_least=0
    )
    x_min: float = _field(-2.0, "The smallest synthetic x.")
    x_max: float = _field(2.0, "The largest synthetic x.")
    data: str = _field(
        "",
        "A CSV file to train on in place of synthetic data: a header line, then numeric columns.",
    )
    label: str = _field("", "The CSV column to predict; by default the last one.")
    features: str = _field(
        "",
        "The CSV columns to predict from, separated by commas; by default all others.",
    )
    initialize_from: str = _field(
        "",
        "Start at the W and b of another run's folder, of a checkpoint or of an export, in "
        "place of --initial_w and --initial_b.",
    )
    summary_every: int = _field(
        0,
        "Steps between the points of W, b and loss in TensorBoard; 0 records every step of a "
        "run of up to 10,000 and an even selection of a longer one.",
        at_least=0,
        at_most=_MOST_STEPS,
        may_change=True,
    )
    profile_steps: str = _field(
        "",
        "Profile training from a first to a last step, such as 100,200.",
        may_change=True,
    )
    checkpoint_every: int = _field(
        0,
        "Steps between checkpoints; 0 leaves it to --checkpoint_secs.",
        at_least=0,
        at_most=_MOST_STEPS,
        may_change=True,
    )
    checkpoint_secs: float = _field(10.0, "Seconds between checkpoints.", above=0, may_change=True)
    logdir: str = _field("logs", "The folder that holds the folders of the runs.", may_change=True)
    run_name: str = _field(
        "",
        "Name of the run's folder in --logdir; by default made from the time. An unfinished "
        "run of that name is resumed.",
        may_change=True,
    )
    overwrite: bool = _field(
        False,
        "Start the run anew, and move an earlier one of its name aside.",
        may_change=True,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_bounds(field, getattr(self, field.name))
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.model == "module" and self.loop == "fit":
            raise errors.InputError(
                "--model=module can't be trained with --loop=fit: compile and fit are "
                "methods of keras.Model, and a tf.Module has none; use --model=keras "
                "or --loop=custom"
            )
        if self.x_min >= self.x_max:
            raise errors.InputError(
                f"--x_min must be less than --x_max; received --x_min={self.x_min:g} "
                f"--x_max={self.x_max:g}"
            )
        for name in ("label", "features"):
            if getattr(self, name) and not self.data:
                raise errors.InputError(
                    f"--{name}={getattr(self, name)} names columns of a CSV file; "
                    "say which file with --data"
                )
        if self.profile_steps:
            match = re.fullmatch(r"(\d+),(\d+)", self.profile_steps)
            if not match or int(match[1]) >= int(match[2]):
                raise errors.InputError(
                    "--profile_steps must be two steps, the first less than the last, such as "
                    f"100,200; received {self.profile_steps!r}"
                )
        if self.run_name and not re.fullmatch(r"[\w.,=+-]+", self.run_name):
            raise errors.InputError(
                "--run_name must be the plain name of a folder (letters, digits and "
                f"._,=+-); received {self.run_name!r}; the place goes into --logdir"
            )
        if self.run_name in (".", ".."):
            raise errors.InputError(
                f"--run_name must name a folder of its own; received {self.run_name!r}"
            )

    def check_steps(self, num_examples: int) -> None:
        """Raises errors.InputError where so many examples give too many or too few steps."""
        last_step = self.epochs * -(-num_examples // (self.batch_size or num_examples))
        if last_step > _MOST_STEPS:
            raise errors.InputError(
                f"--epochs={self.epochs} makes more steps than can be counted ({_MOST_STEPS:,})"
            )
        if self.profiled and self.profiled[0] >= last_step:
            raise errors.InputError(
                f"--profile_steps={self.profile_steps} begins after the last step, "
                f"{last_step:,}; raise --epochs or choose earlier steps"
            )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """The first and the last step to profile."""
        if not self.profile_steps:
            return None
        first, last = self.profile_steps.split(",")
        return int(first), int(last)

    def with_changes(self, **changes: Any) -> "Config":
        """A checked copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def to_flags(self) -> list[str]:
        """The flags that give this config again, wherever they are read from."""
        values = dataclasses.asdict(self)
        del values["overwrite"]  # to read the flags again is to resume
        for name in ("data", "initialize_from", "logdir"):
            values[name] = values[name] and os.path.abspath(values[name])
        return [
            f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in values.items()
            if value is not None
        ]


def differences(flags: list[str], other: list[str]) -> list[str]:
    """Says in which flags that shape the trajectory two lists of flags differ."""
    fixed = {f.name for f in dataclasses.fields(Config) if not f.metadata["may_change"]}
    values, other_values = (
        {name: value for name, _, value in (flag[2:].partition("=") for flag in flags_)}
        for flags_ in (flags, other)
    )
    return [
        f"--{name}={values.get(name, 'default')} (now {other_values.get(name, 'default')})"
        for name in sorted(fixed)
        if values.get(name) != other_values.get(name)
    ]


def bounds(field: dataclasses.Field[Any]) -> str:
    """The bounds of a field in words, such as 'at least 0', or ''."""
    words = [
        f"{word} {field.metadata[key]:,}"
        for key, word in (
            ("above", "above"),
            ("at_least", "at least"),
            ("at_most", "at most"),
        )
        if field.metadata[key] is not None
    ]
    return " and ".join(words)


def _check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises InputError where a value is outside its field's bounds."""
    limits = field.metadata
    if value is None:
        return
    if limits["choices"] and value not in limits["choices"]:
        raise errors.InputError(
            f"--{field.name} must be one of {', '.join(limits['choices'])}; received {value!r}"
        )
    if isinstance(value, float) and not abs(value) <= _LARGEST_FLOAT32:
        raise errors.InputError(f"--{field.name} must be a finite float32; received {value}")
    if (
        (limits["above"] is not None and value <= limits["above"])
        or (limits["at_least"] is not None and value < limits["at_least"])
        or (limits["at_most"] is not None and value > limits["at_most"])
    ):
        raise errors.InputError(f"--{field.name} must be {bounds(field)}; received {value}")
