"""No program, be it ours, TensorFlow or TensorBoard, treats a path as a pattern, flag or URL."""

import dataclasses
import pathlib

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, exported, finish, trainer
from tests import helpers

# Each name has another directory that it would match as a pattern.
_NAMES = [
    ("a[1]*?back\\slash\\n", "a1xxbackslashn"),
    ("größe 面积 $HOME ~ #;'%41\" {a,b}", "größe 面积 $HOME ~ #;'A\" a"),
]


def _train(logdir: pathlib.Path, **changes: object) -> finish.Result:
    settings = {"logdir": str(logdir), "run_name": "run", "epochs": 3, **changes}
    config = config_lib.Config(**settings)  # type: ignore[arg-type]
    return trainer.train(config, datasets_lib.load(config))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The results of six epochs in a directory with a usual name."""
    return _train(tmp_path_factory.mktemp("plain"), epochs=6).report


def _content(directory: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "neighbour"), _NAMES, ids=[name for name, _ in _NAMES])
def test_every_step_of_a_run_works_in_any_directory(
    plain: str, tmp_path: pathlib.Path, name: str, neighbour: str
) -> None:
    """The steps are training, resuming, initializing and predicting; the neighbour is unchanged."""
    _train(tmp_path / neighbour, seed=1)
    before = _content(tmp_path / neighbour)
    run = tmp_path / name / "run"
    _train(tmp_path / name)
    result = _train(tmp_path / name, epochs=6)
    assert result.report == plain
    W = checkpoints.variables(run / "checkpoints" / "ckpt-6")["W"]
    loaded = exported.load(run / "export")
    assert loaded.path.name == "2"
    np.testing.assert_array_equal(loaded.variables()["W"], W[0])
    x = np.float32([[1.0]])
    np.testing.assert_allclose(loaded.predict(x), W + loaded.variables()["b"], rtol=1e-6)
    source = run if name == _NAMES[0][0] else run / "export" / "2"
    _train(tmp_path / name, initialize_from=str(source), run_name="started")
    curve = helpers.scalars(tmp_path / name / "started" / "train")["W"]
    assert curve[0] == (0, W[0])
    assert _content(tmp_path / neighbour) == before


@pytest.mark.slow
def test_tensorboard_shows_a_directory_of_any_name(tmp_path: pathlib.Path) -> None:
    """Both of its readers do."""
    for name, _ in _NAMES:
        _train(tmp_path / "b[1]\\*" / name)
    for load_fast in ("true", "false"):
        with helpers.tensorboard(tmp_path / "b[1]\\*", f"--load_fast={load_fast}") as board:
            for name, _ in _NAMES:
                curve = board.scalars(f"{name}/run/train", "W", points=4)
                assert [step for step, _ in curve] == [0, 1, 2, 3]


@pytest.mark.parametrize("flag", ["logdir", "data", "initialize_from"])
def test_address_and_other_bytes_are_refused(flag: str) -> None:
    """Nobody wants a local directory named gs:."""
    for value in ("gs://bucket/logs", "s3://x", "file:///tmp/x", "hdfs://a"):
        with pytest.raises(errors.InputError, match=f"--{flag} must be a path on this machine"):
            dataclasses.replace(config_lib.Config(), **{flag: value})
    latin1 = b"gr\xf6\xdfe".decode(errors="surrogateescape")
    with pytest.raises(errors.InputError, match=f"--{flag} must be UTF-8; received 'gr") as caught:
        dataclasses.replace(config_lib.Config(), **{flag: latin1})
    assert str(caught.value).isascii()  # can be printed everywhere
    assert getattr(dataclasses.replace(config_lib.Config(), **{flag: "a:/b"}), flag) == "a:/b"
