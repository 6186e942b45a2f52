"""What can go wrong for the person at the terminal, and the exit code of each.

Every message is one line: what was wrong, the value received, what to do.
"""


class PipelineError(Exception):
    """Ends the program with one line on stderr, without a traceback."""

    exit_code = 1


class RunError(PipelineError):
    """The machine refused: a folder that can't be written, a disk that is full."""

    exit_code = 1


class InputError(PipelineError):
    """A flag or an input file is wrong."""

    exit_code = 2


class StoppedError(PipelineError):
    """A signal asked the run to stop, and it did after a checkpoint."""

    def __init__(self, message: str, *, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class DivergedError(PipelineError):
    """The loss is not finite any more."""

    exit_code = 3
