"""Measures the pipeline against what would be used instead, and prints the ratios.

Usage: .venv/bin/python scripts/benchmark.py [--quick] [--peers] [--only=MLP] [--markdown=table.md]

The sides take turns, round by round, each in its own lasting process, so a busy machine slows all
of them. The ratios of the medians count. Times are training time only, after compilation; another
column has the time from the start of the process to the end of the first round, including imports
and compilation. JAX, PyTorch and scikit-learn are installed in their own environment, .venv-peers,
which --peers makes; without it they are left out. Exits with 1 if a goal is missed.
"""

import argparse
import functools
import os
import pathlib
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import NamedTuple

import benchmark_predict
import numpy as np

_MILLION = 1_000_000
SCRIPTS = pathlib.Path(__file__).parent
PEERS = SCRIPTS.parent / ".venv-peers"
PEER_PACKAGES = {"jax": "jax", "torch": "torch", "sklearn": "scikit-learn"}
PEER_REQUIREMENTS = "jax torch==2.13.0 scikit-learn pandas polars"


class Goal(NamedTuple):
    """A goal for the speed: `other` takes at least `factor` times as long as `side`.

    Without a factor the ratio is only reported.
    """

    work: str
    side: str
    other: str
    factor: float | None = None


_INTRODUCTION = (
    "What `scripts/benchmark.py --peers --markdown=.github/BENCHMARK.md` printed: medians, both "
    "sides in turn. Training alone, after compilation, for each step of the full batch or each "
    "example of mini-batches; and the time from the start of the process to the end of a first "
    "round."
)
FULL, RECORDED = "full batch, 201 points", "every step recorded"
GOALS = (
    Goal(f"{FULL}, {RECORDED}", "pipeline", "guide", 800),
    Goal(f"{FULL}, {RECORDED}", "pipeline", "keras fit", 5000),
    Goal(f"{FULL}, {RECORDED}", "pipeline", "jax scan", 1 / 4),
    Goal(f"{FULL}, nothing recorded", "pipeline without summaries", "jax scan", 1),
    Goal(f"{FULL}, nothing recorded", "pipeline without summaries", "jax scan with our XLA flag"),
    Goal(f"1M examples, batch 32, {RECORDED}", "pipeline 32", "keras fit 32", 150),
    Goal(f"1M examples, batch 32, {RECORDED}", "pipeline 32", "jax 32", 5),
    Goal(f"1M examples, batch 32, {RECORDED}", "pipeline 32", "torch 32", 40),
    Goal(f"1M examples, batch 32, {RECORDED}", "pipeline 32", "sklearn", 1),
    Goal(f"1M examples, batch 1024, {RECORDED}", "pipeline 1024", "keras fit 1024", 40),
    Goal(f"1M examples, batch 1024, {RECORDED}", "pipeline 1024", "jax 1024", 10),
    Goal(f"1M examples, batch 1024, {RECORDED}", "pipeline 1024", "torch 1024", 4),
    # A factor below 1 allows for noise between two processes that do the same work.
    Goal("reading a CSV of 1M rows", "pipeline csv", "numpy csv", 0.95),
    Goal(f"the CSV, batch 1024, {RECORDED}", "pipeline 1024, CSV", "pipeline 1024", 0.9),
    Goal(f"{FULL}, --loop=fit, {RECORDED}", "pipeline --loop=fit", "keras fit", 1),
    *(
        Goal(
            f"1M examples, MLP 1-64-64-1, {title}, batch 32, {RECORDED}",
            f"pipeline mlp {name}",
            f"{other} mlp {name}",
            factor,
        )
        for name, title in (("sgd", "SGD"), ("adam", "Adam"))
        for other, factor in (
            ("keras fit", 25),
            ("keras fit tuned", 5),
            ("torch", 8),
            ("jax", 1.2),
            ("pipeline --loop=fit", None),
        )
    ),
    *(
        Goal(f"{title}, {RECORDED}", f"pipeline {name}", f"keras fit {name}", factor)
        for name, title, factor in (
            ("20-256-256-1", "MLP 20-256-256-1, batch 256", 1.7),
            ("20-1024-1024-1", "MLP 20-1024-1024-1, batch 1024", 1),
            ("convolution", "two convolutions over 16 by 16, batch 32", 1),
        )
    ),
    *(
        Goal(f"tf.data: {title}{loop}, {RECORDED}", side, f"{other} {name}", factor)
        for name, title, factors in (
            ("stream", "shuffled batches of 32, MLP 1-64-64-1", (2, None)),
            ("augmented stream", "augmented batches of 32, two convolutions", (1, None)),
        )
        for loop, side in (
            ("", f"pipeline {name}"),
            (", --loop=fit", f"pipeline --loop=fit {name}"),
        )
        for other, factor in zip(("keras fit", "keras fit tuned"), factors, strict=True)
    ),
)


