"""Datasets of training and validation examples, synthetic or from a table.

Imports numpy only, so a mistake in a table is reported before TensorFlow is imported.
"""

import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline import config as config_lib
from pipeline import errors, user_calls, user_code
from pipeline.data import (
    arrays,
    example_weights,
    fingerprint,
    least_squares,
    synthetic,
    table_examples,
    tables,
    text_tables,
)
from pipeline.data import batch as batch_lib
from pipeline.data import preprocessing as preprocessing_lib
from pipeline.distributed import workers

if TYPE_CHECKING:
    from pipeline.data import streams

Batch = batch_lib.Batch

_SYNTHETIC_VALIDATION_EXAMPLES = 201
# Independent streams of random numbers from one seed.
_TRAINING_NOISE, _VALIDATION_NOISE = range(2)
_ALONE = workers.Worker()
Solved = least_squares.LeastSquares


class Datasets(NamedTuple):
    """The examples that a run is trained and evaluated on.

    With several workers, each holds the rows that it needs: its part of the validation examples,
    and its part of the training examples if they are one full batch. Of a stream, `train` is the
    first batch, and its validation examples are batches that are read at each evaluation.
    """

    train: Batch  # numpy arrays with the weights that count in training, or tensors of a stream
    validation: "Batch | streams.Stream | None"  # evaluated, but not trained on
    features: tuple[str, ...] = ()  # the names of the columns of x [N, D]; () for other examples
    label: str = ""  # the name of y [N]
    truth: synthetic.Truth | None = None  # None for examples that were not drawn from a curve
    worker: workers.Worker = workers.Worker()
    counts: tuple[int, int] | None = None  # of the training and validation examples of all workers
    preprocessing: preprocessing_lib.Preprocessing | None = None  # of a table
    # Least squares over the training examples of all workers; None if it is not needed.
    least_squares: Solved | None = None
    dropped: int = 0  # rows of a table that were left out because of missing values
    label_variances: tuple[float, float] | None = None  # of a table; None for class labels
    stream: "streams.Stream | None" = None  # the training batches, if they are not in memory
    stream_steps: int = 0  # batches of the stream in an epoch
    # The training examples without the weights of flags; None if there are no such weights.
    unweighted: Batch | None = None

    @property
    def units(self) -> preprocessing_lib.Preprocessing | None:
        """The preprocessing; None if it changes no numbers."""
        is_used = self.preprocessing is not None and self.preprocessing.standardizes
        return self.preprocessing if is_used else None

    @property
    def num_train(self) -> int:
        """The number of training examples of all workers."""
        return self.counts[0] if self.counts else self.train.num_examples

    @property
    def num_validation(self) -> int:
        """The number of validation examples of all workers."""
        if self.counts:
            return self.counts[1]
        part = self.validation
        return part.num_examples if isinstance(part, batch_lib.Batch) else 0

    def steps_per_epoch(self, config: config_lib.Config) -> int:
        """The number of batches in an epoch."""
        return self.stream_steps or config.num_batches(self.num_train)

    def described(self, config: config_lib.Config) -> str:
        """The amount of training data, in words."""
        if self.stream:
            return f"a stream, {self.steps_per_epoch(config):,} batches an epoch"
        return f"{self.num_train:,} examples"

    @property
    def validation_described(self) -> str:
        """The amount of validation data, in words."""
        return (
            "a stream" if self.stream and self.validation else f"{self.num_validation:,} examples"
        )

    @property
    def evaluated(self) -> Batch | list[Batch]:
        """The training examples that this worker evaluates: unweighted; a stream's first ones."""
        return self.stream.kept if self.stream else self._own(self.unweighted or self.train)

    def _own(self, examples: Batch) -> Batch:
        """The worker's part of the training examples."""
        is_part = examples.num_examples < self.num_train
        return examples if is_part else examples.map(self.worker.part)

    def fingerprint(self) -> int:
        """This worker's term of a checksum of the examples, their names and their order.

        The sum over the workers, modulo 2**48, is the same for any number of workers.
        """
        names = zlib.crc32("\n".join([*self.features, self.label]).encode())
        learned = self.preprocessing
        units = zlib.crc32(np.array([learned.mean, learned.stddev] if learned else 0.0).tobytes())
        result = names + units if self.worker.is_chief else 0
        parts: tuple[Any, Any] = self.stream or self._own(self.train), self.validation
        for factor, part in zip((1, 3), parts, strict=True):
            if isinstance(part, batch_lib.Batch):
                result += factor * fingerprint.of(part, self.worker)
            elif part is not None:
                result += factor * part.fingerprint()
        return result % fingerprint.COUNT


def load(
    config: config_lib.Config, worker: workers.Worker = _ALONE, *, keeps: tuple[str, ...] = ()
) -> Datasets:
    """Makes or reads the examples of a config that this worker needs.

    What a table `keeps` is not standardized: its "features", and labels that may be "classes".

    Raises:
      errors.InputError: the examples can't be used, or a setting doesn't fit their number.
    """
    if config.is_synthetic:
        datasets = _load_synthetic(config, worker)
    elif function := user_code.find(config).get("data"):
        made = arrays.returned_by(function, config.seed)
        if arrays.is_stream(made.train):
            datasets = _load_stream(made, str(function), config, worker)
        elif isinstance(made.train, tuple):
            datasets = _load_arrays(made, str(function), config, worker)
        else:
            table = arrays.table(made, function)
            datasets = _load_table(table, config, worker, keeps=keeps)
    else:
        table = text_tables.open_table(config.data)
        datasets = _load_table(table, config, worker, keeps=keeps)
    errors.require(
        datasets.stream or not config.steps_per_epoch,
        f"--steps_per_epoch={config.steps_per_epoch} is for a function that returns a "
        "tf.data.Dataset; set --batch_size instead",
    )
    config.last_step(datasets.steps_per_epoch(config))  # raises if they do not fit
    errors.require(
        datasets.num_train >= worker.count,
        f"{worker.count} workers need as many examples; received {datasets.num_train}",
    )
    return datasets


