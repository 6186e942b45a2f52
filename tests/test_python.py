"""Tests of the calls from Python: train, sweep, predict.load and watch.show, and the notebook."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import nbclient
import nbformat
import numpy as np
import polars
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, predict, sweep, train, watch
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from tests import helpers

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_X = np.arange(40.0)
_FRAME = polars.DataFrame({"x": _X, "city": ["Nice", "Lyon"] * 20, "y": _X**2 / 100})


def make_model(num_features: int) -> tf.keras.Model:
    hidden = tf.keras.layers.Dense(4, activation="tanh")
    return tf.keras.Sequential([tf.keras.Input([num_features]), hidden, tf.keras.layers.Dense(1)])


def loss(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    if tf.reduce_max(y) > 1e9:  # AutoGraph converts it
        return 2 * tf.abs(y - prediction)
    return tf.abs(y - prediction)


def columns() -> dict[str, Any]:
    return {name: _FRAME[name].to_numpy() for name in _FRAME.columns}


def _other_model() -> Callable[[int], tf.keras.Model]:
    """A function with the same name and another body."""

    def make_model(num_features: int) -> tf.keras.Model:
        return tf.keras.Sequential([tf.keras.Input([num_features]), tf.keras.layers.Dense(1)])

    return make_model


def _check_equal(one: pathlib.Path, other: pathlib.Path) -> None:
    """Asserts that two runs have the same weights, bit for bit."""
    found, expected = (checkpoints.variables(run / "checkpoints") for run in (one, other))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "keras", "loop": "fit", "batch_size": 32, "metrics": ["mae", "mse"]},
        {"model": "mlp", "epochs": np.int64(3), "learning_rate": np.float32(0.25)},
    ],
)
def test_a_call_gives_what_the_flags_give(tmp_path: pathlib.Path, settings: dict[str, Any]) -> None:
    """The weights are the same bits; history is metrics.csv, the model that of the export."""
    result = train.train(logdir=tmp_path, **settings)
    plain = {name: getattr(value, "item", lambda v=value: v)() for name, value in settings.items()}
    flags = {name: ",".join(v) if isinstance(v, list) else v for name, v in plain.items()}
    config = config_lib.Config(logdir=str(tmp_path), run_name="flags", **flags)
    expected = trainer.train(config, datasets_lib.load(config))
    _check_equal(result.directory, tmp_path / "flags")
    assert result.evaluation == expected.evaluation
    assert repr(result) == f"<{result.directory}: {expected.report}>"
    with (result.directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(result.history) == list(rows[0])
    for name, column in result.history.items():
        assert column.tolist() == [float(row[name]) for row in rows]
    assert result.history["validation_loss"][-1] == result.evaluation.validation["loss"]
    assert result.export == result.directory / "export" / "1"
    loaded = predict.load(result.directory)
    assert (loaded.path, loaded.features, loaded.label) == (result.export, ("x",), "y")
    x = np.linspace(-2, 2, 5, dtype=np.float32)
    live = np.ravel(result.model(x[:, None]))
    for inputs in (x, x[:, None], {"x": x}, polars.DataFrame({"more": [x] * 5, "x": x})):
        np.testing.assert_allclose(loaded.predict(inputs), live, rtol=1e-6)
    for wrong, message in (
        (np.ones([2, 3]), r"x must be \[N, 1\], or columns by their names; received \[2, 3\]"),
        ({"x": ["a"]}, "column 'x': expected a finite number; received 'a'"),
    ):
        with pytest.raises(errors.InputError, match=message):
            loaded.predict(wrong)


def test_the_best_model_is_the_result_also_when_it_was_exported_before(
    tmp_path: pathlib.Path,
) -> None:
    settings: dict[str, Any] = {
        "model": "mlp", "optimizer": "adam", "batch_size": 16, "epochs": 11, "run_name": "run",
        "learning_rate": 0.05, "logdir": tmp_path, "export": "best",
    }  # fmt: skip
    results = [train.train(**settings) for _ in range(2)]
    x = np.linspace(-2, 2, 5, dtype=np.float32)
    expected = predict.load(tmp_path / "run").predict(x)
    for result in results:
        np.testing.assert_allclose(np.ravel(result.model(x[:, None])), expected, rtol=1e-5)
    last, best = results[0].history["validation_loss"][-1], results[0].history["validation_loss"]
    assert last > best.min()  # else the last model would be the best


def test_objects_train_as_files_do_and_are_resumed(tmp_path: pathlib.Path) -> None:
    """Functions and data of any form give the same bits, in one go or cut."""
    common: dict[str, Any] = {"categorical": "city", "logdir": str(tmp_path)}
    named = {flag: f"{__file__}:{flag}" for flag in ("loss",)}
    named |= {"model": f"{__file__}:make_model", "data": f"{__file__}:columns"}
    config = config_lib.Config(epochs=4, run_name="file", **named, **common)
    trainer.train(config, datasets_lib.load(config))
    for name, data in (("frame", _FRAME), ("mapping", columns()), ("function", columns)):
        for epochs in (2, 4) if name == "frame" else (4,):
            own: dict[str, Any] = {"model": make_model, "loss": loss, "data": data}
            result = train.train(epochs=epochs, run_name=name, **own, **common)
        _check_equal(result.directory, tmp_path / "file")
    code = {path.name: path.read_text() for path in (result.directory / "code").iterdir()}
    assert code.keys() == {"model.py", "loss.py", "data.py"}
    assert code["data.py"].startswith("def columns()")
    y = predict.load(result.directory).predict(_FRAME)
    texts = {"x": _X, "city": _FRAME["city"].to_list()}
    np.testing.assert_array_equal(predict.load(tmp_path / "file").predict(texts), y)
    with pytest.raises(errors.InputError, match="the column 'city' is text: give columns"):
        predict.load(result.directory).predict(_X)

    again = {"epochs": 4, "run_name": "function", **own, **common}
    for change, said in (
        ({"model": _other_model()}, "make_model has changed since the run .*function was started"),
        ({"data": _FRAME}, "has other settings: --data=in-python:columns .now in-python:DataFrame"),
        ({"epochs": 3}, "may grow but not shrink"),
    ):
        with pytest.raises(errors.InputError, match=said):
            train.train(**(again | change))
    changed = _FRAME.with_columns(y=_FRAME["y"] * 2)
    with pytest.raises(errors.InputError, match=r"the examples of the run .* are not what they"):
        train.train(**(again | {"data": changed, "run_name": "frame"}))
    (answer,) = helpers.answers([["train", f"--flagfile={result.directory}/flags.txt"]], cwd=ROOT)
    assert answer[0] == 2
    (line,) = answer[2].splitlines()
    assert "--model=in-python:make_model was given by a Python program" in line


def test_arrays_and_weights_are_data(tmp_path: pathlib.Path) -> None:
    """The export predicts as the live model does, with the names of its inputs."""
    images = np.random.default_rng(0).random((50, 4, 4), np.float32)
    bright = images.mean((1, 2)) > 0.5

    def two_outputs() -> tf.keras.Model:
        image = tf.keras.Input([4, 4], name="image")
        flat = tf.keras.layers.Flatten()(image)
        outputs = {name: tf.keras.layers.Dense(1, name=name)(flat) for name in "ab"}
        model = tf.keras.Model({"image": image}, outputs)
        model.compile("sgd", {"a": "mse", "b": "mse"})
        return model

    def one_output() -> tf.keras.Model:
        layers = tf.keras.layers.Flatten(), tf.keras.layers.Dense(1, activation="sigmoid")
        return tf.keras.Sequential([tf.keras.Input([4, 4]), *layers])

    labels = {"a": bright[:, None] * 1.0, "b": bright[:, None] * 2.0}
    result = train.train(data=({"image": images}, labels), model=two_outputs, logdir=tmp_path)
    y = predict.load(result.directory).predict({"image": images})
    live = result.model.predict({"image": images}, verbose=0)
    for name in ("a", "b"):
        np.testing.assert_allclose(y[name], live[name], rtol=1e-5, atol=1e-6)
    weight = np.linspace(0, 1, 50)
    settings: dict[str, Any] = {"model": one_output, "loss": "binary_crossentropy"}
    weighted, plain = (
        train.train(data=data, logdir=tmp_path, **settings)
        for data in ((images, bright, weight), (images, bright))
    )
    assert weighted.evaluation != plain.evaluation
    assert weighted.directory != plain.directory
    loaded = predict.load(weighted.directory)
    live = weighted.model.predict(images, verbose=0)
    np.testing.assert_allclose(np.ravel(loaded.predict(images)), np.ravel(live), rtol=1e-5)
    with pytest.raises(errors.InputError, match="the inputs must be x; received image"):
        loaded.predict({"image": images})


def _fails(num_features: int) -> None:
    raise ValueError(f"no model of {num_features}")


_MISTAKES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"epoch": 3}, r"train.train takes no 'epoch'; did you mean epochs\?"),
    ({"zzz": 3}, "train.train takes no 'zzz'; its keywords are the flags of pipeline.train"),
    ({"epochs": "3"}, "--epochs must be a whole number; received '3'"),
    ({"epochs": True}, "--epochs must be a whole number; received True"),
    ({"epochs": 0}, "--epochs must be at least 1; received 0"),
    ({"learning_rate": [0.1, 0.2]}, r"--learning_rate must be a number; received \[0.1, 0.2\]"),
    ({"references": "no"}, "--references must be True or False; received 'no'"),
    ({"optimizer": "sdg"}, "--optimizer must be one of sgd, "),
    ({"loop": "fit"}, "--model=module can't be trained with --loop=fit"),
    ({"model": make_model(1)}, "--model must be a name, or a function that makes the model"),
    ({"loss": 3}, "--loss must be a name, a function, or a Loss of Keras; received 3"),
    ({"run_name": make_model}, "--run_name must be a text; received <function make_model"),
    ({"data": _X}, "--data must be files, columns by their names"),
    ({"data": {"x": _X, "y": _X[1:]}}, "data=dict must return columns of one length"),
    ({"data": "nowhere.csv"}, "nowhere.csv"),
    ({"data": _FRAME}, "the column 'city' .'Nice'. is text; name it in --categorical"),
    ({"model": _fails}, "model=_fails: making the model raised ValueError: no model of 1"),
    ({"model": lambda: 3}, "must return a keras.Model, or a tf.Module with __call__; received int"),
    ({"profile_steps": "50,60"}, "begins after the last step"),
)


@pytest.mark.parametrize(("settings", "message"), _MISTAKES)
def test_a_mistake_is_an_exception_with_one_line(
    tmp_path: pathlib.Path, settings: dict[str, Any], message: str
) -> None:
    """It leaves no files."""
    with pytest.raises(errors.InputError, match=message) as caught:
        train.train(logdir=tmp_path, **settings)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_divergence_is_an_exception(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DivergedError, match="the loss has risen to"):
        train.train(learning_rate=0.9, epochs=200, logdir=tmp_path)


def test_a_sweep_returns_its_table(tmp_path: pathlib.Path) -> None:
    """It trains on what the call gives, also if earlier data had the same name."""
    varied: dict[str, Any] = {"learning_rate": [0.1, 0.9], "batch_size": [0, 50]}
    outcomes = sweep.sweep(epochs=60, logdir=tmp_path, run_name="s", **varied)
    with (tmp_path / "s" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for outcome, row in zip(outcomes, rows, strict=True):
        assert {name: row[name] for name in varied} == {
            name: str(value) for name, value in outcome.settings.items()
        }
        assert row["outcome"] == (outcome.diverged or "trained")
        assert (outcome.evaluation is None) == bool(outcome.diverged)
        if outcome.evaluation:
            assert float(row["validation_loss"]) == outcome.evaluation.validation["loss"]
    assert outcomes[-1].diverged.startswith("the loss has risen")
    losses = [
        [o.loss for o in sweep.sweep(data={"x": x, "y": _X}, epochs=[1, 2], logdir=tmp_path)]
        for x in (_X, _X**2)
    ]
    assert losses[0] != losses[1]
    models = sweep.sweep(model=[make_model, "mlp"], epochs=1, logdir=tmp_path)
    assert {outcome.config.run_name for outcome in models} == {"make_model", "mlp"}
    with pytest.raises(errors.InputError, match="two objects have the name make_model"):
        sweep.sweep(model=[make_model, _other_model()], logdir=tmp_path)
    with pytest.raises(errors.InputError, match="give at least one flag several values"):
        sweep.sweep(epochs=[1], logdir=tmp_path)


_GUEST = """
import glob, logging, os, random, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
import pipeline
assert not {"numpy", "tensorflow", "absl"} & sys.modules.keys()
from pipeline import errors, predict, sweep, train, watch
assert not {"tensorflow", "matplotlib"} & sys.modules.keys()