class Side:
    """One side of the comparison, in its own process."""

    def __init__(self, name: str, python: pathlib.Path):
        from pipeline import tf_runtime

        self._name = name
        ours = {"XLA_FLAGS": tf_runtime.XLA_FLAG} if name.endswith("our XLA flag") else {}
        self._process = subprocess.Popen(
            [str(python), str(SCRIPTS / "benchmark_sides.py"), name],
            env={**os.environ, **ours},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds: list[float] = []
        self.start_up = 0.0

    def start(self) -> None:
        """Waits until the side is compiled and warm."""
        begin = time.perf_counter()
        self._answer()  # "ready"
        self.start_up = time.perf_counter() - begin

    def run(self) -> None:
        """Runs one more round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"benchmark: the side {self._name!r} failed")
        return line

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def peers_python(*, may_install: bool) -> pathlib.Path | None:
    """The interpreter with the peers' packages; None if they are not installed."""
    python, stamp = PEERS / "bin" / "python", PEERS / ".installed"
    if python.exists() and stamp.exists() and stamp.read_text() == PEER_REQUIREMENTS:
        return python
    if not may_install:
        return None
    print(
        f"Installing {PEER_REQUIREMENTS} into {PEERS} (once; up to 5 GB, as PyTorch can come with "
        "CUDA; pip's settings can name a place that has it without)...",
        flush=True,
    )
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += [f"--constraint={SCRIPTS / 'constraints.txt'}", *PEER_REQUIREMENTS.split()]
    for command in ([sys.executable, "-m", "venv", "--clear", str(PEERS)], pip):
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"benchmark: failed: {shlex.join(command)}")
    stamp.write_text(PEER_REQUIREMENTS)
    return python


class Measured(NamedTuple):
    """Median seconds of one step or example in a round, and seconds up to the first round."""

    round: float
    start_up: float


def measure(
    goals: tuple[Goal, ...], rounds: int, peers: pathlib.Path | None
) -> dict[str, Measured]:
    """Measures each side of some goals that belong together."""
    sides = {}
    for name in dict.fromkeys(name for goal in goals for name in (goal.side, goal.other)):
        is_peer = name.split()[0] in PEER_PACKAGES
        if not is_peer or peers is not None:
            sides[name] = Side(name, peers if is_peer and peers else pathlib.Path(sys.executable))
            sides[name].start()
    for _ in range(rounds):
        for side in sides.values():
            side.run()
    for side in sides.values():
        side.close()
    return {
        name: Measured(statistics.median(side.seconds), side.start_up)
        for name, side in sides.items()
    }


class Row(NamedTuple):
    """A row of the table of whole commands."""

    work: str
    measured: str
    goal: str = ""
    met: bool | None = None


def took(command: list[str], directory: str, *, code: int = 0) -> float:
    """Returns the seconds that a command takes; another exit code ends the benchmark."""
    start = time.perf_counter()
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if result.returncode != code:
        sys.exit(f"{result.stderr}benchmark: failed: {shlex.join(command)}")
    return seconds


