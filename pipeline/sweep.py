"""Trains every combination of some settings, and compares them.

Example:
  python -m pipeline.sweep --learning_rate=0.01,0.1,0.3 --batch_size=0,32

The flags are those of pipeline.train, but a number or a name of a method may be several,
separated by commas. Each combination is a run of its own in <logdir>/<run_name>/. The same
command with the same --run_name goes on with a sweep that was stopped.
"""

import csv
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from pipeline import cli, console, errors, files, tf_runtime, user_code
from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.run import run_dir

if TYPE_CHECKING:
    from pipeline.run import finish

# Short names of settings in run names, so the run names fit into TensorBoard's side bar. A setting
# with the name of a method needs no name.
_SHORT = dict.fromkeys(("model", "loss", "loop", "optimizer", "schedule", "synthetic"), "") | {
    "learning_rate": "lr=",
    "batch_size": "batch=",
    "early_stopping_patience": "patience=",
    "num_examples": "examples=",
    "noise_stddev": "noise=",
}
_PARSE: dict[Any, Callable[[str], Any]] = {int: int, int | None: int, float: float, str: str}
_PARSE[float | None] = lambda text: None if text == "auto" else float(text)


class Outcome(NamedTuple):
    """The result of one combination, or the message of its divergence."""

    config: config_lib.Config
    result: "finish.Result | None"
    message: str = ""

    @property
    def loss(self) -> float:
        """The validation loss, or else the training loss; it orders the outcomes."""
        return self.result.evaluation.monitored if self.result else math.inf


def combinations() -> list[config_lib.Config]:
    """Returns one config for each combination of the flags' values.

    Raises:
      errors.InputError: a value is wrong, or there is nothing to combine.
    """
    fields = dataclasses.fields(config_lib.Config)
    values = {field.name: _values(field) for field in fields}
    varied = [name for name, several in values.items() if len(several) > 1]
    errors.require(varied, "give at least one flag several values, as in --learning_rate=0.1,0.2")
    name = flags.FLAGS.run_name or f"sweep-{run_dir.name_from_time()}"
    config_lib.Config(run_name=name)  # raises if it is not a valid name
    logdir = os.path.join(flags.FLAGS.logdir, name)
    configs = []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        config = config_lib.Config(**(chosen | {"logdir": logdir}))
        # mse and mean_squared_error are one value; the value of "auto" is not known yet.
        shown = {n: "auto" if chosen[n] is None else getattr(config, n) for n in varied}
        label = ",".join(f"{_SHORT.get(name, f'{name}=')}{value}" for name, value in shown.items())
        label = re.sub(r"[^\w.,=+-]", "-", label)  # a model's path may have other characters
        configs.append(dataclasses.replace(config, run_name=label))
    configs = list(dict.fromkeys(configs))
    names = [config.run_name for config in configs]
    errors.require(
        len(set(names)) == len(names),
        f"two combinations would have one name, {max(names, key=names.count)}; give their files "
        "other names",
    )
    return configs


def _values(field: "dataclasses.Field[Any]") -> list[Any]:
    """Returns the values of a field's flag."""
    given = flags.FLAGS[field.name].value
    if not field.metadata["may_sweep"] or given is None:
        return [given]
    parse = _PARSE[field.type]
    try:
        return list(dict.fromkeys(parse(text.strip()) for text in given.split(",")))
    except ValueError as error:
        raise errors.InputError(
            f"--{field.name} must be values separated by commas; received {given!r}"
        ) from error


