"""Tests of several workers: processes of this machine that train together."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.run import trainer, versions
from tests import helpers, processes, train_together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__"),  # of Keras, which saves weights
]
# Runs that resume another run.
_LONGER = {("guide", 3): "longer", ("mlp", 2): "mlp-longer"}
_NOT_OF_TWO = {"polynomial", *_LONGER.values()}
_OF_TWO = tuple(name for name in train_together.CONFIGS if name not in _NOT_OF_TWO)
_OF_THREE = ("guide", "short-last-batch", "polynomial", "table")
_RUNS = [*((name, 2) for name in _OF_TWO), *((name, 3) for name in _OF_THREE)]


def _start(
    addresses: list[str], index: int, module: str, *arguments: str, cwd: pathlib.Path
) -> processes.Process:
    """Starts one of several workers; TensorFlow's log of lost workers may be on stderr."""
    environment = os.environ | workers.environment(addresses, index)
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # which the import in the tests has set
    return processes.Process(module, *arguments, cwd=cwd, env=environment)


def _start_all(count: int, *command: str, cwd: pathlib.Path) -> list[processes.Process]:
    addresses = workers.free_addresses(count)
    return [_start(addresses, index, *command, cwd=cwd) for index in range(count)]


def _start_as_users_do(*arguments: str, cwd: pathlib.Path) -> "list[subprocess.Popen[str]]":
    """Starts two workers that set TensorFlow's log level themselves at its import."""
    addresses = workers.free_addresses(2)
    kept = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=kept | workers.environment(addresses, index),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of runs `<name>-<workers>`, and of single-process runs in `alone`."""
    folder = tmp_path_factory.mktemp("together")
    x = np.random.default_rng(0).normal(size=(50, 3))
    y = x @ [1, -2, 3] + 0.5
    np.savetxt(folder / "table.csv", np.c_[x, y], "%.6f", ",", header="a,b,c,y", comments="")
    of_three = [f"{name}={name}-3" for name in _OF_THREE]
    of_two = [f"{name}={name}-2" for name in _OF_TWO]
    longer = [f"{more}={name}-{count}" for (name, count), more in _LONGER.items()]
    for count, names in ((3, of_three), (2, [*of_two, *longer])):
        command = ("tests.train_together", str(folder), *names)
        results = [helpers.finish(each) for each in _start_all(count, *command, cwd=folder)]
        assert not any(each.returncode for each in results), [each.stderr for each in results]
    for name in train_together.CONFIGS:
        config = train_together.config(name, folder / "alone", name)
        with contextlib.suppress(errors.DivergedError):
            trainer.train(config, datasets_lib.load(config))
    return folder


@pytest.mark.parametrize(("name", "count"), [run for run in _RUNS if run[0] != "diverging"])
def test_workers_take_the_steps_of_one_process(
    together: pathlib.Path, name: str, count: int
) -> None:
    """All curves agree at every step, also evaluations; the numbers are about 1 or less."""
    alone = _LONGER.get((name, count), name)
    _assert_same_curves(together / "logs" / f"{name}-{count}", together / "alone" / alone)


def test_workers_resume(together: pathlib.Path) -> None:
    """Three workers train 12 epochs, two continue to 20; a network keeps its patience."""
    for name, steps in (("guide-3", {12, 20}), ("mlp-2", {16, 24})):
        assert steps <= set(helpers.saved_steps(together / "logs" / name))  # others by the clock


def _assert_same_curves(run: pathlib.Path, alone: pathlib.Path) -> None:
    for directory in ("train", "validation", "final"):
        found, expected = (helpers.scalars(path / directory) for path in (run, alone))
        for tag in [*found, *expected]:
            if tag.startswith("speed/"):
                found.pop(tag, None)
                expected.pop(tag, None)
        assert found.keys() == expected.keys()
        for tag, curve in expected.items():
            steps, numbers = zip(*curve, strict=True)
            assert [step for step, _ in found[tag]] == list(steps)
            others = [number for _, number in found[tag]]
            if tag != "training/gradient_norm":
                np.testing.assert_allclose(others, numbers, rtol=1e-6, atol=1e-6, err_msg=tag)
            else:
                np.testing.assert_allclose(others, numbers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "count"), _RUNS)
def test_all_workers_have_the_same_bits_at_the_end(
    together: pathlib.Path, name: str, count: int
) -> None:
    """They have the same exit code, and all but the first leave no other files."""
    files = [np.load(together / f"{name}-{count}-{index}.npz") for index in range(count)]
    for file in files:
        assert int(file["exit_code"]) == (3 if name == "diverging" else 0)
    # The first worker of the two has assigned what it draws, or exports, at the end.
    compared = files[1:] if name in ("diverging", "ending-early") else files
    for variable in files[0].files:
        assert len({file[variable].tobytes() for file in compared}) == 1
    assert not (together / "nothing").exists()


def test_divergence_ends_all_at_the_same_step(together: pathlib.Path) -> None:
    """One process diverges at the same step, although its rounding differs by then."""
    runs = together / "alone" / "diverging", together / "logs" / "diverging-2"
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert [result["outcome"] for result in results] == ["diverged"] * 2
    assert results[0]["step"] == results[1]["step"]


def test_training_ends_early_for_all_at_the_same_epoch(together: pathlib.Path) -> None:
    """Training ends before the last epoch, with the same best model."""
    alone = versions.newest_steps(together / "alone" / "ending-early" / "export")
    assert alone
    assert alone.model < alone.last < 40 * 4
    assert versions.newest_steps(together / "logs" / "ending-early-2" / "export") == alone


def test_what_can_go_wrong_ends_all_with_a_line(tmp_path: pathlib.Path) -> None:
    """The failures happen one after the other in one run, which resumes each time."""
    train = ("pipeline.train", "--run_name=run", "--epochs=1000000", "--checkpoint_secs=1")
    run = tmp_path / "logs" / "run"

    both = _start_all(2, *train, cwd=tmp_path)
    helpers.wait_for(lambda: helpers.newest(run) > 0, 90)
    both[1].send_signal(signal.SIGINT)
    results = [helpers.finish(process) for process in both]
    assert [result.returncode for result in results] == [130, 130]
    for result in results:
        assert result.stderr.splitlines()[-1].startswith("train: stopped by SIGINT; resume with: ")
    step = helpers.newest(run)
    assert f"at step {step:,} " not in results[0].stdout
    assert results[1].stdout == ""

    both = _start_as_users_do("-m", *train, "--peer_timeout_secs=12", cwd=tmp_path)
    helpers.wait_for(lambda: helpers.newest(run) > step, 90)
    both[1].send_signal(signal.SIGSTOP)
    first = helpers.finish(both[0])
    both[1].send_signal(signal.SIGCONT)
    second = helpers.finish(both[1])
    assert f"Resuming at step {step:,} of 1,000,000\n" in first.stdout
    assert [first.returncode, second.returncode] == [1, 1]
    (line,) = first.stderr.splitlines()
    assert re.fullmatch(
        "train: worker 0 lost (worker 1|another worker); start all workers again with the same "
        "command: they go on from the last checkpoint",
        line,
    )

    addresses = workers.free_addresses(2)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(addresses[1].rpartition(":")[2])))
        taken.listen()
        ends = [
            helpers.finish(_start(addresses, index, *train, "--peer_timeout_secs=2", cwd=tmp_path))
            for index in range(2)
        ]
    assert [end.returncode for end in ends] == [1, 1]
    assert "worker 0 waited --peer_timeout_secs=2 for worker 1; see what it " in ends[0].stderr
    assert "worker 1 can't listen at its address in TF_CONFIG: another " in ends[1].stderr

    addresses = workers.free_addresses(2)
    flags = ((), ("--learning_rate=0.2", "--metrics=mae", "--batch_size=64"))
    both = [_start(addresses, i, *train, *flags[i], cwd=tmp_path) for i in range(2)]
    for process in both:
        result = helpers.finish(process)
        assert result.returncode == 2
        found = re.search("the workers differ in (.*); start all with", result.stderr)
        assert found
        differing = {"--metrics", "--learning_rate", "--batch_size", "the training examples"}
        assert set(found[1].split(", ")) == differing


_SILENT = """
import time
from pipeline.distributed import start, workers
worker = workers.from_environment()
communicator = start.import_tensorflow(worker, timeout_secs=3)
if worker.is_chief:
    assert communicator.sum([]).tolist() == []
    communicator.sum([7])