def commands(rounds: int) -> list[Row]:
    """Measures start-up and whole runs against `import tensorflow`, in turn."""
    train = [sys.executable, "-m", "pipeline.train"]
    kinds = {
        "import tensorflow": [sys.executable, "-c", "import tensorflow"],
        "default run": train,
        "--help": [*train, "--help"],
        "wrong flag": [*train, "--epoch=3"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for name, command in kinds.items():
                more = [f"--run_name=run{number}"] if name == "default run" else []
                code = 2 if name == "wrong flag" else 0
                seconds[name].append(took([*command, *more], directory, code=code))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["default run"] / median["import tensorflow"]
    measured = (
        f"{median['default run']:.2f} s, {ratio:.2f} times `import tensorflow` "
        f"({median['import tensorflow']:.2f} s)"
    )
    return [
        Row("default run, everything included", measured, "at most 1.3 times", ratio <= 1.3),
        *(
            Row(f"`{name}`", f"{median[name]:.2f} s", "at most 0.3 s", median[name] <= 0.3)
            for name in ("--help", "wrong flag")
        ),
    ]


def checkpoints(rounds: int) -> Row:
    """Measures the cost of checkpoints at the default interval."""
    from pipeline import config

    steps, saves = 400_000, 200
    seconds: dict[int, list[float]] = {0: [], steps // saves: []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for every, taken in seconds.items():
                command = [
                    *(sys.executable, "-m", "pipeline.train", f"--epochs={steps}"),
                    *(f"--run_name={number}-{every}", f"--checkpoint_every={every}"),
                ]
                taken.append(took(command, directory))
    without, with_saves = map(statistics.median, seconds.values())
    each = (with_saves - without) / saves
    share = each / config.Config().checkpoint_secs
    measured = f"{each * 1e3:.1f} ms, {share:.2%} of the time"
    return Row("a checkpoint", measured, "at most 2%", share <= 0.02)


def memory(quick: bool) -> list[Row]:
    """Measures the peak memory of runs of growing length and size."""
    runs = {
        "100,000 steps recorded": ("--epochs=100000", "--summary_every=1"),
        "10 million steps recorded": ("--epochs=10000000", "--summary_every=1"),
        "100 million examples, batch 4096": (
            *("--num_examples=100000000", "--batch_size=4096", "--epochs=1"),
            *("--learning_rate=0.01", "--summary_every=1"),
        ),
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        for name, flags in list(runs.items())[: 1 if quick else None]:
            script = (
                "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
                "stdout=subprocess.DEVNULL); "
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
            )
            command = [sys.executable, "-m", "pipeline.train", f"--run_name={len(rows)}", *flags]
            start = time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-c", script, *command],
                cwd=directory,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - start
            rows.append(Row(name, f"{int(result.stdout) / 1e6:.2f} GB, {seconds:.1f} s in all"))
    return rows


def on_workers(num_workers: int) -> dict[str, float]:
    """Measures the seconds of a step, or a message, of several workers, each on its own core."""
    from pipeline.distributed import workers as workers_lib

    cores = sorted(os.sched_getaffinity(0))
    addresses = workers_lib.free_addresses(num_workers)
    processes = []
    for index in range(num_workers):
        core = {cores[index % len(cores)]}
        processes.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPTS / "benchmark_workers.py")],
                env=os.environ | workers_lib.environment(addresses, index),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                preexec_fn=functools.partial(os.sched_setaffinity, 0, core),
            )
        )
    output, *_ = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("benchmark: a worker failed")
    return {
        name: float(value) for name, value in (line.split("\t") for line in output.splitlines())
    }


def workers(rounds: int) -> list[str]:
    """The tables of one, two and three workers, with a core each; three share two cores."""
    counts = (1, 2, 3)
    measured: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count, results in measured.items():
            results.append(on_workers(count))
    lines = ["| a step, in µs | 1 worker | 2 workers | 3 workers | 2 against 1 |"]
    lines.append("|---|---|---|---|---|")
    medians = {
        count: {name: statistics.median(r[name] for r in results) for name in results[0]}
        for count, results in measured.items()
    }
    for name in medians[1]:
        times = [medians[count][name] * 1e6 for count in counts]
        goal = f" ({verdict(times[0] / times[1] >= 1.4)}: 1.4)" if " x " in name else ""
        words = " | ".join(f"{time:,.1f}" for time in times)
        lines.append(f"| {name} | {words} | {times[0] / times[1]:.3g}{goal} |")
    lines += ["", "| a message, in µs | 2 workers | 3 workers |", "|---|---|---|"]
    for name in (name for name in medians[2] if name not in medians[1]):
        words = " | ".join(f"{medians[count][name] * 1e6:,.0f}" for count in (2, 3))
        lines.append(f"| {name} | {words} |")
    return lines


