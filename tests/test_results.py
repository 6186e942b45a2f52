"""Tests of pipeline.reporting.results."""

import csv
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.reporting import results
from tests import helpers

_COLUMNS = {"step": 5 * np.arange(4), "loss": np.arange(4) / 3, "größe": -np.arange(4)}


def _rows(first: int, end: int) -> dict[str, Any]:
    return {name: column[first:end] for name, column in _COLUMNS.items()}


def test_table_is_cut_back_to_what_it_was(tmp_path: pathlib.Path) -> None:
    """After a kill, repeated rows and the header appear once."""
    path = tmp_path / "metrics.csv"
    for saved in (0, 2):
        path.unlink(missing_ok=True)
        first = results.MetricsTable(path, size=0)
        first.add(_rows(0, saved))
        size = first.size()
        first.add(_rows(saved, 3))
        second = results.MetricsTable(path, size=size)
        second.add(_rows(saved, 4))
        lines = [f"{5 * k},{k / 3},{-k}" for k in range(4)]
        assert path.read_text("utf-8").splitlines() == ["step,loss,größe", *lines]
        assert second.size() == path.stat().st_size


def test_result_is_json_that_every_reader_takes(tmp_path: pathlib.Path) -> None:
    """The file has no NaN or infinity."""
    path = tmp_path / "result.json"
    best = {"step": -1, "loss": math.inf}
    results.write_json(path, {"best": best, "loss": math.nan, "rate": 0.1, "done": True})

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    assert json.loads(path.read_text("utf-8"), parse_constant=refuse) == {
        "best": {"step": -1, "loss": "inf"},
        "loss": "nan",
        "rate": 0.1,
        "done": True,
    }


def test_versions_are_those_that_run() -> None:
    versions = results.versions()
    assert versions["tensorflow"] == tf.__version__
    assert versions["keras"] == tf.keras.__version__


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_run_leaves_its_table_and_result(runs: helpers.Runs, name: str) -> None:
    W, b, loss, datasets = helpers.guide(10)
    assert datasets.validation is not None
    x, y = datasets.validation.arrays
    validation = [np.mean((w * x[:, 0] + c - y) ** 2) for w, c in zip(W, b, strict=True)]
    run = runs.logdir / name
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {tag: np.array([float(row[tag]) for row in rows]) for tag in rows[0]}
    expected = {
        "step": range(11),
        "epoch": range(11),
        "loss": loss,
        "validation_loss": validation,
        "learning_rate": [0.1] * 11,
    }
    assert list(columns) == list(expected)
    for tag, column in expected.items():
        np.testing.assert_allclose(columns[tag], column, rtol=2e-6)
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert (result["outcome"], result["step"]) == ("trained", 10)
    assert result["train"] == {"loss": pytest.approx(loss[10], rel=2e-6)}
    assert result["validation"] == {"loss": pytest.approx(validation[10], rel=2e-6)}
    assert result["best"] == {"step": 10, "loss": result["validation"]["loss"]}
    assert (run / result["export"] / "saved_model.pb").exists()
    assert 0 < result["seconds_of_training"] < 10
    assert f"{result['settings']['model']}-{result['settings']['loop']}" == name
    assert result["versions"] == results.versions()
