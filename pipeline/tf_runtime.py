"""Imports and starts TensorFlow quietly, with the XLA option for the loop.

The environment may set devices, threads, logs and compilation (CUDA_*, TF_*, XLA_FLAGS).
Settings that would change the numbers or the plots of a run are ignored.
"""

import contextlib
import gc
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

from absl import logging as absl_logging

from pipeline import errors

# XLA compiles a loop body to one piece of machine code if a step touches less memory than this;
# otherwise a list of kernels costs most of a microsecond. Without a limit XLA fails on large loops.
_XLA_OPTION = "xla_cpu_small_while_loop_byte_threshold"
XLA_FLAG = f"--xla_backend_extra_options={_XLA_OPTION}={2**16}"

_is_guest = False  # whether the process is a user's own, such as a notebook's

# Overrides settings that the user has for other projects.
_OWN_SETTINGS = {
    "KERAS_HOME": os.devnull,  # ~/.keras/keras.json is neither read nor written
    "MATPLOTLIBRC": os.devnull,  # plots.py ignores one in the current directory
    "MPLBACKEND": "agg",
    "TF_USE_LEGACY_KERAS": "0",
}

# Notes that TensorFlow's C++ code logs at every start on a machine without a GPU.
_START_UP_NOISE = (
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog"
    r"|E\d{4} .*failed call to cuInit"
)
_FILTER = """
import re, sys
for line in sys.stdin.buffer:
    if not re.match(sys.argv[1].encode(), line):
        sys.stderr.buffer.write(line)
"""


def import_tensorflow(start: Callable[[], Any] = lambda: None) -> Any:
    """Imports TensorFlow (takes seconds) without its start-up notes; returns the result of `start`.

    `start` is called before TensorFlow looks for devices.

    Raises:
      errors.InputError: a user's process has settings under which no run can be repeated.
    """
    logging.getLogger("tensorflow").addFilter(_is_unexpected)
    # The import creates hundreds of thousands of permanent objects, so skip garbage collection.
    with contextlib.nullcontext() if _is_guest else _garbage_kept():
        with importing():
            import tensorflow as tf

            result = start()
            tf.config.list_logical_devices()
        if _is_guest:
            _check_settings(tf)
    return result


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """Leaves the settings and the random numbers of a user's process as they are.

    If the process has used XLA already, it has read XLA_FLAGS: a step of a small model then takes
    about a microsecond more, with the same numbers.
    """
    global _is_guest
    numpy, names = sys.modules.get("numpy"), ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    before = {name: os.environ[name] for name in names if name in os.environ}
    _is_guest = True
    try:
        yield
    finally:
        _is_guest = False
        logging.getLogger("tensorflow").removeFilter(_is_unexpected)
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Whether TensorFlow warns of more than retracing: each run traces its own step."""
    return record.levelno >= logging.WARNING and "retracing" not in record.getMessage()


def _check_settings(tf: Any) -> None:
    """Raises InputError if the process has settings that a run could not be repeated with."""
    keras = tf.keras
    is_new = hasattr(keras, "config")
    errors.require(is_new, "tf.keras is Keras 2; start Python without TF_USE_LEGACY_KERAS")
    found = {
        "keras.config.backend()": (keras.config.backend(), "tensorflow"),
        "keras.config.floatx()": (keras.config.floatx(), "float32"),
        "keras.config.dtype_policy()": (keras.config.dtype_policy().name, "float32"),
        "tf.config.functions_run_eagerly()": (tf.config.functions_run_eagerly(), False),
    }
    for name, (value, wanted) in found.items():
        errors.require(
            value == wanted,
            f"{name} is {value!r} in this process, and must be {wanted!r}: set it back, and give "
            "the layers that need it a dtype, or train.train run_eagerly=True",
        )


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Prepares for an import of TensorFlow; the user's code may import it before this package."""
    if not _is_guest:
        _choose_settings()
    xla_flags = os.environ.get("XLA_FLAGS", "").strip()
    names_a_file = xla_flags and not xla_flags.startswith("-")  # XLA_FLAGS may be a file of flags
    if not names_a_file and _XLA_OPTION not in xla_flags:
        os.environ["XLA_FLAGS"] = f"{xla_flags} {XLA_FLAG}".strip()
    wants_notes = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") == "0"
    with contextlib.nullcontext() if wants_notes else _without_start_up_noise():
        yield


def _choose_settings() -> None:
    """Overrides settings of the environment, and logs less."""
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    os.environ.update(_OWN_SETTINGS)
    absl_logging.set_verbosity(absl_logging.WARNING)
    # matplotlib warns about its settings, which are ignored here, and about a home without a cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards stderr, including C++'s output, while an expected error is reported otherwise."""
    with open(os.devnull, "wb") as nowhere, _stderr_to(nowhere):
        yield


@contextlib.contextmanager
def _without_start_up_noise() -> Iterator[None]:
    """Filters known noise from stderr.

    C++ prints the notes before its log settings apply, so they must be caught at the file
    descriptor. The filter is another process, so it can pass on output of a crash of this one.
    """
    command = [sys.executable, "-I", "-S", "-c", _FILTER, _START_UP_NOISE]
    # In its own session, Ctrl-C does not end the filter before it has passed on everything.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdin
        with _stderr_to(child.stdin):
            yield


@contextlib.contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Redirects the file descriptor of stderr to a file temporarily."""
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