def growth(quick: bool) -> list[str]:
    """Measures the time of a step for growing examples and batches, beside the memory bound."""
    full = (201, 10_000, 1_000_000) if quick else (201, 2000, 10_000, 100_000, _MILLION, 10_000_000)
    batches = (32, 1024) if quick else (32, 256, 1024, 8192, 65_536)
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    import benchmark_sides

    lines = [
        "| examples | batch size | µs a step | µs to sum the batch's x and y with numpy |",
        "|---|---|---|---|",
    ]
    for count, size in [*((n, n) for n in full), *((_MILLION, n) for n in batches)]:
        steps = max(20, min(100_000, 40_000_000 // size))
        epochs = -(-steps * size // count)
        batch_size = 0 if size == count else size
        step = benchmark_sides.pipeline(
            loop="custom", epochs=epochs, batch_size=batch_size, count=count
        )()
        step *= batch_size or 1  # with mini-batches the result is the time of an example
        x, y = benchmark_sides.examples(size)
        repeats = max(3, 10_000_000 // size)
        start = time.perf_counter()
        for numbers in (x, y):  # many sums in one call, as a call itself takes microseconds
            np.broadcast_to(numbers, (repeats, size)).sum(axis=1)
        bound = (time.perf_counter() - start) / repeats
        lines.append(f"| {count:,} | {size:,} | {step * 1e6:,.2f} | {bound * 1e6:,.2f} |")
    return lines


def versions(python: pathlib.Path, packages: Iterable[str]) -> str:
    """The versions of some packages in an environment."""
    code = (
        "import importlib.metadata, sys; "
        "print(*(f'{n} {importlib.metadata.version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    command = [str(python), "-c", code, *packages]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine(peers: pathlib.Path | None) -> str:
    """Describes the machine."""
    installed = versions(pathlib.Path(sys.executable), ("tensorflow", "keras", "numpy"))
    if peers:
        installed += f"; {versions(peers, PEER_PACKAGES.values())}"
    model = "unknown processor"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    gigabytes = resource.getpagesize() * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {model}, {gigabytes:.0f} GiB, "
        f"no GPU; Python {platform.python_version()}, {installed}"
    )


def predictions(quick: bool, peers: pathlib.Path | None) -> list[str]:
    """The table of `pipeline.predict`."""
    rows = benchmark_predict.ROWS // (10 if quick else 1)
    with tempfile.TemporaryDirectory() as folder:
        return benchmark_predict.table(
            pathlib.Path(folder), peers, rows=rows, rounds=1 if quick else 3
        )


def verdict(met: bool | None) -> str:
    """The verdict on a goal; None means that there is no goal."""
    return "" if met is None else "met" if met else "**missed**"


def row(goal: Goal, side: Measured, other: Measured | None) -> str:
    """A row of the table; other=None for a peer that is not installed."""
    wanted = "" if goal.factor is None else f"{goal.factor:g}"
    fields = [goal.work, goal.other, "not installed", wanted, "", "", ""]
    if other is not None:
        ratio = other.round / side.round
        fields[2] = f"{ratio:,.4g}"
        if goal.factor is not None:
            fields[4] = verdict(ratio >= goal.factor)
        fields[5] = f"{side.round * 1e9:,.0f} ns and {other.round * 1e9:,.0f} ns"
        fields[6] = f"{side.start_up:.1f} s and {other.start_up:.1f} s"
    return f"| {' | '.join(fields)} |"


def main() -> None:
    """Measures, prints and perhaps writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, in two minutes")
    parser.add_argument(
        "--peers", action="store_true", help="install JAX, PyTorch and others (up to 5 GB)"
    )
    parser.add_argument(
        "--only", default="", help="only rows whose work contains this; or: predict"
    )
    parser.add_argument("--markdown", type=pathlib.Path, help="also write the tables to this file")
    chosen = parser.parse_args()
    if chosen.markdown and not chosen.markdown.parent.is_dir():
        parser.error(f"--markdown: {chosen.markdown.parent} is not a directory")
    peers = peers_python(may_install=chosen.peers)
    with tempfile.TemporaryDirectory() as directory:
        tempfile.tempdir = os.environ["TMPDIR"] = directory  # of the processes too
        lines = tables(quick=chosen.quick, peers=peers, only=chosen.only)
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n")
    missed = sum(verdict(False) in line for line in lines)
    if missed:
        sys.exit(f"benchmark: {missed} of the goals missed")


def tables(*, quick: bool, peers: pathlib.Path | None, only: str = "") -> list[str]:
    """Measures all work or a part of it; prints and returns the lines of the tables."""
    rounds = 1 if quick else 5
    lines = [
        *("# Benchmark", "", _INTRODUCTION, "", machine(peers), ""),
        "| work | against | times as fast | goal | | time each | start-up and compilation |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for work in dict.fromkeys(goal.work for goal in GOALS if only in goal.work):
        goals = tuple(goal for goal in GOALS if goal.work == work)
        measured = measure(goals, rounds, peers)
        for goal in goals:
            lines.append(row(goal, measured[goal.side], measured.get(goal.other)))
            print(lines[-1], flush=True)
    if only in ("", "predict"):
        lines += ["", *predictions(quick, peers), ""]
        print("\n".join(lines[-5:]), flush=True)
    if only:
        return lines
    more = ["", "| whole commands | measured | goal | |", "|---|---|---|---|"]
    for command in [*commands(rounds), checkpoints(rounds), *memory(quick)]:
        more.append(f"| {' | '.join([*command[:3], verdict(command.met)])} |")
    more += ["", *growth(quick), "", *workers(min(rounds, 3))]
    print("\n".join(more))
    return lines + more


if __name__ == "__main__":
    main()
