"""A student edits one line of a copy of the package, and all results of a run follow."""

import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

import pipeline
from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints
from tests import helpers

pytestmark = pytest.mark.slow

EPOCHS = 8
SOLUTIONS = ("module-custom", "keras-fit")
Floats = npt.NDArray[np.float64]


class Edit(NamedTuple):
    """One line of the package, its replacement, and the training that results."""

    path: str
    old: str
    new: str
    feature: Callable[[Any], Any]  # what W is multiplied by
    loss: Callable[[Floats], Floats]  # of the residuals, predicted minus actual
    slope: Callable[[Floats], Floats]  # its derivative
    learning_rate: float


EDITS = {
    "model": Edit(
        "training/models.py",
        "tf.reduce_sum(x * W, axis=-1)",
        "tf.reduce_sum(x * x * W, axis=-1)",
        feature=lambda x: x * x,
        loss=np.square,
        slope=lambda residual: 2 * residual,
        learning_rate=0.2,
    ),
    "loss": Edit(
        "training/losses.py",
        "tf.square(tf.cast(y, prediction.dtype) - prediction)",
        "tf.abs(tf.cast(y, prediction.dtype) - prediction)",
        feature=lambda x: x,
        loss=np.abs,
        slope=np.sign,
        learning_rate=1.0,  # at step 8 it has overshot: the best epoch is 7
    ),
}


class Training(NamedTuple):
    """Gradient descent in numpy: the states of steps 0 to EPOCHS."""

    W: Floats
    b: Floats
    loss: Floats
    validation_loss: Floats
    gradient_norm: Floats

    @classmethod
    def of(cls, edit: Edit) -> "Training":
        """Trains on the default examples."""
        datasets = datasets_lib.load(config_lib.Config())
        assert datasets.validation
        (x, y), (other_x, other_y) = (
            (edit.feature(part.x[:, 0].astype(np.float64)), part.y.astype(np.float64))
            for part in (datasets.train, datasets.validation)
        )
        W, b, rows = np.float64(5), np.float64(0), []
        for _ in range(EPOCHS + 1):
            residual, other = W * x + b - y, W * other_x + b - other_y
            slopes = np.mean(edit.slope(residual) * x), np.mean(edit.slope(residual))
            losses = edit.loss(residual).mean(), edit.loss(other).mean()
            rows.append((W, b, *losses, np.hypot(*slopes)))
            W -= edit.learning_rate * slopes[0]
            b -= edit.learning_rate * slopes[1]
        return cls(*np.array(rows).T)


class Edited(NamedTuple):
    """Two finished runs of an edited copy of the package, and the expected training."""

    edit: Edit
    expected: Training
    root: pathlib.Path
    results: dict[str, "subprocess.CompletedProcess[str]"]

    def run(self, solution: str) -> pathlib.Path:
        """The directory of a run."""
        return self.root / "logs" / solution


