"""Tests of pipeline.training.evaluation."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.training import clock, evaluation, hooks, loops, losses, metrics, optimizers, task
from tests import helpers

_NAMES = tuple("abcdefghijklmnopqrst")


class _Evaluated(hooks.Hook):
    """Evaluates where it is due, and keeps the rows."""

    def __init__(self, evaluator: evaluation.Evaluator):
        self._evaluator = evaluator
        self.rows = metrics.empty(len(evaluator.task.names))
        self.next_pause, self.before = evaluator.next_pause, evaluator.before  # type: ignore[method-assign]

    def after(self, rows: metrics.StepMetrics) -> None:
        """Evaluates the ends of epochs among the rows by the closed form."""
        self.rows = metrics.concatenate(self.rows, rows)
        _take(self._evaluator, rows)


def _take(evaluator: evaluation.Evaluator, rows: metrics.StepMetrics) -> None:
    _, epochs = evaluator.evaluate_rows(rows)
    evaluator.report_epochs(epochs)


class _OfOnesOwn(tf.Module):
    """A model whose formula is given, with the variables W [D] and b."""

    def __init__(self, formula: Callable[..., tf.Tensor], W: list[float], b: float):
        super().__init__()
        self._formula = formula
        self.W = tf.Variable(W, name="W", dtype=tf.float32)
        self.b = tf.Variable(b, name="b", dtype=tf.float32)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B]."""
        return self._formula(x, self.W, self.b)


class _BiasFirst(tf.Module):
    """y = x·W + b, whose bias comes before the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a_bias = tf.Variable(0.5)
        self.weights = tf.Variable([5.0])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B]."""
        return tf.linalg.matvec(x, self.weights) + self.a_bias


def _line(x: Any, W: Any, b: Any) -> Any:
    return x @ W[:, None] + b  # [B, 1]


def _parabola(x: Any, W: Any, b: Any) -> Any:
    return W[0] * x[:, 0] * x[:, 0] + b


def _absolute(y: Any, prediction: Any) -> Any:
    return tf.abs(y - prediction)


def _weighted(y: Any, prediction: Any) -> Any:
    return 1.01 * tf.square(y - prediction)


def _examples(
    count: int = 50, num_features: int = 1, *, seed: int = 0, scale: float = 1, offset: float = 0
) -> datasets_lib.Examples:
    """Of y = the sum of the standardised features + 2 + noise."""
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(count, num_features))
    x = (normal * scale + offset).astype(np.float32)
    y = normal.sum(axis=1) + 2 + generator.normal(size=count) * 0.5
    return datasets_lib.Examples(x, y.astype(np.float32))


def _datasets(
    train: datasets_lib.Examples, validation: datasets_lib.Examples | None = None
) -> datasets_lib.Datasets:
    solved = datasets_lib.solved(train), datasets_lib.solved(validation)
    names = _NAMES[: train.x.shape[1]]
    return datasets_lib.Datasets(train, validation, names, "y", least_squares=solved)


def _linear(kind: str = "module", num_features: int = 1) -> task.Task:
    return helpers.linear(_NAMES[:num_features], model=kind)


def _claims(
    formula: Callable[..., Any] = _line,
    loss: losses.Loss = losses.squared_error,
    *,
    W: float = 5.0,
    b: float = 0.5,
    is_linear_regression: bool = True,
) -> task.Task:
    """A task of one feature that says that it is linear regression."""
    model: Any = _OfOnesOwn(formula, [W], b)
    return task.Task(model, loss, features=("a",), is_linear_regression=is_linear_regression)


def _evaluator(
    evaluated: task.Task, datasets: datasets_lib.Datasets, **changes: Any
) -> evaluation.Evaluator:
    return evaluation.Evaluator(evaluated, datasets, config_lib.Config(**changes))


def _losses(evaluator: evaluation.Evaluator) -> list[float]:
    """The training loss now, and the validation loss if there is one."""
    return [part["loss"] for part in evaluator.evaluate() if part]


def _report(evaluator: evaluation.Evaluator, step: int) -> None:
    """Evaluates the model as it is at the end of an epoch."""
    evaluator.report_evaluation(step, evaluator.evaluate())


