"""Functions that --model and --loss name: how they are found, and what is said of their faults."""

import pathlib
import re
import sys
from collections.abc import Iterator

import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_code
from tests import helpers

_SHIPPED = ("module", "keras", "polynomial", "mlp", "logistic")


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The current directory, from which Python finds modules; forgotten at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    _forget(modules)


def _forget(modules: set[str]) -> None:
    """Lets Python forget what it has imported beside some modules, and where it looked."""
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path_importer_cache.clear()


# Finding.


@pytest.mark.parametrize("name", _SHIPPED)
def test_a_plain_name_is_a_function_of_this_package(name: str) -> None:
    function = user_code.Function("model", name)
    assert not function.is_own
    assert function.path.parts[-3:] == ("pipeline", "training", "models.py")
    assert function.portable == name
    assert function.load().__name__ == name


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("own_of_folder.py", "own_of_folder:make"),
        ("own.by-path.py", "own.by-path.py:make"),
        ("models/deep.py", "models/deep.py:make"),
        ("with:colon/own.py", "with:colon/own.py:make"),
    ],
)
def test_a_function_of_ones_own_is_found_without_running_it(
    file: str, value: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `portable` names the same from any other directory, for good."""
    path = _write(folder / file, "raise SystemExit\ndef make(num_features): ...\n")
    modules = set(sys.modules)
    function = user_code.Function("model", value)
    assert function.is_own
    assert function.path == path
    assert str(function) == f"make in {path}"
    portable = function.portable
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sys.path = [entry for entry in sys.path if entry != str(folder)]
    _forget(modules)
    assert user_code.Function("model", portable).path == path


def test_a_module_of_a_package_keeps_its_name() -> None:
    """So that it can import what lies beside it."""
    function = user_code.Function("loss", "tests.helpers:absolute_error")
    assert function.is_own
    assert function.path == pathlib.Path(helpers.__file__)
    assert function.portable == "tests.helpers:absolute_error"
    assert function.load() is helpers.absolute_error


def test_a_file_may_import_what_lies_beside_it(folder: pathlib.Path) -> None:
    _write(folder / "models" / "layers_beside.py", "DOUBLE = 2\n")
    text = "import layers_beside\ndef make(n):\n    return n * layers_beside.DOUBLE\n"
    _write(folder / "models" / "mine.py", text)
    assert user_code.Function("model", "models/mine.py:make").load()(21) == 42


def test_two_files_of_one_name_are_two_modules(folder: pathlib.Path) -> None:
    for name in ("a", "b"):
        _write(folder / name / "mine.py", f"def {name}():\n    return '{name}'\n")
    one, other = (
        user_code.Function(flag, f"{name}/mine.py:{name}").load()
        for flag, name in (("model", "a"), ("loss", "b"))
    )
    assert one() + other() == "ab"


def test_a_config_names_a_model_and_perhaps_a_loss(folder: pathlib.Path) -> None:
    """The name of a loss of Keras is no function of the user's."""
    _write(folder / "mine.py", "def make(n): ...\ndef loss(y, p): ...\n")
    shipped = user_code.functions(config_lib.Config(loss="huber"))
    assert list(shipped) == ["model"]
    own = user_code.functions(config_lib.Config(model="mine.py:make", loss="mine.py:loss"))
    assert {flag: str(function) for flag, function in own.items()} == {
        "model": f"make in {folder / 'mine.py'}",
        "loss": f"loss in {folder / 'mine.py'}",
    }


# Wrong names.


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nope", f"must be one of {', '.join(_SHIPPED)}, or a function of your own, such as mine:"),
        ("_linear", "must be one of module, keras"),
        ("", "must be a name, module:function, or path/to/file.py:function"),
        ("mine.py", "must be a name, module:function, or path"),
        ("mine.py:", "must be a name, module:function, or path"),
        ("mine.py:a b", "must be a name, module:function, or path"),
        ("other.py:make", "there is no file {folder}/other.py"),
        ("no_such_module:make", "Python finds no module no_such_module from {folder}; give the"),
        ("no_such.module:make", "Python finds no module no_such.module from {folder}"),
        ("sys:make", "Python finds no module sys"),
        ("..mine:make", "Python finds no module ..mine"),
        ("mine.py:other", "{folder}/mine.py defines no other"),
        ("mine.py:mak", "{folder}/mine.py defines no mak"),
        ("wrong.py:make", "{folder}/wrong.py: '(' was never closed (wrong.py, line 2)"),
        ("latin.py:make", "{folder}/latin.py: 'utf-8' codec can't decode byte 0xe9"),
        ("zero.py:make", "{folder}/zero.py: source code string cannot contain null bytes"),
    ],
)
def test_a_wrong_name_is_one_line(value: str, words: str, folder: pathlib.Path) -> None:
    _write(folder / "mine.py", "def make(num_features):\n    return None\n")
    _write(folder / "wrong.py", "\ndef make(\n")
    _write(folder / "zero.py", "make = 1\0")
    (folder / "latin.py").write_bytes(b"def make(n): '\xe9'")
    with pytest.raises(errors.InputError) as caught:
        user_code.Function("model", value)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--model={value}")
    assert words.format(folder=folder) in message.replace(f"--model={value}: ", "", 1)