def _copy(root: pathlib.Path, path: str, old: str, new: str) -> None:
    """Copies the package into a directory and edits one of its lines."""
    copy = root / "pipeline"
    shutil.copytree(
        pathlib.Path(pipeline.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    source = (copy / path).read_text()
    assert source.count(old) == 1
    (copy / path).write_text(source.replace(old, new))
    with open(copy / "__init__.py", "a") as file:
        file.write("\nprint(__file__)\n")


@pytest.fixture(scope="module", params=EDITS)
def edited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Edited:
    """Trains the copy with two solutions at the same time."""
    edit = EDITS[request.param]
    root = tmp_path_factory.mktemp("edited")
    _copy(root, edit.path, edit.old, edit.new)
    flags = (f"--epochs={EPOCHS}", f"--learning_rate={edit.learning_rate}")
    running = {}
    for name in SOLUTIONS:
        model, loop = name.split("-")
        solution = (f"--run_name={name}", f"--model={model}", f"--loop={loop}")
        running[name] = helpers.start("train", *flags, *solution, cwd=root)
    results = {name: helpers.finish(process) for name, process in running.items()}
    return Edited(edit, Training.of(edit), root, results)


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_table_follows_an_edit(edited: Edited, solution: str) -> None:
    result = edited.results[solution]
    assert (result.returncode, result.stderr) == (0, "")
    first, *lines = result.stdout.splitlines()
    assert first == str(edited.root / "pipeline" / "__init__.py")  # the copy was imported
    number = r"(-?\d+\.\d+)"
    row = rf"(?:Starting|Epoch \d): +W = {number}, b = {number}, loss={number}, validation loss="
    rows = [re.fullmatch(row + number, line) for line in lines if "W = " in line]
    assert len(rows) == EPOCHS + 1  # and no least-squares solution below
    table = np.array([match.groups() if match else [] for match in rows], np.float64)
    for column, expected, decimals in zip(table.T, edited.expected[:4], (2, 2, 5, 5), strict=True):
        np.testing.assert_allclose(column, expected, rtol=2e-6, atol=0.5 * 10.0**-decimals)


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_least_squares_reference_is_left_out(edited: Edited, solution: str) -> None:
    """The default model and loss have it; one line says why the edited ones don't."""
    notes = [x for x in edited.results[solution].stdout.splitlines() if x.startswith("Note")]
    assert len(notes) == 1
    assert "is not linear regression" in notes[0]
    run = edited.run(solution)
    curves = {path.parent.name for path in run.glob("*/events.out.tfevents.*")}
    assert curves == {"final", "train", "validation"}
    figures = {path.stem for path in run.glob("figures/*")}
    assert figures == {"data", "before_training", "parameters", "trained"}


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_curves_follow_an_edit(edited: Edited, solution: str) -> None:
    run, expected = edited.run(solution), edited.expected
    train = helpers.scalars(run / "train")
    assert {tag for tag in train if not tag.startswith("speed/")} == {
        *("W", "b", "loss", "evaluation/loss", "evaluation/best_epoch"),
        *("training/gradient_norm", "training/learning_rate"),
    }
    validation = helpers.scalars(run / "validation")
    assert validation.keys() == {"loss", "evaluation/loss"}
    for curve, column in (
        (train["W"], expected.W),
        (train["b"], expected.b),
        (train["loss"], expected.loss),
        (train["evaluation/loss"], expected.loss),
        (train["training/gradient_norm"], expected.gradient_norm),
        (validation["loss"], expected.validation_loss),
    ):
        assert [step for step, _ in curve] == list(range(EPOCHS + 1))
        np.testing.assert_allclose([value for _, value in curve], column, rtol=2e-6, atol=2e-6)
    final = helpers.scalars(run / "final")
    for tag, column in (
        ("final/loss", expected.loss),
        ("final/validation_loss", expected.validation_loss),
    ):
        ((step, value),) = final[tag]
        assert step == EPOCHS
        assert value == pytest.approx(column[-1], rel=2e-6)


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_best_epoch_is_that_of_the_edited_loss(edited: Edited, solution: str) -> None:
    best = int(np.argmin(edited.expected.validation_loss))
    (path,) = edited.run(solution).glob("checkpoints/best-*.index")
    assert path.stem == f"best-{best}"
    found = checkpoints.variables(path)
    np.testing.assert_allclose(found["W"], edited.expected.W[[best]], rtol=2e-6)
    np.testing.assert_allclose(found["b"], edited.expected.b[best], rtol=2e-6)


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_export_predicts_with_the_edited_model(edited: Edited, solution: str) -> None:
    loaded = tf.saved_model.load(str(edited.run(solution) / "export" / "1"))
    x = np.array([0, 1, -7, 0.5], np.float32)
    y = loaded.signatures["serving_default"](x=tf.constant(x))["y"]
    expected = edited.expected.W[-1] * edited.edit.feature(x) + edited.expected.b[-1]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_a_print_in_an_eager_step_shows_each_loss(tmp_path: pathlib.Path) -> None:
    """The step is never traced: each call gives a row, and the last call gives the last row."""
    line = "                loss = task.loss(batch, training=True)\n"
    added = "                print('step', tf.executing_eagerly(), loss.shape, loss)\n"
    after = "                scaled = "
    _copy(tmp_path, "training/train_step.py", line + after, line + added + after)
    flags = ("--run_eagerly", "--epochs=3")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    printed = re.findall(r"(?m)^step (\w+) .*", result.stdout)
    assert printed == ["True"] * 4
    numbers = re.findall(r"(?m)^step True \(\) tf\.Tensor\((\S+), ", result.stdout)
    _, _, expected, _ = helpers.guide(3)
    np.testing.assert_allclose(np.array(numbers, float), expected, rtol=1e-5)
