"""Tests of the files and output of `python -m pipeline.train`."""

import pathlib
import re
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from tests import helpers

CURVES = ("final", "least_squares", "train", "truth", "validation")


def _train_columns() -> tuple[np.ndarray, np.ndarray]:
    """The default training examples x [N] and y [N] as float64."""
    x, y = datasets_lib.load(config_lib.Config()).train.arrays
    return x[:, 0].astype(np.float64), y.astype(np.float64)


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_events_and_table_equal_the_guides_loop_in_numpy(runs: helpers.Runs, name: str) -> None:
    result = runs.results[name]
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "Note:" not in result.stdout
    W, b, loss, datasets = helpers.guide(10)
    curves = helpers.scalars(runs.logdir / name / "train")
    for tag, expected in (("W", W), ("b", b), ("loss", loss)):
        assert [step for step, _ in curves[tag]] == list(range(11))
        np.testing.assert_allclose([v for _, v in curves[tag]], expected, rtol=2e-6)

    assert datasets.validation is not None
    rows = re.findall(r"(?m)^(?:Starting|Epoch +\d+): +(.*)$", result.stdout)
    for k, row in enumerate(rows):
        x, y = datasets.validation.arrays
        validation = np.mean((W[k] * x[:, 0] + b[k] - y) ** 2)
        assert row == (
            f"W = {W[k]:.2f}, b = {b[k]:.2f}, loss={loss[k]:.5f}, validation loss={validation:.5f}"
        )
    assert len(rows) == 11

    x, y = _train_columns()
    best_W, best_b = np.polyfit(x, y, 1)
    best_loss = np.mean((best_W * x + best_b - y) ** 2)
    assert (
        f"Least squares: W = {best_W:.2f}, b = {best_b:.2f}, loss={best_loss:.5f}" in result.stdout
    )


def test_tensorboard_shows_these_values_for_each_solution(runs: helpers.Runs) -> None:
    W, b, loss, datasets = helpers.guide(10)
    assert datasets.validation is not None
    with helpers.tensorboard(runs.logdir) as board:
        pinned = urllib.parse.unquote(board.output)
        assert '"tag": "W"' in pinned
        for name in helpers.SOLUTIONS:
            for tag, expected in (("W", W), ("b", b), ("loss", loss)):
                curve = board.scalars(f"{name}/train", tag, points=11)
                assert [step for step, _ in curve] == list(range(11))
                np.testing.assert_allclose([v for _, v in curve], expected, rtol=2e-6)
            for tag, true in (("W", 3.0), ("b", 2.0)):
                flat = board.scalars(f"{name}/truth", tag, points=11)
                assert flat == [(step, true) for step in range(11)]
            flat = board.scalars(f"{name}/least_squares", "loss", points=11)
            x, y = _train_columns()
            expected_loss = np.mean((np.polyval(np.polyfit(x, y, 1), x) - y) ** 2)
            np.testing.assert_allclose([v for _, v in flat], expected_loss, rtol=1e-6)
            validation = board.scalars(f"{name}/validation", "loss", points=11)
            x, y = datasets.validation.arrays
            expected = [np.mean((w * x[:, 0] + c - y) ** 2) for w, c in zip(W, b, strict=True)]
            np.testing.assert_allclose([v for _, v in validation], expected, rtol=2e-6)


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_a_run_directory_holds_what_the_readme_says(runs: helpers.Runs, name: str) -> None:
    directory = runs.logdir / name
    expected = {".lock", "checkpoints", "export", "figures", "flags.txt", *CURVES}
    expected |= {"metrics.csv", "result.json"}
    if name.startswith("keras"):
        expected |= {"model.weights.h5"}
    assert {path.name for path in directory.iterdir()} == expected
    figures = {path.name for path in (directory / "figures").iterdir()}
    names = ("data", "before_training", "parameters", "trained", "path")
    assert figures == {f"{name}.png" for name in names}
    assert [path.name for path in (directory / "export").iterdir()] == ["1"]
    checkpoints = {path.stem for path in (directory / "checkpoints").iterdir()}
    assert checkpoints == {"ckpt-0", "ckpt-10", "best-10"}
    # TensorBoard would show an event file at the root as a run named ".".
    assert {path.name for path in runs.logdir.iterdir()} == set(helpers.SOLUTIONS)


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_the_export_predicts_with_the_trained_variables(runs: helpers.Runs, name: str) -> None:
    W, b, _, _ = helpers.guide(10)
    loaded = tf.saved_model.load(str(runs.logdir / name / "export" / "1"))
    y = loaded.signatures["serving_default"](x=tf.constant([0.0, 1.0, -7.0]))["y"]
    np.testing.assert_allclose(y, W[-1] * np.array([0, 1, -7]) + b[-1], rtol=1e-5)


@pytest.mark.slow
def test_the_printed_commands_work(runs: helpers.Runs) -> None:
    """They predict with this export, and repeat this run from its flags with equal results."""
    out = runs.results["module-custom"].stdout
    commands = dict(re.findall(r"(?m)^(\w+): +.+? -m pipeline\.(.*)$", out))
    module, *arguments = commands["Predict"].split()
    result = helpers.call(module, *arguments, cwd=runs.folder)
    assert result.stdout.startswith("x,y\n2,"), result.stderr
    module, *arguments = commands["Repeat"].split()
    assert arguments[-1] == "--run_name="
    arguments[-1] = "--run_name=again"
    result = helpers.call(module, *arguments, f"--logdir={runs.folder}/other", cwd=runs.folder)
    assert result.returncode == 0, result.stderr
    again = helpers.scalars(runs.folder / "other" / "again" / "train")
    first = helpers.scalars(runs.logdir / "module-custom" / "train")
    for tag in ("W", "b", "loss", "evaluation/loss", "training/gradient_norm"):
        assert again[tag] == first[tag]


@pytest.mark.slow
def test_many_epochs_reach_least_squares_in_a_short_table(tmp_path: pathlib.Path) -> None:
    result = helpers.call("train", "--epochs=5000", "--run_name=long", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("Epoch")]
    assert 15 <= len(rows) <= 25
    assert rows[-1].startswith("Epoch 5000:")
    expected = np.polyfit(*_train_columns(), 1)
    curves = helpers.scalars(tmp_path / "logs" / "long" / "train")
    assert len(curves["W"]) == 5001
    np.testing.assert_allclose([curves["W"][-1][1], curves["b"][-1][1]], expected, rtol=1e-5)


def test_an_unwritable_file_system_costs_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    result = helpers.call("train", f"--logdir={tmp_path}/file/logs", cwd=tmp_path)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_the_loop_compiles_to_one_piece_of_machine_code(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's flags make XLA dump its compiled code, in which the loop is a single call.

    The Keras backend in the user's environment does not matter.
    """
    dump = tmp_path / "dump"
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={dump} --xla_dump_hlo_as_text")
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    result = helpers.call("train", "--run_name=run", "--model=keras", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    compiled = [path.read_text() for path in dump.glob("*cpu_after_optimizations.txt")]
    (loop,) = [text for text in compiled if " while(" in text]
    assert 'xla_cpu_small_call="true"' in loop
