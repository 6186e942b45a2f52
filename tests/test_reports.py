"""Tests of pipeline.evaluation.reports: how well predictions fit labels, in the data's units."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import preprocessing
from pipeline.evaluation import linear, reports
from pipeline.training import losses, task
from tests import helpers

Batch = batch_lib.Batch

_UNITS = helpers.units([10, -20, 100], [2, 4, 50])


def _examples(count: int, seed: int) -> Batch:
    """Standardized examples of two features."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 2)).astype(np.float32)
    y = x @ [0.5, -1.0] + generator.normal(size=count) * 0.5
    return Batch(x, y.astype(np.float32))


def _datasets(*, has_validation: bool = True, **more: Any) -> datasets_lib.Datasets:
    train, validation = _examples(201, 0), _examples(50, 1) if has_validation else None
    parts = train, validation or train
    given = {
        "label_variances": tuple(float(part.y.astype(np.float64).var()) for part in parts),
        "least_squares": datasets_lib.solved(train),
        **more,
    }
    return datasets_lib.Datasets(train, validation, ("a", "b"), "y", **given)


def _line(made: task.Task, datasets: datasets_lib.Datasets) -> linear.Linear | None:
    return linear.Linear.of(made, datasets, config_lib.Config())


def _expected(examples: Batch, prediction: np.ndarray, stddev: float) -> tuple[float, ...]:
    y = examples.y.astype(np.float64)
    error = prediction - y
    square = np.mean(error**2)
    return stddev * np.sqrt(square), stddev * np.abs(error).mean(), 1 - square / y.var()


@pytest.mark.parametrize("units", [None, _UNITS])
@pytest.mark.parametrize("has_validation", [False, True])
@pytest.mark.parametrize("is_linear", [False, True])
def test_errors_are_those_of_numpy(
    is_linear: bool, has_validation: bool, units: preprocessing.Preprocessing | None
) -> None:
    """Errors are in data units, for the model and, if it is linear, for float64 least squares."""
    datasets = _datasets(has_validation=has_validation, preprocessing=units)
    made = helpers.linear(("a", "b"))
    made.variables.assign({"W": [0.4, -0.7], "b": 0.1})
    found = reports.regression(made, datasets, _line(made, datasets) if is_linear else None)
    inputs = np.column_stack([datasets.train.x, np.ones(201)]).astype(np.float64)
    solution = np.linalg.lstsq(inputs, datasets.train.y.astype(np.float64), rcond=None)[0]
    numbers = {"model": np.array([0.4, -0.7, 0.1]), "least squares": solution}
    assert list(found) == ["model", "least squares"][: 1 + is_linear]
    for who, parts in found.items():
        assert list(parts) == ["training", "validation"][: 1 + has_validation]
        for part, report in zip(
            (datasets.train, datasets.validation), parts.values(), strict=False
        ):
            assert part is not None
            prediction = part.x.astype(np.float64) @ numbers[who][:-1] + numbers[who][-1]
            expected = _expected(part, prediction, 50.0 if units else 1.0)
            assert report == pytest.approx(expected, rel=1e-5 if who == "model" else 1e-10)


def test_the_reference_is_never_worse_than_the_model_in_training() -> None:
    """This holds for dependent columns too: the residuals are computed from the columns."""
    train = _examples(201, 0)
    x = np.column_stack([train.x[:, 0], train.x[:, 0] + 1e-6 * train.x[:, 1]])
    train = Batch(x.astype(np.float32), train.y)
    datasets = _datasets(has_validation=False)._replace(
        train=train, least_squares=datasets_lib.solved(train)
    )
    made = helpers.linear(("a", "b"))
    made.variables.assign({"W": [0.25, 0.25], "b": 0.0})
    found = reports.regression(made, datasets, _line(made, datasets))
    assert found["least squares"]["training"].r2 >= found["model"]["training"].r2 - 1e-6


def _classes() -> task.Task:
    """A task whose model has two outputs."""
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Softmax()])
    spec = helpers.spec(_examples(2, 0))
    return task.Task(model, losses.mean_loss(losses.squared_error, model), spec=spec)


@pytest.mark.parametrize(
    ("make", "changes"), [(helpers.linear, {"label_variances": None}), (_classes, {})]
)
def test_nothing_is_said_of_classes_and_of_synthetic_data(make: Any, changes: Any) -> None:
    made = make(("a", "b")) if make is helpers.linear else make()
    assert reports.regression(made, _datasets(**changes), None) == {}


def test_labels_that_are_all_the_same_have_no_r2() -> None:
    """The lines of the table show no R² either."""
    datasets = _datasets(label_variances=(0.0, 1.0))
    found = reports.regression(helpers.linear(("a", "b")), datasets, None)
    assert np.isnan(found["model"]["training"].r2)
    assert np.isfinite(found["model"]["training"].rmse)
    assert "nan" in list(reports.table(found, "y"))[1]


def test_the_sums_of_workers_are_added_up() -> None:
    """Three workers have the same examples."""
    datasets = _datasets()
    made = helpers.linear(("a", "b"))
    sums = []

    def total(own: np.ndarray) -> np.ndarray:
        sums.append(own)
        return 3 * own

    alone, all_ = (reports.regression(made, datasets, None, *more) for more in ((), (total,)))
    assert [own[2] for own in sums] == [201, 50]
    for part, report in all_["model"].items():
        assert report == pytest.approx(alone["model"][part], rel=1e-12)


def test_several_pieces_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last piece is short: 201 = 6 * 33 + 3."""
    datasets, made = _datasets(), helpers.linear(("a", "b"))
    whole = reports.regression(made, datasets, None)
    monkeypatch.setattr(batch_lib, "_FAST", 100)
    pieces = reports.regression(made, datasets, None)
    for part, report in pieces["model"].items():
        assert report == pytest.approx(whole["model"][part], rel=1e-9)


def test_the_table_has_the_parts_one_above_the_other() -> None:
    one, other = reports.RegressionReport(1.5, 1.25, 0.75), reports.RegressionReport(1, 0.5, 0.875)
    found = {"model": {"training": one, "validation": other}, "least squares": {"training": other}}
    assert [line.split() for line in reports.table(found, "the label")] == [
        ["Fit", "of", "the", "label", "RMSE", "MAE", "R²"],
        ["training,", "model", "1.5", "1.25", "0.7500"],
        ["training,", "least", "squares", "1", "0.5", "0.8750"],
        ["validation,", "model", "1", "0.5", "0.8750"],
    ]
    assert len({len(line) for line in reports.table(found, "a label " * 10)}) == 1
    assert list(reports.table({}, "y")) == []
