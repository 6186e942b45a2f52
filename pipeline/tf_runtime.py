"""How TensorFlow is imported and started: quietly, and with the XLA option of the loop."""

import contextlib
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from absl import logging

# XLA compiles the body of a loop to one piece of machine code if a step touches less memory
# than this. Above it, a step goes through a list of kernels, which costs most of a
# microsecond. XLA's own limit is 1 KiB; without any limit it fails on large loops.
_XLA_OPTION = "xla_cpu_small_while_loop_byte_threshold"
XLA_FLAG = f"--xla_backend_extra_options={_XLA_OPTION}={2**16}"

# What TensorFlow's C++ side logs at every start on a machine without a GPU.
_START_UP_NOISE = re.compile(
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog"
    r"|E\d{4} .*failed call to cuInit"
)


def import_tensorflow() -> None:
    """Imports and starts TensorFlow (seconds) without its start-up notes; warnings are kept."""
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's other projects set
    xla_flags = os.environ.get("XLA_FLAGS", "").strip()
    names_a_file = xla_flags and not xla_flags.startswith("-")  # a file that holds flags
    if not names_a_file and _XLA_OPTION not in xla_flags:
        os.environ["XLA_FLAGS"] = f"{xla_flags} {XLA_FLAG}".strip()
    # Hundreds of thousands of objects that stay: no need to look for garbage among them.
    gc.disable()
    with _without_start_up_noise():
        import tensorflow as tf

        tf.config.list_logical_devices()
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def _without_start_up_noise() -> Iterator[None]:
    """Holds stderr back, then lets through what is not known noise.

    The notes are printed by C++ before any of its log settings apply, so only the
    file descriptor can hold them.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            kept = (line for line in held if line.strip() and not _START_UP_NOISE.match(line))
            sys.stderr.writelines(kept)
