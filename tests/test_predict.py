"""What `python -m pipeline.predict` prints and writes."""

import os
import pathlib
import select
import stat
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import datasets as datasets_lib
from pipeline.run import export
from pipeline.training import losses, models, task
from tests import helpers

_PRICES = '"a, in m",b,price\n10.0,1.0,8.5\n20.0,2.0,16.5\n'
_PRINTED = {
    ("--export_dir=line", "--x=1.5,-2"): "x,y\n1.5,6.5\n-2.0,-4.0\n",
    ("--export_dir=line/1", "--x=0"): "x,y\n0.0,2.0\n",
    ("--export_dir=plane", "--x=10,1,20,2"): _PRICES,
    ("--export_dir=plane", "--input=plane.csv"): _PRICES,
    ("--export_dir=line", "--input=line.csv"): "x,y\n0.0,2.0\n0.5,3.5\n",
}
_MISTAKES = {
    (): ("--export_dir", 2),
    ("--export_dir=line",): ("with --x or --input", 2),
    ("--export_dir=nowhere", "--x=1"): ("--export_dir=nowhere: is not a directory", 2),
    ("--export_dir=line", "--x=1,one"): ("received 1,one", 2),
    ("--export_dir=line", "--x=1,nan"): ("received 1,nan", 2),
    ("--export_dir=line", "--x=1e39"): ("must be finite as float32; received 1e+39", 2),
    ("--export_dir=line", "--input=nowhere.csv"): ("nowhere.csv: can't be read", 2),
    ("--export_dir=empty", "--x=1"): ("--export_dir=empty must be a SavedModel", 2),
    ("--export_dir=unsigned", "--x=1"): ("serving_default", 2),
    ("--export_dir=plane", "--x=1,2,3"): ("one a feature (a, in m, b); received 3", 2),
    ("--export_dir=plane", "--input=line.csv"): ("has no column 'a, in m'", 2),
    ("--export_dir=plane", "--input=others.csv"): ("has no column 'a, in m'", 2),
    ("--export_dir=line", "--x=1", "--output=empty"): ("--output=empty: is a directory", 2),
    ("--export_dir=line", "--x=1", "--output=nowhere/y.csv"): ("nowhere/y.csv", 1),
}
Answers = dict[tuple[str, ...], tuple[Any, str, str]]