import matplotlib, numpy as np, tensorflow as tf
tf.function(lambda x: 2 * x, jit_compile=True)(1.0)  # XLA reads its flags
matplotlib.rcParams["font.size"] = 31

def state():
    return {
        "environment": dict(os.environ), "streams": (sys.stdout, sys.stderr),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "random": (random.getstate(), np.random.get_state()[1].tolist()),
        "plots": dict(matplotlib.rcParams), "level": logging.getLogger("matplotlib").level,
        "folder": os.getcwd(), "filters": logging.getLogger("tensorflow").filters[:],
    }

def in_thread():
    train.train(model="mlp", epochs=3, run_name="thread")

def stop():
    while len(glob.glob("logs/stopped/checkpoints/ckpt-*.index")) < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

def make_model(num_features):
    threading.Thread(target=stop).start()
    return tf.keras.Sequential([tf.keras.Input([num_features]), tf.keras.layers.Dense(1)])

before = state()
train.train(model="mlp", epochs=3, run_name="guest")
thread = threading.Thread(target=in_thread)
thread.start()
while not os.path.exists("logs/thread"):
    time.sleep(0.01)
try:
    train.train(run_name="together")
except errors.RunError as error:
    print(error)
thread.join()
try:
    train.train(model=make_model, epochs=10**8, run_name="stopped", checkpoint_secs=0.5)
