"""Tests of finding the functions of --model, --loss and --data, and of errors in them."""

import json
import pathlib
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_calls, user_code
from pipeline.data import datasets as datasets_lib
from pipeline.run import trainer
from tests import helpers

_SHIPPED = ("module", "keras", "polynomial", "mlp", "logistic")


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The current directory, where Python finds modules; they are forgotten at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    _forget(modules)


def _forget(modules: set[str]) -> None:
    """Makes Python forget its imports, except some modules, and its path caches."""
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path_importer_cache.clear()
    user_code.read.cache_clear()


def _find(value: str, flag: str = "model") -> user_code.UserFunction:
    return user_code.find(config_lib.Config(**{flag: value}))[flag]


# Finding.


@pytest.mark.parametrize("name", _SHIPPED)
def test_a_plain_name_is_a_function_of_this_package(name: str) -> None:
    function = _find(name)
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
    """`portable` names the same function from any other directory."""
    path = _write(folder / file, "raise SystemExit\ndef make(num_features): ...\n")
    modules = set(sys.modules)
    function = _find(value)
    assert function.is_own
    assert (function.path, function.code) == (path, path.read_bytes())
    assert str(function) == f"make in {path}"
    portable = function.portable
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sys.path = [entry for entry in sys.path if entry != str(folder)]
    _forget(modules)
    assert _find(portable).path == path


def test_a_module_of_a_package_keeps_its_name(folder: pathlib.Path) -> None:
    """Relative imports work, and an already imported module is not run again."""
    _write(folder / "package" / "__init__.py", "")
    _write(folder / "package" / "beside.py", "DOUBLE = 2\n")
    text = "from . import beside\ndef make(n):\n    return n * beside.DOUBLE\n"
    _write(folder / "package" / "mine.py", text)
    function = _find("package.mine:make")
    assert function.load()(21) == 42
    assert function.portable == "package.mine:make"
    assert _find("tests.helpers:absolute_error", "loss").load() is helpers.absolute_error


def test_a_file_may_import_what_lies_beside_it(folder: pathlib.Path) -> None:
    _write(folder / "models" / "layers_beside.py", "DOUBLE = 2\n")
    text = "import layers_beside\ndef make(n):\n    return n * layers_beside.DOUBLE\n"
    _write(folder / "models" / "mine.py", text)
    assert _find("models/mine.py:make").load()(21) == 42


def test_files_are_modules_of_their_own(folder: pathlib.Path) -> None:
    """Two files with one name are two modules; a file with two functions is run once."""
    for name in ("a", "b"):
        _write(folder / name / "mine.py", f"def {name}():\n    return '{name}'\n")
    assert _find("a/mine.py:a").load()() + _find("b/mine.py:b", "loss").load()() == "ab"
    _write(folder / "both.py", "seen = []\ndef make(): return seen\ndef loss(): return seen\n")
    assert _find("both:make").load()() is _find("both:loss", "loss").load()()


def test_a_config_names_a_model_and_perhaps_more(folder: pathlib.Path) -> None:
    """The name of a Keras loss is not a user's function, and neither is a table."""
    path = _write(folder / "mine.py", "def make(n): ...\ndef loss(y, p): ...\ndef rows(): ...\n")
    _write(folder / "a:b", "x,y\n")
    for values, flags in (
        ({"loss": "huber", "data": "mine.csv,a:b"}, ["model"]),
        ({"data": "a:b"}, ["model"]),
        ({"loss": "mine.py:loss", "data": "mine:rows"}, ["model", "loss", "data"]),
        ({"metrics": "mae,auc", "optimizer": "adam", "schedule": "cosine"}, ["model"]),
        (
            {"metrics": "mine:rows", "optimizer": "mine:make", "schedule": "mine:make"},
            ["model", "optimizer", "schedule", "metrics"],
        ),
    ):
        assert list(user_code.find(config_lib.Config(**values))) == flags
    assert str(_find("mine:rows", "data")) == f"rows in {path}"


