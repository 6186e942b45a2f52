"""The settings of a run: one field for each flag, with its help text and bounds.

Standard library only: a wrong flag is answered before TensorFlow is imported.
"""

import dataclasses
import re
from typing import Any

from pipeline import errors

_FLOAT32_MAX = float.fromhex("0x1.fffffep127")
_INT32_MAX = 2**31 - 1
_MOST_STEPS = 10**15  # exact in a float64, too
_BOUNDS = ("above", "at_least", "at_most")
_OPTIONS: dict[str, Any] = {
    "may_change": False,  # on resume: the values of the training steps do not depend on it
    "may_sweep": True,  # pipeline.sweep takes several values, separated by commas
    "choices": (),  # or () for any
    **dict.fromkeys(_BOUNDS),
}
_LENGTH = ("epochs", "early_stopping_patience")
_TABLE = (
    *("data", "label", "features", "categorical", "missing", "validation_fraction"),
    "standardize",
)
_SYNTHETIC = ("synthetic", "num_examples", "true_w", "true_b", "noise_stddev", "x_min", "x_max")
# Losses of regression, by their plain names: those that keep their meaning where labels are
# standardized, and those that are for the units of the data.
_SQUARED_ERROR = ("mse", "meansquarederror")
_OF_STANDARDIZED = (*_SQUARED_ERROR, "mae", "meanabsoluteerror", "huber", "logcosh")
_OF_UNITS = ("mape", "meanabsolutepercentageerror", "msle", "meansquaredlogarithmicerror")
_FORMATS = ("litert", "onnx")
_GUIDE = {"learning_rate": 0.1, "initial_w": 5.0, "initial_b": 0.0}
_STEPS = {"at_least": 0, "at_most": _MOST_STEPS, "may_change": True}
_NOT_OF_STEPS = {"may_change": True, "may_sweep": False}  # the steps do not depend on it
_OPTIMIZERS = (  # of Keras 3.15, but for those that wrap others
    *("sgd", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb"),
    *("lion", "muon", "nadam", "rmsprop", "schedulefreeadamw"),
)


def _field(default: Any, help_text: str, **options: Any) -> Any:
    """A dataclass field with the help text of its flag and some of _OPTIONS."""
    metadata = {"help": help_text, **_OPTIONS, **options}
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
        "A function in pipeline/training/models.py, such as keras, polynomial or mlp, or one of "
        "your own: mine:make_model in a Python module, or models/mine.py:make_model in a file. It "
        "gets the number of features and returns a keras.Model or tf.Module.",
    )
    loss: str = _field(
        "mean_squared_error",
        "A name that tf.keras.losses.get knows, or a function of your own such as mine:loss, which "
        "gets labels and predictions and returns a loss for each example.",
    )
    metrics: str = _field(
        "",
        "Names that tf.keras.metrics.get knows, separated by commas, such as mae,accuracy,auc; "
        "they are evaluated with the loss.",
        **_NOT_OF_STEPS,
    )
    loop: str = _field(
        "custom",
        "'custom' is the hand-written GradientTape loop, 'fit' is Keras compile and fit.",
        choices=("custom", "fit"),
    )
    epochs: int = _field(
        10,
        "Passes over the training examples; raise it to extend a run.",
        at_least=1,
        may_change=True,
    )
    learning_rate: float | None = _field(
        None,
        "Step size of the optimizer. By default ('auto') the guide's 0.1 for synthetic data; with "
        "--data, half of the largest that is stable for gradient descent, or 0.01 for another "
        "optimizer; see training/learning_rate.py.",
        above=0,
    )
    batch_size: int = _field(0, "Examples in a batch; 0 makes all of them one batch.", at_least=0)
    optimizer: str = _field(
        "sgd",
        "In the custom loop 'sgd' is the hand-written assign_sub; the others are those of Keras.",
        choices=_OPTIMIZERS,
    )
    clip_norm: float = _field(
        0.0, "Clip the global norm of the gradients to this; 0 does not clip.", at_least=0
    )
    schedule: str = _field(
        "constant",
        "The learning rate over the steps: 'cosine' takes it to 0 in --decay_steps, 'exponential' "
        "to a tenth in every --decay_steps.",
        choices=("constant", "cosine", "exponential"),
    )
    decay_steps: int = _field(
        0,
        "See --schedule; 0 stands for all steps of the run, which then can't be extended.",
        at_least=0,
        at_most=_MOST_STEPS,
    )
    warmup_steps: int = _field(
        0,
        "First steps in which the learning rate rises evenly, before the schedule.",
        at_least=0,
        at_most=_MOST_STEPS,
    )
    early_stopping_patience: int = _field(
        0,
        "End training after so many evaluations without a smaller validation loss (or training "
        "loss, where there are no validation examples); 0 never does.",
        at_least=0,
        may_change=True,
    )
    jit_compile: str = _field(
        "auto",
        "Compile the training step with XLA; 'auto' does, unless the step is known to be slower "
        "with it (a line says so), or on a CPU with --loop=fit, as Keras does.",
        choices=("auto", "true", "false"),
    )
    run_eagerly: bool = _field(
        False, "Run the step as plain Python, to debug it; draws no graph.", may_sweep=False
    )
    seed: int = _field(
        0,
        "Seed of the model's initial weights and dropout, of synthetic data, of the order of the "
        "examples, and of the choice of validation rows.",
        at_least=0,
        at_most=2**32 - 1,
    )
    initial_w: float | None = _field(
        None,
        "W at the start of training, of the linear models; by default the guide's 5, or 0 where "
        "the data are standardized.",
    )
    initial_b: float | None = _field(
        None,
        "b at the start of training, of the linear models; by default 0, or the mean of the label "
        "where the data are standardized.",
    )
    l2: float = _field(
        0.0,
        "Add so many times the sum of the squares of all weights, but not of biases, to the loss.",
        at_least=0,
    )
    synthetic: str = _field(
        "line",
        "Without --data: 'line' draws y = true_w*x + true_b, 'sine' y = true_w*sin(pi*x) + true_b.",
        choices=("line", "sine"),
    )
    num_examples: int = _field(201, "Training examples to draw.", at_least=2, at_most=_INT32_MAX)
    validation_examples: int | None = _field(
        None,
        "Validation examples, which are not trained on: others drawn in the same way (by default "
        "201), or with --data this many of its rows, chosen by the seed (by default none).",
        at_least=0,
        at_most=_INT32_MAX,
    )
    validation_fraction: float = _field(
        0.0,
        "With --data, about this part of its rows as validation examples, chosen by the seed; "
        "which ones does not depend on the rows that follow.",
        at_least=0,
        at_most=0.9,
        may_sweep=False,
    )
    true_w: float = _field(3.0, "W of the curve that synthetic data are drawn from.")
    true_b: float = _field(2.0, "b of the curve that synthetic data are drawn from.")
    noise_stddev: float = _field(1.0, "Standard deviation of the noise on synthetic y.", at_least=0)
    x_min: float = _field(-2.0, "The smallest synthetic x.")
    x_max: float = _field(2.0, "The largest synthetic x.")
    data: str = _field(
        "",
        "What to train on in place of synthetic data: a CSV or Parquet file, several separated by "
        "commas, a pattern such as 'part-*.csv', or a function of your own such as mine:houses, "
        "which returns columns by their names.",
        may_sweep=False,
    )
    label: str = _field("", "The column to predict; by default the last one.", may_sweep=False)
    features: str = _field(
        "",
        "The columns to predict from, separated by commas; by default all others.",
        may_sweep=False,
    )
    categorical: str = _field(
        "",
        "Feature columns that hold texts, separated by commas: each different text becomes a "
        "feature that is 1 or 0, such as city=Paris.",
        may_sweep=False,
    )
    missing: str = _field(
        "refuse",
        "What to do where a value is missing: 'refuse' the table, or 'drop' the row.",
        choices=("refuse", "drop"),
        may_sweep=False,
    )
    standardize: bool | None = _field(
        None,
        "Train on features (and for regression, on labels) of mean 0 and standard deviation 1; W "
        "and b are shown, and predictions made, in the units of the data. By default with --data.",
        may_sweep=False,
    )
    initialize_from: str = _field(
        "",
        "Start from the variables of a run (its directory), checkpoint or export.",
        may_sweep=False,
    )
    summary_every: int = _field(
        0,
        "Steps between the values of W, b and loss in TensorBoard; 0 records every step of a "
        "run of up to 10,000 steps and an even selection of a longer one.",
        **_STEPS,
    )
    references: bool = _field(
        True,
        "Show what training could reach, as flat lines in TensorBoard: the least-squares solution, "
        "and the true values of synthetic data.",
        **_NOT_OF_STEPS,
    )
    profile_steps: str = _field(
        "", "Profile from a first to a last step, such as 100,200.", **_NOT_OF_STEPS
    )
    checkpoint_every: int = _field(
        0, "Steps between checkpoints, or 0 for --checkpoint_secs.", **_STEPS
    )
    checkpoint_secs: float = _field(10.0, "Seconds between checkpoints.", above=0, may_change=True)
    peer_timeout_secs: int = _field(
        60,
        "With several workers (TF_CONFIG): seconds to wait for another to start, or to answer.",
        at_least=1,
        at_most=86400,
        **_NOT_OF_STEPS,
    )
    export: str = _field(
        "last",
        "Export the model of the last step, or that of the best evaluation. A finished run is "
        "exported once more, without training, where its newest export is the other.",
        choices=("last", "best"),
        **_NOT_OF_STEPS,
    )
    export_formats: str = _field(
        "",
        "Formats to write beside the SavedModel, separated by commas: litert, onnx. They need the "
        "extra pipeline[export].",
        **_NOT_OF_STEPS,
    )
    export_versions_to_keep: int = _field(
        0,
        "Remove all but so many versions of the export, the newest; 0 keeps all.",
        at_least=0,
        **_NOT_OF_STEPS,
    )
    logdir: str = _field(
        "logs", "The directory that holds the directories of the runs.", **_NOT_OF_STEPS
    )
    run_name: str = _field(
        "",
        "Name of the run's directory in --logdir; by default made from the time. An unfinished "
        "run of that name is resumed.",
        **_NOT_OF_STEPS,
    )
    overwrite: bool = _field(
        False, "Start anew, and rename an earlier run of that name.", **_NOT_OF_STEPS
    )

    def __post_init__(self) -> None:
        if self.is_synthetic and self.learning_rate is None:
            object.__setattr__(self, "learning_rate", _GUIDE["learning_rate"])
        if self.is_linear and not self.is_standardized:
            for name in ("initial_w", "initial_b"):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, _GUIDE[name])
        for field in dataclasses.fields(self):
            _check_bounds(field, getattr(self, field.name))
        self._check_combinations()

    def _check_combinations(self) -> None:
        errors.require(
            self.model != "module" or self.loop != "fit",
            "--model=module can't be trained with --loop=fit: compile and fit are methods of "
            "keras.Model, and a tf.Module has none; use --model=keras or --loop=custom",
        )
        errors.require(
            self.x_min < self.x_max,
            f"--x_min must be less than --x_max; received --x_min={self.x_min:g} "
            f"--x_max={self.x_max:g}",
        )
        self._check_model()
        for name in ("data", "initialize_from", "logdir"):
            path = getattr(self, name)
            errors.require(
                not re.match(r"\w+://", path),
                f"--{name} must be a path on this machine; received {path!r}",
            )
        for name in _TABLE:
            value, default = getattr(self, name), getattr(Config, name)
            errors.require(
                value == default or not self.is_synthetic,
                f"--{name}={value} is for a table; say which one with --data",
            )
        errors.require(
            not (self.validation_examples and self.validation_fraction),
            "--validation_examples and --validation_fraction exclude each other",
        )
        steps = re.fullmatch(r"(\d+),(\d+)", self.profile_steps)
        errors.require(
            not self.profile_steps or (steps and int(steps[1]) < int(steps[2])),
            "--profile_steps must be two steps, the first less than the last, such as 100,200; "
            f"received {self.profile_steps!r}",
        )
        errors.require(
            re.fullmatch(r"(?!\.{1,2}$)[\w.,=+-]*", self.run_name),
            "--run_name must be the plain name of a directory (letters, digits and ._,=+-); "
            f"received {self.run_name!r}; give its parent with --logdir",
        )

    def _check_model(self) -> None:
        for name in ("initial_w", "initial_b"):
            value = getattr(self, name)
            errors.require(
                self.is_linear or value is None,
                f"--{name}={value} is for the linear models, module and keras; "
                f"received --model={self.model}",
            )
        errors.require(
            self.schedule != "constant" or not self.decay_steps,
            f"--decay_steps={self.decay_steps} needs --schedule=cosine or --schedule=exponential",
        )
        errors.require(
            set(self.formats) <= set(_FORMATS),
            f"--export_formats must be some of {', '.join(_FORMATS)}; received "
            f"{self.export_formats!r}",
        )
        errors.require(
            re.fullmatch(r"(\w+(,\w+)*)?", self.metrics),
            f"--metrics must be names separated by commas; received {self.metrics!r}",
        )

    @property
    def applied(self) -> dict[str, Any]:
        """The settings that apply: not those of another model or another kind of data."""
        others: tuple[str, ...] = _TABLE if self.is_synthetic else _SYNTHETIC
        if self.initialize_from or not self.is_linear:
            others = (*others, "initial_w", "initial_b")
        return {name: v for name, v in dataclasses.asdict(self).items() if name not in others}

    @property
    def compared(self) -> dict[str, Any]:
        """The settings that runs differ by: those that a sweep varies and the result depends on."""
        fields = {field.name: field.metadata for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in self.applied.items()
            if fields[name]["may_sweep"] and value is not None
            if not fields[name]["may_change"] or name in _LENGTH
        }

    @property
    def is_linear(self) -> bool:
        """Whether the model is y = x·W + b."""
        return self.model in ("module", "keras")

    @property
    def is_regression(self) -> bool | None:
        """Whether labels are numbers that may be standardized; None with a loss of one's own."""
        if ":" in self.loss:
            return None
        return self.is_loss_of_standardized or self.plain_loss in _OF_UNITS

    @property
    def is_loss_of_standardized(self) -> bool:
        """Whether the loss is that of standardized labels; others get the units of the data."""
        return self.plain_loss in _OF_STANDARDIZED

    @property
    def plain_loss(self) -> str:
        """The name of the loss in lower case, without the underscores that Keras leaves open."""
        return self.loss.replace("_", "").lower()

    @property
    def is_linear_regression(self) -> bool:
        """Whether it is meant to be y = x·W + b with squared errors."""
        return self.is_linear and self.plain_loss in _SQUARED_ERROR

    @property
    def is_standardized(self) -> bool:
        """Whether training is on standardized data."""
        return not self.is_synthetic if self.standardize is None else self.standardize

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names in --metrics."""
        return tuple(filter(None, dict.fromkeys(self.metrics.split(","))))

    @property
    def formats(self) -> tuple[str, ...]:
        """The names in --export_formats."""
        return tuple(filter(None, dict.fromkeys(self.export_formats.split(","))))

    @property
    def may_be_extended(self) -> bool:
        """Whether a larger --epochs leaves the steps of a smaller one as they are."""
        return self.schedule == "constant" or self.decay_steps > 0

    @property
    def is_synthetic(self) -> bool:
        """Whether the examples are drawn from a curve instead of read from a table."""
        return not self.data

    def steps_per_epoch(self, num_examples: int) -> int:
        """Batches that it takes to see every example once; --batch_size=0 makes it one."""
        return -(-num_examples // (self.batch_size or num_examples))

    def last_step(self, num_examples: int) -> int:
        """The number of updates of the whole run.

        Raises:
          errors.InputError: there are too many steps, or too few for --profile_steps.
        """
        last_step = self.epochs * self.steps_per_epoch(num_examples)
        errors.require(
            last_step <= _MOST_STEPS,
            f"--epochs={self.epochs} makes more steps than can be counted ({_MOST_STEPS:,})",
        )
        errors.require(
            not self.profiled or self.profiled[0] < last_step,
            f"--profile_steps={self.profile_steps} begins after the last step, {last_step:,}; "
            "raise --epochs or choose earlier steps",
        )
        return last_step

    @property
    def profiled(self) -> tuple[int, int] | None:
        """The first and the last step to profile."""
        first, _, last = self.profile_steps.partition(",")
        return (int(first), int(last)) if last else None


def bounds(field: dataclasses.Field[Any]) -> str:
    """The bounds of a field in words, such as 'at least 0', or ''."""
    limits = {name.replace("_", " "): field.metadata[name] for name in _BOUNDS}
    return " and ".join(f"{word} {limit:,}" for word, limit in limits.items() if limit is not None)


def _check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises InputError where a value is outside its field's bounds."""
    if value is None:
        return
    choices = field.metadata["choices"]
    above, at_least, at_most = (field.metadata[name] for name in _BOUNDS)
    errors.require(
        not choices or value in choices,
        f"--{field.name} must be one of {', '.join(choices)}; received {value!r}",
    )
    errors.require(
        not re.search("[\ud800-\udfff]", str(value)),  # which stand for other bytes
        f"--{field.name} must be UTF-8; received {value!r}",
    )
    errors.require(
        not isinstance(value, float) or abs(value) <= _FLOAT32_MAX,
        f"--{field.name} must be a finite float32; received {value}",
    )
    errors.require(
        (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most),
        f"--{field.name} must be {bounds(field)}; received {value}",
    )