def _mean_squares(examples: datasets_lib.Examples, values: Any) -> float:
    """The mean squared error of y = x·W + b in float64."""
    *W, b = np.asarray(values, np.float64)
    return float(np.mean((examples.x.astype(np.float64) @ W + b - examples.y) ** 2))


# The losses of a model.


@pytest.mark.parametrize("kind", ["module", "keras"])
@pytest.mark.parametrize("num_features", [1, 3])
def test_closed_form_agrees_with_passes_of_the_model(kind: str, num_features: int) -> None:
    datasets = _datasets(_examples(50, num_features), _examples(20, num_features, seed=1))
    assert datasets.validation is not None
    made = _linear(kind, num_features)
    closed_form = _evaluator(made, datasets)
    made.is_linear_regression = False
    passes = _evaluator(made, datasets)
    assert None not in closed_form.closed_form[:2]
    assert passes.closed_form == (None, None, "")
    for values in np.random.default_rng(2).normal(size=(5, num_features + 1)):
        made.assign(made.by_variable(values))
        rounded = made.values()
        expected = [_mean_squares(part, rounded) for part in (datasets.train, datasets.validation)]
        assert _losses(closed_form) == pytest.approx(expected, rel=1e-9)
        assert _losses(passes) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_linear_regression", [False, True])
def test_without_validation_examples_there_is_no_such_loss(is_linear_regression: bool) -> None:
    datasets = _datasets(_examples())
    evaluator = _evaluator(_claims(is_linear_regression=is_linear_regression), datasets)
    found = evaluator.evaluate()
    assert (found.validation, found.decisive) == ({}, found.train["loss"])
    reported: list[evaluation.EpochMetrics] = []
    evaluator.report = reported.append
    _report(evaluator, 0)
    assert (list(reported[0].train), reported[0].validation) == (["loss"], {})
    assert evaluator.best.loss == pytest.approx(_mean_squares(datasets.train, [5, 0.5]), rel=1e-5)


_TRAIN, _VALIDATION = _examples(), _examples(20, seed=1)

# name: a task at W = 5 and b = 0.5, and the losses of labels and x in numpy
_OTHERS: dict[str, tuple[Callable[[], task.Task], Callable[[Any, Any], Any]]] = {
    "linear, but does not say so": (
        lambda: _claims(is_linear_regression=False),
        lambda y, x: (5 * x + 0.5 - y) ** 2,
    ),
    "a parabola": (lambda: _claims(_parabola), lambda y, x: (5 * x * x + 0.5 - y) ** 2),
    "no use of b": (
        lambda: _claims(lambda x, W, b: x[:, 0] * W[0] + 0 * b),
        lambda y, x: (5 * x - y) ** 2,
    ),
    "a kink": (
        lambda: _claims(lambda x, W, b: tf.nn.relu(_line(x, W, b))),
        lambda y, x: (np.maximum(5 * x + 0.5, 0) - y) ** 2,
    ),
    "bias before weights": (
        lambda: task.Task(
            _BiasFirst(), losses.squared_error, features=("a",), is_linear_regression=True
        ),
        lambda y, x: (5 * x + 0.5 - y) ** 2,
    ),
    "absolute error": (lambda: _claims(loss=_absolute), lambda y, x: np.abs(5 * x + 0.5 - y)),
    "weighted squares": (
        lambda: _claims(loss=_weighted),
        lambda y, x: 1.01 * (5 * x + 0.5 - y) ** 2,
    ),
}


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("name", _OTHERS)
def test_other_tasks_are_evaluated_by_passes(name: str, run_eagerly: bool) -> None:
    """Even where they claim to be linear regression; the losses are those of numpy."""
    make, expected = _OTHERS[name]
    evaluator = _evaluator(make(), _datasets(_TRAIN, _VALIDATION), run_eagerly=run_eagerly)
    assert evaluator.closed_form.train is None
    is_said = evaluator.closed_form.why_not == "this model with this loss is not linear regression"
    assert is_said == evaluator.task.is_linear_regression
    numbers = [
        expected(part.y.astype(np.float64), part.x[:, 0].astype(np.float64)).mean()
        for part in (_TRAIN, _VALIDATION)
    ]
    assert _losses(evaluator) == pytest.approx(numbers, rel=1e-5)


