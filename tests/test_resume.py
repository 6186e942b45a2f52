"""Nothing is lost: kills, signals, damage, full disks, two processes, longer runs."""

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from pipeline import checkpoints
from tests import conftest
from tests.test_train import events

# A run that trains for about two seconds, in steps of some 60 us, and saves often.
SLOW = (
    *("--num_examples=50000", "--epochs=30000"),
    *("--checkpoint_every=3000", "--summary_every=1"),
)
FIT = ("--model=keras", "--loop=fit", "--epochs=300", "--batch_size=32", "--checkpoint_every=100")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def newest(run: pathlib.Path) -> int:
    """The number of the newest checkpoint, -1 where there is none."""
    return max((int(p.stem[5:]) for p in run.glob("checkpoints/ckpt-*.index")), default=-1)


def final_state(run: pathlib.Path) -> dict[str, bytes]:
    """Parameters and optimizer slots of the newest checkpoint, as bits."""
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"ckpt-{newest(run)}"))
    names = (n for n in reader.get_variable_to_shape_map() if "ATTRIBUTES/VARIABLE_VALUE" in n)
    return {n: reader.get_tensor(n).tobytes() for n in names if "save_counter" not in n}


def test_a_run_killed_again_and_again_ends_with_the_same_bits() -> None:
    """A short version of scripts/crash_test.py, which says what is compared."""
    script = pathlib.Path(__file__).parent.parent / "scripts" / "crash_test.py"
    command = [sys.executable, str(script), "--kills=3", "--seed=1"]
    both = [
        subprocess.Popen(
            [*command, f"--loop={loop}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for loop in ("custom", "fit")
    ]
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "passed: 3 kills" in output


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run killed three times at different checkpoints, then finished."""
    folder = tmp_path_factory.mktemp("killed")
    run = folder / "logs" / "run"
    for number in (3000, 9000, 21000):
        process = conftest.start("train", "--run_name=run", *SLOW, cwd=folder)
        wait_for(lambda number=number: newest(run) >= number)  # type: ignore[misc]
        process.kill()
        conftest.finish(process)
    assert not (run / "export").exists()
    result = conftest.call("train", "--run_name=run", *SLOW, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Resuming at step" in result.stdout
    return folder


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_both_readers_show_every_step_once_after_kills(
    killed: pathlib.Path, load_fast: str
) -> None:
    assert len(list((killed / "logs" / "run" / "train").iterdir())) == 4
    with conftest.tensorboard(killed / "logs", f"--load_fast={load_fast}") as board:
        for run, tag in (("run/train", "W"), ("run/train", "loss"), ("run/validation", "loss")):
            points = board.scalars(run, tag, points=30001)
            assert [step for step, _ in points] == list(range(30001))
        assert len(board.scalars("run/truth", "W", points=2)) == 2


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_a_tensorboard_that_watches_a_kill_shows_every_step_once(
    tmp_path: pathlib.Path, load_fast: str
) -> None:
    """It has read points beyond the checkpoint, which the resumed run writes again."""
    flags = (
        *("--num_examples=100000", "--epochs=50000", "--checkpoint_every=20000"),
        *("--summary_every=1", "--run_name=run"),
    )
    run = tmp_path / "logs" / "run"
    (tmp_path / "logs").mkdir()
    with conftest.tensorboard(tmp_path / "logs", f"--load_fast={load_fast}") as board:
        process = conftest.start("train", *flags, cwd=tmp_path)
        wait_for(lambda: newest(run) >= 20000)
        (file,) = (run / "train").iterdir()
        size = file.stat().st_size
        wait_for(lambda: file.stat().st_size > size + 100_000)  # a thousand points
        process.send_signal(signal.SIGSTOP)
        assert newest(run) == 20000
        seen = board.scalars("run/train", "W", points=20050)
        assert seen[-1][0] >= 20049
        process.kill()
        conftest.finish(process)
        result = conftest.call("train", *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "Resuming at step 20,000" in result.stdout
        board.wait_for(lambda: board.scalars("run/train", "W")[-1][0] == 50000)
        steps = [step for step, _ in board.scalars("run/train", "W", points=50001)]
        assert steps == list(range(50001))


@pytest.mark.parametrize(
    ("number", "flags"), [(signal.SIGTERM, SLOW), (signal.SIGINT, SLOW), (signal.SIGTERM, FIT)]
)
def test_a_signal_stops_training_after_a_checkpoint(
    number: signal.Signals, flags: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "logs" / "run"
    process = conftest.start("train", "--run_name=run", *flags, cwd=tmp_path)
    wait_for(lambda: newest(run) > 0)
    process.send_signal(number)
    result = conftest.finish(process)
    assert result.returncode == 128 + number
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"train: stopped by {number.name}; to go on: ")
    # Saved where it stopped: the newest checkpoint has all points that were recorded.
    assert newest(run) == events(run / "train")["W"][-1][0] + 1
    assert not (run / "export").exists()
    # The command that it names goes on.
    module, *arguments = line.partition("-m pipeline.")[2].split()
    result = conftest.call(module, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Resuming at step" in result.stdout


def test_a_signal_while_the_results_are_written_stops_there_too(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "logs" / "run"
    process = conftest.start("train", "--run_name=run", cwd=tmp_path)
    wait_for(lambda: newest(run) == 11)  # training is complete, pictures and export follow
    process.send_signal(signal.SIGTERM)
    result = conftest.finish(process)
    assert result.returncode == 143, (result.stdout, result.stderr)
    result = conftest.call("train", "--run_name=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (run / "export").iterdir()] == ["1"]
    assert [step for step, _ in events(run / "train")["W"]] == list(range(11))


def test_a_second_signal_stops_at_once(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "logs" / "run"
    # A stretch of eager steps that takes seconds: the first signal has to wait for its end.
    flags = ("--num_examples=10000000", "--run_eagerly", "--epochs=100", "--validation_examples=0")
    process = conftest.start("train", "--run_name=run", *flags, cwd=tmp_path)
    wait_for(lambda: (run / "flags.txt").exists())
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert process.stderr.readline() + process.stderr.readline() == (
        "\nSIGTERM: stopping; once more to stop at once\n"
    )
    process.send_signal(signal.SIGTERM)
    assert conftest.finish(process).returncode == -signal.SIGTERM


def test_ctrl_c_that_ends_the_reader_too_saves_a_checkpoint(tmp_path: pathlib.Path) -> None:
    """As in `train 2>&1 | tee log`."""
    run = tmp_path / "logs" / "run"
    command = [sys.executable, "-m", "pipeline.train", "--run_name=run", "--epochs=100000000"]
    # Buffered, as it is for most people: what is in the buffer is flushed at exit.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(lambda: len(list(run.glob("train/events*"))) and newest(run) == 0)
    time.sleep(1)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert newest(run) > 0


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: pathlib.Path) -> None:
    os.truncate(path, 0)


def flip_bits(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def garbage(path: pathlib.Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


DAMAGES = (truncate, empty, flip_bits, garbage, pathlib.Path.unlink)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that was stopped at a checkpoint, with others before it, and left-overs."""
    folder = tmp_path_factory.mktemp("stopped")
    process = conftest.start("train", "--run_name=run", *SLOW, "--optimizer=adam", cwd=folder)
    wait_for(lambda: newest(folder / "logs" / "run") >= 9000)
    process.kill()
    conftest.finish(process)
    (folder / "logs" / "run" / "checkpoints" / "ckpt-9_temp").mkdir()
    return folder / "logs"


def load(folder: pathlib.Path) -> int:
    """Restores a run's model in this process; returns the points recorded."""
    from pipeline import model as model_lib
    from pipeline import optimizers

    model = model_lib.LinearModel()
    optimizer = optimizers.create("adam", 0.1, model.trainable_variables, hand_written=True)
    store = checkpoints.Checkpoints(folder, model, optimizer)
    state = store.restore()
    assert np.isfinite(model.W.numpy())
    assert model.W.numpy() != 5.0
    return int(state["recorded"])


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_the_newest_good_checkpoint_is_found(
    stopped: pathlib.Path,
    tmp_path: pathlib.Path,
    damage: Callable[[pathlib.Path], None],
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped / "run" / "checkpoints", folder)
    number = newest(stopped / "run")
    assert load(folder) == number
    assert not list(folder.glob("*_temp"))
    damage(folder / f"ckpt-{number}{suffix}")
    assert load(folder) == number - 3000
    # A checkpoint without its index is not there at all, so nothing is passed over.
    is_gone = damage is pathlib.Path.unlink and suffix == ".index"
    assert (f"ckpt-{number}" in caplog.text) != is_gone


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_state_file_does_not_matter(
    stopped: pathlib.Path, tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped / "run" / "checkpoints", folder)
    damage(folder / "checkpoint")
    assert load(folder) == newest(stopped / "run")


@pytest.mark.parametrize("damage", [empty, pathlib.Path.unlink], ids=["empty", "gone"])
def test_a_run_without_a_good_checkpoint_is_not_started_afresh(
    stopped: pathlib.Path, tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    run = tmp_path / "logs" / "run"
    shutil.copytree(stopped, tmp_path / "logs")
    for path in run.glob("checkpoints/ckpt-*"):
        if path.is_file():
            damage(path)
    before = events(run / "train")
    flags = ("--run_name=run", *SLOW, "--optimizer=adam")
    result = conftest.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 1
    assert "no checkpoint that is whole" in result.stderr.splitlines()[-1]
    assert "--overwrite" in result.stderr
    assert events(run / "train") == before
    # --overwrite starts it anew, and moves the old one aside.
    result = conftest.call("train", *flags, "--epochs=10", "--overwrite", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (aside,) = (path for path in (tmp_path / "logs").iterdir() if path.name.startswith("run."))
    assert events(aside / "train") == before
    assert f"--run_name={aside.name}\n" in (aside / "flags.txt").read_text()
    assert len(events(run / "train")["W"]) == 11
    assert "overwrite" not in (run / "flags.txt").read_text()


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))


def test_a_full_disk_costs_one_line_and_what_was_saved_stays_good(tmp_path: pathlib.Path) -> None:
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
    assert "to go on:" in result.stderr
    result = conftest.call("train", "--run_name=run", *SLOW, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    steps = [step for step, _ in events(tmp_path / "logs" / "run" / "train")["W"]]
    assert steps == list(range(30001))


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "logs" / "run"
    flags = ("--run_name=run", "--epochs=100000000")
    first = conftest.start("train", *flags, cwd=tmp_path)
    try:
        wait_for(lambda: (run / "flags.txt").exists())
        for more in ((), ("--overwrite",)):
            second = conftest.call("train", *flags, *more, cwd=tmp_path)
            assert second.returncode == 1
            assert f"is in use by process {first.pid};" in second.stderr
            assert len(second.stderr.splitlines()) == 1
    finally:
        first.kill()
        conftest.finish(first)
    # The dead process's lock does not block.
    third = conftest.start("train", *flags, cwd=tmp_path)
    wait_for(lambda: (run / ".lock").read_text() == str(third.pid))
    third.terminate()
    assert conftest.finish(third).returncode in (143, -signal.SIGTERM)


def test_a_finished_run_says_so_and_can_be_extended(runs: conftest.Runs) -> None:
    """Extended to 20 epochs it equals a run of 20 epochs at once, to the bit."""
    folder = runs.folder / "extended"
    shutil.copytree(runs.logdir / "module-custom", folder / "logs" / "run")
    flags = folder / "logs" / "run" / "flags.txt"
    text = flags.read_text()
    text = text.replace(str(runs.logdir), str(folder / "logs")).replace("module-custom", "run")
    flags.write_text(text)
    before = {path: path.stat().st_mtime for path in folder.rglob("*") if path.is_file()}
    result = conftest.call("train", "--run_name=run", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "is finished" in result.stdout
    del before[folder / "logs" / "run" / ".lock"]
    assert all(path.stat().st_mtime == time_ for path, time_ in before.items())

    changed = conftest.call("train", "--run_name=run", "--learning_rate=0.2", cwd=folder)
    assert changed.returncode == 2
    assert "--learning_rate=0.1 (now 0.2)" in changed.stderr
    shorter = conftest.call("train", "--run_name=run", "--epochs=5", cwd=folder)
    assert shorter.returncode == 2
    assert "may grow but not shrink" in shorter.stderr

    extended = conftest.call("train", "--run_name=run", "--epochs=20", cwd=folder)
    assert extended.returncode == 0, extended.stderr
    once = conftest.call("train", "--run_name=once", "--epochs=20", cwd=folder)
    assert once.returncode == 0, once.stderr
    logs = folder / "logs"
    assert final_state(logs / "run") == final_state(logs / "once")
    for curve in ("train", "validation"):
        one, other = events(logs / "run" / curve), events(logs / "once" / curve)
        assert one.keys() == other.keys()
        for tag in one:
            assert one[tag] == other[tag] or tag.endswith("_per_second")
    versions = {path.name for path in (logs / "run" / "export").iterdir()}
    assert versions == {"1", "2"}


@pytest.mark.parametrize("source", ["", "/export", "/export/1", "/checkpoints/ckpt-11"])
def test_a_new_run_starts_where_another_ended(runs: conftest.Runs, source: str) -> None:
    """From the module in the custom loop to Keras fit, as the lecture does."""
    name = f"from{source.replace('/', '_')}"
    flags = (
        f"--initialize_from=logs/module-custom{source}",
        *("--model=keras", "--loop=fit", "--epochs=2", "--logdir=more", f"--run_name={name}"),
    )
    result = conftest.call("train", *flags, cwd=runs.folder)
    assert result.returncode == 0, result.stderr
    end = events(runs.logdir / "module-custom" / "train")
    start = events(runs.folder / "more" / name / "train")
    for tag in ("W", "b", "loss"):
        assert start[tag][0] == (0, pytest.approx(end[tag][-1][1], rel=1e-6))


def test_a_diverged_run_is_taken_up_with_a_smaller_rate(tmp_path: pathlib.Path) -> None:
    flags = ("--epochs=1000", "--learning_rate=0.9", "--checkpoint_every=10", "--run_name=hot")
    result = conftest.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 3
    number = newest(tmp_path / "logs" / "hot")
    diverged_at = events(tmp_path / "logs" / "hot" / "train")["W"][-1][0]
    assert diverged_at - 10 <= number <= diverged_at + 1
    W, b = checkpoints.parameters(tmp_path / "logs" / "hot" / "checkpoints")
    assert np.isfinite([W, b]).all()
    cool = ("--initialize_from=logs/hot", "--learning_rate=0.1", "--run_name=cool")
    result = conftest.call("train", *cool, "--epochs=1000", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert events(tmp_path / "logs" / "cool" / "train")["W"][-1][1] == pytest.approx(3.05, abs=0.01)


def test_initialize_from_something_else_costs_one_line(
    runs: conftest.Runs, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "two.csv").write_text("a,b,y\n1,2,3\n2,3,5\n3,5,8\n")
    wrong = {
        ("--initialize_from=nowhere",): "nowhere: holds no whole checkpoint",
        (f"--initialize_from={runs.logdir}/module-custom", "--data=two.csv"): "2 features",
    }
    for flags, message in wrong.items():
        result = conftest.call("train", *flags, cwd=tmp_path)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["two.csv"]


def test_a_run_goes_on_without_the_run_that_it_started_from(
    runs: conftest.Runs, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(runs.logdir / "module-custom", tmp_path / "logs" / "source")
    flags = ("--initialize_from=logs/source", "--run_name=run")
    assert conftest.call("train", *flags, cwd=tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "logs" / "source")
    result = conftest.call("train", *flags, "--epochs=20", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Resuming at step 11 of 20" in result.stdout


def test_changed_examples_are_noticed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "p.csv").write_text("x,y\n1,2\n2,3\n3,5\n")
    flags = ("--data=p.csv", "--run_name=run", "--epochs=2", "--learning_rate=0.01")
    assert conftest.call("train", *flags, cwd=tmp_path).returncode == 0
    (tmp_path / "p.csv").write_text("x,y\n1,2\n2,3\n3,6\n")
    result = conftest.call("train", *flags, "--epochs=4", cwd=tmp_path)
    assert result.returncode == 2
    assert "are not what they were" in result.stderr


def test_a_checkpoint_is_due_after_steps_or_else_after_seconds() -> None:
    now = 100.0
    by_time = checkpoints.Schedule(every=0, seconds=10, saved=0, clock=lambda: now)
    assert not by_time(5)
    now = 110.0
    assert by_time(6)
    assert not by_time(7)
    by_steps = checkpoints.Schedule(every=10, seconds=1, saved=15, clock=lambda: now)
    assert [step for step in range(16, 45) if by_steps(step)] == [20, 30, 40]


def test_the_best_epoch_is_kept_beside_the_newest(tmp_path: pathlib.Path) -> None:
    """With a validation set on which training passes through the optimum."""
    result = conftest.call(
        "train", "--run_name=run", "--epochs=40", "--num_examples=10", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    run = tmp_path / "logs" / "run"
    losses = events(run / "validation")["loss"]
    step, _ = min(losses, key=lambda point: point[1])
    assert 0 < step < 40
    W, b = checkpoints.parameters(run / "checkpoints" / f"best-{step}")
    curves = events(run / "train")
    assert (W, b) == (curves["W"][step][1], curves["b"][step][1])
