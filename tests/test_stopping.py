"""Signals, full disks and second processes end a run cleanly."""

import contextlib
import os
import pathlib
import pty
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests import helpers

_FIT = ("--model=keras", "--loop=fit", "--epochs=90", "--batch_size=32", "--checkpoint_every=100")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "flags"),
    [(signal.SIGHUP, helpers.SLOW), (signal.SIGTERM, _FIT)],
    ids=["SIGHUP", "SIGTERM-fit"],
)
def test_signal_stops_training_after_a_checkpoint(
    number: signal.Signals, flags: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "logs" / "run"
    process = helpers.start("train", "--run_name=run", *flags, cwd=tmp_path)
    helpers.wait_for(lambda: helpers.newest(run) > 0)
    process.send_signal(number)
    result = helpers.finish(process)
    assert result.returncode == 128 + number
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"train: stopped by {number.name}; resume with: ")
    # Saved where it stopped: all steps before the newest checkpoint are recorded, and no others.
    stopped_at = helpers.newest(run)
    curve = helpers.scalars(run / "train")["W"]
    assert [step for step, _ in curve] == list(range(stopped_at))
    assert not (run / "export").exists()
    # The command that it names resumes the run.
    module, *arguments = line.partition("-m pipeline.")[2].split()
    result = helpers.call(module, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"Resuming at step {stopped_at:,} of " in result.stdout
    curve = helpers.scalars(run / "train")["W"]
    assert [step for step, _ in curve] == list(range(helpers.newest(run) + 1))


@pytest.mark.slow
def test_signal_while_the_results_are_written_ends_it(tmp_path: pathlib.Path) -> None:
    """The run ends at once, as nothing is left to save; the same command writes them again."""
    run = tmp_path / "logs" / "run"
    process = helpers.start("train", "--run_name=run", cwd=tmp_path)
    helpers.wait_for(lambda: helpers.newest(run) == 10)  # plots and export follow
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
def test_second_signal_ends_it_at_once(tmp_path: pathlib.Path) -> None:
    """Only the first signal waits for the end of a step."""
    run = tmp_path / "logs" / "run"
    flags = ("--num_examples=10000000", "--run_eagerly", "--epochs=100", "--validation_examples=0")
    process = helpers.start("train", "--run_name=run", *flags, cwd=tmp_path)
    helpers.wait_for(lambda: (run / "figures" / "before_training.png").exists())
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)  # or the second may be lost in the first
    process.send_signal(signal.SIGTERM)
    assert helpers.finish(process).returncode == -signal.SIGTERM


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_gives_its_messages_lines_of_their_own(tmp_path: pathlib.Path) -> None:
    """They do not share a line with the rest of the progress line."""
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
    message = b"Saving a checkpoint; press Ctrl-C again to quit at once"
    assert b"steps/s\x1b[J\r\r\n%b\r\n" % message in output
    *_, last = output.rstrip().split(b"\n")
    assert last.removeprefix(clear).startswith(b"train: stopped by SIGINT; resume with: ")
    assert last.startswith(clear)


@pytest.mark.slow
def test_ctrl_c_that_ends_the_reader_too_saves(tmp_path: pathlib.Path) -> None:
    """An example is `train 2>&1 | tee log`."""
    run = tmp_path / "logs" / "run"
    flags = ("--run_name=run", "--epochs=100000000", "--checkpoint_secs=1")
    command = [sys.executable, "-m", "pipeline.train", *flags]
    # Output is buffered, as for most users; the buffer is flushed at exit.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    helpers.wait_for(lambda: helpers.newest(run) > 1)
    assert process.stdout is not None
    process.stdout.close()
    saved = helpers.newest(run)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert helpers.newest(run) >= saved


def limit_file_size(limit: int = 400_000) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_full_disk_costs_one_line_and_no_checkpoint(tmp_path: pathlib.Path) -> None:
    """A limit on the size of files stands for the disk; the event file reaches it."""
    command = [sys.executable, "-m", "pipeline.train", "--run_name=run", *helpers.SLOW]
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
    result = helpers.call("train", "--run_name=run", *helpers.SLOW, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    steps = [step for step, _ in helpers.scalars(tmp_path / "logs" / "run" / "train")["W"]]
    assert steps == list(range(30001))


_FULL_AT_THE_END = """
import resource, runpy, sys
from pipeline import tf_runtime
tf_runtime.import_tensorflow()
from pipeline.run import finish
export = finish.Outputs.export
def on_a_full_disk(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
    export(*args)
finish.Outputs.export = on_a_full_disk
sys.argv[0] = "train"
runpy.run_module("pipeline.train", run_name="__main__")
"""


@pytest.mark.slow
def test_disk_that_is_full_for_keras_weights_costs_one_line(tmp_path: pathlib.Path) -> None:
    """HDF5 itself would end the process with a segmentation fault."""
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
        helpers.wait_for(lambda: (run / "flags.txt").exists())
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
    helpers.wait_for(lambda: (run / ".lock").read_text() == str(third.pid))
    third.terminate()
    assert helpers.finish(third).returncode in (143, -signal.SIGTERM)