def test_more_values_than_weights_and_bias_mean_passes() -> None:
    """Two features that the model sums, but three weights."""
    model: Any = _OfOnesOwn(lambda x, W, b: tf.linalg.matvec(x, W[:2]) + b, [5, 5, 0], 0.5)
    made = task.Task(model, losses.squared_error, features=("a", "b"), is_linear_regression=True)
    datasets = _datasets(_examples(50, 2))
    evaluator = _evaluator(made, datasets)
    assert evaluator.closed_form.train is None
    expected = _mean_squares(datasets.train, [5, 5, 0.5])
    assert _losses(evaluator)[0] == pytest.approx(expected, rel=1e-5)


def test_model_of_ones_own_uses_the_closed_form_where_it_fits() -> None:
    datasets = _datasets(_TRAIN)
    evaluator = _evaluator(_claims(), datasets)
    assert evaluator.closed_form.train is not None
    assert evaluator.closed_form.why_not == ""
    assert _losses(evaluator)[0] == pytest.approx(_mean_squares(_TRAIN, [5, 0.5]), rel=1e-9)


@pytest.mark.parametrize(("W", "b"), [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0)])
def test_the_start_does_not_fool_the_proof(W: float, b: float) -> None:
    """With W = 0, W·x·x + b predicts what x·W + b does."""
    assert _evaluator(_claims(_parabola, W=W, b=b), _datasets(_TRAIN)).closed_form.train is None
    assert _evaluator(_claims(_line, W=W, b=b), _datasets(_TRAIN)).closed_form.train is not None


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e20])
@pytest.mark.parametrize("formula", [_parabola, lambda x, W, b: _line(x, W, 0 * b)])
def test_the_scale_of_the_data_does_not_fool_the_proof(
    scale: float, formula: Callable[..., Any]
) -> None:
    """Where a plain W would make W·x so small, or so large, that the difference is lost."""
    assert _evaluator(_claims(formula), _datasets(_examples(scale=scale))).closed_form.train is None


@pytest.mark.parametrize("make", [_linear, lambda: _linear("keras"), lambda: _claims(_parabola)])
def test_the_model_keeps_its_values_after_the_proof(make: Callable[[], task.Task]) -> None:
    """To the bit, whether or not the closed form is proven."""
    made = make()
    values = np.array([0.1, -1 / 3], np.float32)
    made.assign(made.by_variable(values))
    _evaluator(made, _datasets(_TRAIN))
    np.testing.assert_array_equal(made.values(), values)


def _with_y(examples: datasets_lib.Examples, y: Any) -> datasets_lib.Examples:
    return datasets_lib.Examples(examples.x, np.asarray(y, np.float32))


_ODD = {
    "large x": _examples(scale=1e6),
    "very large x": _examples(scale=1e15),
    "small x": _examples(scale=1e-6),
    "x far from zero": _examples(offset=1e4),
    "a year": _examples(scale=30, offset=1990),
    "large y": _with_y(_TRAIN, _TRAIN.y * 1e6),
    "very large y": _with_y(_TRAIN, _TRAIN.y * 1e15),
    "small y": _with_y(_TRAIN, _TRAIN.y * 1e-6),
    "y far from zero": _with_y(_TRAIN, _TRAIN.y + 1e6),
    "no y but zero": _with_y(_TRAIN, _TRAIN.y * 0),
    "no x but zero": datasets_lib.Examples(_TRAIN.x * 0, _TRAIN.y),
    "no x but one": datasets_lib.Examples(_TRAIN.x * 0 + 1, _TRAIN.y),
    "an outlier": datasets_lib.Examples(
        np.append(_TRAIN.x, [[1e7]], 0).astype("f4"), np.append(_TRAIN.y, np.float32(1))
    ),
    "two examples": _examples(2),
    "very different units": datasets_lib.Examples(
        (_examples(50, 3).x * [1e-6, 1, 1e6] + [0, 1e3, 0]).astype(np.float32), _TRAIN.y
    ),
    "a column twice": datasets_lib.Examples(np.repeat(_TRAIN.x, 2, axis=1), _TRAIN.y),
    "many features": _examples(100, 8),
    "more features than are watched": _examples(100, 20),
    "more than one chunk": _examples(2**20 + 7),
}


