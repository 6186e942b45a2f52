"""Keras models with a train_step or test_step of their own."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import errors
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from pipeline.training import make_task
from tests import helpers, step_kinds, test_kinds

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_FILE = pathlib.Path(step_kinds.__file__)


def _config(kind: str, folder: pathlib.Path, name: str, **more: Any) -> Any:
    return test_kinds.config_of(kind, folder, name, file=_FILE, **({"loop": "fit"} | more))


def _returned(config: Any) -> dict[str, list[float]]:
    """What train_step returns for each batch alone, by the names of the curves."""
    datasets = datasets_lib.load(config)
    model = make_task.make_task(config, datasets).model
    batches = batches_lib.Batches(datasets.train, config)
    result: dict[str, list[float]] = {}
    count = config.last_step(datasets.steps_per_epoch(config))
    for batch in helpers.singly(batches, 0, count):
        model.reset_metrics()
        numbers = {}
        for name, value in model.train_step(batch.as_keras).items():
            numbers |= value if isinstance(value, dict) else {f"training/{name}": value}
        numbers["loss"] = numbers.pop("training/loss", next(iter(numbers.values())))
        for name, value in numbers.items():
            tag = name if "/" in name or name == "loss" else f"training/{name}"
            result.setdefault(tag, []).append(float(value))
    return result


@pytest.mark.parametrize(
    ("kind", "rates", "curves"),
    [
        ("vae", [""], ["reconstruction_loss", "kl_loss", "gradient_norm"]),
        ("gan", ["d_optimizer_", "g_optimizer_"], ["d_loss", "g_loss"]),
        ("guide", [""], ["accuracy", "gradient_norm"]),
    ],
)
def test_own_train_step_is_trained_as_by_plain_keras(
    tmp_path: pathlib.Path, kind: str, rates: list[str], curves: list[str]
) -> None:
    """Weights agree exactly, resumed too; the curves show what each batch returns."""
    _, expected = helpers.fitted_by_keras(_config(kind, tmp_path, "plain"))
    for name, epochs in (("whole", [2]), ("cut", [1, 2])):
        for count in epochs:
            config = _config(kind, tmp_path, name, epochs=count)
            trainer.train(config, datasets_lib.load(config))
        found = checkpoints.variables(tmp_path / name / "checkpoints")
        for variable, value in expected.items():
            np.testing.assert_array_equal(found[variable], value, err_msg=variable)
    train = helpers.scalars(tmp_path / "cut" / "train")
    of_training = [tag for tag in train if tag.startswith("training/")]
    names = [*(f"{rate}learning_rate" for rate in rates), *curves]
    assert sorted(of_training) == sorted(f"training/{name}" for name in names)
    for tag, values in _returned(config).items():
        steps, numbers = zip(*train[tag], strict=True)
        assert steps == tuple(range(len(values) + 1))  # and the last model's
        np.testing.assert_allclose(numbers[:-1], values, rtol=1e-4, err_msg=tag)
    (export, *_) = (tmp_path / "cut" / "export").iterdir()
    assert "serving_default" in tf.saved_model.load(str(export)).signatures


def test_evaluates_what_train_step_returns_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    """Means over the examples; every batch starts with the same variables."""
    config = _config("vae", tmp_path, "vae", epochs=1)
    datasets = datasets_lib.load(config)
    model = make_task.make_task(config, datasets).model
    variables = [*model.variables, *model.optimizer.variables]
    first = [variable.numpy() for variable in variables]
    total = 0.0
    for piece in datasets.train.pieces(32):
        model.reset_metrics()
        total += float(model.train_step(tf.constant(piece.x))["kl_loss"]) * len(piece.x)
        for variable, value in zip(variables, first, strict=True):
            variable.assign(value)
    trainer.train(config, datasets)
    (_, found), *_ = helpers.scalars(tmp_path / "vae" / "train")["evaluation/kl_loss"]
    assert found == pytest.approx(total / datasets.num_train, rel=1e-5)


@pytest.mark.parametrize("loop", ["fit", "custom"])
def test_own_test_step_is_the_evaluation_as_in_keras(tmp_path: pathlib.Path, loop: str) -> None:
    """Its random numbers leave training as it is; without it, the loss is the compiled one."""
    weights = {}
    for kind in ("tested", "untested"):
        config = _config(kind, tmp_path, kind, loop=loop)
        datasets = datasets_lib.load(config)
        result = trainer.train(config, datasets)
        weights[kind] = checkpoints.variables(tmp_path / kind / "checkpoints")
    for name, value in weights["untested"].items():
        np.testing.assert_array_equal(weights["tested"][name], value)
    config = _config("tested", tmp_path, "tested", loop=loop)
    task = make_task.make_task(config, datasets)
    task.variables.assign(weights["tested"])
    expected = task.model.evaluate(
        *datasets.validation[:2], batch_size=32, return_dict=True, verbose=0
    )
    curves = helpers.scalars(tmp_path / "tested" / "validation")
    assert curves["evaluation/largest"][-1][1] == pytest.approx(expected["largest"], rel=1e-5)
    assert result.evaluation.validation.keys() == {"loss"}


@pytest.mark.parametrize("settings", [{"jit_compile": "true"}, {"run_eagerly": True}])
def test_own_train_step_runs_in_every_mode(
    tmp_path: pathlib.Path, settings: dict[str, Any]
) -> None:
    config = _config("guide", tmp_path, "run", epochs=1, **settings)
    trainer.train(config, datasets_lib.load(config))
    assert len(helpers.scalars(tmp_path / "run" / "train")["training/accuracy"]) == 8


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("vae", {"loop": "custom"}, "has a train_step of its own, which only --loop=fit calls"),
        ("uncompiled", {}, "has a train_step of its own, which only a compiled model uses: compil"),
        ("without_call", {}, "the model has no `call`, which the export serves"),
        ("ordinary", {}, "returns no labels: only a model with a train_step of its own can do wit"),
        ("without_names", {}, "train_step must return a dict of numbers by name; received Tensor"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: pathlib.Path, kind: str, settings: dict[str, Any], words: str
) -> None:
    config = _config(kind, tmp_path, "run", **settings)
    with pytest.raises(errors.InputError, match=words):
        make_task.make_task(config, datasets_lib.load(config))
