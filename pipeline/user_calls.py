"""Calls of the user's code: its errors are reported as the user's, and the process is kept."""

import contextlib
import os
import pathlib
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from pipeline import errors

# Colours and node names that TensorFlow and Keras add to error messages.
_DECORATION = re.compile(r"\x1b\[\d*m|\{\{function_node.*?\}\} |\s*\[\[\{\{node.*|\[Op:\w+\]")


class Function(Protocol):
    """What messages say of a function of the user's; see user_code.UserFunction."""

    @property
    def flag(self) -> str:
        """The flag with its value."""

    @property
    def path(self) -> pathlib.Path:
        """The file."""

    @property
    def is_own(self) -> bool:
        """Whether the user wrote it."""


@contextlib.contextmanager
def user_errors(action: str, *functions: Function, beside_ours: bool = False) -> Iterator[None]:
    """Re-raises errors of user code, sys.exit among them, as errors.InputError.

    The message names the function whose file raised the error, or else the first function of the
    user's own. Without one, errors are not changed.

    Args:
      action: What is being done, for the message.
      *functions: The functions that may be called.
      beside_ours: Whether code of this package also runs in the block. Then only errors from the
        user's files and from TensorFlow's operations are re-raised.
    """
    own = [function for function in functions if function.is_own]
    try:
        with kept_process():
            yield
        if own:
            _check_settings(action)
    except (MemoryError, errors.UserCodeError):
        raise
    except BaseException as error:
        tf: Any = sys.modules.get("tensorflow")
        is_of_operation = bool(tf) and isinstance(error, tf.errors.OpError)
        if is_of_operation and isinstance(error, tf.errors.ResourceExhaustedError):
            raise MemoryError(_reason(error)) from error
        text = "".join(traceback.format_exception(error))
        is_of_data = "IteratorGetNext" in text
        raised = [
            f for f in own if (f.flag.startswith("--data") if is_of_data else f'"{f.path}"' in text)
        ]
        is_input = isinstance(error, errors.InputError)
        if (
            not own
            or (isinstance(error, errors.PipelineError) and not is_input)
            or (is_input and any(str(error).startswith(each.flag) for each in own))
            or (beside_ours and not raised and not is_of_operation)
        ):
            raise
        function = (raised or own)[0]
        if is_input:
            raise errors.InputError(f"{function.flag}: {error} ({function})") from error
        message = f"{function.flag}: {action} raised {_reason(error)} ({function})"
        raise errors.UserCodeError(message, _traceback(error, function.path)) from error


@contextlib.contextmanager
def kept_process() -> Iterator[None]:
    """Restores the working directory, and removes new filters that turn warnings into errors."""
    folder, filters = os.open(".", os.O_RDONLY), list(warnings.filters)
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        new = [each for each in warnings.filters if each not in filters]
        warnings.filters = [f for f in warnings.filters if f not in new or f[0] != "error"]


def _check_settings(action: str) -> None:
    """Raises InputError if the user's code has changed a global setting."""
    tf, keras = sys.modules.get("tensorflow"), sys.modules.get("keras")
    errors.require(
        not tf or not tf.config.functions_run_eagerly(),
        f"{action} called tf.config.run_functions_eagerly(True); use --run_eagerly instead",
    )
    errors.require(
        not keras or keras.config.floatx() == "float32",
        f"{action} called keras.config.set_floatx; give the layers that need it a dtype instead",
    )


def _traceback(error: BaseException, path: pathlib.Path) -> str:
    """Returns the traceback from the user's file on; for compiled code, TensorFlow's version."""
    text = _DECORATION.sub("", str(error))
    if place := re.search(f'^ *File "{re.escape(str(path))}"', text, re.MULTILINE):
        return textwrap.dedent(text[place.start() :]).rstrip()
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename != str(path):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return _DECORATION.sub("", "".join(lines)).rstrip() if frames else ""


def _reason(error: BaseException) -> str:
    """The type and the message of an error on one line."""
    text = _DECORATION.sub("", str(error)).partition("Traceback (most")[0].strip()
    first, *parts = text.split("\n\n")
    if parts and first.startswith("Exception encountered"):
        text = " ".join(parts[:-1] or parts)  # the last part has the arguments
    elif parts and first.startswith(("in user code", "Graph execution")):
        text = parts[-1].strip().removeprefix(f"{type(error).__name__}: ")
    return f"{type(error).__name__}: {textwrap.shorten(text, 300) or 'no message'}"