@pytest.mark.parametrize("name", _ODD)
def test_oddly_scaled_data_still_use_the_closed_form(name: str) -> None:
    """And its loss is that of numpy at the start."""
    examples = _ODD[name]
    made = _linear(num_features=examples.x.shape[1])
    evaluator = _evaluator(made, _datasets(examples))
    assert evaluator.closed_form.train is not None
    expected = _mean_squares(examples, made.numbers())
    assert _losses(evaluator)[0] == pytest.approx(expected, rel=1e-6)


_UNCHECKED = {
    "y whose squares are too large": _with_y(_TRAIN, _TRAIN.y * 1e20),
    "the largest y": _with_y(_TRAIN, np.sign(_TRAIN.y) * 3.4e38),
    "one y whose square is too large": _with_y(_TRAIN, np.append(_TRAIN.y[:-1], 1e25)),
    "y whose squares are zero": _with_y(_TRAIN, _TRAIN.y * 1e-30),
    "the largest x": datasets_lib.Examples(np.sign(_TRAIN.x) * np.float32(3.4e38), _TRAIN.y),
    "one very large x": datasets_lib.Examples(
        np.append(_TRAIN.x[:-1], [[3.4e38]], 0).astype("f4"), _TRAIN.y
    ),
    "x too small for any W": datasets_lib.Examples(_TRAIN.x * np.float32(1e-40), _TRAIN.y),
    "a solution that float32 can't hold": datasets_lib.Examples(
        np.append(_TRAIN.x, _TRAIN.x + 1e-5 * _TRAIN.y[:, None], 1).astype("f4")
        * np.float32(1e-33),
        np.square(_TRAIN.y) * 100,
    ),
}


@pytest.mark.parametrize("name", _UNCHECKED)
def test_passes_take_over_where_float32_can_prove_nothing(name: str) -> None:
    """And the reason is not that the model is another one."""
    examples = _UNCHECKED[name]
    evaluator = _evaluator(_linear(num_features=examples.x.shape[1]), _datasets(examples))
    assert evaluator.closed_form.train is None
    assert evaluator.closed_form.why_not == (
        "least squares of these examples can't be checked in the range of float32"
    )
    (loss,) = _losses(evaluator)
    expected = _mean_squares(examples, evaluator.task.values())
    assert not math.isfinite(loss) or loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("columns", "train", "validation", "reason"),
    [
        (1500, 5, 0, "1,500 features of 5 examples take too long to solve for"),
        (1100, 5, 3100, "1,100 features of 5 examples take too long to solve for"),
        (300, 120_000, 0, "300 features of 120,000 examples take too long to solve for"),
        (300, 2000, 2000, ""),
    ],
)
def test_the_closed_form_is_left_where_it_takes_too_long(
    columns: int, train: int, validation: int, reason: str
) -> None:
    """By the number of examples, of both sets, or by that of features."""
    names = tuple(map(str, range(columns)))
    parts = [
        datasets_lib.Examples(*(np.ones(shape, np.float32) for shape in ((count, columns), count)))
        for count in (train, validation)
    ]
    examples = parts[0], parts[1] if validation else None
    solved = datasets_lib.solved(examples[0]), datasets_lib.solved(examples[1])
    datasets = datasets_lib.Datasets(*examples, names, "y", least_squares=solved)
    evaluator = _evaluator(helpers.linear(names), datasets)
    assert evaluator.closed_form.why_not == reason
    assert (evaluator.closed_form.train is None) == bool(reason)


def test_pass_over_many_examples_counts_each_once() -> None:
    """More than one call takes; the squares are exact in float32, but not their sum."""
    x = np.ones((2**20 + 7, 1), np.float32)
    y = np.arange(2**20 + 7, dtype=np.float32) % 501
    made = _claims(W=0, b=0, is_linear_regression=False)
    (found,) = _losses(_evaluator(made, _datasets(datasets_lib.Examples(x, y))))
    assert found == pytest.approx(np.mean(y.astype(np.float64) ** 2), rel=1e-12)


# Epochs, and the best of them.


