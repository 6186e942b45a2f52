"""Nothing is lost: kills, signals, damage, full disks, two processes, longer runs."""

import contextlib
import csv
import dataclasses
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from tests import helpers

# A run that trains for about two seconds, in steps of some 60 us, and saves often.
SLOW = (
    *("--num_examples=50000", "--epochs=30000"),
    *("--checkpoint_every=3000", "--summary_every=1"),
)
FIT = ("--model=keras", "--loop=fit", "--epochs=90", "--batch_size=32", "--checkpoint_every=100")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def saved_steps(run: pathlib.Path) -> list[int]:
    """The steps of the checkpoints, ascending."""
    return sorted(int(p.stem[5:]) for p in run.glob("checkpoints/ckpt-*.index"))


def newest(run: pathlib.Path) -> int:
    """The step of the newest checkpoint, -1 where there is none."""
    return max(saved_steps(run), default=-1)


def final_state(run: pathlib.Path) -> dict[str, bytes]:
    """The model and the optimizer's variables in the newest checkpoint, as bits."""
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"ckpt-{newest(run)}"))
    names = [
        n for n in reader.get_variable_to_shape_map() if n.startswith(("model/", "optimizer/"))
    ]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


def event_files(run: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in run.glob("*/events.out.tfevents.*")}