@pytest.mark.parametrize("autograph", [True, False])
def test_a_file_is_read_once(folder: pathlib.Path, autograph: bool) -> None:
    """An edit between finding and tracing is ignored: the kept code is the code that ran."""
    path = _write(folder / "mine.py", "def loss(x):\n    return x + 1 if x > 0 else x\n")
    function = _find("mine.py:loss", "loss")
    path.write_text("import no_such_thing\ndef loss(x):\n    return x + 100 if x > 0 else x\n")
    assert _find("mine:loss", "loss").code == function.code
    traced = tf.function(function.load(), autograph=autograph)
    path.write_text("def loss(x):\n    return x + 1000 if x > 0 else x\n")
    assert traced(1) == 2
    assert not autograph or traced(tf.constant(1)) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("it = [1]", [1]),
        ("def it(): return [1]", [1]),
        ("def it(b, c=3): return [b, c]", ["b", 3]),
        ("def it(c=3, *, a): return [a, c]", ["a", 3]),
        ("class it(list): pass", []),
        ("def it(other): ...", None),  # it is itself the object
        ("def it(*args): ...", None),
        ("it = (lambda f: (lambda **more: f))(0)", None),
    ],
)
def test_an_object_may_be_made_by_a_function(
    folder: pathlib.Path, code: str, expected: Any
) -> None:
    """It gets those of the arguments that it names, and is not called if it needs others."""
    function = _find(f"{_write(folder / 'mine.py', code)}:it", "loss")
    found = function.make(a="a", b="b")
    assert found == (function.load() if expected is None else expected)


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
        ("no_such.module:make", "Python finds no module no_such.module from {folder} (ModuleNot"),
        ("leaves.mine:make", "Python finds no module leaves.mine from {folder} (SystemExit: 0);"),
        ("sys:make", "Python finds no module sys"),
        ("..mine:make", "Python finds no module ..mine"),
        ("mine.py:other", "{folder}/mine.py defines no other"),
        ("mine.py:mak", "{folder}/mine.py defines no mak"),
        ("wrong.py:make", "{folder}/wrong.py: '(' was never closed (wrong.py, line 2)"),
        ("latin.py:make", "{folder}/latin.py: (unicode error) 'utf-8' codec can't decode byte"),
        ("zero.py:make", "{folder}/zero.py: source code string cannot contain null bytes"),
    ],
)
def test_a_wrong_name_is_one_line(value: str, words: str, folder: pathlib.Path) -> None:
    _write(folder / "mine.py", "def make(num_features):\n    return None\n")
    _write(folder / "leaves" / "__init__.py", "raise SystemExit(0)\n")
    _write(folder / "wrong.py", "\ndef make(\n")
    _write(folder / "zero.py", "make = 1\0")
    (folder / "latin.py").write_bytes(b"def make(n): '\xe9'")
    with pytest.raises(errors.InputError) as caught:
        _find(value)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--model={value}")
    assert words.format(folder=folder) in message.replace(f"--model={value}: ", "", 1)


# Errors of the user's code.

_CALLS = """
import keras
import tensorflow as tf


class Mine(keras.layers.Layer):
    def call(self, x):
        raise ValueError("a shape of mine")


def inner(x):
    raise KeyError("of mine")


def make(x):
    return inner(x)


def build(x):
    return keras.Sequential([keras.Input([3]), Mine()])


def gather(x):
    return tf.gather([1, 2], x)


traced = tf.function(make)
as_it_is = tf.function(make, autograph=False)
compiled = tf.function(gather)
"""