def _train(
    made: task.Task,
    datasets: datasets_lib.Datasets,
    *,
    epochs: int,
    batch_size: int = 0,
    loop: str = "custom",
    learning_rate: float = 0.1,
) -> tuple[evaluation.Evaluator, evaluation.EpochMetrics, metrics.StepMetrics]:
    """Trains through a real loop as the trainer does; returns what was reported, and the rows."""
    config = config_lib.Config(
        model="keras", loop=loop, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate
    )
    batches = batches_lib.Batches(datasets.train, config)
    evaluator = evaluation.Evaluator(made, datasets, config)
    reported: list[evaluation.EpochMetrics] = []
    evaluator.report = reported.append
    evaluated = _Evaluated(evaluator)
    last_step = epochs * batches.steps_per_epoch
    loops.LOOPS[loop](
        made,
        batches,
        optimizer=optimizers.create(config, made.model.trainable_variables, last_step=last_step),
        first_step=0,
        last_step=last_step,
        hook=evaluated,
        clock=clock.Clock(),
    )
    _report(evaluator, last_step)
    return evaluator, _joined(reported), evaluated.rows


def _joined(reported: list[evaluation.EpochMetrics]) -> evaluation.EpochMetrics:
    """What was reported, as if it had been at once."""
    step, values, train, validation, best_step = zip(*reported, strict=True)
    losses_ = (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in (train, validation)
    )
    columns = np.concatenate(step), np.concatenate(values), *losses_, np.concatenate(best_step)
    return evaluation.EpochMetrics(*columns)


def _assert_reported_is_right(
    reported: evaluation.EpochMetrics,
    rows: metrics.StepMetrics,
    datasets: datasets_lib.Datasets,
    rel: float,
) -> None:
    """Each epoch's values are those of its row, its losses those of numpy at these values."""
    np.testing.assert_array_equal(reported.values[:-1], rows.values[reported.step[:-1]])
    train = [_mean_squares(datasets.train, values) for values in reported.values]
    np.testing.assert_allclose(reported.train["loss"], train, rtol=rel)
    assert datasets.validation is not None
    validation = [_mean_squares(datasets.validation, values) for values in reported.values]
    np.testing.assert_allclose(reported.validation["loss"], validation, rtol=rel)


@pytest.mark.slow
@pytest.mark.parametrize("is_linear_regression", [False, True])
@pytest.mark.parametrize(("kind", "loop"), [("module", "custom"), ("keras", "fit")])
@pytest.mark.parametrize("batch_size", [0, 8])
def test_every_epoch_of_a_short_run_is_evaluated(
    kind: str, loop: str, batch_size: int, is_linear_regression: bool
) -> None:
    """By passes and by the closed form, with mini-batches too: 50 = 6 * 8 + 2."""
    datasets = _datasets(_TRAIN, _VALIDATION)
    made = _linear(kind)
    made.is_linear_regression = is_linear_regression
    evaluator, reported, rows = _train(made, datasets, epochs=6, batch_size=batch_size, loop=loop)
    assert (evaluator.closed_form.train is not None) == is_linear_regression
    steps_per_epoch = 7 if batch_size else 1
    np.testing.assert_array_equal(reported.step, np.arange(7) * steps_per_epoch)
    _assert_reported_is_right(reported, rows, datasets, 1e-9 if is_linear_regression else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "every"), [(1000, 1), (1001, 2), (2001, 2), (2002, 4), (3001, 4)]
)
def test_passes_are_made_at_up_to_1000_epochs(epochs: int, every: int) -> None:
    """Evenly chosen, and at the start and the end, while a real loop trains."""
    datasets = _datasets(_TRAIN, _VALIDATION)
    made = _claims(is_linear_regression=False)
    _, reported, rows = _train(made, datasets, epochs=epochs)
    np.testing.assert_array_equal(reported.step, [*range(0, epochs, every), epochs])
    assert np.count_nonzero(reported.step[1:] % every == 0) <= 1000
    _assert_reported_is_right(reported, rows, datasets, 1e-5)


def test_closed_form_covers_every_epoch_of_a_long_run() -> None:
    datasets = _datasets(_TRAIN, _VALIDATION)
    evaluator, reported, rows = _train(_linear(), datasets, epochs=5000)
    np.testing.assert_array_equal(reported.step, range(5001))
    assert evaluator.next_pause(0) == math.inf  # and training need not pause for it
    _assert_reported_is_right(reported, rows, datasets, 1e-9)