def _publish(
    version: pathlib.Path, W: list[float], b: float, *, features: tuple[str, ...], label: str
) -> None:
    """Exports y = x·W + b."""
    model = models.module(len(W), initial_b=b)
    model.W.assign(W)
    trained = task.Task(model, losses.squared_error, features=features)
    examples = datasets_lib.Examples(np.ones((3, len(W)), np.float32), np.ones(3, np.float32))
    datasets = datasets_lib.Datasets(examples, None, features, label)
    export.publish(trained, datasets, version, {})


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Exports of y = 3x + 2 and of price = a - 2b + 0.5."""
    directory = tmp_path_factory.mktemp("exports")
    for name in ("line", "plane", "empty"):
        (directory / name).mkdir()
    _publish(directory / "line" / "1", [3.0], 2.0, features=("x",), label="y")
    features = ("a, in m", "b")
    _publish(directory / "plane" / "1", [1.0, -2.0], 0.5, features=features, label="price")
    (directory / "plane.csv").write_text('b,other,"a, in m"\n1,text,10\n2,text,20\n')
    (directory / "others.csv").write_text("b,c\n1,10\n")
    (directory / "line.csv").write_text("position\n0\n0.5\n")
    tf.saved_model.save(tf.Module(), str(directory / "unsigned"))
    return directory


@pytest.fixture(scope="module")
def answers(exports: pathlib.Path) -> Answers:
    """What `predict` answers to all these flags; nothing appears in the directory."""
    before = sorted(exports.rglob("*"))
    commands = [*_PRINTED, *_MISTAKES]
    results = helpers.answers([["predict", *flags] for flags in commands], cwd=exports)
    answers = dict(zip(commands, results, strict=True))
    assert sorted(exports.rglob("*")) == before
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("flags", _PRINTED, ids=" ".join)
def test_prints_x_and_y(answers: Answers, flags: tuple[str, ...]) -> None:
    assert answers[flags] == (0, _PRINTED[flags], "")


@pytest.mark.slow
@pytest.mark.parametrize("flags", _MISTAKES, ids=" ".join)
def test_mistake_costs_one_line(answers: Answers, flags: tuple[str, ...]) -> None:
    message, expected = _MISTAKES[flags]
    code, _, err = answers[flags]
    assert code == expected
    assert len(err.splitlines()) == 1
    assert message in err


def test_output_to_stdout_keeps_what_is_in_its_file(exports: pathlib.Path) -> None:
    path = exports.parent / "both.csv"
    command = [sys.executable, "-m", "pipeline.predict", f"--export_dir={exports}/line", "--x=1"]
    with open(path, "w") as file:
        print("before", file=file, flush=True)
        subprocess.run([*command, "--output=/dev/stdout"], stdout=file, check=True)
        subprocess.run(["echo", "after"], stdout=file, check=True)
    assert path.read_text() == "before\nx,y\n1.0,5.0\nafter\n"


def test_writes_a_file_in_place_of_printing(exports: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A link is written through."""
    (tmp_path / "link.csv").symlink_to("y.csv")
    flags = (f"--export_dir={exports}/line", "--x=1", "--output=link.csv")
    result = helpers.call("predict", *flags, cwd=tmp_path)
    assert result.stdout == ""
    assert (tmp_path / "link.csv").is_symlink()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "link.csv": "x,y\n1.0,5.0\n",
        "y.csv": "x,y\n1.0,5.0\n",
    }


@pytest.mark.slow
def test_output_replaces_a_file_whole_for_its_owner(
    exports: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Two at once: one of them wins; mode and owner stay, and a planted link is not followed."""
    output, secret = tmp_path / "y.csv", tmp_path / "secret"
    for path in (output, secret):
        path.write_text("before\n")
    (tmp_path / ".unfinished.y.csv").symlink_to(secret)
    output.chmod(0o600)
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(output, owner, -1)
    rows = [f"{x}.0" for x in range(100_000)]
    (tmp_path / "x.csv").write_text("\n".join(["x", *rows, ""]))
    flags = (f"--export_dir={exports}/line", "--input=x.csv", "--output=y.csv")
    processes = [helpers.start("predict", *flags, cwd=tmp_path) for _ in range(2)]
    for result in map(helpers.finish, processes):
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    lines = output.read_text().splitlines()
    assert lines == ["x,y", *(f"{x}.0,{3 * x + 2}.0" for x in range(100_000))]
    assert (stat.S_IMODE(output.stat().st_mode), output.stat().st_uid) == (0o600, owner)
    assert secret.read_text() == "before\n"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("y.csv", "secret", ".unfinished.y.csv", "x.csv")
    }


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_error(exports: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Of stdout, as in `| head -1`; of a pipe that --output names, it is one."""
    (tmp_path / "x.csv").write_text("x\n" + "1.0\n" * 100_000)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    flags = (f"--export_dir={exports}/line", "--input=x.csv")
    printing = helpers.start("predict", *flags, cwd=tmp_path)
    writing = helpers.start("predict", *flags, "--output=pipe", cwd=tmp_path)
    assert printing.stdout is not None
    assert printing.stdout.readline() == "x,y\n"
    printing.stdout.close()
    assert select.select([reader], [], [], 60)[0]
    os.close(reader)
    assert printing.stderr is not None
    assert (printing.stderr.read(), printing.wait(timeout=60)) == ("", 0)
    printing.stderr.close()
    result = helpers.finish(writing)
    assert result.returncode == 1
    assert result.stderr == "predict: --output=pipe can't be written: Broken pipe\n"
