"""Kinds of models and examples that users have, in both loops and compared with plain Keras."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from tests import helpers, kinds

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_FILE = pathlib.Path(kinds.__file__)


def config_of(
    kind: str, folder: pathlib.Path, name: str, *, file: pathlib.Path = _FILE, **more: Any
) -> config_lib.Config:
    """The settings of a run of a kind of model and its data, both in a file."""
    settings: dict[str, Any] = {"batch_size": 32, "epochs": 2, "validation_examples": 40} | more
    return config_lib.Config(
        data=f"{file}:{kind}_data",
        model=f"{file}:{kind}",
        logdir=str(folder),
        run_name=name,
        **settings,
    )


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_model_is_trained_as_by_plain_keras_in_both_loops(
    tmp_path: pathlib.Path, kind: str
) -> None:
    """Weights agree exactly with fit, and up to rounding in the other loop; resuming is exact."""
    _, expected = helpers.fitted_by_keras(config_of(kind, tmp_path, "plain"))
    found = {}
    for name, loop, epochs in (
        ("fit", "fit", [2]),
        ("custom", "custom", [2]),
        ("cut", "fit", [1, 2]),
    ):
        for count in epochs:
            config = config_of(kind, tmp_path, name, loop=loop, epochs=count)
            result = trainer.train(config, datasets_lib.load(config))
        found[name] = checkpoints.variables(tmp_path / name / "checkpoints")
        assert np.isfinite(result.evaluation.monitored)
        curve = helpers.scalars(tmp_path / name / "train")["loss"]
        assert [step for step, _ in curve] == list(range(len(curve)))
    for name, value in expected.items():
        np.testing.assert_array_equal(found["fit"][name], value, err_msg=name)
        np.testing.assert_array_equal(found["cut"][name], value, err_msg=name)
        np.testing.assert_allclose(found["custom"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    (export,) = (tmp_path / "fit" / "export").iterdir()
    assert "serving_default" in tf.saved_model.load(str(export)).signatures
