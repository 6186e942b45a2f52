"""Processes that fork from one that has imported TensorFlow, which saves seconds.

Like any other process, they have their own pid, directory, environment and streams, and signals end
them. Tests of the start of Python itself use `subprocess` instead.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import connection
from typing import IO

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.preload"])


class Process:
    """`python -m module ...`, with what tests need of subprocess.Popen."""

    def __init__(
        self,
        module: str,
        *arguments: object,
        cwd: pathlib.Path,
        env: Mapping[str, str] | None = None,
    ):
        """Starts it, with pipes as its streams."""
        self.args = [module, *map(str, arguments)]
        readers, writers = zip(*(_SERVER.Pipe(duplex=False) for _ in range(2)), strict=True)
        self._process = _SERVER.Process(
            target=_run, args=(self.args, str(cwd), dict(env or os.environ), writers), daemon=True
        )
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = map(_text, readers)

    @property
    def pid(self) -> int:
        """Its process id."""
        pid = self._process.pid
        assert pid
        return pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same, as a call."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal if the process still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Reads both streams to their end; kills the process after a timeout."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            out, err = pool.map(_rest, (self.stdout, self.stderr))
        in_time = timer.is_alive()
        timer.cancel()
        self.wait(timeout=10)
        if not in_time:
            raise subprocess.TimeoutExpired(self.args, timeout, out, err)
        return out, err


def _text(reader: "connection.Connection") -> IO[str]:
    """The text that comes out of a pipe."""
    stream = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
    reader.close()
    return stream


def _rest(stream: IO[str]) -> str:
    """Reads the rest of a stream; '' if it was closed."""
    if stream.closed:
        return ""
    with stream:
        return stream.read()


def _run(
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    streams: "tuple[connection.Connection, connection.Connection]",
) -> None:
    """Becomes the process that `python -m` would have started there."""
    from tests import preload

    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:] = [cwd, *preload.PATH]
    if os.path.isdir("pipeline"):  # imports a copy of the package instead of this one
        for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
            del sys.modules[name]
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