@pytest.mark.parametrize(
    ("name", "value", "line", "reason"),
    [
        ("make", 1, 'line 12, in inner\n    raise KeyError("of mine")', "KeyError: 'of mine'"),
        ("traced", 1.0, "line 12, in inner  *\n    ", "KeyError: 'of mine'"),
        ("as_it_is", 1.0, "line 12, in inner\n    ", "KeyError: 'of mine'"),
        ("build", 3, "line 8, in call\n    ", "ValueError: .*a shape of mine"),
        ("compiled", 7, "", r"InvalidArgumentError: indices = 7 is not in \[0, 2\)"),
    ],
)
def test_an_error_shows_the_users_part(
    name: str, value: Any, line: str, reason: str, folder: pathlib.Path
) -> None:
    """One line follows, without Keras' box around the message and its colours."""
    path = _write(folder / "mine.py", _CALLS)
    function = _find(f"mine.py:{name}")
    call, argument = function.load(), tf.constant(value) if "ed" in name + "as" else value
    with pytest.raises(errors.UserCodeError) as caught, user_calls.user_errors("trying", function):
        call(argument)
    message, text = str(caught.value), caught.value.traceback
    assert "\n" not in message
    assert "\x1b" not in message + text
    found = re.fullmatch(rf"--model=mine.py:{name}: trying raised (.*) \((.*)\)", message)
    assert found
    assert re.match(reason, found[1])
    assert found[2] == f"{name} in {path}"
    assert name == "compiled" or f'File "{path}", {line}' in text
    assert "pipeline" not in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("HALF = 1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_what_an_import_raises_shows_its_line(text: str, reason: str, folder: pathlib.Path) -> None:
    path = _write(folder / "mine.py", f"import math\n{text}\ndef make(n): ...\n")
    with pytest.raises(errors.UserCodeError) as caught:
        _find("mine:make").load()
    assert str(caught.value) == (
        f"--model=mine:make: importing its file raised {reason} (make in {path})"
    )
    first, second, third, *_, last = caught.value.traceback.splitlines()
    assert first == "Traceback (most recent call last):"
    assert second == f'  File "{path}", line 2, in <module>'
    assert third.strip() == text
    assert last == reason


def test_what_has_the_name_must_be_callable(folder: pathlib.Path) -> None:
    _write(folder / "mine.py", "make = 3\n")
    with pytest.raises(errors.InputError, match=re.escape("mine.py is no function; received 3")):
        _find("mine.py:make").load()


def test_the_function_that_raised_is_named(folder: pathlib.Path) -> None:
    for name in ("one", "two"):
        _write(folder / f"{name}.py", _CALLS)
    model, loss = _find("one.py:make"), _find("two.py:make", "loss")
    for function in (model, loss):
        called = function.load()
        with (
            pytest.raises(errors.UserCodeError, match=re.escape(function.flag)),
            user_calls.user_errors("training", model, loss),
        ):
            called(1)


def test_other_errors_are_not_the_users(folder: pathlib.Path) -> None:
    """Errors of shipped functions, of other code in the block, and of the run are not changed."""
    _write(folder / "mine.py", "def make(n): ...\n")
    shipped, own = _find("mlp"), _find("mine:make")
    for function, error, beside_ours in (
        (shipped, KeyError(), False),
        (own, KeyError(), True),
        (own, errors.RunError("a full disk"), False),
        (own, MemoryError(), False),
    ):
        with (
            pytest.raises(type(error)),
            user_calls.user_errors("it", function, beside_ours=beside_ours),
        ):
            raise error
    with pytest.raises(MemoryError, match="OOM"), user_calls.user_errors("it", shipped):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    operation = tf.errors.InvalidArgumentError(None, None, "an index")
    with (
        pytest.raises(errors.UserCodeError, match="training raised InvalidArgumentError: an index"),
        user_calls.user_errors("training", own, beside_ours=True),
    ):
        raise operation
    with pytest.raises(errors.InputError) as caught, user_calls.user_errors("it", own):
        raise errors.InputError("the loss must be less")
    expected = f"--model=mine:make: the loss must be less (make in {folder / 'mine.py'})"
    assert str(caught.value) == expected
    assert not isinstance(caught.value, errors.UserCodeError)


# Effects of user code on the process.

_HOSTILE = """
import os, sys, warnings
import keras
import tensorflow as tf

def hostile(place):
    warnings.filterwarnings("error")
    os.chdir("/")
    if place == {place!r}:
        {what}

hostile("file")

def make(num_features):
    hostile("model")
    return keras.Sequential([keras.Input([num_features]), keras.layers.Dense(1)])

def loss(y, prediction):
    hostile("loss")
    return tf.square(y - prediction)

def rows():
    hostile("data")
    return {{"x": [1.0, 2.0, 3.0, 4.0], "y": [1.0, 2.0, 3.0, 5.0]}}
"""
_WHAT = {
    "sys.exit(0)": "raised SystemExit: 0",
    "raise KeyboardInterrupt": "raised KeyboardInterrupt: no message",
    "keras.config.set_floatx('float64')": "called keras.config.set_floatx; give the layers",
    "tf.config.run_functions_eagerly(True)": (
        "called tf.config.run_functions_eagerly(True); use --run_eagerly instead"
    ),
}
_ACTIONS = {
    "file": "importing its file",
    "model": "making the model",
    "loss": "calling the loss",
    "data": "making the data",
}


def test_user_code_can_neither_end_nor_change_the_process(tmp_path: pathlib.Path) -> None:
    """Every attempt gives one line and exit code 2; a change of directory is undone."""
    commands = []
    for number, (what, place) in enumerate(
        [("pass", "")] + [(w, p) for w in _WHAT for p in _ACTIONS]
    ):
        _write(tmp_path / f"mine{number}.py", _HOSTILE.format(what=what, place=place))
        own = {"model": "make", "loss": "loss", "data": "rows"}
        flags = [f"--{flag}=mine{number}:{name}" for flag, name in own.items()]
        commands.append(["train", *flags, "--epochs=2", f"--run_name=run{number}"])
    first, *refused = helpers.answers(commands, cwd=tmp_path)
    assert first[0] == 0, first
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["run0"]
    expected = [(place, words) for words in _WHAT.values() for place in _ACTIONS]
    for (code, _, err), (place, words) in zip(refused, expected, strict=True):
        assert code == 2, err
        *_, line = err.splitlines()
        flag = "data" if place == "file" else place
        assert re.match(rf"--{flag}=mine\d+:\w+: {_ACTIONS[place]} {re.escape(words)}", line)


_EMBEDDING = """
import keras

def make(num_features):
    embedding = keras.layers.Embedding(5, 2)
    layers = [keras.Input([num_features]), embedding, keras.layers.Flatten(), keras.layers.Dense(1)]
    return keras.Sequential(layers)
"""


@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_what_tensorflow_refuses_in_later_rows_is_not_the_disk(
    loop: str, tmp_path: pathlib.Path
) -> None:
    """An index exceeds an Embedding, after the rows that test the model."""
    _write(tmp_path / "mine.py", _EMBEDDING)
    table = ["kind,y", *(f"{i % 5},{i}" for i in range(200)), "5,1", "0,1"]
    _write(tmp_path / "late.csv", "\n".join(table))
    flags = ("--data=late.csv", "--standardize=false", "--jit_compile=false", f"--loop={loop}")
    flags += ("--batch_size=16", "--learning_rate=1e-6", "--model=mine:make", "--run_name=run")
    ((code, _, err),) = helpers.answers([["train", *flags]], cwd=tmp_path)
    assert code == 2, err
    *_, line = err.splitlines()
    assert re.fullmatch(
        r"--model=mine:make: training raised InvalidArgumentError: "
        rf"indices\[\d+,0\] = 5 is not in \[0, 5\) \(make in {tmp_path}/mine.py\)",
        line,
    )
    assert helpers.newest(tmp_path / "logs" / "run") == 0


# Whether a file has changed.


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("x = a + b", "x = a + b\n", True),
        ("x = a + b", "# A comment.\nx = a + b  # Another.\n", True),
        ("x = a + b", "\n\nx = (a +\n     b)\n", True),
        ("x = a + b", "x = a - b\n", False),
        ("x = a + b", "x = a + b\ny = 1\n", False),
        ("x = a + b", "x = a + c\n", False),
        ("x = a + b", "x = a + b +\n", False),
        ("x = (", "x = (", True),  # no Python
        ("x = (", "x = ( ", False),
        ("x = 1\0", "x = 2\0", False),
    ],
)
def test_only_what_it_does_makes_a_file_another(one: str, other: str, is_same: bool) -> None:
    assert user_code.is_same_code(one.encode(), other.encode()) == is_same


