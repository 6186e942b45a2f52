"""Numbers at the ends of float32, and very many columns: one line, no warning, no traceback.

The tests run in one process, and a warning is an error.
"""

import pathlib
from typing import Any

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.run import trainer
from tests import helpers

_LARGEST = 3.4e38
_NORMAL = np.random.default_rng(0).normal(size=20)
_TABLES = {
    "y/1e17": (_NORMAL, _NORMAL * 1e17),
    "y/1e19": (_NORMAL, _NORMAL * 1e19),
    "y/largest": (_NORMAL, np.sign(_NORMAL) * _LARGEST),
    "y/smallest": (_NORMAL, _NORMAL * 1e-44),
    "y/one large": (_NORMAL, np.append(_NORMAL[1:], _LARGEST)),
    "x/largest": (np.sign(_NORMAL) * _LARGEST, _NORMAL),
    "x/smallest": (_NORMAL * 1e-40, _NORMAL),
    "x and y/smallest, largest": (_NORMAL * 1e-38, _NORMAL * 1e38),
    "x and y/all largest": (np.full(20, _LARGEST), np.full(20, _LARGEST)),
    "x/two columns": (np.sign(np.column_stack([_NORMAL, _NORMAL[::-1]])) * _LARGEST, _NORMAL),
}
_DIVERGES = (3, "not finite at step 0: the examples, or the model at its start, are too large")
_TOO_LARGE = (2, "the synthetic y are too large for float32; give smaller numbers than")
_TRAINS = (0, "")
_AS_IT_IS = {"standardize": False, "learning_rate": 0.1, "initial_w": 5.0}
# The exit code and the message of a run with each of these settings.
_ENDS: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    **{f"--data={name}": ({"data": name} | _AS_IT_IS, _DIVERGES) for name in _TABLES},
    **{f"--data={n}": ({"data": n} | _AS_IT_IS, _TRAINS) for n in ("y/1e17", "y/smallest")},
    "--data=x/smallest": ({"data": "x/smallest"} | _AS_IT_IS, _TRAINS),
    **{f"--standardize --data={name}": ({"data": name}, _TRAINS) for name in _TABLES},
    "--true_b=1e19": ({"true_b": 1e19}, _DIVERGES),
    "--true_b=1e38": ({"true_b": 1e38}, _DIVERGES),
    "--true_w=3e38": ({"true_w": 3e38}, _TOO_LARGE),
    "--noise_stddev=3e38": ({"noise_stddev": 3e38}, _TOO_LARGE),
    "--x_max=3e38": ({"x_max": 3e38}, _TOO_LARGE),
    "--noise_stddev=1e25": ({"noise_stddev": 1e25}, _DIVERGES),
    "--x_max=1e38 --true_w=1": ({"x_max": 1e38, "true_w": 1.0}, _DIVERGES),
    "--initial_w=3e38": ({"initial_w": 3e38}, _DIVERGES),
    "--initial_b=-3e38": ({"initial_b": -3e38}, _DIVERGES),
    "--learning_rate=3e38": ({"learning_rate": 3e38}, (3, "the best validation loss was ")),
    "--learning_rate=5e-324": ({"learning_rate": 5e-324}, _TRAINS),
}
_ALSO_FIT = (
    *("--data=y/1e17", "--data=y/largest", "--data=x/largest", "--learning_rate=3e38"),
    *("--standardize --data=y/largest", "--standardize --data=x/smallest"),
)


def _write(path: pathlib.Path, x: Any, y: Any) -> str:
    """Writes a CSV file of the columns of x and of y."""
    table = np.column_stack([x, y]).astype(np.float32)
    header = ",".join([*(f"x{i}" for i in range(table.shape[1] - 1)), "y"])
    np.savetxt(path, table, fmt="%.9g", delimiter=",", header=header, comments="")
    return str(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras
@pytest.mark.parametrize(
    ("name", "loop"),
    [*((name, "custom") for name in _ENDS), *((name, "fit") for name in _ALSO_FIT)],
)
def test_a_run_ends_with_a_line_that_says_why(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str, loop: str
) -> None:
    """Some train: in the custom loop, and with fit, Adam, mini-batches and a validation set."""
    settings, (expected_code, words) = _ENDS[name]
    if "data" in settings:
        table = _write(tmp_path / "data.csv", *_TABLES[settings["data"]])
        settings = settings | {"data": table}
    if loop == "fit":
        more = {"batch_size": 8, "validation_examples": 5}
        settings = settings | more | {"model": "keras", "loop": "fit", "optimizer": "adam"}
    code, message = 0, ""
    try:
        config = config_lib.Config(**settings, logdir=str(tmp_path), run_name="run")
        trainer.train(config, datasets_lib.load(config))
    except errors.PipelineError as error:
        code, message = error.exit_code, str(error)
    assert code == expected_code
    assert words in message
    assert "\n" not in message
    assert "is not linear regression" not in capsys.readouterr().out


@pytest.mark.slow
def test_ten_thousand_columns_train_in_seconds(tmp_path: pathlib.Path) -> None:
    """Solving least squares would take minutes; a line says that it is skipped."""
    table = np.random.default_rng(0).normal(size=(20, 10_001))
    path = _write(tmp_path / "wide.csv", table[:, 1:], table[:, 0])
    flags = (f"--data={path}", "--learning_rate=1e-5", "--epochs=2", "--run_name=run")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Note: 10,000 features of 20 examples take too long to solve for, so" in result.stdout
    curve = helpers.scalars(tmp_path / "logs" / "run" / "train")["loss"]
    assert [step for step, _ in curve] == [0, 1, 2]
    assert curve[2][1] < curve[1][1] < curve[0][1]
