"""Kills training at random moments and checks that nothing is lost.

Usage: .venv/bin/python scripts/crash_test.py [flags]

Starts a command undisturbed, then the same again and again, killed at random moments (while
TensorFlow starts, in training steps, event writes, checkpoint saves, plots and the export) and
restarted until it ends. Then W, b and the optimizer's slots, the events, the plots, the exports
and what both readers of TensorBoard show must equal those of the undisturbed command, bit for
bit; wall times and measured rates aside. The command is, by --scenario:

  train      a training run
  extension  more epochs for a finished run
  overwrite  a run of the name of a finished one, which must be kept under another name
  sweep      a sweep of three runs

With --workers=2 the run is that of pipeline.launch, and one of its workers is killed each time.

Prints a line per kill and a verdict.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import screenshot
from absl import app, flags

from pipeline import tf_runtime

flags.DEFINE_integer("kills", 30, "How many times to kill.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the moments.")
flags.DEFINE_enum("loop", "custom", ["custom", "fit"], "The training loop.")
flags.DEFINE_string("model", "keras", "The model, as for pipeline.train.")
flags.DEFINE_integer("workers", 1, "Processes that train together.", lower_bound=1)
flags.DEFINE_enum("scenario", "train", ["train", "extension", "overwrite", "sweep"], "See above.")
flags.DEFINE_enum("signal", "KILL", ["KILL", "TERM", "INT", "HUP"], "The signal to kill with.")
flags.DEFINE_bool("tensorboard", True, "Whether to compare what TensorBoard shows, too.")
flags.DEFINE_list("flags", [], "More flags for pipeline.train, separated by commas.")

# Enough steps for a second or two of training, with a checkpoint every few dozen milliseconds.
_EPOCHS = {"custom": 2500, "fit": 60, "workers": 400}
_CHECKPOINT_EVERY = {"custom": 500, "fit": 50, "workers": 100}
_OF_THE_CLOCK = ("_per_second", "session_start_info", "session_end_info")  # time-dependent tags
_SHOWN = ("scalars", "images", "histograms")  # plugins of TensorBoard


def command(logdir: pathlib.Path, *more: str) -> list[str]:
    """The command that starts and resumes the scenario."""
    loop, is_sweep = flags.FLAGS.loop, flags.FLAGS.scenario == "sweep"
    workers = flags.FLAGS.workers
    start = ["pipeline.sweep" if is_sweep else "pipeline.train"]
    if workers > 1:
        start = ["pipeline.launch", f"--workers={workers}", "--restarts=1000", "--"]
    kind = "workers" if workers > 1 else loop
    return [
        *(sys.executable, "-m", *start, f"--logdir={logdir}", "--run_name=run", f"--loop={loop}"),
        *(f"--model={flags.FLAGS.model}", "--optimizer=adam", "--batch_size=32"),
        *("--learning_rate=0.03", f"--epochs={_EPOCHS[kind]}"),
        f"--checkpoint_every={_CHECKPOINT_EVERY[kind]}",
        *(["--learning_rate=0.01,0.03,0.1"] if is_sweep else []),
        *(["--overwrite"] if flags.FLAGS.scenario == "overwrite" else []),
        *flags.FLAGS.flags,
        *more,
    ]


def earlier(logdir: pathlib.Path) -> None:
    """Trains the runs that exist when the scenario starts."""
    more = {"extension": "--epochs=20", "overwrite": "--seed=1"}.get(flags.FLAGS.scenario)
    if more:
        subprocess.run(command(logdir, more), check=True, stdout=subprocess.DEVNULL)


def runs(logdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """The runs to compare: the command's run, and one that it must have kept."""
    if flags.FLAGS.scenario == "sweep":
        return {path.name: path for path in (logdir / "run").iterdir() if path.is_dir()}
    found = {"run": logdir / "run"}
    for path in logdir.glob("run.*"):
        flagfile = path / "flags.txt"
        if flagfile.exists() and "--seed=1\n" in flagfile.read_text():
            found["the earlier run"] = path
    return found