def test_a_wrong_name_is_answered_before_tensorflow_is_imported(tmp_path: pathlib.Path) -> None:
    """By an entry point, with exit code 2, and no directory is left."""
    result = helpers.call("train", "--loss=mine:loss", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("train: --loss=mine:loss: Python finds no module mine from ")
    assert not list(tmp_path.iterdir())


def test_what_has_the_name_must_be_callable(folder: pathlib.Path) -> None:
    _write(folder / "mine.py", "make = 3\n")
    with pytest.raises(errors.InputError, match=re.escape("mine.py is no function; received 3")):
        user_code.Function("model", "mine.py:make").load()


# What the user's code raises.

_RAISES = """
import tensorflow as tf


def inner(x):
    raise KeyError("of mine")


def make(x):
    return inner(x)
"""


def test_what_an_import_raises_shows_its_line(folder: pathlib.Path) -> None:
    """And nothing of what is before the user's file."""
    _write(folder / "mine.py", "import math\n\nHALF = 1 / 0\ndef make(n): ...\n")
    with pytest.raises(errors.UserCodeError) as caught:
        user_code.Function("model", "mine.py:make").load()
    message, lines = str(caught.value), caught.value.traceback.splitlines()
    assert message.startswith("--model=mine.py:make: importing its file raised ZeroDivisionError: ")
    assert message.endswith(f"(make in {folder / 'mine.py'})")
    assert lines[0] == "Traceback (most recent call last, from your file on):"
    assert lines[1] == f'  File "{folder / "mine.py"}", line 3, in <module>'
    assert lines[2].strip() == "HALF = 1 / 0"
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_missing_import_of_a_file_is_named(folder: pathlib.Path) -> None:
    _write(folder / "mine.py", "import no_such_thing\ndef make(n): ...\n")
    with pytest.raises(errors.UserCodeError, match="ModuleNotFoundError: No module named 'no_such"):
        user_code.Function("model", "mine.py:make").load()


def test_what_a_call_raises_shows_the_users_part(folder: pathlib.Path) -> None:
    _write(folder / "mine.py", _RAISES)
    function = user_code.Function("model", "mine.py:make")
    make = function.load()
    with pytest.raises(errors.UserCodeError) as caught, user_code.blamed("calling it", function):
        make(1)
    assert str(caught.value).startswith("--model=mine.py:make: calling it raised KeyError: ")
    assert "of mine" in str(caught.value)
    text = caught.value.traceback
    assert re.findall(r'File "(.*)", line (\d+), in (\w+)', text) == [
        (str(folder / "mine.py"), "10", "make"),
        (str(folder / "mine.py"), "6", "inner"),
    ]
    assert text.endswith("KeyError: 'of mine'")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("autograph", [True, False])
def test_what_traced_code_raises_shows_the_users_line(
    autograph: bool, folder: pathlib.Path
) -> None:
    """Whether TensorFlow rewrites the function or not."""
    _write(folder / "mine.py", _RAISES)
    function = user_code.Function("loss", "mine.py:make")
    traced = tf.function(function.load(), autograph=autograph)
    with pytest.raises(errors.UserCodeError) as caught, user_code.blamed("tracing it", function):
        traced(tf.constant(1.0))
    message, text = str(caught.value), caught.value.traceback
    assert message.startswith("--loss=mine.py:make: tracing it raised KeyError: ")
    assert "of mine" in message
    assert f'File "{folder / "mine.py"}", line 6, in inner' in text
    assert "site-packages" not in text.partition("mine.py")[0]


def test_what_a_keras_layer_raises_shows_the_users_line(folder: pathlib.Path) -> None:
    """Without the box that Keras draws around the message, and its colours."""
    text = """
import keras


class Mine(keras.layers.Layer):
    def call(self, x):
        raise ValueError("a shape of mine")


def make(n):
    return keras.Sequential([keras.Input([n]), Mine()])
"""
    _write(folder / "mine.py", text)
    function = user_code.Function("model", "mine.py:make")
    make = function.load()
    with pytest.raises(errors.UserCodeError) as caught, user_code.blamed("making it", function):
        make(3)
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message + caught.value.traceback
    assert "a shape of mine" in message
    assert f'File "{folder / "mine.py"}", line 7, in call' in caught.value.traceback


def test_of_two_functions_the_one_that_raised_is_blamed(folder: pathlib.Path) -> None:
    _write(folder / "one.py", _RAISES)
    _write(folder / "two.py", _RAISES)
    model, loss = (
        user_code.Function("model", "one.py:make"),
        user_code.Function("loss", "two.py:make"),
    )
    for function in (model, loss):
        called = function.load()
        with (
            pytest.raises(errors.UserCodeError, match=re.escape(function.flag)),
            user_code.blamed("training", model, loss),
        ):
            called(1)


def test_an_error_of_shipped_functions_is_not_the_users() -> None:
    """It keeps its traceback: it is a fault of this package."""
    with pytest.raises(KeyError), user_code.blamed("it", user_code.Function("model", "mlp")):
        raise KeyError


def test_what_this_package_refuses_names_the_function(folder: pathlib.Path) -> None:
    _write(folder / "mine.py", "def make(n): ...\n")
    function = user_code.Function("model", "mine.py:make")
    with pytest.raises(errors.InputError) as caught, user_code.blamed("it", function):
        raise errors.InputError("the loss must be less")
    expected = f"--model=mine.py:make: the loss must be less (make in {folder / 'mine.py'})"
    assert str(caught.value) == expected
    assert not isinstance(caught.value, errors.UserCodeError)


# Whether a file has changed.


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("x = a + b\n", True),
        ("# A comment.\nx = a + b  # Another.\n", True),
        ("\n\nx = (a +\n     b)\n", True),
        ("x = a - b\n", False),
        ("x = a + b\ny = 1\n", False),
        ("x = a + c\n", False),
        ("x = a + b +\n", False),
    ],
)
def test_only_what_it_does_makes_a_file_another(other: str, is_same: bool) -> None:
    assert user_code.is_same_code(b"x = a + b\n", other.encode()) == is_same


def test_files_that_are_no_python_are_compared_as_bytes() -> None:
    assert user_code.is_same_code(b"x = (", b"x = (")
    assert not user_code.is_same_code(b"x = (", b"x = ( ")
    assert user_code.is_same_code(b"\xff", b"\xff")
    assert not user_code.is_same_code(b"x = 1\0", b"x = 2\0")
