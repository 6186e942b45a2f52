"""Trains several runs as one of several workers.

python -m tests.train_together FOLDER NAME=RUN_NAME...

TF_CONFIG says which worker it is. Each run is <FOLDER>/logs/<run name>; the variables that the
worker has at its end go to <FOLDER>/<name>-<workers>-<worker>.npz, with its exit code.
"""

import pathlib
import sys
from typing import Any

import numpy as np

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets
from pipeline.distributed import start, workers

CONFIGS: dict[str, dict[str, Any]] = {
    "guide": {"epochs": 12},
    "longer": {"epochs": 20},
    "short-last-batch": {"model": "keras", "batch_size": 64, "epochs": 3},
    "polynomial": {"model": "polynomial", "synthetic": "sine", "learning_rate": 0.01},
    "mlp": {
        "model": "mlp",
        "synthetic": "sine",
        "batch_size": 64,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "metrics": "mae",
        "clip_norm": 0.5,
        "early_stopping_patience": 3,
        "epochs": 4,
    },
    "table": {"data": "table.csv", "validation_examples": 11, "learning_rate": 0.05},
    "diverging": {"learning_rate": 0.9, "epochs": 1000},
    "ending-early": {
        "model": "keras",
        "batch_size": 64,
        "epochs": 40,
        "early_stopping_patience": 2,
        "export": "best",
    },
}


CONFIGS["mlp-longer"] = CONFIGS["mlp"] | {"epochs": 6}


def config(name: str, logdir: pathlib.Path, run_name: str) -> config_lib.Config:
    """The settings of one of the runs."""
    settings = {**CONFIGS[name], "logdir": str(logdir), "run_name": run_name}
    if "data" in settings:
        settings["data"] = str(logdir.parent / settings["data"])
    return config_lib.Config(**settings)


def main(folder: pathlib.Path, names: list[str]) -> None:
    """Trains the runs `<name>=<run name>` one after the other."""
    worker = workers.from_environment()
    communicator = start.import_tensorflow(worker, timeout_secs=60)
    from pipeline.run import trainer
    from pipeline.training import make_task

    made: list[Any] = []
    original = make_task.make_task
    make_task.make_task = lambda *args: made.append(original(*args)) or made[-1]
    # Only the first worker may leave files, so the others have their own directory to check.
    logdir = folder / ("logs" if worker.is_chief else "nothing")
    for name, run_name in (pair.split("=") for pair in names):
        settings = config(name, logdir, run_name)
        exit_code = 0
        try:
            trainer.train(settings, datasets.load(settings, worker), communicator)
        except errors.DivergedError as error:
            exit_code = error.exit_code
        file = folder / f"{name}-{worker.count}-{worker.index}.npz"
        np.savez(file, exit_code=exit_code, **made[-1].variables.arrays())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