except errors.StoppedError as error:
    print(error)
timer = threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT))
waits = [0.1] * 99
try:
    train.train(model=lambda n: [timer.start(), *map(time.sleep, waits)], run_name="interrupted")
except KeyboardInterrupt:
    print(os.listdir("logs"))
assert state() == before, [k for k in before if before[k] != state()[k]]
tf.keras.config.set_floatx("float64")
try:
    train.train()
except errors.InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_process_of_the_user_stays_as_it_was(tmp_path: pathlib.Path) -> None:
    """What it imported and used before changes no number; Ctrl-C saves a checkpoint."""
    removed = ("XLA_FLAGS", "MPLBACKEND", "MATPLOTLIBRC", "KERAS_HOME")
    environment = {name: v for name, v in os.environ.items() if name not in removed}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", _GUEST]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    config = config_lib.Config(model="mlp", epochs=3, logdir=str(tmp_path / "logs"), run_name="own")
    trainer.train(config, datasets_lib.load(config))
    for name in ("guest", "thread"):
        _check_equal(tmp_path / "logs" / name, tmp_path / "logs" / "own")
    lines = found.stdout.splitlines()
    assert "train.train: another call is training in this process; wait for it" in lines
    *_, stopped, names, refused = [line for line in lines if line[:1] in "sk["]
    resume = "the same call with logdir='logs', run_name='stopped'"
    assert stopped == f"stopped by SIGINT; resume with: {resume}"
    assert helpers.newest(tmp_path / "logs" / "stopped") > 0
    assert "interrupted" not in names
    assert refused.startswith("keras.config.floatx() is 'float64' in this process, and must be")
    assert "Traceback" not in found.stderr