def content(run: pathlib.Path) -> dict[str, Any]:
    """The content of a run's files, without times."""
    readers = ("true", "false") if flags.FLAGS.tensorboard else ()
    return {
        "figures": {path.name: path.read_bytes() for path in run.glob("figures/*.png")},
        "events": events(run),
        "metrics.csv": (run / "metrics.csv").read_bytes(),
        "checkpoint": checkpoint(run),
        "exports": exports(run),
        "leftovers": [str(path) for path in run.rglob("*") if "unfinished" in path.name],
        **{f"TensorBoard, load_fast={value}": shown(run, value) for value in readers},
    }


def events(run: pathlib.Path) -> dict[Any, list[bytes]]:
    """The values in the event files, by curve, tag and step."""
    import tensorflow as tf

    found: dict[Any, list[bytes]] = {}
    for path in sorted(run.glob("*/events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if not value.tag.endswith(_OF_THE_CLOCK):
                    key = (path.parent.name, value.tag, event.step)
                    found.setdefault(key, []).append(bits(value))
    return found


def bits(value: Any) -> bytes:
    """Serializes a summary value so that a file's first point equals later ones."""
    import tensorflow as tf

    # Later points of a tag do not name their plugin.
    if value.HasField("tensor") and value.metadata.plugin_data.plugin_name in ("", "scalars"):
        return bytes(tf.make_ndarray(value.tensor).tobytes())
    return bytes(value.SerializeToString())


def checkpoint(run: pathlib.Path) -> dict[str, bytes]:
    """The variables of model and optimizer in the newest checkpoint."""
    import tensorflow as tf

    newest = max(run.glob("checkpoints/ckpt-*.index"), key=lambda path: int(path.stem[5:]))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    variables = [name for name in names if not name.startswith("run_state")]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in variables}


def exports(run: pathlib.Path) -> dict[str, Any]:
    """The model in each version of the export."""
    import tensorflow as tf

    found = {}
    for path in run.glob("export/*"):
        values = tf.saved_model.load(str(path)).signatures["variables"]()
        found[path.name] = {name: value.numpy().tobytes() for name, value in values.items()}
    return found


def shown(run: pathlib.Path, load_fast: str) -> dict[str, Any]:
    """The text, the layout, and the steps of curves, images and histograms in TensorBoard.

    Exits if TensorBoard has not read the last of them within a minute.
    """
    flags_ = (f"--load_fast={load_fast}", "--samples_per_plugin=scalars=1000000,images=1000")
    last = last_steps(run)
    # TensorBoard reports a restart on stderr.
    with screenshot.tensorboard(str(run), *flags_, stderr=subprocess.DEVNULL) as link:
        url = link.partition("/?")[0]
        end = time.monotonic() + 60
        # TensorBoard reads the curves' files in parallel and answers with the data read so far.
        found = shown_steps(url)
        while {key: steps[-1] for key, steps in found.items()} != last:
            if time.monotonic() > end:
                sys.exit(f"TensorBoard never read {run} to its end")
            time.sleep(0.2)
            found = shown_steps(url)
        return {
            "text": get(url, "plugin/text/text", run="train", tag="settings")[0]["text"],
            "layout": get(url, "plugin/custom_scalars/layout"),
            **found,
        }


def last_steps(run: pathlib.Path) -> dict[tuple[str, str, str], int]:
    """The last step in the event files, by plugin, curve and tag."""
    import tensorflow as tf

    plugins: dict[tuple[str, str], str] = {}
    found: dict[tuple[str, str, str], int] = {}
    for path in sorted(run.glob("*/events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                curve, tag = path.parent.name, value.tag
                # Only the first point of a tag names its plugin; images may not.
                name = (
                    "images" if value.HasField("image") else value.metadata.plugin_data.plugin_name
                )
                plugin = plugins.setdefault((curve, tag), name)
                if plugin in _SHOWN and not tag.endswith(_OF_THE_CLOCK):
                    found[plugin, curve, tag] = event.step
    return found


def shown_steps(url: str) -> dict[tuple[str, str, str], list[int]]:
    """The steps that TensorBoard shows, by plugin, curve and tag."""
    found = {}
    for plugin in _SHOWN:
        for curve, tags in get(url, f"plugin/{plugin}/tags").items():
            for tag in tags:
                if not tag.endswith(_OF_THE_CLOCK):
                    points = get(url, f"plugin/{plugin}/{plugin}", run=curve, tag=tag, sample="0")
                    found[plugin, curve, tag] = [step_of(point) for point in points]
    return found


def step_of(point: Any) -> int:
    """The step of a point in TensorBoard's answer."""
    return int(point["step"] if isinstance(point, dict) else point[1])


def get(url: str, path: str, **query: str) -> Any:
    """Returns an answer of TensorBoard; an error counts as an answer."""
    try:
        address = f"{url}/data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=30) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        return {"error": error.code}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The parts in which two runs differ."""
    found = []
    for part in one.keys() | other.keys():
        left, right = one.get(part), other.get(part)
        if left == right:
            continue
        names = ""
        if isinstance(left, dict) and isinstance(right, dict):
            keys = left.keys() | right.keys()
            wrong = [key for key in keys if left.get(key) != right.get(key)]
            names = f" ({len(wrong)} of {len(keys)}, such as {min(wrong, key=str)})"
        found.append(f"{part}{names}")
    return found


def kill_until_done(logdir: pathlib.Path, seconds: float, chance: random.Random, kills: int) -> int:
    """Runs the command to its end with at most `kills` kills; returns their number."""
    if flags.FLAGS.workers > 1:
        return kill_workers_until_done(logdir, seconds, chance, kills)
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


def kill_workers_until_done(
    logdir: pathlib.Path, seconds: float, chance: random.Random, kills: int
) -> int:
    """The same for workers: one is killed each time, and launch starts all again."""
    count = 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command(logdir), stdout=out, stderr=subprocess.STDOUT)
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None:
            moment = chance.uniform(0, seconds)
            try:
                process.wait(moment if count < kills else None)
            except subprocess.TimeoutExpired:
                workers = children.read_text().split()
                if workers:
                    number = chance.randrange(len(workers))
                    os.kill(int(workers[number]), signal.Signals[f"SIG{flags.FLAGS.signal}"])
                    count += 1
                    print(f"kill {count} after {moment:5.2f} s: worker {number}", flush=True)
        out.seek(0)
        if process.returncode:
            sys.exit(f"the run failed with exit code {process.returncode}:\n{out.read()}")
    return count


def main(arguments: list[str]) -> None:
    """Kills and compares, and exits with 1 if anything differs."""
    del arguments
    chance = random.Random(flags.FLAGS.seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="crash_test"))
    # All runs use the same path, because they record it.
    logdir, prepared = folder / "logs", folder / "prepared"
    earlier(logdir)
    logdir.mkdir(exist_ok=True)
    shutil.copytree(logdir, prepared)
    start = time.monotonic()
    subprocess.run(command(logdir), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    tf_runtime.import_tensorflow()
    expected = {name: content(run) for name, run in runs(logdir).items()}
    print(f"undisturbed: {seconds:.1f} s; compared: {', '.join(expected)}", flush=True)
    done = rounds = failed = 0
    while done < flags.FLAGS.kills:
        rounds += 1
        shutil.rmtree(logdir)
        shutil.copytree(prepared, logdir)
        start = time.monotonic()
        kills = kill_until_done(logdir, seconds, chance, flags.FLAGS.kills - done)
        if not kills:  # the command was faster than the first time
            seconds = min(seconds, time.monotonic() - start)
        done += kills
        found = {name: content(run) for name, run in runs(logdir).items()}
        wrong = [
            f"{name}: {', '.join(differences(expected[name], found.get(name, {})))}"
            for name in expected
            if expected[name] != found.get(name)
        ]
        print(f"round {rounds}: {'; '.join(wrong) or 'the same bits'}", flush=True)
        if wrong:
            failed += 1
            shutil.copytree(logdir, folder / f"round_{rounds}")
    print(f"{'FAILED' if failed else 'passed'}: {done} kills, {rounds} rounds, {failed} differ")
    if failed:
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    app.run(main)
