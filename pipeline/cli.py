"""Starts and ends every entry point: parses its flags and exits with a code."""

import dataclasses
import functools
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags

from pipeline import config as config_lib
from pipeline import console, errors, fields, flagfile, user_code

flags.disclaim_key_flags()  # they belong to the entry point that asks for them


class _FloatOrAuto(flags.FloatParser):
    """A float parser that also accepts 'auto', the default."""

    def parse(self, argument: Any) -> float | None:  # type: ignore[override]
        """Returns None for 'auto'."""
        return None if argument == "auto" else super().parse(argument)


_DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    int | None: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    float | None: functools.partial(flags.DEFINE, _FloatOrAuto()),
    bool | None: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}


def define_flags(*, takes_several: bool = False) -> None:
    """Defines one absl flag for each field of Config; its group is the module for --help.

    With takes_several, a flag is a string of one or several values if its field may be swept.
    """
    for title, group in config_lib.GROUPS.items():
        for field in dataclasses.fields(group):
            name, default, bounds = field.name, field.default, fields.bounds(field)
            help_text = field.metadata["help"] + (f" Bounds: {bounds}." if bounds else "")
            options: dict[str, Any] = {"module_name": title}
            if takes_several and field.metadata["may_sweep"]:
                default = None if default is None else str(default)
                flags.DEFINE_string(name, default, f"{help_text} One value or several.", **options)
            elif (choices := field.metadata["choices"]) and not field.metadata["may_be_own"]:
                options["case_sensitive"] = False
                flags.DEFINE_enum(name, str(default), choices, help_text, **options)
            else:
                _DEFINE[field.type](name, default, help_text, **options)


def _help() -> str:
    """The text of --help: the program's docstring, its own flags and the Config flags by group."""
    registered = flags.FLAGS.flags_by_module_dict()
    titles = [title for title in config_lib.GROUPS if title in registered]
    texts = [flags.FLAGS.main_module_help(), *map(flags.FLAGS.module_help, titles)]
    doc = sys.modules["__main__"].__doc__ or f"usage: {sys.argv[0]} [flags]\n"
    return "\n".join([f"{doc}\nflags:", *filter(None, texts), "\nSee also --helpfull."])


def config_from_flags() -> config_lib.Config:
    """Returns the config of the parsed flags; raises errors.InputError."""
    names = fields.names(config_lib.Config)
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    return config_lib.Config(**values)


def refuse(arguments: list[str]) -> None:
    """Raises InputError for arguments that are not flags."""
    received = " ".join(arguments)
    errors.require(not arguments, f"takes only flags; received {received!r}; see --help")


def parse(arguments: list[str]) -> list[str]:
    """Parses flags; a mistake prints one line and exits with code 2."""
    if {"--help", "-help", "--helpshort", "-?", "-h"} & set(arguments[1:]):
        print(_help())
        sys.exit(0)
    try:
        return flags.FLAGS(_with_settings_of_runs(arguments))
    except (flags.Error, errors.InputError, UnicodeDecodeError) as error:
        _complain(f"{errors.one_line(error)}; see --help")
        sys.exit(2)
    except SystemExit:
        # absl ends --help with 1, as if asking for help had failed.
        sys.exit(0)


def _with_settings_of_runs(arguments: list[str]) -> list[str]:
    """Replaces a run's flagfile by its flags and the directory of the run."""
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
    # A warning of a library does not end the work, even with PYTHONWARNINGS=error.
    warnings.filters = [each for each in warnings.filters if each[0] != "error"]
    # Ctrl-C ends the process without a traceback, unless a checkpoint must be saved first.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        try:
            app.run(lambda arguments: main(arguments[1:]), flags_parser=flags_parser)
        except SystemExit:
            sys.stdout.flush()  # or Python does it after the exit code is settled
            raise
    except errors.PipelineError as error:
        _clear_frames(error)
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


def _clear_frames(error: BaseException | None) -> None:
    """Frees the locals of an error: a generator in a tf.data.Dataset must end before Python."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _complain(message: str) -> None:
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    console.say(console.printable(f"{program}: {message}"), sys.stderr)


def command(module: str, *arguments: str) -> str:
    """A command line to copy that starts an entry point from the current directory."""
    folder = os.path.dirname(sys.executable)
    on_path = {name: shutil.which(name) for name in ("python", "python3")}
    names = (n for n, p in on_path.items() if p and os.path.samefile(os.path.dirname(p), folder))
    interpreter = next(names, os.path.relpath(sys.executable))
    return shlex.join([interpreter, "-m", f"pipeline.{module}", *arguments])


def resume_command(config: config_lib.Config, path: pathlib.Path) -> str:
    """The command line, or the call, that resumes the run of a flagfile."""
    if user_code.has_given(config):
        return f"the same call with logdir={config.logdir!r}, run_name={config.run_name!r}"
    return command("train", f"--flagfile={path}")


def repeat_command(config: config_lib.Config, path: pathlib.Path) -> str:
    """The command line, or the call, that trains a flagfile's run again under a new name."""
    if user_code.has_given(config):
        return "the same call with another run_name"
    return command("train", f"--flagfile={path}", "--run_name=")
