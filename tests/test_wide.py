"""Linear models of any number of features, around the 16 numbers that are watched one by one."""

import pathlib

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import exported, trainer
from tests import helpers

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights


def _table(folder: pathlib.Path, num_features: int) -> pathlib.Path:
    random = np.random.default_rng(num_features)
    x = random.normal(size=(60 + 2 * num_features, num_features))
    y = x @ random.normal(size=num_features) + 3
    path = folder / f"{num_features}.csv"
    names = [*(f"x{i}" for i in range(num_features)), "y"]
    np.savetxt(path, np.c_[x, y], "%.5f", ",", header=",".join(names), comments="")
    return path


@pytest.mark.parametrize("num_features", [15, 16, 17, 100, 1000])
@pytest.mark.parametrize("solution", helpers.SOLUTIONS)
def test_a_linear_model_of_many_features_trains_resumes_and_is_exported(
    tmp_path: pathlib.Path, num_features: int, solution: str
) -> None:
    model, loop = solution.split("-")
    path = _table(tmp_path, num_features)
    settings = {"data": str(path), "model": model, "loop": loop, "logdir": str(tmp_path)}
    for epochs in (2, 4):  # the second one goes on with the run of the first
        config = config_lib.Config(run_name="run", epochs=epochs, **settings)  # type: ignore[arg-type]
        result = trainer.train(config, datasets_lib.load(config))
    run = tmp_path / "run"
    curves = helpers.scalars(run / "train")
    assert [step for step, _ in curves["loss"]] == [0, 1, 2, 3, 4]
    watched = ["b", *(f"W/x{i}" for i in range(num_features))]
    names = watched if num_features <= 15 else ["norm/W", "norm/b"]
    assert set(names) <= set(curves)
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    predicted = exported.load(run / "export").predict(rows[:, :-1].astype(np.float32))
    loss = np.mean(np.square(predicted - rows[:, -1])) / np.var(rows[:, -1])
    assert loss == pytest.approx(result.evaluation.train["loss"], rel=1e-4)


def test_a_sweep_takes_16_features(tmp_path: pathlib.Path) -> None:
    path = _table(tmp_path, 16)
    result = helpers.call(
        "sweep", f"--data={path}", "--learning_rate=0.1,0.2", "--epochs=2", cwd=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "")
