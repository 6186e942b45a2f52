"""Tests of training on tables: standardized inside, in the units of the data outside."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares
from pipeline.evaluation import linear
from pipeline.run import finish, trainer
from pipeline.training import learning_rate, make_task
from scripts import tables
from tests import helpers

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights

# Certified by NIST, with the data in scripts/tables.py.
_NORRIS = [1.00211681802045, -0.262323073774029]
_LONGLEY = [
    *(15.0618722713733, -0.0358191792925910, -2.02022980381683, -1.03322686717359),
    *(-0.0511041056535807, 1829.15146461355, -3482258.63459582),
]
_NO_INT_1 = 2.07438016528926


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Holds tables: Norris, Longley, houses, and one with a label of 0 and 1."""
    folder = tmp_path_factory.mktemp("tables")
    houses = tables.houses()
    for name in ("norris", "longley", "houses", "california_like"):
        tables.write(getattr(tables, name)(), folder / f"{name}.csv")
    is_dear = (houses["price"] > np.median(houses["price"])).astype(int)
    tables.write({**houses, "price": is_dear}, folder / "dear.csv")
    return folder


def _config(folder: pathlib.Path, table: str, name: str = "run", **more: Any) -> config_lib.Config:
    return config_lib.Config(
        data=str(folder / f"{table}.csv"), logdir=str(folder / "logs"), run_name=name, **more
    )


def _trained(config: config_lib.Config) -> tuple[finish.Result, pathlib.Path]:
    result = trainer.train(config, datasets_lib.load(config))
    return result, pathlib.Path(config.logdir, config.run_name)


@pytest.mark.parametrize(("table", "certified"), [("norris", _NORRIS), ("longley", _LONGLEY)])
@pytest.mark.parametrize("standardize", [True, False])
def test_least_squares_has_the_certified_digits(
    folder: pathlib.Path, table: str, certified: list[float], standardize: bool
) -> None:
    """At least nine digits of a file's solution are right."""
    data = datasets_lib.load(_config(folder, table, standardize=standardize))
    solved = data.least_squares
    assert solved
    if data.units:
        solved = solved.in_data_units(data.units)
    np.testing.assert_allclose(solved.solution, certified, rtol=1e-9)


