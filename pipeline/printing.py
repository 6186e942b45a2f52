"""Printing that never ends the work, whatever becomes of those who read."""

import errno
import io
import os
import select
import stat
import sys
from typing import Any, TextIO

_NAMES = ("stdin", "stdout", "stderr")  # of the descriptors 0, 1, 2


class _Output(io.FileIO):
    """A standard descriptor. After an error it leads to nowhere, so the next write succeeds.

    That a pipe has no reader any more (`| head`, or a `tee` at Ctrl-C), or a terminal was
    closed, is no error.
    """

    def __init__(self, number: int):
        super().__init__(number, "w", closefd=False)
        self.name = _NAMES[number]

    def write(self, data: Any, /) -> int:
        try:
            while (count := super().write(data)) is None:  # another program made it non-blocking
                select.select([], [self], [])
            return count
        except OSError as error:
            is_file = stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if is_file or error.errno not in (errno.EPIPE, errno.EIO):
                error.filename = self.name
                raise
            return memoryview(data).nbytes


def open_streams() -> None:
    """Replaces stdout and stderr by streams that can't fail where nobody reads.

    A standard descriptor that the caller closed leads to nowhere from now on; else the next
    file that is opened would take its number, and get what C++ code prints.
    """
    for number in range(len(_NAMES)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def _stream(number: int, before: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number)),
        encoding=before.encoding if before else None,
        errors="backslashreplace",  # for a terminal that knows ASCII only
        line_buffering=number == 2 or os.isatty(number),
    )


def say(text: str, out: TextIO | None = None, *, end: str = "\n") -> None:
    """Prints a text, by default to stdout, and flushes it.

    Where that is impossible (a full disk), says so once on stderr and goes on.
    """
    try:
        print(text, file=out or sys.stdout, end=end, flush=True)
    except OSError as error:
        if out is not sys.stderr:
            say(f"{error.filename}: {error.strerror}; going on without it", sys.stderr)


def printable(text: str) -> str:
    """A text on one line in which nothing can command a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