time.sleep(60)
"""


def test_a_message_without_an_answer_ends_with_a_line(tmp_path: pathlib.Path) -> None:
    """The other worker is alive but busy with something else."""
    first, second = _start_as_users_do("-c", _SILENT, cwd=tmp_path)
    result = helpers.finish(first)
    second.kill()
    helpers.finish(second)
    assert (result.returncode, result.stderr) == (
        1,
        "train: worker 0 waited --peer_timeout_secs=3 for a message of another worker; start all "
        "workers again with the same command: they go on from the last checkpoint\n",
    )


def test_launch_starts_all_again_where_a_worker_dies() -> None:
    """A short version of scripts/crash_test.py --workers=2, which documents the comparison."""
    script = pathlib.Path(__file__).parent.parent / "scripts" / "crash_test.py"
    command = [
        *(sys.executable, str(script), "--workers=2", "--kills=1", "--seed=5", "--notensorboard"),
        *("--model=mlp", "--flags=--synthetic=sine,--early_stopping_patience=300"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed: 1 kills" in result.stdout


def test_launch_refuses_what_train_refuses(tmp_path: pathlib.Path) -> None:
    unknown = helpers.call("launch", "--", "--epoch=3", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "launch: Unknown command line flag 'epoch'" in unknown.stderr
    fit = helpers.call("launch", "--", "--model=keras", "--loop=fit", "--run_name=a", cwd=tmp_path)
    assert fit.returncode == 2
    for index in range(2):
        assert f"worker {index}: train: TF_CONFIG names several workers, which --loop" in fit.stdout
        kept = (tmp_path / "logs" / "a.workers" / f"worker-{index}.txt").read_text()
        assert kept.startswith("train: TF_CONFIG names several workers")
    assert not (tmp_path / "logs" / "a").exists()
