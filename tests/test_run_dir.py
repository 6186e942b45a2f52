"""A run directory belongs to one process, and only a run's own files are ever removed."""

import dataclasses
import fcntl
import pathlib
import re
from typing import Any

import pytest

from pipeline import config as config_lib
from pipeline import errors, flagfile, user_code
from pipeline.run import run_dir


def _config(logdir: pathlib.Path, **changes: Any) -> config_lib.Config:
    return config_lib.Config(logdir=str(logdir), run_name="run", **changes)


def _start(config: config_lib.Config) -> run_dir.RunDir:
    """Makes a run that can be resumed."""
    run = run_dir.RunDir.of(config)
    with run.opened(config) as resumes:
        assert not resumes
        _begin(run)
    return run


def _begin(run: run_dir.RunDir) -> None:
    """Imitates a first checkpoint."""
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "ckpt-0.index").touch()


def _fail(config: config_lib.Config, *, is_resumable: bool) -> None:
    """Raises in a run, after it has made a directory."""
    run = run_dir.RunDir.of(config)
    with run.opened(config):
        assert flagfile.is_of_run(run.flags)
        if is_resumable:
            _begin(run)
        else:
            run.checkpoints.mkdir()
        raise KeyError


def test_lock_that_was_moved_away_meanwhile_is_none(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process restarts the run between opening and taking the lock."""
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


_FOREIGN = {
    "file": {"thesis.txt": "all of it"},
    "hidden file": {".config": "all of it"},
    "names of a run": {".lock": "123", "train/precious.csv": "x,y", "checkpoints/ckpt-0.index": ""},
    "another's lock": {".lock": "of something else"},
    "another's flags": {"flags.txt": "--epochs=3\n", ".lock": "", "train/events": ""},
    "run without its flags": {".lock": "1", "export/1/saved_model.pb": "", "train/events": ""},
}


def _content(directory: pathlib.Path) -> dict[str, str]:
    """The texts of all files in a directory."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_text() for path in paths}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("files", _FOREIGN.values(), ids=list(_FOREIGN))
def test_what_no_run_has_made_is_left_alone(
    tmp_path: pathlib.Path, files: dict[str, str], overwrite: bool
) -> None:
    config = _config(tmp_path, overwrite=overwrite)
    run = run_dir.RunDir.of(config)
    for name, text in files.items():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(text)
    for enter in (run.check, lambda config: run.opened(config).__enter__()):
        with pytest.raises(errors.InputError, match="no run of this pipeline"):
            enter(config)
    assert _content(run.path) == files
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


_BEGINNINGS = [(), (".lock",), (".lock", "flags.txt"), (".lock", "flags.txt", "checkpoints")]


@pytest.mark.parametrize("left", _BEGINNINGS, ids=len)
def test_start_that_was_killed_is_made_again(tmp_path: pathlib.Path, left: tuple[str, ...]) -> None:
    """This holds for any leftover files, and also with other settings."""
    first = _config(tmp_path, seed=1)
    run = run_dir.RunDir.of(first)
    run.path.mkdir()
    (run.path / ".unfinished-0123456789abcdef-flags.txt").touch()  # killed while it wrote them
    for name in left:
        if name == "flags.txt":
            flagfile.write(run.flags, flagfile.from_config(first))
        elif name == ".lock":
            (run.path / name).write_text("12345")
        else:
            (run.path / name).mkdir()
    config = _config(tmp_path, seed=2)
    run.check(config)
    with run.opened(config) as resumes:
        assert not resumes
        assert flagfile.read(run.flags)["seed"] == "2"
        assert {path.name for path in run.path.iterdir()} <= {".lock", "flags.txt", "checkpoints"}


def test_failed_start_leaves_what_is_not_its_own(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path)
    run = run_dir.RunDir.of(config)

    def fail() -> None:
        with run.opened(config):
            run.checkpoints.mkdir()
            (run.checkpoints / "notes.txt").write_text("mine")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _content(run.path) == {"checkpoints/notes.txt": "mine"}


def test_failed_run_that_can_be_resumed_stays(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path)
    with pytest.raises(KeyError):
        _fail(config, is_resumable=True)
    run = run_dir.RunDir.of(config)
    assert (run.path / "checkpoints").is_dir()
    with run.opened(config) as resumes:
        assert resumes


def test_run_moved_aside_keeps_all_that_it_had(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path)
    run = _start(config)
    before = _content(run.path)
    with run.opened(dataclasses.replace(config, overwrite=True)) as resumes:
        assert not resumes
        (aside,) = (path for path in tmp_path.iterdir() if path != run.path)
        assert _content(aside) == before
    moved = dataclasses.replace(config, run_name=aside.name)
    assert run_dir.RunDir.of(moved).resumes(moved)


def test_flags_that_were_changed_are_refused(tmp_path: pathlib.Path) -> None:
    run = _start(_config(tmp_path))
    flags = run.flags.read_text()
    for line in ("--epochs=", "--epochs=ten"):
        run.flags.write_text(flags.replace("--epochs=10", line))
        with pytest.raises(errors.InputError, match=f"has {line}, which may grow"):
            run.check(_config(tmp_path))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosine"}, "can't be extended: its --schedule=cosine ends with --epochs=10"),
        ({"schedule": "exponential", "warmup_steps": 3}, "can't be extended: its --schedule=expon"),
        ({"schedule": "cosine", "decay_steps": 7}, ""),
        ({"warmup_steps": 3}, ""),
    ],
)
def test_run_whose_schedule_ends_with_it_is_not_extended(
    tmp_path: pathlib.Path, settings: dict[str, Any], message: str
) -> None:
    """With the same number of epochs it is resumed."""
    run = _start(_config(tmp_path, **settings))
    run.check(_config(tmp_path, **settings))
    longer = _config(tmp_path, **settings, epochs=11)
    if message:
        with pytest.raises(errors.InputError, match=message):
            run.check(longer)
    else:
        run.check(longer)


