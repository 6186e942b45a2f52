"""How every entry point starts and ends: flags in, an exit code out."""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags

from pipeline import config as config_lib
from pipeline import console, errors, flagfile

flags.disclaim_key_flags()  # they belong to the entry point that asks for them


class _FloatOrAuto(flags.FloatParser):
    """Takes 'auto', too, for the default."""

    def parse(self, argument: Any) -> float | None:  # type: ignore[override]
        """Returns None for 'auto'."""
        return None if argument == "auto" else super().parse(argument)


def _define_float_or_auto(name: str, default: float | None, help_text: str) -> None:
    flags.DEFINE(_FloatOrAuto(), name, default, help_text)


_DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    int | None: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    float | None: _define_float_or_auto,
    bool | None: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}


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
    names = [field.name for field in dataclasses.fields(config_lib.Config)]
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    return config_lib.Config(**values)


def refuse(arguments: list[str]) -> None:
    """Raises where an entry point that takes only flags was given something else."""
    received = " ".join(arguments)
    errors.require(not arguments, f"takes only flags; received {received!r}; see --help")


def parse(arguments: list[str]) -> list[str]:
    """Parses flags; a mistake costs one line and exit code 2."""
    try:
        return flags.FLAGS(_with_settings_of_runs(arguments))
    except (flags.Error, errors.InputError, UnicodeDecodeError) as error:
        _complain(f"{errors.one_line(error)}; see --help")
        sys.exit(2)
    except SystemExit:
        # absl ends --help with 1, as if asking for help had failed.
        sys.exit(0)


def _with_settings_of_runs(arguments: list[str]) -> list[str]:
    """Replaces the flagfile of a run by the flags in it, and by where the run is now."""
    result, rest = [], iter(arguments)
    for argument in rest:
        if argument in ("-flagfile", "--flagfile"):
            argument = f"{argument}={next(rest, '')}"
        given = re.fullmatch("--?flagfile=(.*)", argument, re.DOTALL)
        path = pathlib.Path(os.path.abspath(given[1])) if given else None
        if path and flagfile.is_of_run(path):
            place = {"logdir": str(path.parent.parent), "run_name": path.parent.name}
            settings = flagfile.read(path) | place
            result += [f"--{name}={value}" for name, value in settings.items()]
        else:
            result.append(argument)
    return result


def parse_nothing(arguments: list[str]) -> list[str]:
    """Leaves all flags to another program."""
    flags.FLAGS.mark_as_parsed()
    return arguments


def start(
    main: Callable[[list[str]], None], flags_parser: Callable[[list[str]], list[str]] = parse
) -> NoReturn:
    """Parses the flags, runs `main` on the other arguments, and exits with its code."""
    console.open_streams()
    # What a library warns of does not end the work, as PYTHONWARNINGS=error would have it.
    warnings.filters = [each for each in warnings.filters if each[0] != "error"]
    # Ctrl-C ends the process without a traceback, unless something is to be saved first.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        _run(main, flags_parser)
    except errors.PipelineError as error:
        if isinstance(error, errors.UserCodeError) and error.traceback:
            console.say(error.traceback, sys.stderr)
        _complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _complain(f"{place}{error.strerror or error}")
    except MemoryError as error:
        _complain(f"there is not enough memory: {error}")
    sys.exit(1)


def _run(
    main: Callable[[list[str]], None], flags_parser: Callable[[list[str]], list[str]]
) -> NoReturn:
    try:
        app.run(lambda arguments: main(arguments[1:]), flags_parser=flags_parser)
    except SystemExit:
        sys.stdout.flush()  # or Python does it after the exit code is settled
        raise


def _complain(message: str) -> None:
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    console.say(console.printable(f"{program}: {message}"), sys.stderr)


def command(module: str, *arguments: str) -> str:
    """A command line that starts an entry point from here, to be copied by people."""
    folder = os.path.dirname(sys.executable)
    on_path = {name: shutil.which(name) for name in ("python", "python3")}
    names = (n for n, p in on_path.items() if p and os.path.samefile(os.path.dirname(p), folder))
    interpreter = next(names, os.path.relpath(sys.executable))
    return shlex.join([interpreter, "-m", f"pipeline.{module}", *arguments])


def repeat_command(path: pathlib.Path) -> str:
    """The command line that trains the run of a flagfile once more, under a name of its own."""
    return command("train", f"--flagfile={path}", "--run_name=")
