"""Files and directories appear whole or not at all, however the writer ends."""

import os
import pathlib
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from pipeline import errors, files


def _write_file(path: pathlib.Path) -> None:
    path.write_text("new")


def _write_directory(path: pathlib.Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("new")


def _content(directory: pathlib.Path) -> dict[str, str | None]:
    """The texts of all files below a directory; None for a directory."""
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else None
        for path in directory.rglob("*")
    }


_FILE = {"target": "new"}
_DIRECTORY = {"target": None, "target/inner": None, "target/inner/file": "new"}
_KINDS = [(files.replacing, _write_file, _FILE), (files.making, _write_directory, _DIRECTORY)]


@pytest.mark.parametrize(("appear", "write", "expected"), _KINDS, ids=["file", "directory"])
def test_target_appears_at_the_end_of_the_block(
    tmp_path: pathlib.Path, appear: Any, write: Callable[[pathlib.Path], None], expected: Any
) -> None:
    with appear(tmp_path / "target") as unfinished:
        write(unfinished)
        assert not (tmp_path / "target").exists()
    assert _content(tmp_path) == expected


@pytest.mark.parametrize(
    ("appear", "write"), [kind[:2] for kind in _KINDS], ids=["file", "directory"]
)
def test_nothing_appears_when_the_block_raises(
    tmp_path: pathlib.Path, appear: Any, write: Callable[[pathlib.Path], None]
) -> None:
    def fail() -> None:
        with appear(tmp_path / "target") as unfinished:
            write(unfinished)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _content(tmp_path) == {}
    (tmp_path / "target").write_text("old")
    with pytest.raises(KeyError):
        fail()
    assert _content(tmp_path) == {"target": "old"}


def test_directory_that_exists_is_not_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with pytest.raises(OSError, match="not empty"), files.making(tmp_path / "target") as path:
        _write_directory(path)
    assert _content(tmp_path) == {"target": None, "target/old": "old"}


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_owner_and_mode_of_a_replaced_file_are_kept(tmp_path: pathlib.Path, mode: int) -> None:
    """No other user can read the new file while it is written."""
    target = tmp_path / "target"
    target.write_text("old")
    target.chmod(mode)
    if os.getuid() == 0:  # or one can't give files away
        os.chown(target, 12345, 54321)
    before = target.stat()
    with files.replacing(target) as unfinished:
        assert stat.S_IMODE(unfinished.stat().st_mode) == mode
        unfinished.write_text("new")
    after = target.stat()
    assert target.read_text() == "new"
    assert after.st_ino != before.st_ino
    assert after[stat.ST_MODE] == before[stat.ST_MODE]
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_new_file_has_the_mode_that_the_umask_gives(tmp_path: pathlib.Path) -> None:
    (tmp_path / "usual").touch()
    with files.replacing(tmp_path / "target"):
        pass
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path: pathlib.Path) -> None:
    """The file of the last writer to end stays, and it is whole."""
    target = tmp_path / "target"
    with files.replacing(target) as first:
        first.write_text("first ")
        with files.replacing(target) as second:
            second.write_text("second")
        with open(first, "a") as file:
            file.write("one")
    assert _content(tmp_path) == {"target": "first one"}


_KILLED = """
import os, pathlib, signal, sys
from pipeline import files
appear = files.replacing if sys.argv[1] == "file" else files.making
with appear(pathlib.Path("target")) as unfinished:
    if sys.argv[1] == "directory":
        unfinished.mkdir()
        unfinished = unfinished / "left"
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_only_what_a_killed_writer_left_is_removed(tmp_path: pathlib.Path, kind: str) -> None:
    """A link to something else and a file with a similar name stay."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "target").write_text("old")
    killed = subprocess.run([sys.executable, "-c", _KILLED, kind], cwd=directory)
    assert killed.returncode == -signal.SIGKILL
    assert "half" in _content(directory).values()
    assert (directory / "target").read_text() == "old"
    (directory / ".unfinished-notes.txt").write_text("mine")
    (directory / f".unfinished-{16 * 'a'}-link").symlink_to(elsewhere)
    files.remove_unfinished(directory)
    assert _content(directory) == {"target": "old", ".unfinished-notes.txt": "mine"}
    assert _content(elsewhere) == {"kept": "kept"}


_PATTERNS = ["g[1]", "a*b", "q?", "{x,y}", "back\\slash", "[!a]", "plain"]


@pytest.mark.parametrize("name", _PATTERNS)
def test_tensorflow_reads_a_path_that_could_be_a_pattern(tmp_path: pathlib.Path, name: str) -> None:
    """It reads the path itself, not what the pattern would match."""
    for neighbour, number in (("g1", 1.0), ("ab", 1.0), ("axb", 1.0), ("qq", 1.0), (name, 2.0)):
        module = tf.Module()
        module.v = tf.Variable(number)
        directory = tmp_path / neighbour
        tf.train.Checkpoint(v=module.v).write(str(directory / "ckpt-1"))
        tf.saved_model.save(module, str(directory / "saved"))
    with files.without_pattern(tmp_path / name / "ckpt-1") as path:
        reader = tf.train.load_checkpoint(str(path))
        assert reader.get_tensor("v/.ATTRIBUTES/VARIABLE_VALUE") == 2
    with files.without_pattern(tmp_path / name / "saved") as path:
        assert tf.saved_model.load(str(path)).v.numpy() == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "{path}: [Errno 28] No space left on device"),
        (OSError(28, "No space", "{path}/x"), "[Errno 28] No space: '{path}/x'"),
        (tf.errors.ResourceExhaustedError(None, None, "{path}.tmp; full"), "{path}.tmp; full"),
        (tf.errors.UnknownError(None, None, "full"), "{path}: full"),
    ],
)
def test_what_fails_while_writing_is_about_the_file(
    error: Exception, words: str, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path)
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(path=path)
    if isinstance(error, tf.errors.OpError):
        error = type(error)(None, None, error.message.format(path=path))
    with pytest.raises(errors.WriteError) as caught, files.writing(tmp_path):
        raise error
    assert str(caught.value) == words.format(path=path)


def test_other_errors_are_not_about_a_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="of the model"), files.writing(tmp_path):
        raise ValueError("of the model")