_READS = """
import numpy as np
import tensorflow as tf


def model(num_features):
    start = np.loadtxt("start.txt", dtype=np.float32)
    return Line(start)


class Line(tf.Module):
    def __init__(self, start):
        super().__init__()
        self.W, self.b = tf.Variable(start), tf.Variable(0.0)

    @tf.function
    def __call__(self, x, *, training):
        return x[:, 0] * self.W + self.b
"""


def test_files_that_the_code_names_are_named_in_the_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run with another content says so."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("reads.py").write_text(_READS)
    pathlib.Path("start.txt").write_text("3")
    found = []
    for epochs, content in ((1, "3"), (2, "3"), (3, "4")):
        pathlib.Path("start.txt").write_text(content)
        user_code._named_files.cache_clear()
        config = config_lib.Config(model="reads.py:model", run_name="run", epochs=epochs)
        trainer.train(config, datasets_lib.load(config))
        result = json.loads(pathlib.Path("logs/run/result.json").read_text())
        found.append((result["files"], "Warning: start.txt, which" in capsys.readouterr().out))
    before, after = ({"start.txt": f"{zlib.crc32(text):08x}"} for text in (b"3", b"4"))
    assert found == [(before, False), (before, False), (after, True)]
    texts = b"".join(path.read_bytes() for path in pathlib.Path("logs/run/train").iterdir())
    assert f"| start.txt | {before['start.txt']} |".encode() in texts