def test_least_squares_through_the_origin_has_the_certified_digits() -> None:
    """NoInt1, whose line has no b: with the mirror image of each point, b is 0 by symmetry."""
    x, y = np.arange(60.0, 71), np.arange(130.0, 141)
    solved = least_squares.LeastSquares.of(np.append(x, -x)[:, None], np.append(y, -y))
    np.testing.assert_allclose(solved.solution, [_NO_INT_1, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_a_thousand_epochs_reach_least_squares(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str], loop: str
) -> None:
    """W and b are printed, recorded, exported and saved in the units of the data, with reports."""
    config = _config(folder, "houses", loop, loop=loop, model="keras", epochs=1000)
    _, run = _trained(config)
    *features, y = tables.houses().values()
    rows = np.column_stack([*features, np.ones(len(y))])
    expected = np.linalg.lstsq(rows, y, rcond=None)[0]
    curves = helpers.scalars(run / "train")
    for name, number in zip(("W/area", "W/rooms", "W/year", "b"), expected, strict=True):
        assert curves[name][0] == (0, pytest.approx(0 if name != "b" else y.mean()))
        assert curves[name][-1] == (1000, pytest.approx(number, rel=1e-4))
    loaded = tf.saved_model.load(str(run / "export" / "1"))
    parameters = loaded.signatures["variables"]()
    np.testing.assert_allclose(parameters["W"], expected[:-1], rtol=1e-4)
    assert float(parameters["b"]) == pytest.approx(expected[-1], rel=1e-4)
    model = make_task.make_task(config, datasets_lib.load(config)).model
    model.load_weights(run / "model.weights.h5")
    np.testing.assert_allclose(model.W, expected[:-1], rtol=1e-4)
    predictions = loaded.signatures["serving_default"](tf.constant(rows[:, :-1], tf.float32))["y"]
    np.testing.assert_allclose(predictions, rows @ expected, rtol=1e-4)
    residuals = y - rows @ expected
    r2 = 1 - np.mean(residuals**2) / np.var(y)
    fits = json.loads((run / "result.json").read_text())["fits"]
    for who in ("model", "least squares"):
        assert fits[f"training, {who}"] == {
            "rmse": pytest.approx(np.sqrt(np.mean(residuals**2)), rel=1e-6),
            "mae": pytest.approx(np.mean(np.abs(residuals)), rel=1e-4),
            "r2": pytest.approx(r2, rel=1e-6),
        }
    assert curves["loss"][-1] == (1000, pytest.approx(1 - r2, rel=1e-5))
    assert helpers.scalars(run / "final")["final/r2"] == [(1000, pytest.approx(r2, rel=1e-6))]
    out = capsys.readouterr().out
    assert re.search(r"(?m)^  training, model +\d+\.?\d* +\d+\.?\d* +0\.8734$", out)
    sizes = np.abs(expected[:-1]) * np.std(features, axis=1) / np.std(y)
    order = [f"{('area', 'rooms', 'year')[i]} {sizes[i]:.3g}" for i in np.argsort(-sizes)]
    assert f"Importance, |W| of standardized features: {', '.join(order)}\n" in out
    assert {"importance"} <= {value.tag for _, value in helpers.values(run / "train")}
    assert (run / "figures" / "importance.png").exists()


@pytest.mark.slow
def test_longley_comes_as_near_as_float32_steps_can(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R² is 0.9916 after a thousand epochs (least squares: 0.9955), and still rises after that.

    The note is right: 110.5 is the root of the ratio of the correlations' eigenvalues.
    """
    _, run = _trained(_config(folder, "longley", "longley", epochs=10_000))
    loss = dict(helpers.scalars(run / "train")["loss"])
    found = [1 - loss[epochs] for epochs in (10, 1000, 10_000)]
    *features, _ = tables.longley().values()
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(features))
    number = np.sqrt(eigenvalues[-1] / eigenvalues[0])
    assert f"nearly collinear (condition number {number:.3g})" in capsys.readouterr().out
    assert found == [pytest.approx(expected, abs=2e-4) for expected in (0.9629, 0.9916, 0.9952)]


_TASKS: dict[str, dict[str, Any]] = {
    "module": {},
    "keras in mini-batches": {"model": "keras", "loop": "fit", "batch_size": 256},
    "polynomial": {"model": "polynomial"},
    "polynomial in mini-batches": {"model": "polynomial", "batch_size": 64},
    "mlp": {"model": "mlp"},
    "mlp with Adam": {"model": "mlp", "optimizer": "adam", "batch_size": 256},
    "absolute error": {"loss": "mean_absolute_error"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "table"),
    [
        *((name, "california_like") for name in _TASKS),
        ("polynomial", "longley"),
        ("mlp", "longley"),
    ],
)
def test_every_model_trains_with_the_defaults(folder: pathlib.Path, name: str, table: str) -> None:
    """No model diverges, and each predicts better than the mean of the label."""
    config = _config(folder, table, f"{name.replace(' ', '-')}-{table}", epochs=4, **_TASKS[name])
    _, run = _trained(config)
    fit = json.loads((run / "result.json").read_text())["fits"]["training, model"]
    assert 0 < fit["r2"] <= 1


@pytest.mark.slow
def test_fits_stay_where_a_finished_run_is_exported_again(folder: pathlib.Path) -> None:
    config = _config(folder, "houses", "again", epochs=3)
    _, run = _trained(config)
    first = json.loads((run / "result.json").read_text())
    assert first["fits"].keys() == {"training, model", "training, least squares"}
    _trained(dataclasses.replace(config, export_formats="onnx"))
    second = json.loads((run / "result.json").read_text())
    assert (second["export"], second["fits"]) == ("export/2", first["fits"])


@pytest.mark.slow
def test_a_label_of_0_and_1_stays_as_it_is(folder: pathlib.Path) -> None:
    settings = {"model": "logistic", "loss": "binary_crossentropy", "metrics": "accuracy,auc"}
    result, run = _trained(_config(folder, "dear", "dear", epochs=100, **settings))
    assert result.evaluation.train["accuracy"] > 0.8
    loaded = tf.saved_model.load(str(run / "export" / "1")).signatures["serving_default"]
    *features, y = np.loadtxt(folder / "dear.csv", delimiter=",", skiprows=1).T
    probability = loaded(tf.constant(np.column_stack(features), tf.float32))["y"].numpy()
    assert np.mean((probability > 0.5) == y) == pytest.approx(result.evaluation.train["accuracy"])


_OWN_LOSSES = """
import tensorflow as tf
def absolute(y, prediction):
    return tf.abs(y - prediction)
def squares_of_probability(y, prediction):
    tf.debugging.assert_less_equal(tf.abs(y - 0.5), 0.5)
    return (y - prediction) ** 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_a_loss_of_ones_own_gets_the_standardized_label(folder: pathlib.Path, loop: str) -> None:
    """The loss gets the label as trained on; the classes 0 and 1 are not standardized."""
    (folder / "losses.py").write_text(_OWN_LOSSES)
    settings = {"loss": f"{folder}/losses.py:absolute", "model": "mlp", "epochs": 60}
    result, run = _trained(_config(folder, "houses", f"own-{loop}", loop=loop, **settings))
    fit = json.loads((run / "result.json").read_text())["fits"]["training, model"]
    mae = fit["mae"] / np.std(tables.houses()["price"])
    assert result.evaluation.train["loss"] == pytest.approx(mae, rel=1e-4)
    assert fit["r2"] > 0.5
    settings = {"loss": f"{folder}/losses.py:squares_of_probability", "model": "logistic"}
    config = _config(folder, "dear", f"classes-{loop}", loop=loop, epochs=50, **settings)
    result, run = _trained(config)
    assert 0 < result.evaluation.train["loss"] < 0.2
    assert json.loads((run / "result.json").read_text())["fits"] == {}


def _rate(config: config_lib.Config) -> float:
    datasets = datasets_lib.load(config)
    task = make_task.make_task(config, datasets)
    line = linear.Linear.of(task, datasets, config)
    assert line
    stable = line.largest_stable_rate
    return learning_rate.choose(config, task, datasets, largest_stable=stable)


def test_the_rate_is_half_of_the_largest_stable_one(folder: pathlib.Path) -> None:
    """Numpy gives the Hessian's eigenvalues, for all examples and for the steepest batch."""
    config = _config(folder, "houses")
    x = datasets_lib.load(config).train.x
    rows = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    hessian = 2 * rows.T @ rows / len(rows)
    assert _rate(config) == pytest.approx(1 / np.linalg.eigvalsh(hessian)[-1], rel=1e-6)
    farthest = rows[np.argsort(np.square(rows).sum(axis=1))[-32:]]
    hessian = 2 * farthest.T @ farthest / 32
    in_batches = _rate(_config(folder, "houses", batch_size=32))
    assert in_batches == pytest.approx(1 / np.linalg.eigvalsh(hessian)[-1], rel=0.05)
    assert _rate(_config(folder, "houses", optimizer="adam")) == 0.01
    assert _rate(_config(folder, "houses", learning_rate=0.7)) == 0.7
    assert config_lib.Config().learning_rate == 0.1


def test_units_do_not_depend_on_least_squares(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W and b are in data units even with too many features for least squares."""
    monkeypatch.setattr(least_squares, "is_cheap", lambda *_: False)
    config = _config(folder, "houses")
    datasets = datasets_lib.load(config)
    assert datasets.least_squares is None
    line = linear.Linear.of(make_task.make_task(config, datasets), datasets, config)
    assert line
    assert line.units is datasets.preprocessing
    means = [column.mean() for column in tables.houses().values()]
    np.testing.assert_allclose(line.units.mean, means, rtol=1e-9)


@pytest.mark.slow
def test_a_rate_that_can_not_work_is_warned_of(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(folder, "houses", "hot", learning_rate=3.0, epochs=500)
    with pytest.raises(errors.DivergedError, match="the largest stable learning rate for these"):
        _trained(config)
    assert "Warning: --learning_rate=3 is above 0." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_l2_trains_to_ridge_regression(folder: pathlib.Path, loop: str) -> None:
    """The reference solves the normal equations in numpy, on standardized columns."""
    config = _config(
        folder, "houses", f"ridge-{loop}", l2=0.3, epochs=300, loop=loop, model="keras"
    )
    _, run = _trained(config)
    data = datasets_lib.load(config)
    assert data.units
    x, y = (array.astype(np.float64) for array in data.train.arrays)
    W = np.linalg.solve(x.T @ x / len(x) + 0.3 * np.eye(3), x.T @ y / len(x))
    (values,) = least_squares.in_data_units(np.append(W, 0)[None], data.units)
    for directory in ("train", "least_squares"):
        curves = helpers.scalars(run / directory)
        for name, value in zip(("W/area", "W/rooms", "W/year", "b"), values, strict=True):
            assert curves[name][-1][1] == pytest.approx(value, rel=1e-4)
        loss = np.mean((y - x @ W) ** 2) + 0.3 * W @ W
        assert curves["loss"][-1][1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_w_and_b_stay_the_same_on_other_data(folder: pathlib.Path) -> None:
    """They come from a checkpoint or export with other means and deviations, or from flags."""
    _, run = _trained(_config(folder, "houses", "source", epochs=50))
    end = {name: curve[-1][1] for name, curve in helpers.scalars(run / "train").items()}
    table = {name: column[:100] for name, column in tables.houses().items()}
    tables.write(table, folder / "some.csv")
    for source in (run, run / "export"):
        config = _config(folder, "some", f"from-{source.name}", initialize_from=str(source))
        _, other = _trained(config)
        curves = helpers.scalars(other / "train")
        for name in ("W/area", "W/rooms", "W/year", "b"):
            assert curves[name][0] == (0, pytest.approx(end[name], rel=1e-5))
    _, other = _trained(_config(folder, "some", "by-hand", initial_w=2.5, initial_b=-7.0))
    curves = helpers.scalars(other / "train")
    assert curves["W/rooms"][0] == (0, pytest.approx(2.5))
    assert curves["b"][0] == (0, pytest.approx(-7, abs=0.1))


@pytest.mark.slow
def test_the_rate_stays_the_same_where_a_run_is_extended(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This includes a run that starts from another model, which has another curvature."""
    _, source = _trained(_config(folder, "houses", "mlp", model="mlp", epochs=20))
    for name, epochs in (("extended", 10), ("extended", 20), ("at-once", 20)):
        settings = {"model": "mlp", "initialize_from": str(source), "epochs": epochs}
        _trained(_config(folder, "houses", name, **settings))
    assert "Resuming at step 10 of 20" in capsys.readouterr().out
    curves = [helpers.scalars(folder / "logs" / n / "train") for n in ("extended", "at-once")]
    assert curves[0]["loss"] == curves[1]["loss"]


@pytest.mark.slow
def test_data_and_model_may_come_from_one_file(tmp_path: pathlib.Path) -> None:
    """The file imports TensorFlow early; the run keeps a copy of it and resumes."""
    (tmp_path / "mine.py").write_text(
        "import tensorflow as tf\n"
        "def houses():\n"
        "    return {'area': [50, 80, 120, 65, 95], 'price': [200, 260, 410, 220, 300]}\n"
        "def make(num_features):\n"
        "    dense = tf.keras.layers.Dense(1)\n"
        "    return tf.keras.Sequential([tf.keras.Input([num_features]), dense])\n"
    )
    flags = ("--data=mine:houses", "--model=mine:make", "--run_name=run")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    run = tmp_path / "logs" / "run"
    assert (run / "code" / "data.py").read_text() == (tmp_path / "mine.py").read_text()
    assert f"--data={tmp_path}/mine.py:houses\n" in (run / "flags.txt").read_text()
    more = (f"--flagfile={run}/flags.txt", "--epochs=20")
    resumed = helpers.call("train", *more, cwd=tmp_path.parent)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "Resuming at step 10 of 20" in resumed.stdout


@pytest.mark.slow
def test_a_newcomers_table_is_trained_and_predicted(tmp_path: pathlib.Path) -> None:
    """The table has texts, and the predicted file has its columns in another order."""
    random = np.random.default_rng(0)
    area, city = random.integers(40, 200, 100), random.choice(["Oslo", "Bonn", "Ulm"], 100)
    price = 1000 * area + np.where(city == "Oslo", 90_000, 0) + 5000
    tables.write({"area": area, "city": city.astype(object), "price": price}, tmp_path / "h.csv")
    text = (tmp_path / "h.csv").read_text().replace("'", "")
    (tmp_path / "h.csv").write_text(text)
    refused = helpers.call("train", "--data=h.csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "is text; name it in --categorical" in refused.stderr
    flags = ("--data=h.csv", "--categorical=city", "--epochs=300", "--run_name=h")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    (tmp_path / "new.csv").write_text("city,id,area\nOslo,7,100\nUlm,8,50\n")
    arguments = ("--export_dir=logs/h/export", "--input=new.csv")
    printed = helpers.call("predict", *arguments, cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    header, *rows = printed.stdout.splitlines()
    assert header == "city,id,area,price"
    numbers = [float(row.rpartition(",")[2]) for row in rows]
    assert numbers == pytest.approx([195_000, 55_000], rel=1e-4)
    (tmp_path / "new.csv").write_text("city,area\nRome,100\n")
    unknown = helpers.call("predict", *arguments, cwd=tmp_path)
    assert unknown.returncode == 2
    assert (
        "new.csv: line 2, column 'city': the model was trained with Bonn, Oslo, Ulm; received "
        "'Rome'" in unknown.stderr
    )
