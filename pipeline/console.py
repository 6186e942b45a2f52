"""Printing that tolerates a closed pipe or terminal."""

import contextlib
import errno
import io
import os
import select
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

_NAMES = ("stdin", "stdout", "stderr")  # of the descriptors 0, 1, 2
_CLEAR = "\r\033[K\033[J"  # the row of the cursor, then all below
_SECONDS_BETWEEN_LIVE, _SECONDS_BETWEEN_PLAIN = 0.1, 30.0
_is_quiet = False


class _Output(io.FileIO):
    """A standard stream that discards its output after an error, so the next write succeeds.

    A pipe without a reader (`| head`, or `tee` after Ctrl-C) and a closed terminal are not errors.
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
            is_lost = not has_no_reader(self.fileno(), error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if is_lost:
                error.filename = self.name
                raise
            return memoryview(data).nbytes


class _Stream(io.TextIOWrapper):
    """A text stream that the user's code can't close."""

    def close(self) -> None:
        self.flush()


def has_no_reader(descriptor: int, error: OSError) -> bool:
    """Whether an error means that a pipe or terminal no longer has a reader."""
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    return not is_file and error.errno in (errno.EPIPE, errno.EIO)


def open_streams() -> None:
    """Replaces stdout and stderr by streams that may lose their reader."""
    for number in range(len(_NAMES)):
        try:
            os.fstat(number)
        except OSError:  # closed: the next open file would get this number and C++'s output
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def _stream(number: int, before: TextIO | None) -> TextIO:
    if before:
        with contextlib.suppress(OSError):
            before.flush()  # it may hold what a package printed during its import
    return _Stream(
        io.BufferedWriter(_Output(number)),
        encoding=before.encoding if before else None,
        errors="backslashreplace",  # for a terminal that knows ASCII only
        line_buffering=number == 2 or os.isatty(number),
    )


def say(text: str, out: TextIO | None = None, *, end: str = "\n") -> None:
    """Prints and flushes a text, by default to stdout; reports a full disk once."""
    if _is_quiet and out is None:
        return
    try:
        print(text, file=out or sys.stdout, end=end, flush=True)
    except OSError as error:
        if out is not sys.stderr:
            say(f"{error.filename}: {error.strerror}; going on without it", sys.stderr)


@contextlib.contextmanager
def only_progress() -> Iterator[None]:
    """Suppresses normal lines on stdout; live progress lines are still printed."""
    global _is_quiet
    _is_quiet = True
    try:
        yield
    finally:
        _is_quiet = False


def printable(text: str) -> str:
    """The text on one line, with terminal control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table: the first column is left-aligned, the others right-aligned."""
    from rich import cells  # imported late, as it would delay the start of a program

    lines = [header, *rows]
    widths = [max(map(cells.cell_len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for first, *others in lines:
        text = cells.set_cell_size(first, widths[0])
        for other, width in zip(others, widths[1:], strict=True):
            text += "    " + " " * (width - cells.cell_len(other)) + other
        texts.append(text.rstrip())
    return "\n".join(texts)


class LiveLine:
    """A progress line that is updated while work goes on.

    On a terminal it is rewritten in place, at most ten times a second. In a pipe or a file it is
    a plain line every 30 seconds. The cursor stays at the beginning of the line: if a narrower
    window wraps the line into several rows, all of them are cleared (`rich` would leave them).
    """

    def __init__(self, out: TextIO | None = None):
        self._out = out or sys.stdout
        self._is_terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._pause = _SECONDS_BETWEEN_LIVE if self._is_terminal else _SECONDS_BETWEEN_PLAIN
        self._printed = time.perf_counter()

    def is_due(self) -> bool:
        """Whether the line is old enough to be rewritten."""
        return time.perf_counter() - self._printed >= self._pause

    def show(self, text: str) -> None:
        """Rewrites the line."""
        self._printed = time.perf_counter()
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            # Not _CLEAR: it flickers, and tmux keeps a copy of a screen that is cleared as a whole.
            text = f"\r{text[:width]}\033[J\r"
        say(text, self._out, end="" if self._is_terminal else "\n")

    def add(self, text: str) -> None:
        """Prints a permanent line above this one."""
        if not _is_quiet:
            self._printed = time.perf_counter()
            say(f"{_CLEAR * self._is_terminal}{text}", self._out)

    def close(self) -> None:
        """Leaves a terminal at the start of a line."""
        if self._is_terminal:
            say(_CLEAR, self._out, end="")
