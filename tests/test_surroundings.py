"""Every entry point works with the settings of other projects and with lost streams.

Settings that do not hide each other share an environment, to keep the processes few.
"""

import concurrent.futures
import os
import pathlib
import pty
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.reporting import plots
from pipeline.run import run_state
from pipeline.training import step_metrics
from tests import helpers

_ENTRIES = ("train", "predict", "sweep", "watch")
_KERAS = ("--model=keras", "--loop=fit", "--optimizer=adam", "--batch_size=32")
_EVEN_IF_SLOW = "--checkpoint_secs=1000"  # otherwise a busy machine saves more often
_TRAIN = ("train", "--run_name=run", "--epochs=2", _EVEN_IF_SLOW, *_KERAS)
_PREDICT = ("predict", "--export_dir=logs/run/export", "--x=0.1,2,-3")
_WATCH = ("watch", "logs", "--port=0")
_NO_PROXY = "http://127.0.0.1:9"

# Variables of the environment, and files below the home and the current directory.
_ENVIRONMENTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "clean": ({}, {}),
    "settings of other projects": (
        {
            "HOME": "{folder}",
            "KERAS_BACKEND": "jax",
            "KERAS_MAX_EPOCHS": "1",
            "KERAS_MAX_STEPS_PER_EPOCH": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "TF_USE_LEGACY_KERAS": "1",
            "http_proxy": _NO_PROXY,
            "https_proxy": _NO_PROXY,
            "no_proxy": "example.org",
        },
        {
            ".keras/keras.json": '{"floatx": "float64", "epsilon": 0.1, "backend": "torch"}',
            ".config/matplotlib/matplotlibrc": "font.size: 30",
            "matplotlibrc": "text.usetex: True\nlines.linewidth: 9\nno colon\nno.such: key",
        },
    ),
    "nothing to rely on": (
        {
            "HOME": os.devnull,
            "COLUMNS": "0",
            "CUDA_VISIBLE_DEVICES": "7",
            "KERAS_HOME": "{folder}/keras",
            "LC_ALL": "C",
            "MATPLOTLIBRC": "{folder}/ugly",
            "NO_COLOR": "1",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "ascii",
            "PYTHONUTF8": "0",
            "PYTHONWARNINGS": "error",
            "TERM": "dumb",
            "TF_CONFIG": '{{"cluster": {{"chief": ["a:1"]}}, "task": '
            '{{"type": "chief", "index": 0}}}}',
            "TMPDIR": "{folder}/nowhere",
            "TZ": "nowhere",
            "XLA_FLAGS": "--xla_cpu_enable_fast_math=false",
        },
        {"keras/keras.json": '{"floatx": "int8"}', "ugly": "axes.facecolor: black # não"},
    ),
}
_STREAMS = ("closed", "pipe", "terminal", "full disk")  # that lead nowhere


