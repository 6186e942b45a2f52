"""What several test files share: real processes, real runs, a real TensorBoard."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import cli

cli.import_tensorflow()  # as every entry point does: XLA takes its settings once in a process

SOLUTIONS = ("module-custom", "keras-custom", "keras-fit")


def start(module: str, *arguments: object, cwd: pathlib.Path) -> "subprocess.Popen[str]":
    """Starts an entry point as a user would."""
    return subprocess.Popen(
        [sys.executable, "-m", f"pipeline.{module}", *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    """Waits for the end of a process."""
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def call(module: str, *arguments: object, cwd: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    """Runs an entry point to its end."""
    return finish(start(module, *arguments, cwd=cwd))


class Runs:
    """The three solutions, each trained by a process of its own on the default problem."""

    def __init__(self, folder: pathlib.Path):
        """Trains them two at a time, as many as there are cores in CI."""
        self.folder = folder
        self.logdir = folder / "logs"
        self.results: dict[str, subprocess.CompletedProcess[str]] = {}
        running = {}
        for name in SOLUTIONS:
            model, loop = name.split("-")
            flags = f"--run_name={name}", f"--model={model}", f"--loop={loop}"
            running[name] = start("train", *flags, cwd=folder)
            if len(running) == 2:
                self._collect(running)
        self._collect(running)

    def _collect(self, running: dict[str, "subprocess.Popen[str]"]) -> None:
        for name, process in running.items():
            self.results[name] = finish(process)
        running.clear()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


class TensorBoard:
    """A TensorBoard server, asked over HTTP."""

    def __init__(self, url: str, output: str):
        self.url = url
        self.output = output

    def get(self, path: str, **query: str) -> Any:
        """One answer: JSON where it is JSON, bytes elsewhere."""
        address = f"{self.url}/data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as response:
            content = response.read()
            is_json = "json" in response.headers["Content-Type"]
        return json.loads(content) if is_json else content

    def wait_for(self, ready: Callable[[], Any], seconds: float = 30) -> Any:
        """Asks again and again until there is something."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(urllib.error.HTTPError):
                if answer := ready():
                    return answer
            assert time.monotonic() < end, "TensorBoard did not get the data in time"
            time.sleep(0.2)

    def scalars(self, run: str, tag: str, points: int = 1) -> list[tuple[int, float]]:
        """The (step, value) pairs of a curve, once it has at least so many."""

        def ready() -> Any:
            answer = self.get("plugin/scalars/scalars", run=run, tag=tag)
            return answer if len(answer) >= points else None

        return [(step, value) for _, step, value in self.wait_for(ready)]

    def images(self, run: str, tag: str) -> list[bytes]:
        """The pictures of a tag as PNG files."""
        entries = self.get("plugin/images/images", run=run, tag=tag, sample="0")
        queries = [dict(urllib.parse.parse_qsl(entry["query"])) for entry in entries]
        return [self.get("plugin/images/individualImage", **query) for query in queries]


@contextlib.contextmanager
def tensorboard(logdir: pathlib.Path, *flags: str) -> Iterator[TensorBoard]:
    """Serves a folder with `python -m pipeline.watch` on a free port."""
    flags = ("--port=0", "--reload_interval=1", *flags)
    process = start("watch", logdir, *flags, cwd=logdir)
    try:
        assert process.stdout is not None
        output = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"http://localhost:\d+", output)
        assert found, process.communicate(timeout=10)
        yield TensorBoard(found[0], output)
    finally:
        process.terminate()
        process.communicate(timeout=20)