@pytest.mark.parametrize("is_linear_regression", [False, True])
@pytest.mark.parametrize("has_validation", [False, True])
def test_best_epoch_is_that_of_the_smallest_loss(
    has_validation: bool, is_linear_regression: bool
) -> None:
    """Training passes through the best W and b for the validation examples."""
    validation = datasets_lib.Examples(_TRAIN.x, 1.5 * _TRAIN.x[:, 0] + 1)
    datasets = _datasets(_TRAIN, validation if has_validation else None)
    made = _claims(W=5, b=0, is_linear_regression=is_linear_regression)
    evaluator, reported, _ = _train(made, datasets, epochs=30)
    compared = (reported.validation or reported.train)["loss"]
    best = int(np.argmin(compared))
    assert 0 < best < 30 if has_validation else best > 20
    assert evaluator.best == (reported.step[best], compared[best])
    assert evaluator.best_variables is not None
    assert evaluator.best_variables["W"].tolist() == [reported.values[best, 0]]
    assert evaluator.best_variables["b"] == reported.values[best, 1]
    so_far = [reported.step[np.argmin(compared[: k + 1])] for k in range(31)]
    assert reported.best_step.tolist() == so_far


def test_best_variables_include_those_that_are_not_trained() -> None:
    made = _claims(_parabola)
    made.model.offset = tf.Variable(3.0, trainable=False, name="offset")
    whole = task.Task(made.model, losses.squared_error, features=("a",))
    evaluator = _evaluator(whole, _datasets(_TRAIN))
    _report(evaluator, 0)
    whole.assign({"offset": 4.0, "W": [1e3]})
    _report(evaluator, 1)
    assert evaluator.best.step == 0
    assert evaluator.best_variables == {"W": [5], "b": 0.5, "offset": 3}


def _rows(steps: list[int], W: list[float]) -> metrics.StepMetrics:
    values = np.column_stack([W, np.zeros(len(W))]).astype(np.float32)
    nothing = np.zeros(len(W), np.float32)
    return metrics.StepMetrics(np.array(steps), values, nothing, nothing)


_SYMMETRIC = datasets_lib.Examples(
    np.tile(np.float32([[1], [-1]]), (10, 1)), np.zeros(20, np.float32)
)


def _symmetric(**settings: Any) -> evaluation.Evaluator:
    """Of a loss that is W² at b = 0, for x = ±1 and y = 0, with 10 steps an epoch."""
    settings = {"batch_size": 2, "epochs": 100, **settings}
    return _evaluator(_linear(), _datasets(_SYMMETRIC), **settings)


@pytest.mark.parametrize("parts", [[slice(None)], [slice(0, 2), slice(2, None)]])
def test_best_is_the_first_of_equals(parts: list[slice]) -> None:
    """Also where they come in two calls."""
    evaluator = _symmetric()
    rows = _rows([0, 10, 20, 30, 40], [3.0, 1.0, -1.0, 2.0, 1.0])
    for part in parts:
        _take(evaluator, rows.select(part))
    assert evaluator.best == (10, 1.0)
    assert evaluator.best_variables == {"W": [1.0], "b": 0.0}


