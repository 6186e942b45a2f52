"""Tests of the files and output of `python -m pipeline.sweep`."""

import csv
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors, sweep
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import evaluate
from pipeline.run import finish
from tests import helpers

_HOT = ("--learning_rate=0.9,0.1", "--batch_size=50,0", "--epochs=300", "--run_name=s")


def _table(out: str) -> list[tuple[str, str]]:
    """Name and report of each row of the table."""
    rows = out.split("\n\n")[1].splitlines()
    return [tuple(re.split(r" {2,}", row, maxsplit=1)) for row in rows]  # type: ignore[misc]


def _exports(directory: pathlib.Path) -> dict[str, int]:
    """The time when each export below a directory was written."""
    files = directory.rglob("saved_model.pb")
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_a_repeated_sweep_prints_its_table_without_training(tmp_path: pathlib.Path) -> None:
    first = helpers.call("sweep", *_HOT, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    names = [name for name, _ in _table(first.stdout)]
    assert names == [
        "lr=0.1,batch=0",  # a full batch reaches the minimum
        "lr=0.1,batch=50",
        "lr=0.9,batch=50",
        "lr=0.9,batch=0",
    ]
    reports = [report for _, report in _table(first.stdout)]
    x, y = datasets_lib.load(config_lib.Config()).train.arrays
    x = x[:, 0].astype(np.float64)
    W, b = np.polyfit(x, y, 1)
    loss = np.mean((W * x + b - y) ** 2)
    assert reports[0].startswith(f"W = {W:.2f}, b = {b:.2f}, loss={loss:.5f}, validation loss=")
    found = re.search(r" loss=(\S+),", reports[1])
    assert found
    assert float(found[1]) > loss
    for report in reports[2:]:
        assert re.fullmatch(r"diverged: the loss has risen to \S+ at step \d+", report)

    directory = tmp_path / "logs" / "s"
    assert sorted(path.name for path in directory.iterdir()) == [*sorted(names), "sweep.csv"]
    with (directory / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == names
    assert [(row["learning_rate"], row["batch_size"]) for row in rows[:2]] == [
        ("0.1", "0"),
        ("0.1", "50"),
    ]
    assert [row["outcome"] for row in rows] == ["trained"] * 2 + [r[10:] for r in reports[2:]]
    assert float(rows[0]["loss"]) == pytest.approx(loss)
    assert rows[0]["validation_loss"]
    # All have the same examples; the run with most steps has the lines for all.
    lines = {path.parent.name for path in directory.glob("*/truth")}
    assert lines == {"lr=0.9,batch=50"}
    written = _exports(directory)
    assert written.keys() == {f"{name}/export/1/saved_model.pb" for name in names[:2]}
    for name in names:
        rate, size = (part.split("=")[1] for part in name.split(","))
        flags = (directory / name / "flags.txt").read_text().splitlines()
        assert {f"--learning_rate={rate}", f"--batch_size={size}", "--epochs=300"} <= set(flags)

    again = helpers.call("sweep", *_HOT, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert _table(again.stdout) == _table(first.stdout)
    assert _exports(directory) == written


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give at least one flag several values"),
        (("--learning_rate=0.1,x",), "--learning_rate must be values .* received '0.1,x'"),
        (("--epochs=10,",), "--epochs must be values .* received '10,'"),
        (("--epochs=10,0",), "--epochs must be at least 1; received 0"),
        (("--learning_rate=0.1,nan",), "--learning_rate must be a finite float32; received nan"),
        (("--loop=custom,fit",), "--model=module can't be trained with --loop=fit"),
        (("--model=mlp,forest",), "--model=forest must be one of module, keras, polynomial,"),
        (("--loss=huber,no.py:loss",), "--loss=no.py:loss: there is no file"),
        (("--epochs=1,2", "--data=no.csv"), "no.csv: there is no such file"),
        (("--epochs=1,2", "--run_name=../x"), "--run_name must be the plain name"),
        (("--epochs=1,2", "--logdir=gs://x"), "--logdir must be a path on this machine"),
        (("--epochs=1,2", "3"), "takes only flags; received '3'"),
    ],
)
def test_a_mistake_costs_one_line_before_any_training(
    tmp_path: pathlib.Path, flags: tuple[str, ...], words: str
) -> None:
    result = helpers.call("sweep", *flags, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.match(f"sweep: .*{words}", line)
    assert "1 of" not in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_stopped_sweep_is_finished_by_the_command_it_names(tmp_path: pathlib.Path) -> None:
    """The signal comes between two trainings, so it ends the sweep at once."""
    flags = ("--learning_rate=0.1,0.2", "--epochs=10000", "--num_examples=100000")
    process = helpers.start("sweep", *flags, cwd=tmp_path)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("logs/*/lr=0.2/flags.txt")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stopped = helpers.finish(process)
    assert stopped.returncode in (143, -signal.SIGTERM)
    assert "\n\n" not in stopped.stdout  # no table of half the results
    first = stopped.stdout.splitlines()[0]
    found = re.search(r"; the same command with (--run_name=(\S+)) resumes", first)
    assert found
    if stopped.returncode == 143:
        assert stopped.stderr.endswith(f"resume with: the same command with {found[1]}\n")
    directory = tmp_path / "logs" / found[2]
    written = _exports(directory)
    assert written.keys() == {"lr=0.1/export/1/saved_model.pb"}

    finished = helpers.call("sweep", *flags, found[1], cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert sorted(name for name, _ in _table(finished.stdout)) == ["lr=0.1", "lr=0.2"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [found[2]]
    exports = _exports(directory)
    assert len(exports) == 2
    assert written.items() <= exports.items()


def test_two_spellings_of_a_value_are_one() -> None:
    script = """
from pipeline import cli, sweep
cli.define_flags(takes_several=True)
cli.parse(["", "--loss=mse,MeanSquaredError,huber", "--optimizer=Adam,adam", "--seed=1,2"])
print(*[config.run_name for config in sweep.combinations(sweep.values_of_flags())])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.split() == [
        f"{loss},adam,seed={seed}" for loss in ("mean_squared_error", "huber") for seed in (1, 2)
    ], result.stderr


@pytest.mark.parametrize(("validation", "expected"), [({"loss": 2.0}, 2.0), ({}, 1.0)])
def test_outcomes_are_ordered_by_the_validation_loss(
    validation: dict[str, float], expected: float
) -> None:
    """Without it the training loss counts, as for a run's best epoch."""
    result = finish.Result(evaluate.Evaluation({"loss": 1.0}, validation), "", pathlib.Path())
    assert sweep.Outcome(config_lib.Config(), result).loss == expected


def test_the_same_examples_are_read_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are checked for each config."""
    (tmp_path / "t.csv").write_text("x,y\n1,2\n2,3\n4,5\n")
    calls: list[config_lib.Config] = []
    load = datasets_lib.load
    monkeypatch.setattr(
        datasets_lib, "load", lambda config: [calls.append(config), load(config)][1]
    )
    table = {"data": str(tmp_path / "t.csv")}
    for rate, size in ((0.1, 0), (0.2, 2), (0.1, 0)):
        sweep._load(config_lib.Config(**table, learning_rate=rate, batch_size=size))
    assert len(calls) == 1
    one, other, again = (sweep._load(config_lib.Config(num_examples=n)) for n in (10, 20, 20))
    assert len(one.train.y) == 10
    assert other is again
    assert len(calls) == 3
    with pytest.raises(errors.InputError, match="begins after the last step"):
        sweep._load(config_lib.Config(num_examples=20, profile_steps="50,60"))
