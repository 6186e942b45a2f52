"""Printing that outlives its reader."""

import os
import sys
from typing import TextIO


def say(text: str, out: TextIO | None = None, *, end: str = "\n") -> None:
    """Prints a text at once, to stdout if not elsewhere.

    Where the reader has gone (`| head`, or a `tee` at Ctrl-C), the work goes on unseen, and
    the exit code is that of the work.
    """
    out = out or sys.stdout
    try:
        print(text, file=out, end=end, flush=True)
    except BrokenPipeError:
        # The text stays in Python's buffer: what flushes it at exit must find an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
