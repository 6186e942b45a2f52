"""The examples in scripts/examples, trained as the commands in their docstrings say."""

import ast
import dataclasses
import pathlib
import runpy
import shlex
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import predict
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from tests import helpers

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_ROOT = pathlib.Path(__file__).parent.parent
_EXAMPLES = sorted((_ROOT / "scripts" / "examples").glob("*.py"))
_EPOCHS = 2


def _config(code: dict[str, Any], folder: pathlib.Path, **more: Any) -> config_lib.Config:
    """The settings of the command in an example's docstring, but for these."""
    _, _, command = code["__doc__"].replace("\\\n", "").partition("python -m pipeline.train ")
    given = dict(flag.removeprefix("--").split("=") for flag in shlex.split(command))
    types = {field.name: field.type for field in dataclasses.fields(config_lib.Config)}
    values = {name: v if types[name] is str else ast.literal_eval(v) for name, v in given.items()}
    return config_lib.Config(**values | {"logdir": str(folder), "epochs": _EPOCHS} | more)


def _compiled(code: dict[str, Any], config: config_lib.Config) -> dict[str, Any]:
    """What plain Keras compiles a model with that the example does not compile."""
    if config.optimizer == "sgd":
        return {}
    rate = code[config.schedule.partition(":")[2]] if ":" in config.schedule else None
    loss = config.loss.partition(":")[2]
    optimizer = tf.keras.optimizers.Adam(rate or config.learning_rate)
    return {"loss": code[loss] if loss else config.loss, "optimizer": optimizer}


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_trained_as_by_plain_keras_in_both_loops(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, path: pathlib.Path
) -> None:
    """A cut and resumed run has the weights of fit exactly, the other loop up to rounding."""
    monkeypatch.chdir(_ROOT)
    code = runpy.run_path(str(path))
    config = _config(code, tmp_path)
    model, expected = helpers.fitted_by_keras(config, **_compiled(code, config))
    for loop, epochs in {config.loop: [_EPOCHS], "fit": [1, _EPOCHS]}.items():
        for count in epochs:
            run = _config(code, tmp_path, run_name=loop, loop=loop, epochs=count)
            datasets = datasets_lib.load(run)
            trainer.train(run, datasets)
        found = checkpoints.variables(tmp_path / loop / "checkpoints")
        rtol, atol = (0, 0) if loop == "fit" else (1e-5, 1e-5)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol, atol, err_msg=name)
    x = batches_lib.sample(datasets, 5).x
    predicted = predict.load(tmp_path / "fit").predict(tf.nest.map_structure(np.asarray, x))
    for one, other in zip(tf.nest.flatten(predicted), tf.nest.flatten(model(x)), strict=True):
        np.testing.assert_allclose(np.ravel(one), np.ravel(other), rtol=1e-4, atol=1e-5)
