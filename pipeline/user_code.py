"""Finds the functions of --model, --loss, ... before TensorFlow is imported, then loads them.

`mlp` is a function in this package, `mine:make_model` is in a module that Python finds from the
current directory, `models/mine.py:make_model` is in a file. A process reads a file once, when it
finds it. These bytes are executed, compared on resume and copied into the run.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import linecache
import os
import pathlib
import re
import sys
import textwrap
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline import config as config_lib
from pipeline import errors, files

_MODELS = pathlib.Path(__file__).parent / "training" / "models.py"
# Colours and node names that TensorFlow and Keras add to error messages.
_DECORATION = re.compile(r"\x1b\[\d*m|\{\{function_node.*?\}\} |\s*\[\[\{\{node.*|\[Op:\w+\]")


@dataclasses.dataclass(frozen=True)
class UserFunction:
    """A function that a flag names."""

    flag: str  # with its value, for messages
    name: str  # in its file
    path: pathlib.Path  # of the file
    module: str  # the name under which Python imports the file
    code: bytes = dataclasses.field(repr=False)  # the content of the file when it was found
    is_own: bool  # whether the user wrote it

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"

    @property
    def portable(self) -> str:
        """The flag's value, in a form that works in any directory."""
        if not self.is_own:
            return self.name
        is_file = ".py:" in self.flag or self.path == pathlib.Path.cwd() / f"{self.module}.py"
        # A module in a package keeps its name, so that its relative imports work.
        return f"{self.path if is_file else self.module}:{self.name}"

    def load(self) -> Callable[..., Any]:
        """Executes the file, once in a process, and returns the function; raises InputError."""
        with user_errors("importing its file", self):
            function: Any = getattr(_import(self), self.name, None)
        message = f"{self.flag}: {self} is no function; received {function!r}"
        is_list = self.flag.startswith("--callbacks") and isinstance(function, list)
        errors.require(callable(function) or is_list, message)
        return function  # type: ignore[no-any-return]


def find(
    config: config_lib.Config, flags: Sequence[str] = ("model", "loss", "data", "callbacks")
) -> dict[str, UserFunction]:
    """Finds the functions that a config names, by flag, without running any of them.

    A loss may also be a Keras name, and data may be files.

    Raises:
      errors.InputError: the file does not exist, or has no such function.
    """
    found = {}
    for flag in flags:
        value = getattr(config, flag)
        is_function = re.fullmatch("[^,*?]*:[^,*?]*", value) and not os.path.exists(value)
        if flag == "model" or is_function:
            found[flag] = _find(f"--{flag}={value}", *value.rpartition(":")[::2])
    return found


def _find(flag: str, module: str, name: str) -> UserFunction:
    errors.require(
        name.isidentifier(), f"{flag} must be a name, module:function, or path/to/file.py:function"
    )
    if module.endswith(".py"):
        path = pathlib.Path(os.path.abspath(module))
        errors.require(path.is_file(), f"{flag}: there is no file {path}")
        imported_as = re.sub(r"\W", "_", str(path))  # different even for files of the same name
    elif module:
        path, imported_as = _path_of_module(flag, module), module
    else:
        path, imported_as = _MODELS, "pipeline.training.models"
    try:
        code = read(path)
        ast.parse(code, str(path))
        text = code.decode()
    except (SyntaxError, ValueError, OSError) as error:
        raise errors.InputError(f"{flag}: {path}: {errors.one_line(error)}") from error
    if not module:
        shipped = re.findall(r"^def ([a-z]\w*)", text, re.MULTILINE)
        errors.require(
            name in shipped,
            f"{flag} must be one of {', '.join(shipped)}, or a function of your own, such as "
            "mine:make_model in a module or models/mine.py:make_model in a file",
        )
    is_named = re.search(rf"\b{name}\b|import \*", text)  # only a hint: the file has not run
    errors.require(is_named, f"{flag}: {path} defines no {name}")
    return UserFunction(flag, name, path, imported_as, code, is_own=bool(module))


@functools.cache
def read(path: pathlib.Path) -> bytes:
    """Reads a file, once in a process."""
    return path.read_bytes()


def _path_of_module(flag: str, name: str) -> pathlib.Path:
    """Finds the file of a module; the current directory is searched last."""
    sys.path += [] if os.getcwd() in sys.path else [os.getcwd()]
    reason, spec = "", None
    try:
        spec = importlib.util.find_spec(name)  # imports its parent packages
    except (Exception, SystemExit) as error:
        reason = f" ({type(error).__name__}: {errors.one_line(error)})"
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise errors.InputError(
            f"{flag}: Python finds no module {name} from {os.getcwd()}{reason}; give the path of "
            "its file, such as models/mine.py:make_model"
        )
    return pathlib.Path(str(spec.origin))


def _import(function: UserFunction) -> types.ModuleType:
    """Imports the module of a function, from the bytes read earlier."""
    path, name, code = str(function.path), function.module, function.code
    if not function.is_own:
        return importlib.import_module(name)
    if "." in name:
        importlib.import_module(name.rpartition(".")[0])
    known = sys.modules.get(name)
    is_known = os.path.normpath(getattr(known, "__file__", None) or "") == path
    if known and is_known and getattr(known, "_code", code) == code:
        return known
    folder = os.path.dirname(path)
    sys.path += [] if folder in sys.path else [folder]  # for its other imports from there
    # AutoGraph and tracebacks read the executed code here, not a file that has changed since.
    # AutoGraph would reread the file if __file__ were spelled like the name in the code.
    linecache.cache[path] = len(code), None, code.decode().splitlines(keepends=True), path
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    module: Any = importlib.util.module_from_spec(spec)
    module.__file__ = os.path.join(folder, ".", os.path.basename(path))
    module._code, sys.modules[name] = code, module
    try:
        exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return sys.modules[name]


def named_files(config: config_lib.Config) -> dict[str, str]:
    """The existing files that texts in the user's code name, such as weights, with checksums."""
    own = [function for function in find(config).values() if function.is_own]
    return {name: crc for function in own for name, crc in _named_files(function.code).items()}


@functools.cache  # once in a process, as it reads the code
def _named_files(code: bytes) -> dict[str, str]:
    texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    names = sorted(text for text in texts if isinstance(text, str) and os.path.isfile(text))
    return {name: files.checksum(pathlib.Path(name)) for name in names}


def is_same_code(one: bytes, other: bytes) -> bool:
    """Whether two files have the same code, ignoring comments and whitespace."""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError):
        return one == other


@contextlib.contextmanager
def user_errors(action: str, *functions: UserFunction, beside_ours: bool = False) -> Iterator[None]:
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
        raised = [function for function in own if f'"{function.path}"' in text]
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
    place = text.find(f'    File "{path}"')
    if place >= 0:
        return textwrap.dedent(text[place:]).rstrip()
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename != str(path):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return _DECORATION.sub("", "".join(lines)).rstrip() if frames else ""


def _reason(error: BaseException) -> str:
    """The type and the message of an error on one line."""
    text = _DECORATION.sub("", str(error)).strip()
    first, *parts = text.split("\n\n")
    if parts and first.startswith("Exception encountered"):
        text = " ".join(parts[:-1] or parts)  # the last part has the arguments
    elif parts and first.startswith(("in user code", "Graph execution")):
        text = parts[-1].strip().removeprefix(f"{type(error).__name__}: ")
    return f"{type(error).__name__}: {textwrap.shorten(text, 300) or 'no message'}"
