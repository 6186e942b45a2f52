"""The folder of a run belongs to one process, and only what a run makes is ever removed."""

import fcntl
import pathlib
from typing import Any

import pytest

from pipeline import config as config_lib
from pipeline import errors, folder


def _config(logdir: pathlib.Path, **changes: Any) -> config_lib.Config:
    return config_lib.Config(logdir=str(logdir), run_name="run", **changes)


def test_a_lock_that_was_moved_away_meanwhile_is_none(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock and taking it, another process starts the run anew."""
    config = _config(tmp_path)
    paths = folder.RunFolder.of(config)
    with paths.opened(config):
        paths.write_flags(config)
    take = fcntl.flock

    def move_away_and_take(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", take)
        paths.path.rename(tmp_path / "aside")
        paths.path.mkdir()
        (paths.path / ".lock").touch()
        (paths.path / "train").mkdir()
        take(*arguments)

    monkeypatch.setattr(fcntl, "flock", move_away_and_take)
    with pytest.raises(errors.RunError, match="another process has just started"):
        paths.check(config)
    assert {path.name for path in paths.path.iterdir()} == {".lock", "train"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "train"])
def test_what_no_run_has_made_is_left_alone(
    tmp_path: pathlib.Path, name: str, overwrite: bool
) -> None:
    config = _config(tmp_path, overwrite=overwrite)
    paths = folder.RunFolder.of(config)
    paths.path.mkdir()
    (paths.path / name).write_text("all of it")
    for _ in range(2):
        with pytest.raises(errors.InputError, match="no run of this pipeline"):
            paths.check(config)
    assert [path.name for path in paths.path.iterdir()] == [name]


def test_what_a_killed_start_left_is_removed_but_not_what_appears_beside_it(
    tmp_path: pathlib.Path,
) -> None:
    config = _config(tmp_path)
    paths = folder.RunFolder.of(config)
    (paths.path / "train").mkdir(parents=True)
    (paths.path / ".lock").touch()

    def fail() -> None:
        with paths.opened(config) as resumes:
            assert not resumes
            assert not (paths.path / "train").exists()
            (paths.path / "figures").mkdir()
            (paths.path / "notes.txt").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in paths.path.iterdir()] == ["notes.txt"]


def test_a_run_moved_aside_goes_on_under_its_new_name(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path)
    paths = folder.RunFolder.of(config)
    with paths.opened(config):
        paths.write_flags(config)
    with paths.opened(config.with_changes(overwrite=True)) as resumes:
        assert not resumes
        (aside,) = (path for path in tmp_path.iterdir() if path != paths.path)
        flags = (aside / "flags.txt").read_text().splitlines()
        assert f"--run_name={aside.name}" in flags
        assert f"--logdir={tmp_path}" in flags
