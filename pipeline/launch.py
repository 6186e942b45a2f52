"""Trains with several processes of this machine, as several machines would.

Example:
  python -m pipeline.launch --workers=2 -- --epochs=100 --batch_size=32

What follows `--` are flags of pipeline.train. On several machines, start `python -m pipeline.train`
on each, with TF_CONFIG set; here it is set for each process. What a worker prints is shown with its
name in front, and kept in <logdir>/<run_name>.workers/. If a worker dies, all are started again and
go on from the last checkpoint. Ctrl-C lets them save a checkpoint first; a second one ends them.
"""

import ctypes
import dataclasses
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types
from typing import IO

from absl import flags

from pipeline import cli, console, flagfile
from pipeline import config as config_lib
from pipeline.distributed import workers
from pipeline.run import run_dir, signals

_WORKERS = flags.DEFINE_integer("workers", 2, "Processes to train with.", lower_bound=1)
_RESTARTS = flags.DEFINE_integer(
    "restarts", 3, "How many times to start all again after one has died.", lower_bound=0
)
_GRACE_SECS = 15.0  # time for the other workers to end by themselves after one fails
_FINAL = {2, 3}  # exit codes that a restart would not change
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl


class _Group:
    """Processes that train together, and end together."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self.received: int | None = None  # a signal number
        for number in signals.SIGNALS:
            signal.signal(number, self._pass_on)

    def run(self, config: config_lib.Config, count: int, directory: pathlib.Path) -> list[int]:
        """Starts the workers and waits, briefly after a failure; returns their exit codes."""
        addresses, lock = workers.free_addresses(count), threading.Lock()
        self._processes, threads = [], []
        for index in range(count):
            process = _start(config, addresses, index)
            file = (directory / f"worker-{index}.txt").open("a", encoding="utf-8")
            threads.append(threading.Thread(target=_copy, args=(process.stdout, file, index, lock)))
            threads[-1].start()
            self._processes.append(process)
        end = math.inf
        while any(process.poll() is None for process in self._processes):
            # After a signal the workers save first, without a limit; a second signal ends them.
            if not self.received and any(process.returncode for process in self._processes):
                end = min(end, time.monotonic() + _GRACE_SECS)
            if time.monotonic() > end:
                self._send(signal.SIGKILL)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        return [process.returncode for process in self._processes]

    def _pass_on(self, number: int, _: types.FrameType | None) -> None:
        self.received = number
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def _start(config: config_lib.Config, addresses: list[str], index: int) -> "subprocess.Popen[str]":
    values = flagfile.as_text(dataclasses.asdict(config))
    given = [f"--{name}={value}" for name, value in values.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *given],
        env=os.environ | workers.environment(addresses, index),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # otherwise Ctrl-C would reach it twice
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Makes Linux stop a worker (it saves a checkpoint first) if this program is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _copy(output: IO[str], file: IO[str], index: int, lock: threading.Lock) -> None:
    """Prints a worker's output and copies it to a file."""
    with output, file:
        for line in output:
            with lock:
                console.say(f"worker {index}: {line.rstrip()}")
            file.write(line)
            file.flush()


def main(arguments: list[str]) -> None:
    """Starts the workers, and restarts them if one dies."""
    cli.refuse(cli.parse(["train", *arguments])[1:])
    config = cli.config_from_flags()
    config = dataclasses.replace(config, run_name=config.run_name or run_dir.name_from_time())
    directory = pathlib.Path(config.logdir) / f"{config.run_name}.workers"
    run_dir.RunDir.of(config).check(config)
    directory.mkdir(parents=True, exist_ok=True)
    group = _Group()
    for left in reversed(range(_RESTARTS.value + 1)):
        codes = group.run(config, _WORKERS.value, directory)
        failed = {index: code for index, code in enumerate(codes) if code}
        if group.received:
            sys.exit(128 + group.received)
        if not failed or set(failed.values()) & _FINAL:
            sys.exit(max(codes))
        words = ", ".join(f"worker {index} with {code}" for index, code in failed.items())
        next_ = f"starting all again, {left} times at most" if left else f"see {directory}"
        console.say(f"Exit codes: {words}; {next_}", sys.stderr)
        config = dataclasses.replace(config, overwrite=False)
    sys.exit(1)


if __name__ == "__main__":
    cli.define_flags()
    cli.start(main)
