"""Kills training runs at random moments and checks that nothing is lost.

Usage: .venv/bin/python scripts/crash_test.py [flags]

Trains one run undisturbed, then the same run again and again, killed at random moments
(while TensorFlow starts, in training steps, event writes, checkpoint saves, pictures and the
export) and restarted with the same command until it ends. Then W, b and the optimizer's
slots, the events, the pictures and the export must equal those of the undisturbed run, bit
for bit; wall times and measured rates aside. Prints a line per kill and a verdict.
"""

import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import app, flags

from pipeline import tf_runtime

flags.DEFINE_integer("kills", 30, "How many times to kill.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the moments.")
flags.DEFINE_enum("loop", "custom", ["custom", "fit"], "The training loop.")
flags.DEFINE_enum("signal", "KILL", ["KILL", "TERM", "INT"], "The signal to kill with.")
flags.DEFINE_list("flags", [], "More flags for pipeline.train, separated by commas.")

# Enough steps for a second or two of training, with a checkpoint every few dozen milliseconds.
_WORK = {
    "custom": ("--model=keras", "--epochs=2500", "--batch_size=32", "--checkpoint_every=500"),
    "fit": ("--model=keras", "--epochs=60", "--batch_size=32", "--checkpoint_every=50"),
}


def command(logdir: pathlib.Path) -> list[str]:
    """The command that starts the run, and resumes it."""
    values = flags.FLAGS
    return [
        *(sys.executable, "-m", "pipeline.train", f"--logdir={logdir}", "--run_name=run"),
        *(f"--loop={values.loop}", "--optimizer=adam", *_WORK[values.loop], *values.flags),
    ]


def content(run: pathlib.Path) -> dict[str, Any]:
    """All that a run leaves, without the times at which it did."""
    import tensorflow as tf

    found: dict[str, Any] = {"figures": {}, "events": {}, "checkpoint": {}}
    for path in run.glob("figures/*.png"):
        found["figures"][path.name] = path.read_bytes()
    for path in sorted(run.glob("*/events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if not value.tag.endswith(
                    ("_per_second", "session_start_info", "session_end_info")
                ):
                    key = (path.parent.name, value.tag, event.step)
                    found["events"].setdefault(key, []).append(bits(value))
    newest = max(run.glob("checkpoints/ckpt-*.index"), key=lambda path: int(path.stem[5:]))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    for name in reader.get_variable_to_shape_map():
        if "save_counter" not in name and "run_state" not in name and "OBJECT_GRAPH" not in name:
            found["checkpoint"][name] = np.asarray(reader.get_tensor(name)).tobytes()
    versions = [path.name for path in run.glob("export/*")]
    export = tf.saved_model.load(str(run / "export" / "1"))
    values = export.signatures["parameters"]()
    parameters = {name: value.numpy().tobytes() for name, value in values.items()}
    leftovers = [str(path.relative_to(run)) for path in run.rglob("*") if "unfinished" in path.name]
    return found | {"export": parameters, "versions": versions, "leftovers": leftovers}


def bits(value: Any) -> bytes:
    """A summary value, in a form that does not tell a file's first point from later ones."""
    import tensorflow as tf

    if value.HasField("simple_value"):
        return np.float32(value.simple_value).tobytes()
    if value.metadata.plugin_data.plugin_name == "scalars":
        return bytes(tf.make_ndarray(value.tensor).tobytes())
    return bytes(value.SerializeToString())


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The parts in which two runs differ."""
    found = []
    for part in one:
        if one[part] == other[part]:
            continue
        names = ""
        if isinstance(one[part], dict):
            keys = one[part].keys() | other[part].keys()
            wrong = [key for key in keys if one[part].get(key) != other[part].get(key)]
            names = f" ({len(wrong)} of {len(keys)}, such as {min(wrong, key=str)})"
        found.append(part + names)
    return found


def kill_until_done(logdir: pathlib.Path, seconds: float, chance: random.Random, kills: int) -> int:
    """Runs to the end, with at most so many kills; returns how many there were."""
    count = 0
    while True:
        process = subprocess.Popen(
            command(logdir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        moment = chance.uniform(0, seconds)
        try:
            out, _ = process.communicate(timeout=moment if count < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.Signals[f"SIG{flags.FLAGS.signal}"])
            out, _ = process.communicate()
            count += 1
            last = out.strip().splitlines()[-1] if out.strip() else "(no output yet)"
            print(
                f"kill {count} after {moment:5.2f} s, exit {process.returncode}: {last}", flush=True
            )
            continue
        if process.returncode:
            sys.exit(f"the run failed with exit code {process.returncode}:\n{out}")
        return count


def main(arguments: list[str]) -> None:
    """Kills and compares, and exits with 1 if anything differs."""
    del arguments
    chance = random.Random(flags.FLAGS.seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="crash_test"))
    start = time.monotonic()
    # All runs have the same path while they run, as it is part of what they record.
    logdir = folder / "logs"
    subprocess.run(command(logdir), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    tf_runtime.import_tensorflow()
    expected = content((logdir / "run").rename(folder / "undisturbed"))
    print(f"undisturbed: {seconds:.1f} s, {len(expected['events'])} events", flush=True)
    done = runs = failed = 0
    while done < flags.FLAGS.kills:
        runs += 1
        done += kill_until_done(logdir, seconds, chance, flags.FLAGS.kills - done)
        run = (logdir / "run").rename(folder / str(runs))
        wrong = differences(expected, content(run))
        failed += bool(wrong)
        print(
            f"run {runs}: {'differs in ' + ', '.join(wrong) if wrong else 'the same bits'}",
            flush=True,
        )
        if not wrong:
            shutil.rmtree(run)
    verdict = "FAILED" if failed else "passed"
    print(f"{verdict}: {done} kills, {runs} runs, {failed} of them differ")
    if failed:
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    app.run(main)