_OWN = "def make(num_features):\n    return 1 * num_features\n"


@pytest.fixture
def own(tmp_path: pathlib.Path) -> pathlib.Path:
    """A user's file with functions for a model and a loss."""
    path = tmp_path / "own.py"
    path.write_text(_OWN)
    return path


def test_run_keeps_the_code_that_it_was_started_with(
    tmp_path: pathlib.Path, own: pathlib.Path
) -> None:
    """The run resumes with equivalent code."""
    config = _config(tmp_path / "logs", model=f"{own}:make", loss=f"{own}:make")
    run = _start(config)
    kept = {f"code/{name}.py": _OWN for name in ("model", "loss")}
    assert kept.items() <= _content(run.path).items()
    own.write_text(f"# Makes a model.\n{_OWN}")
    user_code.read.cache_clear()
    run.check(config)
    own.write_text(_OWN.replace("*", "+"))
    run.check(config)  # a process reads a file once
    user_code.read.cache_clear()
    changed = f"{own} has changed since the run {run.path} was started, which keeps it as "
    with pytest.raises(errors.InputError, match=re.escape(changed)):
        run.check(config)
    run.check(dataclasses.replace(config, overwrite=True))
    assert kept.items() <= _content(run.path).items()


def test_failed_start_leaves_no_copy_of_code(tmp_path: pathlib.Path, own: pathlib.Path) -> None:
    with pytest.raises(KeyError):
        _fail(_config(tmp_path / "logs", model=f"{own}:make"), is_resumable=False)
    assert not list((tmp_path / "logs").iterdir())
    assert own.read_text() == _OWN


def test_directory_that_can_not_be_made_is_refused_early(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    config = _config(tmp_path / "file" / "logs")
    with pytest.raises(errors.RunError, match=r"--logdir=.* can't be written to: .*file is not"):
        run_dir.RunDir.of(config).check(config)


def test_check_leaves_nothing(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path / "logs")
    run_dir.RunDir.of(config).check(config)
    assert not list(tmp_path.iterdir())
