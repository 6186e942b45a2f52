"""A run directory belongs to one process, and only what a run makes is ever removed."""

import dataclasses
import fcntl
import pathlib
from typing import Any

import pytest

from pipeline import config as config_lib
from pipeline import errors, flagfile
from pipeline.run import run_dir


def _config(logdir: pathlib.Path, **changes: Any) -> config_lib.Config:
    return config_lib.Config(logdir=str(logdir), run_name="run", **changes)


def _start(config: config_lib.Config) -> run_dir.RunDir:
    """Leaves a run that can be resumed."""
    run = run_dir.RunDir.of(config)
    with run.opened(config) as resumes:
        assert not resumes
        flagfile.write(run.flags, flagfile.from_config(config))
    return run


def _fail(config: config_lib.Config, *, is_resumable: bool) -> None:
    """Raises in a run, after it has made a directory."""
    run = run_dir.RunDir.of(config)
    with run.opened(config):
        (run.path / "checkpoints").mkdir()
        if is_resumable:
            flagfile.write(run.flags, flagfile.from_config(config))
        raise KeyError


def test_lock_that_was_moved_away_meanwhile_is_none(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock and taking it, another process starts the run anew."""
    config = _config(tmp_path)
    run = _start(config)
    take = fcntl.flock

    def move_away_and_take(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", take)
        run.path.rename(tmp_path / "aside")
        run.path.mkdir()
        (run.path / ".lock").touch()
        (run.path / "train").mkdir()
        take(*arguments)

    monkeypatch.setattr(fcntl, "flock", move_away_and_take)
    with pytest.raises(errors.RunError, match="another process has just started"):
        run.check(config)
    assert {path.name for path in run.path.iterdir()} == {".lock", "train"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "train"])
def test_what_no_run_has_made_is_left_alone(
    tmp_path: pathlib.Path, name: str, overwrite: bool
) -> None:
    config = _config(tmp_path, overwrite=overwrite)
    run = run_dir.RunDir.of(config)
    run.path.mkdir()
    (run.path / name).write_text("all of it")
    for _ in range(2):
        with pytest.raises(errors.InputError, match="no run of this pipeline"):
            run.check(config)
    assert [path.name for path in run.path.iterdir()] == [name]


def test_only_what_a_killed_start_left_is_removed(tmp_path: pathlib.Path) -> None:
    """And not what appears beside it."""
    config = _config(tmp_path)
    run = run_dir.RunDir.of(config)
    for name in ("train", "checkpoints"):
        (run.path / name).mkdir(parents=True)
    (run.path / ".lock").touch()
    (run.path / ".unfinished.flags.txt").touch()  # killed while it wrote them

    def fail() -> None:
        with run.opened(config) as resumes:
            assert not resumes
            assert [path.name for path in run.path.iterdir()] == [".lock"]
            (run.path / "figures").mkdir()
            (run.path / "notes.txt").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_failed_start_leaves_no_directory(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyError):
        _fail(_config(tmp_path), is_resumable=False)
    assert not list(tmp_path.iterdir())


def test_failed_run_that_can_be_resumed_stays(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path)
    with pytest.raises(KeyError):
        _fail(config, is_resumable=True)
    run = run_dir.RunDir.of(config)
    assert (run.path / "checkpoints").is_dir()
    with run.opened(config) as resumes:
        assert resumes


def test_run_moved_aside_is_resumed_under_its_new_name(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path)
    run = _start(config)
    with run.opened(dataclasses.replace(config, overwrite=True)) as resumes:
        assert not resumes
        (aside,) = (path for path in tmp_path.iterdir() if path != run.path)
        flags = (aside / "flags.txt").read_text().splitlines()
        assert f"--run_name={aside.name}" in flags
        assert f"--logdir={tmp_path}" in flags


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"has other settings: --seed=0 \(now 1\);"),
        ({"epochs": 9}, "has --epochs=10, which may grow but not shrink; received --epochs=9"),
        ({"epochs": 9, "overwrite": True}, ""),
        ({"seed": 1, "overwrite": True}, ""),
        ({"epochs": 11, "checkpoint_every": 7}, ""),
    ],
)
def test_run_with_other_settings_is_not_resumed(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    run = _start(_config(tmp_path))
    config = _config(tmp_path, **changes)
    if not message:
        run.check(config)
        assert run.resumes(config) != config.overwrite
        return
    with pytest.raises(errors.InputError, match=message):
        run.check(config)


def test_directory_that_can_not_be_made_is_refused_early(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    config = _config(tmp_path / "file" / "logs")
    with pytest.raises(errors.RunError, match=r"--logdir=.* can't be written to: .*file is not"):
        run_dir.RunDir.of(config).check(config)


def test_check_leaves_nothing(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path / "logs")
    run_dir.RunDir.of(config).check(config)
    assert not list(tmp_path.iterdir())