def test_only_ends_of_epochs_are_evaluated() -> None:
    evaluator = _symmetric()
    reported: list[evaluation.EpochMetrics] = []
    evaluator.report = reported.append
    _take(evaluator, _rows([9, 10, 11, 20], [0.0, 3.0, 0.0, 2.0]))
    _take(evaluator, _rows([21, 22], [0.0, 0.0]))
    assert [part.step.tolist() for part in reported] == [[10, 20]]
    assert reported[0].train["loss"].tolist() == [9.0, 4.0]
    assert evaluator.best == (20, 4.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_from_a_divergence_on_are_not_evaluated(bad: float) -> None:
    evaluator = _symmetric()
    _take(evaluator, _rows([0, 10, 15, 20], [3.0, 2.0, bad, 1.0]))
    assert evaluator.best == (10, 4.0)


def _labelled(y: float, **settings: Any) -> evaluation.Evaluator:
    """Of a loss that is W² + y² at b = 0: the optimum is W = 0, which predicts 0."""
    examples = datasets_lib.Examples(_SYMMETRIC.x, np.full(20, y, np.float32))
    return _evaluator(_linear(), _datasets(examples), epochs=100, **settings)


@pytest.mark.parametrize("by_passes", [False, True])
@pytest.mark.parametrize(
    ("y", "start", "allowed", "risen"),
    [
        (0, 3, 2999, 3001),  # predicting 0 is perfect: a million times the loss at the start
        (2, 0, 1999, 2001),  # a start at the optimum: a million times the loss of predicting 0
        (0.5, 3, 3041, 3042),  # the larger of the two: 9.25
        (1e-3, 0, 0.9, 1.1),
        (0, 1e6, 0.999e9, 1.001e9),
    ],
)
def test_loss_a_million_times_that_of_start_and_0_has_risen(
    y: float, start: float, allowed: float, risen: float, by_passes: bool
) -> None:
    evaluator = _labelled(y, metrics="mae" if by_passes else "")
    taken: list[int] = []
    evaluator.report = lambda ends: taken.extend(ends.step.tolist())
    if not by_passes:
        good, ends = evaluator.evaluate_rows(_rows([0, 1, 2, 3], [start, allowed, risen, start]))
        evaluator.report_epochs(ends)
        assert (good.step.tolist(), taken) == ([0, 1], [0, 1])
        return
    for step, W in enumerate((start, allowed)):
        evaluator.task.assign({"W": [W], "b": 0.0})
        evaluator.before(step)
    evaluator.task.assign({"W": [risen]})
    with pytest.raises(hooks.Divergence) as caught:
        evaluator.before(2)
    assert (caught.value.step, taken) == (2, [0, 1])
    assert caught.value.loss == pytest.approx(risen**2 + y**2, rel=1e-4)


@pytest.mark.parametrize("W", [1e-20, 1.0, 1e15])
def test_no_loss_has_risen_where_start_and_labels_are_zero(W: float) -> None:
    """As a run with noise 0 that starts at its optimum; then nothing says what is large."""
    evaluator = _symmetric()
    good, ends = evaluator.evaluate_rows(_rows([0, 10, 20], [0.0, W, W]))
    assert ends is not None
    assert good.step.tolist() == ends.step.tolist() == [0, 10, 20]


def test_a_resumed_run_knows_its_loss_at_the_start() -> None:
    evaluator = _labelled(0)
    evaluator.start_loss = 9.0
    good, _ = evaluator.evaluate_rows(_rows([50, 51], [2999.0, 3001.0]))
    assert good.step.tolist() == [50]


def test_a_pass_that_is_not_finite_is_not_the_best() -> None:
    made = _claims(is_linear_regression=False)
    evaluator = _evaluator(made, _datasets(_TRAIN))
    for step, W in enumerate((math.nan, 5.0, math.inf)):
        made.assign({"W": [W]})
        _report(evaluator, step)
    assert evaluator.best.step == 1
    assert math.isfinite(evaluator.best.loss)


def test_best_of_an_earlier_process_stands_until_beaten() -> None:
    evaluator = _symmetric()
    evaluator.best = evaluation.Best(70, 1.0)
    _take(evaluator, _rows([80, 90], [1.0, 1.5]))
    assert evaluator.best == (70, 1.0)
    assert evaluator.best_variables is None
    _take(evaluator, _rows([100], [0.5]))
    assert evaluator.best == (100, 0.25)
    assert evaluator.best_variables == {"W": [0.5], "b": 0.0}


def test_select_takes_rows_of_every_column() -> None:
    train = {"loss": np.array([4.0, 3.0, 2.0]), "mae": np.array([7.0, 8.0, 9.0])}
    validation = {"loss": np.array([1.0, 2.0, 3.0])}
    step, best_step = np.array([0, 10, 20]), np.array([0, 0, 20])
    made = evaluation.EpochMetrics(step, np.eye(3), train, validation, best_step)
    step, values, *parts, best_step = made.select(slice(1, None))
    assert (step.tolist(), best_step.tolist()) == ([10, 20], [0, 20])
    assert values.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert [{name: column.tolist() for name, column in part.items()} for part in parts] == [
        {"loss": [3.0, 2.0], "mae": [8.0, 9.0]},
        {"loss": [2.0, 3.0]},
    ]
    assert made._replace(validation={}).select([0]).validation == {}


# Metrics, and an early end.


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("is_linear_regression", [False, True])
def test_metrics_are_those_of_all_examples(is_linear_regression: bool, run_eagerly: bool) -> None:
    """Each time anew, by passes also where the closed form gives the loss."""
    datasets = _datasets(_examples(2**20 + 7), _VALIDATION)
    made = _claims(is_linear_regression=is_linear_regression)
    evaluator = _evaluator(made, datasets, metrics="mae,r2_score", run_eagerly=run_eagerly)
    assert (evaluator.closed_form.train is not None) == is_linear_regression
    for W in (5.0, 1.0):
        made.assign({"W": [W]})
        found = evaluator.evaluate()
        for part, examples in zip(found, (datasets.train, _VALIDATION), strict=True):
            x, y = examples.x[:, 0].astype(np.float64), examples.y.astype(np.float64)
            residual = W * x + 0.5 - y
            expected = {
                "loss": np.mean(residual**2),
                "mae": np.abs(residual).mean(),
                "r2_score": 1 - np.mean(residual**2) / y.var(),
            }
            assert part == pytest.approx(expected, rel=1e-4)


def test_training_pauses_at_each_epoch_for_metrics_or_norms() -> None:
    """Where the rows do not have what is reported."""
    assert _symmetric().next_pause(0) == math.inf
    for settings in ({"metrics": "mae"}, {"early_stopping_patience": 1}):
        pausing = _symmetric(**settings)
        assert [pausing.next_pause(step) for step in (0, 9, 10)] == [10, 10, 20]
    many = _evaluator(_linear(num_features=20), _datasets(_examples(100, 20)))
    assert many.closed_form.train is not None
    assert many.next_pause(0) == 1


_W = [3.0, 2.0, 2.5, 2.0, 1.0, 1.5, 2.0, 0.5]  # at the ends of epochs; the loss is its square


@pytest.mark.parametrize(("patience", "ends_at"), [(0, None), (1, 20), (2, 30), (3, None)])
def test_training_ends_where_patience_runs_out(patience: int, ends_at: int | None) -> None:
    """A loss that is equal to the smallest is no smaller one; the end itself is reported later."""
    evaluator = _symmetric(metrics="mae", early_stopping_patience=patience)
    reported: list[evaluation.EpochMetrics] = []
    evaluator.report = reported.append
    steps = []
    for step, W in zip(range(0, 80, 10), _W, strict=True):
        evaluator.task.assign({"W": [W], "b": 0.0})
        is_exhausted = evaluator.is_exhausted(step)
        assert is_exhausted == (step == ends_at)
        if is_exhausted:
            with pytest.raises(hooks.EndOfTraining) as caught:
                evaluator.before(step)
            assert caught.value.step == step
            break
        evaluator.before(step)
        evaluator.before(step + 1)  # no end of an epoch
        steps.append(step)
    assert _joined(reported).step.tolist() == steps
    assert _joined(reported).train["loss"].tolist() == [W**2 for W in _W[: len(steps)]]


def test_patience_of_an_earlier_process_counts_on() -> None:
    evaluator = _symmetric(early_stopping_patience=3)
    evaluator.best = evaluation.Best(40, 4.0)
    evaluator.task.assign({"W": [2.5], "b": 0.0})
    assert [evaluator.is_exhausted(step) for step in (50, 60, 70)] == [False, False, True]
    evaluator.task.assign({"W": [1.5]})
    assert not evaluator.is_exhausted(70)


def test_patience_looks_at_the_validation_loss() -> None:
    """Here y = 5x there and 3x here; the loss of the training examples falls all the time."""
    validation = datasets_lib.Examples(_SYMMETRIC.x, 5 * _SYMMETRIC.x[:, 0])
    train = datasets_lib.Examples(_SYMMETRIC.x, 3 * _SYMMETRIC.x[:, 0])
    evaluator = _evaluator(
        _claims(W=5, b=0), _datasets(train, validation), early_stopping_patience=2
    )
    evaluator.before(0)
    evaluator.task.assign({"W": [4.0]})
    evaluator.before(1)
    evaluator.task.assign({"W": [3.5]})
    with pytest.raises(hooks.EndOfTraining):
        evaluator.before(2)
    assert evaluator.best == (0, pytest.approx(0, abs=1e-25))
