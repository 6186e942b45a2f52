"""Files and directories appear whole or not at all, whatever ends the writer."""

import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from pipeline import files

Write = Callable[[pathlib.Path], object]


def _write_file(path: pathlib.Path) -> None:
    path.write_text("new")


def _write_directory(path: pathlib.Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("new")


def _fail(target: pathlib.Path, write: Write) -> None:
    """Raises in the block, after it has written."""
    with files.replacing(target) as unfinished:
        write(unfinished)
        raise KeyError


def _content(directory: pathlib.Path) -> dict[str, str | None]:
    """The texts of all files below a directory, None for a directory."""
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else None
        for path in directory.rglob("*")
    }


_FILE = {"target": "new"}
_DIRECTORY = {"target": None, "target/inner": None, "target/inner/file": "new"}
_both_kinds = pytest.mark.parametrize(
    ("write", "expected"),
    [(_write_file, _FILE), (_write_directory, _DIRECTORY)],
    ids=["file", "directory"],
)


@_both_kinds
def test_target_appears_at_the_end_of_the_block(
    tmp_path: pathlib.Path, write: Write, expected: dict[str, str | None]
) -> None:
    with files.replacing(tmp_path / "target") as unfinished:
        write(unfinished)
        assert not (tmp_path / "target").exists()
    assert _content(tmp_path) == expected


def test_file_is_replaced_at_the_end_of_the_block(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").write_text("old")
    with files.replacing(tmp_path / "target") as unfinished:
        unfinished.write_text("new")
        assert (tmp_path / "target").read_text() == "old"
    assert _content(tmp_path) == {"target": "new"}


@_both_kinds
def test_nothing_appears_when_the_block_raises(
    tmp_path: pathlib.Path, write: Write, expected: dict[str, str | None]
) -> None:
    del expected
    with pytest.raises(KeyError):
        _fail(tmp_path / "target", write)
    assert _content(tmp_path) == {}


def test_old_file_stays_when_the_block_raises(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").write_text("old")
    with pytest.raises(KeyError):
        _fail(tmp_path / "target", _write_file)
    assert _content(tmp_path) == {"target": "old"}


def test_old_file_stays_when_nothing_was_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").write_text("old")
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "target"):
        pass
    assert _content(tmp_path) == {"target": "old"}


def test_directory_that_exists_is_not_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with pytest.raises(OSError, match="not empty"), files.replacing(tmp_path / "target") as path:
        _write_directory(path)
    assert _content(tmp_path) == {"target": None, "target/old": "old"}


_KILLED = """
import os, pathlib, signal, sys
from pipeline import files
with files.replacing(pathlib.Path("target")) as unfinished:
    if sys.argv[1] == "directory":
        unfinished.mkdir()
        unfinished = unfinished / "left"
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
@_both_kinds
def test_what_a_killed_writer_left_is_removed_by_the_next(
    tmp_path: pathlib.Path, kind: str, write: Write, expected: dict[str, str | None]
) -> None:
    """What it left has another name, and may be of the other kind."""
    killed = subprocess.run([sys.executable, "-c", _KILLED, kind], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert "half" in _content(tmp_path).values()
    assert not (tmp_path / "target").exists()
    with files.replacing(tmp_path / "target") as unfinished:
        assert not unfinished.exists()
        write(unfinished)
    assert _content(tmp_path) == expected


def test_killed_writer_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").write_text("old")
    subprocess.run([sys.executable, "-c", _KILLED, "file"], cwd=tmp_path)
    assert (tmp_path / "target").read_text() == "old"


def test_link_in_the_place_of_the_unfinished_is_not_followed(tmp_path: pathlib.Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    directory = tmp_path / "directory"
    directory.mkdir()
    with files.replacing(directory / "target") as unfinished:
        name = unfinished.name
        unfinished.write_text("first")
    (directory / name).symlink_to(elsewhere)
    with files.replacing(directory / "target") as unfinished:
        unfinished.write_text("second")
    assert _content(directory) == {"target": "second"}
    assert _content(elsewhere) == {"kept": "kept"}
