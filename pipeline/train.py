"""Trains a model and shows in TensorBoard how.

Example:
  python -m pipeline.train --epochs=100 --learning_rate=0.05

A run writes to <logdir>/<run_name>: event files for TensorBoard, plots, checkpoints, and the
trained model as a SavedModel.
"""

import dataclasses

from pipeline import cli, printing, tf_runtime, user_code
from pipeline.data import datasets as datasets_lib
from pipeline.run import run_dir


def main(arguments: list[str]) -> None:
    """Runs what the flags ask for."""
    cli.refuse(arguments)
    config = cli.config_from_flags()
    name = config.run_name or run_dir.name_from_time()
    config = dataclasses.replace(config, run_name=name)
    directory = run_dir.RunDir.of(config)
    user_code.functions(config)  # raises where there is none
    directory.check(config)
    datasets = datasets_lib.load(config)
    printing.say(
        f"Training {directory.path}: {config.model} model, {config.loop} loop, "
        f"{len(datasets.train.y):,} examples, {config.epochs:,} epochs"
    )
    tf_runtime.import_tensorflow()
    from pipeline.run import trainer

    trainer.train(config, datasets)


if __name__ == "__main__":
    cli.define_flags()
    cli.start(main)
