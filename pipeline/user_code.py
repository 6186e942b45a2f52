"""Functions that --model, --loss and --data name: found before TensorFlow is imported, then loaded.

`mlp` is a function in this package, `mine:make_model` one in a module that Python finds from the
current directory, `models/mine.py:make_model` one in a file.
"""

import ast
import contextlib
import importlib
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from pipeline import config as config_lib
from pipeline import errors

_MODELS = pathlib.Path(__file__).parent / "training" / "models.py"
# What Keras and TensorFlow put around the message of an error.
_COLORS = re.compile(r"\x1b\[\d*m")
_AROUND = re.compile(r"^\{\{.*?\}\} | \[Op:\w+\].*$")
_HEADINGS = re.compile(r"^(\w+: )?Exception encountered when calling .*$|.*Error encountered:$")
_IN_COMPILED_CODE = "in user code:"


class Function:
    """A function that a flag names.

    Attributes:
      flag: The flag with its value, for messages.
      name: What it is called in the file that defines it.
      path: That file.
      is_own: Whether the user wrote it.
    """

    def __init__(self, flag: str, value: str):
        """Finds the file, and the name in it, without running any of it.

        Raises:
          errors.InputError: there is no such file, or no such function in it.
        """
        self.flag = f"--{flag}={value}"
        self._module, _, self.name = value.rpartition(":")
        self.is_own = bool(self._module)
        errors.require(
            self.name.isidentifier(),
            f"{self.flag} must be a name, module:function, or path/to/file.py:function",
        )
        self.path = self._find()
        _check_definition(self.path, self.name, self.flag)

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"

    def _find(self) -> pathlib.Path:
        if not self.is_own:
            return _MODELS
        if self._module.endswith(".py"):
            path = pathlib.Path(os.path.abspath(self._module))
            errors.require(path.is_file(), f"{self.flag}: there is no file {path}")
            return path
        _search(os.getcwd())
        try:
            spec = importlib.util.find_spec(self._module)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not (spec.origin or "").endswith(".py"):
            raise errors.InputError(
                f"{self.flag}: Python finds no module {self._module} from {os.getcwd()}; give "
                "the path of its file, such as models/mine.py:make_model"
            )
        return pathlib.Path(str(spec.origin))

    @property
    def portable(self) -> str:
        """The value of the flag that names the same function from any directory.

        A module in a package keeps its name, so that it can import what lies beside it.
        """
        if self._module.endswith(".py") or self.path == pathlib.Path.cwd() / f"{self._module}.py":
            return f"{self.path}:{self.name}"
        return f"{self._module}:{self.name}" if self.is_own else self.name

    def load(self) -> Callable[..., Any]:
        """Imports the file and returns the function.

        Raises:
          errors.InputError: the import fails, or what has the name can't be called.
        """
        with blamed("importing its file", self):
            if not self._module.endswith(".py"):
                name = self._module or "pipeline.training.models"
                module = importlib.import_module(name)
            else:
                _search(str(self.path.parent))  # for what else it imports from there
                name = f"{self.path.stem}_of_{self.flag[2:].partition('=')[0]}"
                spec = importlib.util.spec_from_file_location(name, self.path)
                assert spec is not None
                assert spec.loader is not None
                module = sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
        function = getattr(module, self.name, None)
        errors.require(
            callable(function), f"{self.flag}: {self} is no function; received {function!r}"
        )
        return function  # type: ignore[return-value]


def of_task(config: config_lib.Config) -> dict[str, Function]:
    """The functions of model and loss that a config names, by flag: a model, perhaps a loss.

    Raises:
      errors.InputError: one of them does not exist.
    """
    found = {"model": Function("model", config.model)}
    if ":" in config.loss:
        found["loss"] = Function("loss", config.loss)
    return found


def functions(config: config_lib.Config) -> dict[str, Function]:
    """All functions that a config names, by flag; one of data, too, unless that is a file.

    Raises:
      errors.InputError: one of them does not exist.
    """
    found = of_task(config)
    if re.fullmatch(r"[^,*?]+:[^\W\d]\w*", config.data) and not os.path.exists(config.data):
        found["data"] = Function("data", config.data)
    return found


@contextlib.contextmanager
def blamed(work: str, *functions: Function) -> Iterator[None]:
    """Turns what the user's code raises into an InputError with their part of the traceback.

    What this package says of their code gets the name of the function and its file. Of several
    functions it is the one in whose file it happened, or else the first of the user's own.

    Args:
      work: What is being done, for the message.
      *functions: Those that are called; nothing is turned if none is the user's own.
    """
    own = [function for function in functions if function.is_own]
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        is_ours = isinstance(error, errors.PipelineError)
        if (
            not own
            or isinstance(error, errors.UserCodeError)
            or (is_ours and not isinstance(error, errors.InputError))
        ):
            raise
        places = "".join(traceback.format_exception(error))
        function = next((f for f in own if f'"{f.path}"' in places), own[0])
        if is_ours:
            message = f"{function.flag}: {_reason(error)} ({function})"
            raise errors.InputError(message) from error
        reason = f"{type(error).__name__}: {_reason(error)}"
        message = f"{function.flag}: {work} raised {reason} ({function})"
        raise errors.UserCodeError(message, _traceback(error, function.path)) from error


def is_same_code(one: bytes, other: bytes) -> bool:
    """Whether two files do the same, whatever their comments and blanks."""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError):
        return one == other


def _search(directory: str) -> None:
    """Lets Python look for modules in a directory, after all others."""
    if directory not in sys.path:
        sys.path.append(directory)


def _check_definition(path: pathlib.Path, name: str, flag: str) -> None:
    """Raises InputError if a file surely does not define a name; only running it tells for sure."""
    try:
        text = path.read_text(encoding="utf-8")
        ast.parse(text, str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise errors.InputError(f"{flag}: {path}: {errors.one_line(error)}") from error
    if path == _MODELS:
        shipped = re.findall(r"^def ([a-z]\w*)", text, re.MULTILINE)
        errors.require(
            name in shipped,
            f"{flag} must be one of {', '.join(shipped)}, or a function of your own, such as "
            "mine:make_model in a module or models/mine.py:make_model in a file",
        )
    else:
        is_named = re.search(rf"\b{name}\b|import \*", text)
        errors.require(is_named, f"{flag}: {path} defines no {name}")


def _traceback(error: Exception, path: pathlib.Path) -> str:
    """The traceback from the user's file on, or what TensorFlow says of compiled code."""
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).rstrip()
    text = _COLORS.sub("", str(error))
    if _IN_COMPILED_CODE in text:
        start = max(0, text.find(f'    File "{path}"'))
        return f"From your file on:\n{text[start:].rstrip()}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [i for i, frame in enumerate(frames) if frame.filename == str(path)]
    if not own:
        return ""
    lines = traceback.format_list(frames[own[0] :])
    head = "Traceback (most recent call last, from your file on):\n"
    return f"{head}{''.join(lines)}{type(error).__name__}: {text}"


def _reason(error: Exception) -> str:
    """The line that says what is wrong in the message of an error."""
    text = _COLORS.sub("", str(error))
    if _IN_COMPILED_CODE in text:  # places with a line of code each, and then the message
        text = text.rpartition('File "')[2].partition("\n")[2].partition("\n")[2]
    lines = [_AROUND.sub("", line.strip()) for line in text.splitlines()]
    lines = [line for line in lines if line and not _HEADINGS.match(line)]
    return lines[0].removeprefix(f"{type(error).__name__}: ") if lines else "no message"