def _environment(name: str, folder: pathlib.Path) -> dict[str, str]:
    """One of the environments, without the variables of pytest's own import of TensorFlow."""
    variables, files = _ENVIRONMENTS[name]
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "latin-1")
    changed = ("KERAS_", "MATPLOTLIB", "MPL", "TF_", "XLA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changed)}
    return kept | {name: value.format(folder=folder) for name, value in variables.items()}


def _start(
    arguments: tuple[str, ...], environment: str, folder: pathlib.Path, *shell: str, **streams: Any
) -> "subprocess.Popen[str]":
    """Starts an entry point in an environment and a folder, through a shell command if given."""
    entry, *flags = arguments
    return subprocess.Popen(
        [*shell, sys.executable, "-m", f"pipeline.{entry}", *flags],
        cwd=folder,
        env=_environment(environment, folder),
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
    )


def _end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """The exit code, and the output of the pipes that were not lost."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out or "", err or ""


def _without_reader(stream: str, arguments: tuple[str, ...], folder: pathlib.Path) -> Any:
    """The end of a process whose output is lost; on a full disk only stdout is lost."""
    folder.mkdir(exist_ok=True)
    if stream == "closed":
        close = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
        return _end(_start(arguments, "clean", folder, *close))
    if stream == "full disk":
        with open("/dev/full", "wb") as full:
            return _end(_start(arguments, "clean", folder, stdout=full))
    reader, lost = pty.openpty() if stream == "terminal" else os.pipe()
    os.close(reader)
    try:
        return _end(_start(arguments, "clean", folder, stdout=lost, stderr=lost))
    finally:
        os.close(lost)


def _results(logdir: pathlib.Path) -> dict[str, bytes]:
    """The plots and tables, and the values in the checkpoints, weights and exports."""
    found = (path for kind in ("*.png", "*.csv", "*.h5", "*.data-*") for path in logdir.rglob(kind))
    return {str(path.relative_to(logdir)): _content(path) for path in found}


def _content(path: pathlib.Path) -> bytes:
    """The content of a file without times and other time-dependent values."""
    if not path.name.startswith("ckpt-"):
        return path.read_bytes()
    reader = tf.train.load_checkpoint(str(path.with_suffix("")))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    state = run_state.RunState.from_bytes(tensors.pop("run_state/.ATTRIBUTES/VARIABLE_VALUE"))
    parts = [np.asarray(tensor).tobytes() for _, tensor in sorted(tensors.items())]
    return b"".join([*parts, state._replace(time=0.0, seconds=0.0, event_files={}).to_bytes()])


def _curve(process: "subprocess.Popen[str]") -> Any:
    """The losses of the run `run`, as a started TensorBoard shows them."""
    try:
        assert process.stdout
        process.stdout.readline()
        url = re.match(r"http://localhost:\d+", process.stdout.readline())
        # Seven batches, twice, and the end.
        return url and helpers.TensorBoard(url[0], "").scalars("run/train", "loss", points=15)
    finally:
        process.terminate()


def _visit(environment: str, folder: pathlib.Path) -> dict[str, Any]:
    """The results of each entry point in an environment."""
    outcome: dict[str, Any] = {}
    for arguments in (_TRAIN, _PREDICT):
        outcome[arguments[0]] = _end(_start(arguments, environment, folder))
    outcome["results"] = _results(folder / "logs")
    process = _start(_WATCH, environment, folder)
    outcome["watch"] = _curve(process), _end(process)
    return outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Has a folder for each environment, named by its number."""
    return tmp_path_factory.mktemp("surroundings")


@pytest.fixture(scope="module")
def outcomes(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The results in each environment; two run at a time, as CI has two cores."""
    folders = [folder / str(i) for i, _ in enumerate(_ENVIRONMENTS)]
    for each in folders:
        each.mkdir()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(_ENVIRONMENTS, pool.map(_visit, _ENVIRONMENTS, folders), strict=True))


@pytest.mark.slow
def test_the_environment_changes_nothing(outcomes: dict[str, dict[str, Any]]) -> None:
    """Numbers, plots, curves and exit codes are the same, and stderr is empty."""
    clean = outcomes["clean"]
    for entry in ("train", "predict"):
        code, out, err = clean[entry]
        assert (code, err) == (0, ""), entry
        assert out
    assert clean["watch"][0]
    assert clean["watch"][1][1:] == ("", "")
    assert {"run/figures/path.png", "run/model.weights.h5"} <= set(clean["results"])
    for name, outcome in outcomes.items():
        for what, expected in clean.items():
            assert outcome[what] == expected, (name, what)


@pytest.mark.slow
def test_work_needs_nobody_who_reads(
    folder: pathlib.Path, outcomes: dict[str, dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    """The exit code is right, and no file gets the output of a stream."""
    predict = (*_PREDICT, f"--export_dir={folder}/0/logs/run/export")
    full = "stdout: No space left on device"
    expected: dict[tuple[str, tuple[str, ...]], tuple[int, str, str]] = {
        ("closed", _TRAIN): (0, "", ""),
        ("terminal", _TRAIN): (0, "", ""),
        ("full disk", _TRAIN): (0, "", f"{full}; going on without it\n"),
        ("pipe", predict): (0, "", ""),
        ("full disk", predict): (1, "", f"predict: {full}\n"),
    }
    folders = [tmp_path / str(i) for i, _ in enumerate(expected)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ends = pool.map(_without_reader, *zip(*expected, strict=True), folders)
        assert dict(zip(expected, ends, strict=True)) == expected
    for (_, (entry, *_)), each in zip(expected, folders, strict=True):
        run = {"train": "run"}.get(entry)
        results = outcomes["clean"]["results"].items()
        same = {path: content for path, content in results if path.split("/")[0] == run}
        assert _results(each / "logs") == same


@pytest.mark.slow
@pytest.mark.parametrize("entry", _ENTRIES)
def test_help_needs_nobody_who_reads(entry: str, tmp_path: pathlib.Path) -> None:
    full = 1, "", f"{entry}: stdout: No space left on device\n"
    for stream in _STREAMS:
        end = _without_reader(stream, (entry, "--help"), tmp_path)
        assert end == (full if stream == "full disk" else (0, "", "")), stream


@pytest.mark.parametrize("entry", _ENTRIES)
def test_help_needs_no_docstrings(
    entry: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This tests `python -OO`, which removes them."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    code, out, err = _end(_start((entry, "--help"), "clean", tmp_path))
    assert (code, err) == (0, "")
    assert re.search(rf"usage: .*{entry}", out, re.IGNORECASE)


@pytest.mark.slow
def test_tensorflow_is_heard_where_it_matters(tmp_path: pathlib.Path) -> None:
    """Its output is shown if the user asks for it, and if it ends the process at its start."""
    command = [sys.executable, "-c", "from pipeline import tf_runtime as t; t.import_tensorflow()"]
    for name, value, code, words in (
        ("TF_CPP_MIN_LOG_LEVEL", "0", 0, "This TensorFlow binary is optimized"),
        ("TF_XLA_FLAGS", "--no_such_flag", 1, "Unknown flag in TF_XLA_FLAGS: --no_such_flag"),
    ):
        environment = _environment("clean", tmp_path) | {name: value}
        result = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == code
        assert words in result.stderr


@pytest.mark.parametrize("name", ["名前", "नमस्ते", "שלום", "😀", "a\tb", "long" * 100, "名" * 100])
def test_a_picture_of_any_name_gives_no_warning(name: str) -> None:
    """The font may lack a character, or the name may not fit."""
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    examples = batch_lib.Batch(x, x.sum(axis=1))
    sample = plots.Sample.of(datasets_lib.Datasets(examples, None, (name, "b"), name))
    rows = step_metrics.StepMetrics(np.arange(20), np.hstack([x, x[:, :1]]), x[:, 0], x[:, 1])
    names = (f"W/{name}", "W/b", "b")
    for figure in (
        plots.data(sample),
        plots.predictions(sample, sample.y, loss=1.0, title="After training"),
        plots.values(rows, names, truth=None),
    ):
        assert plots.png(figure).startswith(b"\x89PNG")
