"""Compares `pipeline.predict` with pandas, polars and numpy on the same CSV file.

Part of scripts/benchmark.py, which says how to run it.
"""

import pathlib
import resource
import statistics
import subprocess
import sys

import numpy as np

ROWS = 10_000_000
_FEATURES = (1, 3)
_GOALS = ("pandas", "numpy")  # sides that must not take less user time

_MODEL = """
import sys
import numpy as np
features = int(sys.argv[1])
W, b = np.arange(1, features + 1, dtype=np.float32), np.float32(2)
"""
_OTHERS = {
    "pandas": """
import pandas
table = pandas.read_csv("x.csv")
table["y"] = table.to_numpy(np.float32) @ W + b
table.to_csv("other.csv", index=False)
""",
    "polars": """
import polars
table = polars.read_csv("x.csv")
y = table.to_numpy().astype(np.float32) @ W + b
table.with_columns(y=polars.Series(y)).write_csv("other.csv")
""",
    "numpy": """
x = np.loadtxt("x.csv", delimiter=",", skiprows=1, ndmin=2)
rows = np.column_stack([x, x.astype(np.float32) @ W + b])
names = ",".join([*"abc"[:features], "y"])
np.savetxt("other.csv", rows, "%.9g", ",", header=names, comments="")
""",
}


def user_seconds(command: list[str], directory: pathlib.Path) -> tuple[float, float]:
    """Returns a command's user CPU time, without the kernel's, and its peak memory in MB."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    wrapped = [sys.executable, "-c", script, *command]
    result = subprocess.run(wrapped, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{result.stderr}benchmark: failed: {command}")
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return seconds, int(result.stdout.split()[-1]) / 1000


def prepare(directory: pathlib.Path, features: int, rows: int) -> None:
    """Makes the table x.csv, and trains a model with this number of features."""
    names = ",".join("abc"[:features])
    random = np.random.default_rng(0)
    x = random.normal(size=(200, features))
    table = np.column_stack([x, x.sum(axis=1)])
    np.savetxt(directory / "train.csv", table, "%.6f", ",", header=f"{names},y", comments="")
    with open(directory / "x.csv", "w") as file:
        print(names, file=file)
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            np.savetxt(file, random.normal(size=(count, features)), "%.6f", ",")
    train = [sys.executable, "-m", "pipeline.train", "--data=train.csv", "--standardize=false"]
    flags = ["--learning_rate=0.1", f"--run_name={features}"]
    subprocess.run([*train, *flags], cwd=directory, check=True, stdout=subprocess.DEVNULL)


def table(
    directory: pathlib.Path, peers: pathlib.Path | None, *, rounds: int, rows: int = ROWS
) -> list[str]:
    """The lines of the table, by the user time of each side; the sides take turns."""
    lines = [
        f"| predict on {rows:,} rows | user time, peak | pandas | polars | numpy | goal |",
        "|---|---|---|---|---|---|",
    ]
    for features in _FEATURES:
        prepare(directory, features, rows)
        export = f"--export_dir=logs/{features}/export"
        predict = [sys.executable, "-m", "pipeline.predict", export]
        commands = {"": [*predict, "--input=x.csv", "--output=own.csv"]}
        for name, code in _OTHERS.items():
            python = sys.executable if name == "numpy" else peers
            if python:
                commands[name] = [str(python), "-c", _MODEL + code, str(features)]
        used: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                used[name].append(user_seconds(command, directory))
        seconds = {name: statistics.median(s for s, _ in each) for name, each in used.items()}
        peak = max(megabytes for _, megabytes in used[""])
        is_met = all(seconds[""] <= seconds[name] for name in _GOALS if name in seconds)
        cells = [
            f"{features} feature{'s' * (features > 1)}",
            f"{seconds['']:.1f} s, {peak:.0f} MB",
            *(f"{seconds[n]:.1f} s" if n in seconds else "not installed" for n in _OTHERS),
            "met" if is_met else "**missed**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
