"""Printing that tolerates a closed pipe."""

import os
import sys
from typing import TextIO


def say(text: str, out: TextIO | None = None, *, end: str = "\n") -> None:
    """Prints a text, by default to stdout, and flushes it.

    Where the reader of a pipe has gone (`| head`, or a `tee` at Ctrl-C), the program goes on
    without output, and its exit code is that of its work.
    """
    out = out or sys.stdout
    try:
        print(text, file=out, end=end, flush=True)
    except BrokenPipeError:
        # The text stays in Python's buffer: what flushes it at exit must find an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