@pytest.mark.slow
def test_run_killed_again_and_again_has_the_same_bits() -> None:
    """A short version of scripts/crash_test.py, which says what is compared."""
    script = pathlib.Path(__file__).parent.parent / "scripts" / "crash_test.py"
    command = [sys.executable, str(script), "--kills=1", "--seed=1", "--notensorboard"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed: 1 kills" in result.stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of logs/run, killed after checkpoint 0, then after others; and then finished.

    And of logs_of_killed/run, what the last kill has left of it.
    """
    directory = tmp_path_factory.mktemp("killed")
    run = directory / "logs" / "run"

    def kill_when(condition: Callable[[], object], *more: str) -> None:
        process = helpers.start("train", "--run_name=run", *SLOW, *more, cwd=directory)
        wait_for(condition)
        process.kill()
        helpers.finish(process)

    # After the first images, the text and the layout were written: they will be written again.
    kill_when(
        lambda: any(b"training/data" in content for content in event_files(run).values()),
        *("--checkpoint_every=0", "--checkpoint_secs=1000"),
    )
    assert saved_steps(run) == [0]
    for _ in range(3):
        before = newest(run)
        kill_when(lambda before=before: newest(run) > before)  # type: ignore[misc]
    assert not (run / "export").exists()
    shutil.copytree(directory / "logs", directory / "logs_of_killed")
    result = helpers.call("train", "--run_name=run", *SLOW, cwd=directory)
    assert result.returncode == 0, result.stderr
    assert "Resuming at step" in result.stdout
    return directory


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow"])
def board(request: pytest.FixtureRequest, killed: pathlib.Path) -> Iterator[helpers.TensorBoard]:
    """A TensorBoard over the run that was killed, with either of its readers."""
    with helpers.tensorboard(killed / "logs", f"--load_fast={request.param}") as server:
        yield server


@pytest.mark.slow
def test_board_shows_every_step_once_after_kills(
    killed: pathlib.Path, board: helpers.TensorBoard
) -> None:
    """The first of the five processes left no file that was kept."""
    assert len(list((killed / "logs" / "run" / "train").iterdir())) == 4
    for run, tag in (("run/train", "W"), ("run/train", "loss"), ("run/validation", "loss")):
        curve = board.scalars(run, tag, points=30001)
        assert [step for step, _ in curve] == list(range(30001))
        times = [time for time, _, _ in board.get("plugin/scalars/scalars", run=run, tag=tag)]
        assert times == sorted(times)
        assert len(set(times)) > 20000  # each step has a time of its own, to the microsecond
    every = [*range(0, 30000, 2048), 30000]
    for run in ("run/truth", "run/least_squares"):
        assert [step for step, _ in board.scalars(run, "W", points=16)] == every


@pytest.mark.slow
def test_board_shows_what_is_written_at_step_0_once(board: helpers.TensorBoard) -> None:
    """The first process had written it when it was killed, after the checkpoint of step 0."""
    board.scalars("run/final", "final/loss")  # all of the file has been read
    (image,) = board.images("run/train", "training/data")
    assert image.startswith(b"\x89PNG")
    steps = [
        e["step"] for e in board.get("plugin/images/images", run="run/train", tag="fit", sample="0")
    ]
    assert (steps[0], steps.count(0)) == (0, 1)
    (text,) = board.get("plugin/text/text", run="run/train", tag="settings")
    assert text["step"] == 0
    (category,) = board.get("plugin/custom_scalars/layout")["category"]
    titles = [chart["title"] for chart in category["chart"]]
    assert titles == ["W", "b", "loss", "evaluation/loss"]


@pytest.mark.slow
def test_each_event_is_there_once_after_kills(killed: pathlib.Path) -> None:
    """In the event files, whatever a reader might leave out."""
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
    assert saved_steps(run) == [24000, 27000, 30000]


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
        wait_for(lambda: newest(run) >= 20000)
        (file,) = (run / "train").iterdir()
        size = file.stat().st_size
        wait_for(lambda: file.stat().st_size > size + 100_000)  # a thousand steps
        process.send_signal(signal.SIGSTOP)
        assert newest(run) == 20000
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "flags"),
    [(signal.SIGHUP, SLOW), (signal.SIGTERM, FIT)],
    ids=["SIGHUP", "SIGTERM-fit"],
)
def test_signal_stops_training_after_a_checkpoint(
    number: signal.Signals, flags: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "logs" / "run"
    process = helpers.start("train", "--run_name=run", *flags, cwd=tmp_path)
    wait_for(lambda: newest(run) > 0)
    process.send_signal(number)
    result = helpers.finish(process)
    assert result.returncode == 128 + number
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"train: stopped by {number.name}; resume with: ")
    # Saved where it stopped: all steps before the newest checkpoint are recorded, and no others.
    stopped_at = newest(run)
    curve = helpers.scalars(run / "train")["W"]
    assert [step for step, _ in curve] == list(range(stopped_at))
    assert not (run / "export").exists()
    # The command that it names resumes the run.
    module, *arguments = line.partition("-m pipeline.")[2].split()
    result = helpers.call(module, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"Resuming at step {stopped_at:,} of " in result.stdout
    curve = helpers.scalars(run / "train")["W"]
    assert [step for step, _ in curve] == list(range(newest(run) + 1))


@pytest.mark.slow
def test_signal_while_the_results_are_written_ends_it(tmp_path: pathlib.Path) -> None:
    """At once, as nothing is left to save; the same command writes them again."""
    run = tmp_path / "logs" / "run"
    process = helpers.start("train", "--run_name=run", cwd=tmp_path)
    wait_for(lambda: newest(run) == 10)  # training is complete, plots and export follow
    process.send_signal(signal.SIGTERM)
    result = helpers.finish(process)
    assert result.returncode in (143, -signal.SIGTERM), (result.stdout, result.stderr)
    assert not (run / "export" / "1").exists()
    result = helpers.call("train", "--run_name=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (run / "export").iterdir()] == ["1"]
    assert [step for step, _ in helpers.scalars(run / "train")["W"]] == list(range(11))
    images = helpers.steps(run / "train", "images")
    assert (images["fit"], images["training/path"]) == ([0, 1, 4, 10], [10])


@pytest.mark.slow
def test_second_signal_aborts_immediately(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "logs" / "run"
    # Eager steps that take seconds: the first signal has to wait for the end of some.
    flags = ("--num_examples=10000000", "--run_eagerly", "--epochs=100", "--validation_examples=0")
    process = helpers.start("train", "--run_name=run", *flags, cwd=tmp_path)
    wait_for(lambda: (run / "figures" / "before_training.png").exists())
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert process.stderr.readline() + process.stderr.readline() == (
        "\nSIGTERM: stopping; repeat to abort immediately\n"
    )
    process.send_signal(signal.SIGTERM)
    assert helpers.finish(process).returncode == -signal.SIGTERM


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_gives_its_messages_lines_of_their_own(tmp_path: pathlib.Path) -> None:
    """And not what is left of the progress line."""
    command = [sys.executable, "-m", "pipeline.train", "--run_name=run", "--epochs=100000000"]
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, cwd=tmp_path, stdout=end, stderr=end)
    os.close(end)
    output = b""
    with contextlib.suppress(OSError):  # EIO: the process has ended
        while content := os.read(terminal, 2**16):
            if b"steps/s" not in output and b"steps/s" in output + content:
                process.send_signal(signal.SIGINT)
            output += content
    os.close(terminal)
    assert process.wait() == 130
    clear = b"\r\x1b[K\x1b[J"
    assert b"steps/s\x1b[J\r\r\nSIGINT: stopping; repeat to abort immediately\r\n" in output
    *_, last = output.rstrip().split(b"\n")
    assert last.removeprefix(clear).startswith(b"train: stopped by SIGINT; resume with: ")
    assert last.startswith(clear)


@pytest.mark.slow
def test_ctrl_c_that_ends_the_reader_too_saves(tmp_path: pathlib.Path) -> None:
    """As in `train 2>&1 | tee log`."""
    run = tmp_path / "logs" / "run"
    flags = ("--run_name=run", "--epochs=100000000", "--checkpoint_secs=1")
    command = [sys.executable, "-m", "pipeline.train", *flags]
    # Buffered, as it is for most people: what is in the buffer is flushed at exit.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(lambda: newest(run) > 1)
    assert process.stdout is not None
    process.stdout.close()
    saved = newest(run)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert newest(run) >= saved


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
    result = helpers.call("train", "--run_name=run", *SLOW, cwd=tmp_path)
    assert result.returncode == 1
    assert "no undamaged checkpoint" in result.stderr.splitlines()[-1]
    assert "--overwrite" in result.stderr
    assert event_files(run) == before
    # --overwrite starts it anew, and moves the old one aside.
    flags = ("--run_name=run", *SLOW, "--epochs=10", "--overwrite")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (aside,) = (path for path in (tmp_path / "logs").iterdir() if path.name.startswith("run."))
    assert event_files(aside) == {aside / p.relative_to(run): data for p, data in before.items()}
    assert len(helpers.scalars(run / "train")["W"]) == 11
    assert "overwrite" not in (run / "flags.txt").read_text()


def test_run_of_an_earlier_version_is_refused(tmp_path: pathlib.Path) -> None:
    """Its flags.txt had no first line that says what it is."""
    run = tmp_path / "logs" / "run"
    run.mkdir(parents=True)
    (run / "flags.txt").write_text("--epochs=10\n--logdir=logs\n--run_name=run\n")
    for more in ((), ("--overwrite",)):
        result = helpers.call("train", "--run_name=run", *more, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr == (
            "train: logs/run exists already and is no run of this pipeline, or of an earlier "
            "version of it; choose another --run_name\n"
        )
    assert [path.name for path in run.iterdir()] == ["flags.txt"]


def limit_file_size(limit: int = 400_000) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_full_disk_costs_one_line_and_no_checkpoint(tmp_path: pathlib.Path) -> None:
    """A limit on the size of files stands for the disk: the event file is what grows."""
    command = [sys.executable, "-m", "pipeline.train", "--run_name=run", *SLOW]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit_file_size,
    )
    assert result.returncode == 1, result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "File too large" in result.stderr
    assert "its checkpoints are intact; resume with:" in result.stderr
    result = helpers.call("train", "--run_name=run", *SLOW, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    steps = [step for step, _ in helpers.scalars(tmp_path / "logs" / "run" / "train")["W"]]
    assert steps == list(range(30001))


_FULL_AT_THE_END = """
import resource, runpy, sys
from pipeline import tf_runtime
tf_runtime.import_tensorflow()
from pipeline.run import trainer
export = trainer._Trainer._export
def on_a_full_disk(self, final):
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
    export(self, final)
trainer._Trainer._export = on_a_full_disk
sys.argv[0] = "train"
runpy.run_module("pipeline.train", run_name="__main__")
"""


@pytest.mark.slow
def test_disk_that_is_full_for_keras_weights_costs_one_line(tmp_path: pathlib.Path) -> None:
    """HDF5 would end the process with a segmentation fault."""
    command = [sys.executable, "-c", _FULL_AT_THE_END, "--model=keras", "--run_name=run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert "File too large; its checkpoints are intact; resume with:" in line
    names = {path.name for path in (tmp_path / "logs" / "run").iterdir()}
    assert not {name for name in names if "weights" in name or name == "export"}


@pytest.mark.slow
def test_cause_is_said_however_long_the_path_before_it(tmp_path: pathlib.Path) -> None:
    flags = (f"--logdir={tmp_path / ('long' * 50)}", "--run_name=run")
    command = [sys.executable, "-c", _FULL_AT_THE_END, *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert "/export/" in line
    assert "File too large; its checkpoints are intact; resume with:" in line


@pytest.mark.slow
def test_second_process_is_refused_with_the_first_pid(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "logs" / "run"
    flags = ("--run_name=run", "--epochs=100000000")
    first = helpers.start("train", *flags, cwd=tmp_path)
    try:
        wait_for(lambda: (run / "flags.txt").exists())
        for more in ((), ("--overwrite",)):
            second = helpers.call("train", *flags, *more, cwd=tmp_path)
            assert second.returncode == 1
            assert f"is in use by process {first.pid};" in second.stderr
            assert len(second.stderr.splitlines()) == 1
    finally:
        first.kill()
        helpers.finish(first)
    # The dead process's lock does not block.
    third = helpers.start("train", *flags, cwd=tmp_path)
    wait_for(lambda: (run / ".lock").read_text() == str(third.pid))
    third.terminate()
    assert helpers.finish(third).returncode in (143, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_checkpoint_bears_the_step_of_its_model(runs: helpers.Runs, name: str) -> None:
    run = runs.logdir / name
    assert saved_steps(run) == [0, 10]
    curves = helpers.scalars(run / "train")
    for step in (0, 10):
        variables = checkpoints.variables(run / "checkpoints" / f"ckpt-{step}")
        W, b = (dict(curves[tag])[step] for tag in ("W", "b"))
        assert (variables["W"].tolist(), float(variables["b"])) == ([W], b)


def copy(runs: helpers.Runs, name: str, directory: pathlib.Path) -> pathlib.Path:
    """Copies one of the three runs to logs/run in another directory."""
    run = directory / "logs" / "run"
    shutil.copytree(runs.logdir / name, run)
    return run


@pytest.mark.slow
def test_finished_run_says_so_and_stays_as_it_is(
    runs: helpers.Runs, tmp_path: pathlib.Path
) -> None:
    run = copy(runs, "module-custom", tmp_path)
    before = {path: path.stat().st_mtime for path in run.rglob("*") if path.is_file()}
    for flags, code, message in (
        ((), 0, "logs/run is finished; raise --epochs to extend it"),
        (("--learning_rate=0.2",), 2, "--learning_rate=0.1 (now 0.2)"),
        (("--epochs=5",), 2, "may grow but not shrink"),
    ):
        result = helpers.call("train", "--run_name=run", *flags, cwd=tmp_path)
        assert result.returncode == code, result.stderr
        assert message in (result.stderr if code else result.stdout)
    after = {path: path.stat().st_mtime for path in run.rglob("*") if path.is_file()}
    del before[run / ".lock"], after[run / ".lock"]
    assert after == before


def tensors(directory: pathlib.Path) -> dict[tuple[str, int], list[bytes]]:
    """The images and histograms of a directory, by tag and step, as bits."""
    found: dict[tuple[str, int], list[bytes]] = {}
    for step, value in helpers.values(directory):
        plugin = value.metadata.plugin_data.plugin_name
        if value.HasField("image") or plugin == "histograms":
            found.setdefault((value.tag, step), []).append(value.SerializeToString())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["module-custom", "keras-fit"])
def test_extended_run_equals_one_that_was_as_long_at_once(
    runs: helpers.Runs, tmp_path: pathlib.Path, name: str
) -> None:
    """From 10 to 13 and then to 16 epochs: each value at every step, to the bit, and no other."""
    model, loop = name.split("-")
    flags = (f"--model={model}", f"--loop={loop}", "--epochs=16")
    process = helpers.start("train", "--run_name=once", *flags, cwd=tmp_path)
    run = copy(runs, name, tmp_path)
    for epochs, step in ((13, 10), (16, 13)):
        more = ("--run_name=run", *flags, f"--epochs={epochs}")
        result = helpers.call("train", *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"Resuming at step {step} of {epochs}\n" in result.stdout
    once = helpers.finish(process)
    assert once.returncode == 0, once.stderr
    # It prints what the last part of the other printed.
    pattern = r"(?m)^(?:Epoch 1[456]|Least squares):.*$"
    assert re.findall(pattern, result.stdout) == re.findall(pattern, once.stdout)
    assert len(re.findall(pattern, once.stdout)) == 4

    other = tmp_path / "logs" / "once"
    assert saved_steps(run) == [10, 13, 16]
    assert saved_steps(other) == [0, 16]
    assert final_state(run) == final_state(other)
    for curve in ("train", "validation"):
        extended, expected = (
            {t: points for t, points in helpers.scalars(path / curve).items() if t[:6] != "speed/"}
            for path in (run, other)
        )
        assert extended == expected
    assert (run / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for tag in ("W", "b", "loss"):
        assert [step for step, _ in helpers.scalars(run / "train")[tag]] == list(range(17))
    assert tensors(run / "train") == tensors(other / "train")
    for path in other.glob("figures/*.png"):
        assert (run / "figures" / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in (run / "export").iterdir()) == ["1", "2", "3"]
    assert "--epochs=16\n" in (run / "flags.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["/export", "/checkpoints/ckpt-10"])
def test_new_run_starts_where_another_ended(runs: helpers.Runs, source: str) -> None:
    """From the module in the custom loop to Keras fit, as the lecture does."""
    name = f"from{source.replace('/', '_')}"
    flags = (
        f"--initialize_from=logs/module-custom{source}",
        *("--model=keras", "--loop=fit", "--epochs=2", "--logdir=more", f"--run_name={name}"),
    )
    result = helpers.call("train", *flags, cwd=runs.folder)
    assert result.returncode == 0, result.stderr
    end = helpers.scalars(runs.logdir / "module-custom" / "train")
    start = helpers.scalars(runs.folder / "more" / name / "train")
    for tag in ("W", "b"):
        assert start[tag][0] == (0, end[tag][-1][1])
    assert start["loss"][0] == (0, pytest.approx(end["loss"][-1][1], rel=1e-6))


@pytest.mark.slow
def test_diverged_run_goes_on_at_a_smaller_rate(tmp_path: pathlib.Path) -> None:
    flags = ("--epochs=1000", "--learning_rate=0.9", "--checkpoint_every=10", "--run_name=hot")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 3
    step = newest(tmp_path / "logs" / "hot")
    last_recorded = helpers.scalars(tmp_path / "logs" / "hot" / "train")["W"][-1][0]
    assert last_recorded - 10 <= step <= last_recorded + 1
    variables = checkpoints.variables(tmp_path / "logs" / "hot" / "checkpoints")
    assert np.isfinite([*variables["W"], variables["b"]]).all()
    cool = ("--initialize_from=logs/hot", "--learning_rate=0.1", "--run_name=cool")
    result = helpers.call("train", *cool, "--epochs=1000", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    curve = helpers.scalars(tmp_path / "logs" / "cool" / "train")["W"]
    assert curve[-1][1] == pytest.approx(3.05, abs=0.01)


@pytest.mark.slow
def test_initialize_from_something_else_costs_one_line(
    runs: helpers.Runs, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "two.csv").write_text("a,b,y\n1,2,3\n2,3,5\n3,5,8\n")
    wrong = {
        ("--initialize_from=nowhere",): "nowhere: holds no undamaged checkpoint",
        (f"--initialize_from={runs.logdir}/module-custom", "--data=two.csv"): (
            "it has 1 W, 1 b; the model for these examples has 2 W, 1 b"
        ),
    }
    for flags, message in wrong.items():
        result = helpers.call("train", *flags, cwd=tmp_path)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["two.csv"]


@pytest.mark.slow
def test_run_outlives_the_run_that_it_started_from(
    runs: helpers.Runs, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(runs.logdir / "module-custom", tmp_path / "logs" / "source")
    flags = ("--initialize_from=logs/source", "--run_name=run")
    assert helpers.call("train", *flags, cwd=tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "logs" / "source")
    result = helpers.call("train", *flags, "--epochs=20", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Resuming at step 10 of 20" in result.stdout


@pytest.mark.slow
def test_anything_else_in_the_data_is_noticed(tmp_path: pathlib.Path) -> None:
    """An example, one of the validation rows, the names of two columns."""
    table = tmp_path / "p.csv"
    content = "a,b,y\n1,2,3\n2,3,4\n3,5,7\n4,4,4\n"
    config = config_lib.Config(
        data=str(table),
        validation_examples=1,
        learning_rate=0.01,
        epochs=2,
        logdir=str(tmp_path),
        run_name="run",
    )
    table.write_text(content)
    trainer.train(config, datasets_lib.load(config))
    longer = dataclasses.replace(config, epochs=4)
    changes = [content.replace(number, "9,9") for number in ("1,2", "2,3", "3,5", "4,4")]
    for changed in (*changes, content.replace("a,b", "b,a"), content.replace("y", "z")):
        table.write_text(changed)
        with pytest.raises(errors.InputError, match="are not what they were"):
            trainer.train(longer, datasets_lib.load(longer))
    table.write_text(content)
    trainer.train(longer, datasets_lib.load(longer))


def exports(run: pathlib.Path) -> list[int]:
    """The versions of the exported model."""
    return sorted(int(path.name) for path in (run / "export").iterdir())


@pytest.mark.slow
def test_finished_is_what_the_newest_export_says(
    runs: helpers.Runs, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After damage, after a kill before the export of more epochs, after a removed export."""
    run = copy(runs, "module-custom", tmp_path)
    config = config_lib.Config(logdir=str(tmp_path / "logs"), run_name="run")

    def trained(epochs: int) -> str:
        again = dataclasses.replace(config, epochs=epochs)
        trainer.train(again, datasets_lib.load(again))
        return capsys.readouterr().out

    os.truncate(run / "checkpoints" / "ckpt-10.index", 0)
    assert "Resuming at step 0 of 10" in trained(10)
    assert exports(run) == [1, 2]
    assert "is finished" in trained(10)
    assert "Resuming at step 10 of 20" in trained(20)
    shutil.rmtree(run / "export" / "3")  # as if it was killed before
    assert "Resuming at step 20 of 20" in trained(20)
    assert "is finished" in trained(20)
    assert exports(run) == [1, 2, 3]
    saved = tf.saved_model.load(str(run / "export" / "3")).signatures["variables"]()["W"]
    assert saved.numpy() == helpers.scalars(run / "train")["W"][-1][1]


@pytest.mark.slow
def test_best_epoch_is_kept_beside_the_newest(tmp_path: pathlib.Path) -> None:
    """With a validation set on which training passes through the optimum."""
    result = helpers.call(
        "train", "--run_name=run", "--epochs=40", "--num_examples=10", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    run = tmp_path / "logs" / "run"
    losses = helpers.scalars(run / "validation")["loss"]
    step, _ = min(losses, key=lambda row: row[1])
    assert 0 < step < 40
    assert [path.stem for path in run.glob("checkpoints/best-*.index")] == [f"best-{step}"]
    best = checkpoints.variables(run / "checkpoints" / f"best-{step}")
    curves = helpers.scalars(run / "train")
    assert curves["W"][step] == (step, *best["W"])
    assert curves["b"][step] == (step, best["b"])
