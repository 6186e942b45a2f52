"""Prints what the entry points answer to command lines, which are given as JSON, as JSON.

Any error that is not of the pipeline is in the place of the exit code.
"""

import contextlib
import io
import json
import sys
from typing import Any

from absl import flags

from pipeline import cli, errors, predict, train


def answer(program: str, *arguments: str) -> tuple[Any, str, str]:
    """The exit code, stdout and stderr of one command."""
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS([program, *arguments])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            {"predict": predict, "train": train}[program].main([])
            code: Any = 0
        except errors.PipelineError as error:
            code = error.exit_code
            print(error, file=sys.stderr)
        except Exception as error:
            code = repr(error)
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    predict._define_flags()
    cli.define_flags()
    print(json.dumps([answer(*command) for command in json.loads(sys.argv[1])]))
