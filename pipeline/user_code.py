"""Finds the functions and objects that flags name before TensorFlow is imported, then loads them.

`mlp` is a function in this package, `mine:make_model` is in a module that Python finds from the
current directory, `models/mine.py:make_model` is in a file. A process reads a file once, when it
finds it. These bytes are executed, compared on resume and copied into the run.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import linecache
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from pipeline import config as config_lib
from pipeline import errors, files, user_calls

# Flags that may name the user's own functions or objects.
_TRAINING = ("model", "loss", "optimizer", "schedule", "metrics", "callbacks")
_FLAGS = (*_TRAINING, "data")
IN_PYTHON = "in-python"  # stands for the module of an object that a call from Python gives
given: dict[str, "UserFunction"] = {}  # these objects, by flag and value, during the call
_MODELS = pathlib.Path(__file__).parent / "training" / "models.py"


@dataclasses.dataclass(frozen=True)
class UserFunction:
    """A function, class or object that a flag names."""

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
        """Returns the function; raises InputError if it is none."""
        function = self._load()
        message = f"{self.flag}: {self} is no function; received {function!r}"
        is_list = self.flag.startswith("--callbacks") and isinstance(function, list)
        errors.require(callable(function) or is_list, message)
        return function  # type: ignore[no-any-return]

    def make(self, **offered: Any) -> Any:
        """Returns an object: a class is instantiated, and a function may return it.

        A function is called if it needs no other arguments than those offered by name. Any other
        function is itself the object.
        """
        found, names = self._load(), self.parameters
        is_maker = inspect.isroutine(found) and all(names[name] for name in names.keys() - offered)
        if not inspect.isclass(found) and not is_maker:
            return found
        with user_calls.user_errors("making it", self):
            return found(**{name: offered[name] for name in names.keys() & offered})

    @property
    def parameters(self) -> dict[str, bool]:
        """The names of a function's parameters, and whether they have a default."""
        found = self._load()
        parameters = inspect.signature(found).parameters if inspect.isroutine(found) else {}
        return {name: p.default is not p.empty for name, p in parameters.items()}

    def _load(self) -> Any:
        """Executes the file, once in a process, and returns what the flag names."""
        with user_calls.user_errors("importing its file", self):
            return getattr(_import(self), self.name, None)


def find(config: config_lib.Config, flags: Sequence[str] = _FLAGS) -> dict[str, UserFunction]:
    """Finds the functions that a config names, by flag, without running any of them.

    A loss, for example, may also be a Keras name, and data may be files.

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


def of_training(config: config_lib.Config) -> dict[str, UserFunction]:
    """Finds all functions that training and evaluation may call, by flag."""
    return find(config, _TRAINING)


def has_given(config: config_lib.Config) -> bool:
    """Whether a config names objects that only a Python program has."""
    return any(f"{IN_PYTHON}:" in str(value) for value in vars(config).values())


def _find(flag: str, module: str, name: str) -> UserFunction:
    if module == IN_PYTHON:
        errors.require(
            flag in given,
            f"{flag} was given by a Python program, which alone can repeat or resume this run: by "
            "the same call",
        )
        return given[flag]
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
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:  # a description of an object
        return {}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    names = sorted(text for text in texts if isinstance(text, str) and os.path.isfile(text))
    return {name: files.checksum(pathlib.Path(name)) for name in names}


def is_same_code(one: bytes, other: bytes) -> bool:
    """Whether two files have the same code, ignoring comments and whitespace."""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError):
        return one == other
