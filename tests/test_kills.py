"""A killed run continues as if nothing had happened, unless its checkpoints are damaged."""

import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests import helpers


def event_files(run: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in run.glob("*/events.out.tfevents.*")}


@pytest.mark.slow
def test_run_killed_again_and_again_has_the_same_bits() -> None:
    """A short version of scripts/crash_test.py, which documents the comparison."""
    script = pathlib.Path(__file__).parent.parent / "scripts" / "crash_test.py"
    command = [sys.executable, str(script), "--kills=1", "--seed=1", "--notensorboard"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed: 1 kills" in result.stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with logs/run, killed after checkpoint 0, then after others, then finished.

    It also has logs_of_killed/run, the state of the run after the last kill.
    """
    directory = tmp_path_factory.mktemp("killed")
    run = directory / "logs" / "run"

    def kill_when(condition: Callable[[], object], *more: str) -> None:
        process = helpers.start("train", "--run_name=run", *helpers.SLOW, *more, cwd=directory)
        helpers.wait_for(condition)
        process.kill()
        helpers.finish(process)

    # The first images, the text and the layout are written before the kill, and again after it.
    kill_when(
        lambda: any(b"training/data" in content for content in event_files(run).values()),
        *("--checkpoint_every=0", "--checkpoint_secs=1000"),
    )
    assert helpers.saved_steps(run) == [0]
    for _ in range(3):
        before = helpers.newest(run)
        kill_when(lambda before=before: helpers.newest(run) > before)  # type: ignore[misc]
    assert not (run / "export").exists()
    shutil.copytree(directory / "logs", directory / "logs_of_killed")
    result = helpers.call("train", "--run_name=run", *helpers.SLOW, cwd=directory)
    assert result.returncode == 0, result.stderr
    assert "Resuming at step" in result.stdout
    return directory


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow"])
def board(request: pytest.FixtureRequest, killed: pathlib.Path) -> Iterator[helpers.TensorBoard]:
    """A TensorBoard of the killed run, with each of its two readers."""
    with helpers.tensorboard(killed / "logs", f"--load_fast={request.param}") as server:
        yield server


@pytest.mark.slow
def test_board_shows_every_step_once_after_kills(
    killed: pathlib.Path, board: helpers.TensorBoard
) -> None:
    """The first of the five processes left no file that was kept."""
    assert len(list((killed / "logs" / "run" / "train").iterdir())) == 4
    every, evaluated = [*range(30001)], [*range(0, 30000, 32), 30000]
    for run, tag, steps in (
        ("run/train", "W", every),
        ("run/train", "loss", every),
        ("run/validation", "loss", evaluated),
    ):
        curve = board.scalars(run, tag, points=len(steps))
        assert [step for step, _ in curve] == steps
        times = [time for time, _, _ in board.get("plugin/scalars/scalars", run=run, tag=tag)]
        assert times == sorted(times)
        assert len(set(times)) > len(steps) / 1.5  # each step has its own time in microseconds
    every = [*range(0, 30000, 2048), 30000]
    for run in ("run/truth", "run/least_squares"):
        assert [step for step, _ in board.scalars(run, "W", points=16)] == every


@pytest.mark.slow
def test_each_event_is_there_once_after_kills(killed: pathlib.Path) -> None:
    """This checks the event files, as a reader might hide duplicates."""
    run = killed / "logs" / "run"
    events = helpers.events(run / "train")
    assert sum(event.HasField("graph_def") for event in events) == 1
    steps: dict[str, list[int]] = {}
    for event in events:
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    sometimes = [f"training/{x}" for x in ("gradient_norm", "learning_rate", "distance_to_optimum")]
    every, last, powers_of_4 = list(range(30001)), 30000, [4**i for i in range(8)]
    for what in ("steps", "examples"):  # about once in a second of training
        steps.pop(f"speed/{what}_per_second", None)
    assert steps == {
        **dict.fromkeys(("W", "b", "loss"), every),
        **dict.fromkeys(sometimes, every[::16]),
        **{f"evaluation/{what}": [*every[:-1:32], last] for what in ("loss", "best_epoch")},
        **{tag: [0] for tag in ("training/data", "settings", "custom_scalars__config__")},
        "fit": [0, *powers_of_4, last],
        "residuals": [*every[:-1:2048], last],
        **{tag: [last] for tag in ("training/parameters", "training/path")},
    }
    final = [value.tag for event in helpers.events(run / "final") for value in event.summary.value]
    assert sorted(final) == [
        *("_hparams_/session_end_info", "_hparams_/session_start_info"),
        *("final/diverged", "final/loss", "final/validation_loss"),
    ]
    with (run / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [*every[:-1:32], last]
    assert helpers.saved_steps(run) == [24000, 27000, 30000]


@pytest.mark.slow
def test_board_that_watches_a_kill_shows_every_step_once(tmp_path: pathlib.Path) -> None:
    """Both readers have read steps beyond the checkpoint, which the resumed run writes again."""
    flags = (
        *("--num_examples=100000", "--epochs=50000", "--checkpoint_every=20000"),
        *("--summary_every=1", "--run_name=run"),
    )
    run = tmp_path / "logs" / "run"
    (tmp_path / "logs").mkdir()
    with (
        helpers.tensorboard(tmp_path / "logs", "--load_fast=true") as fast,
        helpers.tensorboard(tmp_path / "logs", "--load_fast=false") as slow,
    ):
        process = helpers.start("train", *flags, cwd=tmp_path)
        helpers.wait_for(lambda: helpers.newest(run) >= 20000)
        (file,) = (run / "train").iterdir()
        size = file.stat().st_size
        helpers.wait_for(lambda: file.stat().st_size > size + 100_000)  # a thousand steps
        process.send_signal(signal.SIGSTOP)
        assert helpers.newest(run) == 20000
        for board in (fast, slow):
            seen = board.scalars("run/train", "W", points=20050)
            assert seen[-1][0] >= 20049
        process.kill()
        helpers.finish(process)
        result = helpers.call("train", *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "Resuming at step 20,000 of 50,000" in result.stdout
        for board in (fast, slow):
            board.wait_for(lambda: board.scalars("run/train", "W")[-1][0] == 50000)  # noqa: B023
            steps = [step for step, _ in board.scalars("run/train", "W", points=50001)]
            assert steps == list(range(50001))


def empty(path: pathlib.Path) -> None:
    os.truncate(path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [empty, pathlib.Path.unlink], ids=["empty", "gone"])
def test_run_without_good_checkpoint_is_not_restarted(
    killed: pathlib.Path, tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    run = tmp_path / "logs" / "run"
    shutil.copytree(killed / "logs_of_killed", tmp_path / "logs")
    for path in run.glob("checkpoints/ckpt-*"):
        if path.is_file():
            damage(path)
    before = event_files(run)
    result = helpers.call("train", "--run_name=run", *helpers.SLOW, cwd=tmp_path)
    assert result.returncode == 1
    assert "no undamaged checkpoint" in result.stderr.splitlines()[-1]
    assert "--overwrite" in result.stderr
    assert event_files(run) == before
    # --overwrite starts the run anew and renames the old one.
    flags = ("--run_name=run", *helpers.SLOW, "--epochs=10", "--overwrite")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (aside,) = (path for path in (tmp_path / "logs").iterdir() if path.name.startswith("run."))
    assert event_files(aside) == {aside / p.relative_to(run): data for p, data in before.items()}
    assert len(helpers.scalars(run / "train")["W"]) == 11
    assert "overwrite" not in (run / "flags.txt").read_text()