def _load_synthetic(config: config_lib.Config, worker: workers.Worker) -> Datasets:
    given = config.validation_examples
    count = _SYNTHETIC_VALIDATION_EXAMPLES if given is None else given
    datasets = _in_memory(
        synthetic.examples(config, config.num_examples, stream=_TRAINING_NOISE),
        synthetic.examples(config, count, stream=_VALIDATION_NOISE),
        config,
        worker,
    )
    truth = synthetic.Truth(config.true_w, config.true_b, is_line=config.synthetic == "line")
    return datasets._replace(features=("x",), label="y", truth=truth)


def _load_stream(
    made: arrays.Made, name: str, config: config_lib.Config, worker: workers.Worker
) -> Datasets:
    """Prepares the datasets that a function returned, whose batches are taken as they come."""
    from pipeline.data import streams  # imports TensorFlow, as the function has done

    _check_flags(config, ("batch_size", *_FOR_TABLES), f"{name} returns batches")
    why = f"{name} returns batches: let it take `split`, and make the validation data, too"
    _check_flags(config, _SPLITTING, why)
    errors.require(worker.count == 1, f"{name} returns batches, which workers can't divide")
    with user_calls.user_errors("reading the data", user_code.find(config)["data"]):
        stream = streams.Stream(made.train, name)
        validation = None if made.validation is None else streams.Stream(made.validation, name)
        steps = config.steps_per_epoch or stream.steps_per_epoch()
    errors.require(
        validation is None or not validation.is_endless,
        f"{name} returned a dataset without an end for split='validation'; leave out repeat()",
    )
    unweighted = None
    if config.class_weight:
        errors.require(
            config.class_weights,
            "--class_weight=balanced needs examples in memory; give numbers, such as 0:1,1:10",
        )
        stream, unweighted = stream.weighted(config.class_weights), stream.first
    counts = steps * stream.first.num_examples, 0
    return Datasets(
        stream.first,
        validation,
        counts=counts,
        stream=stream,
        stream_steps=steps,
        unweighted=unweighted,
    )


_FOR_TABLES = ("label", "features", "categorical", "missing", "standardize", "weight")
_SPLITTING = ("validation_examples", "validation_fraction")


def _check_flags(config: config_lib.Config, flags: tuple[str, ...], why: str) -> None:
    """Raises InputError if one of these flags is set."""
    for flag in flags:
        value, default = getattr(config, flag), getattr(config_lib.Config, flag)
        errors.require(value == default or not value, f"--{flag}={value} has no effect, as {why}")


def _load_arrays(
    made: arrays.Made, name: str, config: config_lib.Config, worker: workers.Worker
) -> Datasets:
    """Splits the arrays that a function returned, without preprocessing."""
    _check_flags(config, _FOR_TABLES, f"{name} returns arrays")
    examples = arrays.examples(made.train, name)
    if made.validation is not None:
        _check_flags(config, _SPLITTING, f"{name} makes the validation examples")
        validation = arrays.examples(made.validation, name)
        return _in_memory(examples, validation, config, worker)
    count = examples.num_examples
    held_out = table_examples.Split(config, count).held_out(0, count)
    train = examples.rows(~held_out)
    errors.require(
        train.num_examples >= 2,
        f"{config.data}: at least 2 examples must be left to train on; received "
        f"{train.num_examples} of {count}",
    )
    return _in_memory(train, examples.rows(held_out), config, worker)


def _in_memory(
    train: Batch, validation: Batch, config: config_lib.Config, worker: workers.Worker
) -> Datasets:
    """This worker's datasets; it holds all training examples unless they are one full batch."""

    def part(array: Any) -> Any:
        return np.ascontiguousarray(worker.part(array))

    counts = train.num_examples, validation.num_examples
    keeps_part = config.num_batches(counts[0]) == 1
    own = train.map(part) if keeps_part else train
    result = Datasets(
        train=own,
        validation=validation.map(part) if counts[1] else None,
        worker=worker,
        counts=counts,
        least_squares=solved(train) if config.is_linear_regression else None,
    )
    if not config.weighs:
        return result
    weight = example_weights.of(config, train.y, train.weight)
    weighted = own._replace(weight=part(weight) if keeps_part else weight)
    return result._replace(train=weighted, unweighted=own, least_squares=None)


def solved(train: Batch) -> Solved | None:
    """Solves least squares of training examples; None if they are no table, or too many."""
    is_numeric = train.is_table and all(array.dtype.kind in "biuf" for array in train.arrays)
    if not is_numeric or train.weight is not None or not least_squares.is_cheap(*train.x.shape):
        return None
    return Solved.of(train.x, train.y)


def _load_table(
    table: tables.Table,
    config: config_lib.Config,
    worker: workers.Worker,
    *,
    keeps: tuple[str, ...],
) -> Datasets:
    learned, train, validation = table_examples.load(table, config, worker, keeps=keeps)
    variances = train.label_variance, validation.label_variance
    return Datasets(
        train=Batch(train.x, train.y, train.weight),
        unweighted=Batch(train.x, train.y) if config.weighs else None,
        validation=Batch(validation.x, validation.y) if validation.count else None,
        features=learned.features,
        label=learned.label,
        worker=worker,
        counts=(train.count, validation.count),
        preprocessing=learned,
        least_squares=train.least_squares,
        dropped=table.dropped,
        label_variances=variances if learned.is_regression else None,
    )
