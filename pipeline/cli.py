"""How every entry point starts and ends: flags in, an exit code out."""

import contextlib
import dataclasses
import gc
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import app, flags, logging

from pipeline import config as config_lib
from pipeline import errors, output

flags.disclaim_key_flags()  # they belong to the entry point that asks for them

_DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    int | None: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}

# XLA makes one piece of machine code of a loop whose step touches less memory than this.
# In a larger one it goes through a list of pieces at each step, which costs most of a
# microsecond (its own limit is 1 KiB).
_XLA_OPTION = "xla_cpu_small_while_loop_byte_threshold"
XLA_FLAG = f"--xla_backend_extra_options={_XLA_OPTION}={2**16}"

# What TensorFlow's C++ side says at every start on a machine without a GPU.
_START_UP_NOISE = re.compile(
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog"
    r"|E\d{4} .*failed call to cuInit"
)


def define_flags() -> None:
    """Defines one absl flag for each field of Config."""
    for field in dataclasses.fields(config_lib.Config):
        define_flag(field)


def define_flag(field: "dataclasses.Field[Any]") -> None:
    """Defines the absl flag of a field of Config."""
    bounds = config_lib.bounds(field)
    help_text = field.metadata["help"] + (f" Bounds: {bounds}." if bounds else "")
    choices = field.metadata["choices"]
    if choices:
        flags.DEFINE_enum(field.name, str(field.default), choices, help_text)
    else:
        _DEFINE[field.type](field.name, field.default, help_text)


def config_from_flags() -> config_lib.Config:
    """The config that the parsed flags ask for; raises errors.InputError."""
    values: dict[str, Any] = {
        field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(config_lib.Config)
    }
    return config_lib.Config(**values)


def refuse(arguments: list[str]) -> None:
    """Raises where an entry point that takes only flags was given something else."""
    if arguments:
        raise errors.InputError(f"takes only flags; received {arguments[0]!r}; see --help")


def _parse(arguments: list[str]) -> list[str]:
    """Parses flags; a mistake costs one line and exit code 2."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        _complain(f"{' '.join(str(error).split())}; see --help")
        sys.exit(2)
    except SystemExit:
        # absl ends --help with 1, as if asking for help had failed.
        sys.exit(0)


def parse_nothing(arguments: list[str]) -> list[str]:
    """Leaves all flags to another program."""
    flags.FLAGS.mark_as_parsed()
    return arguments


def start(
    main: Callable[[list[str]], None],
    flags_parser: Callable[[list[str]], list[str]] = _parse,
) -> NoReturn:
    """Parses the flags, runs `main` on the other arguments, and exits with its code."""

    def guarded_main(arguments: list[str]) -> int:
        try:
            main(arguments[1:])
        except errors.PipelineError as error:
            _complain(str(error))
            return error.exit_code
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _complain(f"{place}{error.strerror or error}")
            return 1
        except MemoryError as error:
            _complain(f"there is not enough memory: {error}")
            return 1
        return 0

    # Ctrl-C ends the process without a traceback, unless something is to be saved first.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    app.run(guarded_main, flags_parser=flags_parser)


def _complain(message: str) -> None:
    output.say(f"{_program()}: {message}", sys.stderr)


def _program() -> str:
    return os.path.splitext(os.path.basename(sys.argv[0]))[0]


def command(module: str, *arguments: str) -> str:
    """A command line that starts an entry point from here, to be copied by people."""
    interpreter = sys.executable
    for name in ("python", "python3"):
        on_path = shutil.which(name)
        if on_path and os.path.samefile(os.path.dirname(on_path), os.path.dirname(interpreter)):
            interpreter = name
            break
    else:
        interpreter = os.path.relpath(interpreter)
    return shlex.join([interpreter, "-m", f"pipeline.{module}", *arguments])


def repeat_command(flagfile: pathlib.Path) -> str:
    """The command line that trains a run once more, under a name of its own."""
    return command("train", f"--flagfile={flagfile}", "--run_name=")


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
            sys.stderr.writelines(
                line for line in held if line.strip() and not _START_UP_NOISE.match(line)
            )


def import_tensorflow() -> None:
    """Imports and starts TensorFlow (seconds) without its notes; warnings are kept."""
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever other projects of the user have
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
