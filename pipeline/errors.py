"""Errors for the user at the terminal, each with its exit code.

Every message is one line: what is wrong, the value received, what to do.
"""

import signal


class PipelineError(Exception):
    """Ends the program with one line on stderr, without a traceback."""

    exit_code = 1


class RunError(PipelineError):
    """Environment failure: a directory that can't be written to, a disk that is full."""


class WriteError(RunError):
    """A file of the run can't be written."""


class LostWorkerError(RunError):
    """Another worker can't be reached."""


class InputError(PipelineError):
    """A flag or an input file is wrong."""

    exit_code = 2


class UserCodeError(InputError):
    """User code raised an exception; `traceback` is the user's part of the traceback, or ''."""

    def __init__(self, message: str, traceback: str):
        super().__init__(message)
        self.traceback = traceback


class StoppedError(PipelineError):
    """A signal stopped the run after it had saved a checkpoint."""

    def __init__(self, signal_number: int, how_to_resume: str):
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name}; resume with: {how_to_resume}")
        self.signal_number, self.exit_code = signal_number, 128 + signal_number


class DivergedError(PipelineError):
    """Training diverged: the loss or a variable is not finite, or the loss has risen too far."""

    exit_code = 3


def one_line(error: BaseException) -> str:
    """The message of another library's error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def require(condition: object, message: str) -> None:
    """Raises InputError with the message unless the condition is true."""
    if not condition:
        raise InputError(message)
