"""Atomic writing of files and directories, and paths that TensorFlow takes literally."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from typing import IO, Any

from pipeline import errors

_UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a new file that replaces the target at the end.

    The new file keeps the owner and the mode of the old one. If the block raises, the target is
    unchanged and nothing is left beside it.
    """
    unfinished = _unfinished(target)
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        if target.exists():
            replaced = target.stat()
            os.chown(unfinished, replaced.st_uid, replaced.st_gid)
            os.chmod(unfinished, stat.S_IMODE(replaced.st_mode))
        yield unfinished
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def making(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path for a new directory, which is renamed to the target at the end.

    The target must not exist. If the block raises, nothing is left.
    """
    unfinished = _unfinished(target)
    try:
        yield unfinished
        os.rename(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Re-raises errors of writing files at a path as errors.WriteError.

    Wrap only calls that write: TensorFlow reports a full disk as almost any type of OpError, and
    elsewhere such an error means a problem of the model or the data.
    """
    tf = sys.modules.get("tensorflow")
    types = (OSError, tf.errors.OpError) if tf else (OSError,)
    try:
        yield
    except types as error:
        reason = errors.one_line(error)
        raise errors.WriteError(reason if str(path) in reason else f"{path}: {reason}") from error


def remove(directory: pathlib.Path) -> None:
    """Removes a directory; no other process sees it partly removed."""
    unfinished = _unfinished(directory)
    directory.rename(unfinished)
    shutil.rmtree(unfinished)


def _unfinished(target: pathlib.Path) -> pathlib.Path:
    """A random path that no other file has."""
    return target.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}-{target.name}")


def is_unfinished(path: pathlib.Path) -> bool:
    """Whether a path is unfinished: a killed process left it, or another one is writing it."""
    return re.match(f"{re.escape(_UNFINISHED)}[0-9a-f]{{16}}-", path.name) is not None


def remove_abandoned(target: pathlib.Path) -> None:
    """Removes files that killed processes left when they were replacing the target.

    Keeps files younger than half a second: another process may be about to lock them.
    """
    for path in target.parent.glob(f"{_UNFINISHED}*"):  # none if it can't be read
        is_its = is_unfinished(path) and path.name.endswith(f"-{target.name}")
        with contextlib.suppress(OSError):  # another user owns it, or it is in use or gone
            if is_its and stat.S_ISREG(path.lstat().st_mode):
                with open(path, "r+b") as file:
                    mark_as_used(file)
                    if time.time() - os.fstat(file.fileno()).st_mtime > 0.5:
                        path.unlink()


def mark_as_used(file: IO[Any]) -> None:
    """Locks a file while it is open, if the system has locks; raises OSError if it is locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise


def remove_unfinished(directory: pathlib.Path) -> None:
    """Removes files that killed processes left in a directory that only this process writes."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if is_unfinished(path) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif is_unfinished(path):
            path.unlink()


@contextlib.contextmanager
def without_pattern(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to the same files without wildcards, through a link if needed.

    TensorFlow treats the path of a checkpoint or SavedModel as a pattern when it reads it.

    Args:
      path: A directory, or the common prefix of several files, up to a dot.
    """
    if not re.search(r"[][*?\\]", str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = pathlib.Path(folder, "link")
        for file in [path] if path.is_dir() else path.parent.iterdir():
            if file == path or file.name.startswith(f"{path.name}."):
                suffix = file.name.removeprefix(path.name)
                link.with_name(f"link{suffix}").symlink_to(file.absolute())
        yield link


def checksum(path: pathlib.Path) -> str:
    """The CRC-32 of a file's content in 8 hexadecimal digits; '' if it can't be read."""
    crc = 0
    try:
        with open(path, "rb") as file:
            while part := file.read(2**20):
                crc = zlib.crc32(part, crc)
    except OSError:
        return ""
    return f"{crc:08x}"
