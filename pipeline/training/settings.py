"""Settings of the model, its loss and its training. Standard library only."""

import dataclasses
import re
from typing import Any

from pipeline import errors, fields

_OPTIMIZERS = (  # the optimizers of Keras 3.15, except wrappers
    *("sgd", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb"),
    *("lion", "muon", "nadam", "rmsprop", "schedulefreeadamw"),
)
_REGRESSION = {  # by their short names
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "logcosh": "log_cosh",
    "huber": "huber",
}
_SHORT = {"bce": "binary_crossentropy", "kld": "kl_divergence", "kldivergence": "kl_divergence"}


def loss_name(name: str) -> str:
    """Normalizes the name of a Keras loss: mse, MSE and MeanSquaredError are the same."""
    if not name.isidentifier():  # the user's own function
        return name
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return (_REGRESSION | _SHORT).get(words, words)


def is_of_regression(name: str) -> bool:
    """Whether a Keras loss is an error of numbers."""
    return loss_name(name) in _REGRESSION.values()


@dataclasses.dataclass(frozen=True)
class Solution:
    """The model, the loss and the kind of loop."""

    model: str = fields.field(
        "module",
        "A function in pipeline/training/models.py, such as keras, polynomial or mlp, or one of "
        "your own: mine:make_model in a Python module, or models/mine.py:make_model in a file. It "
        "gets the number of features and returns a keras.Model or tf.Module.",
    )
    loss: str = fields.field(
        "mean_squared_error",
        "A name that tf.keras.losses.get knows, such as mse or huber, or of your own, such as "
        "mine:loss, a Keras Loss or a function that gets labels and predictions and returns a loss "
        "for each example.",
    )
    loop: str = fields.field(
        "custom",
        "'custom' is the hand-written GradientTape loop, 'fit' is Keras compile and fit.",
        choices=("custom", "fit"),
    )
    optimizer: str = fields.field(
        "sgd",
        "In the custom loop 'sgd' is the hand-written assign_sub; the others are those of Keras. "
        "Your own, such as mine:make, is a Keras optimizer or a function that returns one; the "
        "function may take learning_rate and last_step.",
        choices=_OPTIMIZERS,
        may_be_own=True,
    )

    callbacks: str = fields.field(
        "",
        "With --loop=fit: a list of Keras callbacks, or a function that returns one, such as "
        "mine:callbacks. Training and every epoch call them at their start and end, batches do "
        "not; `logs` has the evaluation after the epoch: loss, accuracy, val_loss, ...",
    )

    def _check(self) -> None:
        errors.require(
            not self.callbacks or (self.loop == "fit" and ":" in self.callbacks),
            f"--callbacks={self.callbacks} must be a function or list of your own, such as "
            f"mine:callbacks, and needs --loop=fit; received --loop={self.loop}",
        )
        errors.require(
            self.model != "module" or self.loop != "fit",
            "--model=module can't be trained with --loop=fit: compile and fit are methods of "
            "keras.Model, and a tf.Module has none; use --model=keras or --loop=custom",
        )

    @property
    def is_linear(self) -> bool:
        """Whether the model is y = x·W + b."""
        return self.model in ("module", "keras")

    @property
    def is_linear_regression(self) -> bool:
        """Whether the model is y = x·W + b and the loss is the squared error."""
        return self.is_linear and self.loss == Solution.loss

    @property
    def keeps_label(self) -> bool:
        """Whether the loss is meaningless for a standardized label."""
        return self.loss in (_REGRESSION["mape"], _REGRESSION["msle"])

    @property
    def is_regression(self) -> bool | None:
        """Whether labels are numbers that may be standardized; None for the user's own loss."""
        return None if ":" in self.loss else is_of_regression(self.loss)


@dataclasses.dataclass(frozen=True)
class Training:
    """How long and how fast the model is trained."""

    epochs: int = fields.field(
        10,
        "Passes over the training examples; raise it to extend a run.",
        at_least=1,
        may_change=True,
    )
    learning_rate: float | None = fields.field(
        None,
        "Step size of the optimizer. By default ('auto') the guide's 0.1 for synthetic data; with "
        "--data, half of the largest that is stable for gradient descent, or 0.01 for another "
        "optimizer; see training/learning_rate.py.",
        above=0,
    )
    batch_size: int = fields.field(
        0, "Examples in a batch; 0 makes all of them one batch.", at_least=0
    )
    seed: int = fields.field(
        0,
        "Seed of the model's initial weights and dropout, of synthetic data, of the order of the "
        "examples, and of the choice of validation rows.",
        at_least=0,
        at_most=2**32 - 1,
    )
    clip_norm: float = fields.field(
        0.0, "Clip the global norm of the gradients to this; 0 does not clip.", at_least=0
    )
    l2: float = fields.field(
        0.0,
        "Add so many times the sum of the squares of all weights, but not of biases, to the loss.",
        at_least=0,
    )

    def num_batches(self, num_examples: int) -> int:
        """The number of batches of all examples; 1 with --batch_size=0."""
        return -(-num_examples // (self.batch_size or num_examples))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps."""

    schedule: str = fields.field(
        "constant",
        "The learning rate over the steps: 'cosine' takes it to 0 in --decay_steps, 'exponential' "
        "to a tenth in every --decay_steps. Your own, such as mine:rate, is a function of the step "
        "(float32), or a Keras LearningRateSchedule, that gives the learning rate.",
        choices=("constant", "cosine", "exponential"),
        may_be_own=True,
    )
    decay_steps: int = fields.step_count(
        0,
        "Steps of --schedule; 0 makes it span the whole run. Set it if you may raise --epochs "
        "later.",
    )
    warmup_steps: int = fields.step_count(
        0, "First steps in which the learning rate rises evenly, before the schedule."
    )

    def _check(self) -> None:
        errors.require(
            self.schedule in ("cosine", "exponential") or not self.decay_steps,
            f"--decay_steps={self.decay_steps} needs --schedule=cosine or --schedule=exponential",
        )

    @property
    def may_be_extended(self) -> bool:
        """Whether raising --epochs leaves the earlier steps unchanged."""
        return self.schedule not in ("cosine", "exponential") or self.decay_steps > 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics besides the loss, and early stopping."""

    metrics: str = fields.output_only(
        "",
        "Names that tf.keras.metrics.get knows, separated by commas, such as mae,accuracy,auc, or "
        "of your own, such as mine:metrics, a list of Keras metrics or a function that returns it; "
        "they are evaluated with the loss.",
    )
    early_stopping_patience: int = fields.field(
        0,
        "End training after so many evaluations without a smaller validation loss (or training "
        "loss, if there are no validation examples); 0 never does.",
        at_least=0,
        may_change=True,
    )

    def _check(self) -> None:
        errors.require(
            re.fullmatch(r"(\w+(,\w+)*)?|[^,]+:\w+", self.metrics),
            "--metrics must be names separated by commas, or of your own, such as mine:metrics; "
            f"received {self.metrics!r}",
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names in --metrics; () for the user's own."""
        return () if ":" in self.metrics else fields.split(self.metrics)


@dataclasses.dataclass(frozen=True)
class Compilation:
    """How the training step is run."""

    jit_compile: str = fields.field(
        "auto",
        "Compile the training step with XLA. 'auto' does, unless the step is known to be slower "
        "with it (a line says so), or on a CPU with --loop=fit, as Keras does.",
        choices=("auto", "true", "false"),
    )
    run_eagerly: bool = fields.not_swept(
        False, "Run the step as plain Python, to debug it; draws no graph."
    )


@dataclasses.dataclass(frozen=True)
class Start:
    """The variables at the start of training."""

    initial_w: float | None = fields.field(
        None,
        "W at the start of training, for the linear models; by default the guide's 5, or 0 for "
        "standardized data.",
    )
    initial_b: float | None = fields.field(
        None,
        "b at the start of training, for the linear models; by default 0, or the mean of the label "
        "for standardized data.",
    )
    initialize_from: str = fields.not_swept(
        "", "Start from the variables of a run (its directory), checkpoint or export."
    )

    def _check(self) -> None:
        fields.check_path("initialize_from", self.initialize_from)


GUIDE: dict[str, Any] = {"learning_rate": 0.1, "initial_w": 5.0, "initial_b": 0.0}
