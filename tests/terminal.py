"""Runs command lines of entry points, given as JSON, and prints their results as JSON.

An error that is not the pipeline's replaces the exit code.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import flags

from pipeline import cli, errors, predict, train


def answer(program: str, *arguments: str) -> tuple[Any, str, str]:
    """The exit code, stdout and stderr of one command."""
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS([program, *arguments])
    tf.config.run_functions_eagerly(False)  # an earlier command may have changed it
    tf.keras.config.set_floatx("float32")
    return captured({"predict": predict, "train": train}[program].main)


def captured(main: Callable[[list[str]], None]) -> tuple[Any, str, str]:
    """The exit code, the output of descriptor 1, and Python's output on stderr."""
    before, err = os.dup(1), io.StringIO()
    with tempfile.TemporaryFile("w+") as out:
        os.dup2(out.fileno(), 1)
        with contextlib.redirect_stderr(err):
            try:
                main([])
                code: Any = 0
            except errors.PipelineError as error:
                code = error.exit_code
                print(error, file=sys.stderr)
            except Exception as error:
                code = repr(error)
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)
        out.seek(0)
        return code, out.read(), err.getvalue()


if __name__ == "__main__":
    predict._define_flags()
    cli.define_flags()
    print(json.dumps([answer(*command) for command in json.loads(sys.argv[1])]))
