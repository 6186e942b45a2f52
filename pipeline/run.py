"""A run from start to end: prepare, train, export, say what comes next."""

import contextlib
import pathlib
import shlex

import numpy as np

from pipeline import (
    cli,
    custom_loop,
    examples,
    export,
    fit_loop,
    folder,
    metrics,
    optimizers,
    recorder,
)
from pipeline import config as config_lib
from pipeline import data as data_lib
from pipeline import model as model_lib

_EXPORT_SAMPLE = 100  # examples on which a reloaded export must agree


def train(config: config_lib.Config, data: examples.Data) -> None:
    """Trains a model on the data and leaves a finished run folder.

    Raises:
      errors.InputError: the run exists already, or the optimizer is unknown.
      errors.RunError: the folder can't be written to.
      errors.DivergedError: the loss became infinite or NaN.
    """
    paths = folder.RunFolder(config)
    features = None if data.train.x.ndim == 1 else len(data.features)
    batches = data_lib.TrainingData(
        *data.train,
        batch_size=config.batch_size,
        seed=config.seed,
        small_blocks=config.run_eagerly,
    )
    model = model_lib.create(
        config.model,
        initial_w=config.initial_w,
        initial_b=config.initial_b,
        num_features=features,
    )
    loop = {"custom": custom_loop.train, "fit": fit_loop.train}[config.loop]
    optimizer = optimizers.create(
        config.optimizer,
        config.learning_rate,
        model.trainable_variables,
        hand_written=config.loop == "custom",
    )
    yardstick = recorder.Yardstick.of(config, data)

    paths.create(config)
    observer = recorder.Recorder(
        config, data, yardstick, paths=paths, steps_per_epoch=batches.steps_per_epoch
    )
    with contextlib.closing(observer):
        observer.start(_parameters(model))
        loop(
            model,
            batches,
            optimizer=optimizer,
            first_step=0,
            last_step=config.epochs * batches.steps_per_epoch,
            observe=observer,
            run_eagerly=config.run_eagerly,
        )
        observer.finish()

    if isinstance(model, model_lib.KerasLinearModel):
        _save_weights(model, paths.weights)
    sample = data.train.x[:_EXPORT_SAMPLE]
    export.publish(model, paths.export, features=data.features, sample=sample)
    _say_what_next(paths, data)


def _parameters(model: model_lib.Model) -> metrics.Parameters:
    return metrics.Parameters(np.atleast_1d(model.W.numpy()), float(model.b.numpy()))


def _save_weights(model: model_lib.KerasLinearModel, path: pathlib.Path) -> None:
    """Saves the weights in Keras' own format; whole or not at all."""
    unfinished = path.with_name(f".unfinished.{path.name}")
    model.save_weights(unfinished)
    unfinished.rename(path)


def _say_what_next(paths: folder.RunFolder, data: examples.Data) -> None:
    """Prints the commands that go on from here, ready to be copied."""
    path = shlex.quote(str(paths.path))
    example = ",".join(f"{x:.3g}" for x in np.atleast_1d(data.train.x[-1]))
    print(
        f"\nTrained: {paths.path}\n"
        f"Watch:   {cli.command('watch', path)}\n"
        f"Predict: {cli.command('predict', f'--export_dir={path}/export', f'--x={example}')}\n"
        f"Repeat:  {cli.command('train', f'--flagfile={path}/flags.txt', '--run_name=')}"
    )