def test_the_package_says_what_there_is() -> None:
    for arguments, code in (([], 0), (["--help"], 0), (["fly"], 2)):
        command = [sys.executable, "-m", "pipeline", *arguments]
        found = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        assert (found.returncode, found.stderr) == (code, "")
        for name in ("train", "predict", "sweep", "watch", "launch"):
            assert re.search(rf"^  python -m pipeline.{name} +\w", found.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_notebook_shows_the_page(tmp_path: pathlib.Path) -> None:
    page = watch.show(tmp_path, "--port=0")
    with urllib.request.urlopen(page.url) as answer:
        assert answer.status == 200
    assert f'<iframe src="{page.url}"' in page._repr_html_()
    page.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(page.url)
    with pytest.raises(errors.InputError, match="is not a directory; give that of a run"):
        watch.show(tmp_path / "nowhere")


_LAST_CELL = """
import json

exports = [tf.saved_model.load(str(result.export)) for result in results.values()]
numbers = [export.signatures["variables"]() for export in exports]
numbers = [{name: float(number) for name, number in each.items()} for each in numbers]
reports = [result.report for result in results.values()]
print(json.dumps({"numbers": numbers, "reports": reports, "own": own.evaluation.named}))
"""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the guide's W and b, three times; it is committed without outputs."""
    path = ROOT / "scripts" / "notebooks" / "guide.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    notebook.cells.append(nbformat.v4.new_code_cell(_LAST_CELL))
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    found = json.loads(notebook.cells[-1].outputs[0].text)
    assert {report[:18] for report in found["reports"]} == {"W = 3.14, b = 1.79"}
    for numbers in found["numbers"]:
        assert numbers == pytest.approx(found["numbers"][0], rel=1e-6)
    assert found["own"]["validation_loss"] < 0.3  # of a label with the standard deviation 1
    shown = [out for cell in code for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(shown) == 2
    assert all(out.get("name") != "stderr" for cell in code for out in cell.outputs)


def test_the_lines_of_the_readme_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (ROOT / "README.md").read_text().partition("\n## From Python\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "show", str)
    _FRAME.write_csv("houses.csv")
    names: dict[str, Any] = {}
    exec(found[1], names)
    assert names["result"].history["loss"][-1] == names["result"].evaluation.train["loss"]
    assert len(names["prices"]) == len(_FRAME)
    assert len(names["outcomes"]) == 2