def main(arguments: list[str]) -> None:
    """Runs the sweep."""
    cli.refuse(arguments)
    errors.require(
        workers.from_environment().count == 1,
        "TF_CONFIG names several workers; a sweep trains its runs one after the other, in one "
        "process: unset TF_CONFIG",
    )
    configs = combinations()
    loaded = []
    for config in configs:
        user_code.find(config)
        run_dir.RunDir.of(config).check(config)
        datasets = _load(config)
        loaded.append((datasets.fingerprint(), datasets.train.num_examples))
    configs = _with_references_once(configs, loaded)
    how_to_resume = f"the same command with --run_name={os.path.basename(configs[0].logdir)}"
    console.say(
        f"Sweeping {configs[0].logdir}: {len(configs)} combinations; {how_to_resume} resumes"
    )
    tf_runtime.import_tensorflow()
    import tensorflow as tf

    # Each run traces its own step, so the retracing warning is expected.
    tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())
    outcomes = []
    try:
        for number, config in enumerate(configs, 1):
            console.say(f"{number} of {len(configs)}: {config.run_name}")
            outcomes.append(_train(config))
    except errors.StoppedError as error:
        raise errors.StoppedError(error.signal_number, how_to_resume) from None
    outcomes.sort(key=lambda outcome: outcome.loss)
    _print_table(outcomes)
    _write_table(outcomes)
    console.say(f"\nWatch: {cli.command('watch', configs[0].logdir)}")


def _with_references_once(
    configs: list[config_lib.Config], loaded: list[tuple[int, int]]
) -> list[config_lib.Config]:
    """Chooses one config to draw the reference lines for all configs with the same examples.

    This is the longest run of linear regression, or else the longest run. `loaded` has the
    fingerprint and the number of each config's training examples.
    """
    best: dict[int, tuple[bool, int, int]] = {}
    for number, (config, (data, count)) in enumerate(zip(configs, loaded, strict=True)):
        # Among equals, the first one wins.
        rank = config.is_linear_regression, config.last_step(count), -number
        best[data] = max(rank, best.get(data, rank))
    chosen = {-number for *_, number in best.values()}
    return [
        dataclasses.replace(config, references=config.references and number in chosen)
        for number, config in enumerate(configs)
    ]


def _load(config: config_lib.Config) -> datasets_lib.Datasets:
    """Loads the examples of a config, once for all configs with the same examples."""
    settings = {name: getattr(config, name) for name in config_lib.OF_DATA}
    datasets = _load_examples(config_lib.Config(**settings))
    config.last_step(datasets.num_train)  # raises if the steps do not fit
    return datasets


@functools.lru_cache(maxsize=1)  # examples may be large
def _load_examples(config: config_lib.Config) -> datasets_lib.Datasets:
    return datasets_lib.load(config)


def _train(config: config_lib.Config) -> Outcome:
    """Trains one combination without printing its epochs."""
    from pipeline.run import trainer

    try:
        with console.only_progress():
            return Outcome(config, trainer.train(config, _load(config)))
    except errors.DivergedError as error:
        return Outcome(config, None, str(error).partition(";")[0])


def _print_table(outcomes: list[Outcome]) -> None:
    """Prints the results, the smallest loss first and diverged runs last."""
    console.say("")
    width = max(len(outcome.config.run_name) for outcome in outcomes)
    for outcome in outcomes:
        report = outcome.result.report if outcome.result else f"diverged: {outcome.message}"
        console.say(f"{outcome.config.run_name:{width}}  {report}")


def _write_table(outcomes: list[Outcome]) -> None:
    """Writes sweep.csv: each run's varied settings, outcome, losses and metrics."""
    settings = [outcome.config.compared for outcome in outcomes]
    every = dict.fromkeys(name for each in settings for name in each)
    names = [name for name in every if len({str(each.get(name)) for each in settings}) > 1]
    rows = []
    for outcome, setting in zip(outcomes, settings, strict=True):
        setting = {"learning_rate": "auto", **setting}
        row = {"run": outcome.config.run_name} | {name: setting.get(name, "") for name in names}
        row["outcome"] = "trained" if outcome.result else outcome.message
        rows.append(row | (outcome.result.evaluation.named if outcome.result else {}))
    path = pathlib.Path(outcomes[0].config.logdir) / "sweep.csv"
    with files.replacing(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, max(rows, key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    cli.define_flags(takes_several=True)
    cli.start(main)
