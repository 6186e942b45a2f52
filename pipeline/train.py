"""Trains a model and shows in TensorBoard how.

Example:
  python -m pipeline.train --epochs=100 --learning_rate=0.05

A run writes to <logdir>/<run_name>: event files for TensorBoard, plots, checkpoints, and the
trained model as a SavedModel. If TF_CONFIG names several workers, they train one model together.
"""

import dataclasses

from pipeline import cli, console, errors, user_code
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import start, workers
from pipeline.run import run_dir


def main(arguments: list[str]) -> None:
    """Trains as the flags say."""
    cli.refuse(arguments)
    config = cli.config_from_flags()
    name = config.run_name or run_dir.name_from_time()
    config = dataclasses.replace(config, run_name=name)
    directory = run_dir.RunDir.of(config)
    user_code.find(config)  # raises if there is none
    worker = workers.from_environment()
    errors.require(
        worker.count == 1 or config.loop == "custom",
        "TF_CONFIG names several workers, which --loop=fit can't use: Keras 3 does not support "
        "tf.distribute.MultiWorkerMirroredStrategy; use --loop=custom",
    )
    if worker.is_chief:
        directory.check(config)
    datasets = datasets_lib.load(config, worker)
    if worker.is_chief:
        console.say(
            f"Training {directory.path}: {config.model} model, {config.loop} loop, "
            f"{datasets.described(config)}, {config.epochs:,} epochs"
            + (f", {datasets.dropped:,} rows left out" if datasets.dropped else "")
            + (f", {worker.count} workers" if worker.count > 1 else "")
        )
    if worker.count > 1 and worker.is_chief:
        others = ", ".join(str(index) for index in range(1, worker.count))
        console.say(f"Waiting for worker {others}, {config.peer_timeout_secs} s at most")
    communicator = start.import_tensorflow(worker, timeout_secs=config.peer_timeout_secs)
    from pipeline.run import trainer

    trainer.train(config, datasets, communicator)


if __name__ == "__main__":
    cli.define_flags()
    cli.start(main)
