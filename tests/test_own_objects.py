"""Tests of losses, metrics, optimizers and schedules of the user's own."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from tests import helpers, own_objects

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_FLAGS = ("model", "data", "loss", "metrics", "optimizer", "schedule")
_keras = tf.keras


def _config(folder: pathlib.Path, **settings: Any) -> config_lib.Config:
    """The settings, with names after a colon as those of the user's file."""
    default = {"model": ":model", "data": ":data", "loss": ":entropy", "batch_size": 32}
    default |= {"epochs": 2, "validation_examples": 40, "logdir": str(folder), "run_name": "run"}
    settings = default | settings
    for name in _FLAGS:
        if settings.get(name, "").startswith(":"):
            settings[name] = f"{own_objects.__file__}{settings[name]}"
    return config_lib.Config(**settings)


def _train(config: config_lib.Config) -> Any:
    return trainer.train(config, datasets_lib.load(config)).evaluation


class _Rate(_keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The user's function of the step, for plain Keras."""

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        return tf.where(step < 4, 0.05, 0.1 / (2 + step))


def _sgd(rate: Any) -> Any:
    return _keras.optimizers.SGD(rate)


def _cosine(steps: int) -> Any:
    rate = _keras.optimizers.schedules.CosineDecay(0.01, steps)
    return own_objects.optimizer_of(rate, steps)


_LINE = {"model": ":line", "data": ":numbers_data"}
_BINARY = {"model": ":line", "data": ":binary_data"}
_CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {  # settings; loss and optimizer for Keras
    "objects": (
        {"metrics": ":metrics", "optimizer": ":optimizer"},
        *(own_objects.entropy, own_objects.optimizer),
    ),
    "a list of metrics": (
        {**_BINARY, "loss": ":binary_entropy", "metrics": ":binary_metrics", "schedule": ":rate"},
        *(own_objects.binary_entropy, lambda: _sgd(_Rate())),
    ),
    "classes": (
        {**_LINE, "loss": ":Bent", "schedule": ":warm_cosine", "optimizer": "Adam"},
        *(own_objects.Bent(), lambda: _keras.optimizers.Adam(own_objects.warm_cosine())),
    ),
    "flags": (
        {
            **_LINE,
            "loss": ":made_loss",
            "optimizer": ":optimizer_of",
            "learning_rate": 0.01,
            "schedule": "cosine",
            "decay_steps": 10,
        },
        *(own_objects.made_loss(), lambda: _cosine(10)),
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_they_are_those_of_plain_keras_in_both_loops(tmp_path: pathlib.Path, case: str) -> None:
    """Weights agree exactly with fit, and up to rounding in the other loop, as do metrics."""
    settings, loss, optimizer = _CASES[case]
    config = _config(tmp_path, **settings)
    metrics = {":metrics": own_objects.metrics(), ":binary_metrics": own_objects.binary_metrics}
    compiled = {"loss": loss, "optimizer": optimizer()}
    compiled["metrics"] = metrics.get(settings.get("metrics", ""), [])
    model, expected = helpers.fitted_by_keras(config, **compiled)
    train = datasets_lib.load(config).train
    of_keras = model.evaluate(train.x, train.y, batch_size=1000, verbose=0, return_dict=True)
    rates = []
    for loop in ("fit", "custom"):
        run = _config(tmp_path, loop=loop, run_name=loop, **settings)
        evaluation = _train(run)
        assert evaluation.train == pytest.approx(of_keras, rel=1e-4)
        curves = helpers.scalars(tmp_path / loop / "train")
        rates.append([value for _, value in curves["training/learning_rate"]])
        found = checkpoints.variables(tmp_path / loop / "checkpoints")
        for name, value in expected.items():
            if loop == "fit":
                np.testing.assert_array_equal(found[name], value, err_msg=name)
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    schedule = compiled["optimizer"]._learning_rate
    exact = [float(schedule(step)) for step in range(len(rates[0]))]
    np.testing.assert_allclose(rates, [exact] * 2, rtol=1e-6)


def test_a_run_is_extended_as_if_it_had_not_ended(tmp_path: pathlib.Path) -> None:
    settings = _CASES["classes"][0] | {"metrics": "mae"}
    _train(_config(tmp_path, run_name="whole", **settings))
    _train(_config(tmp_path, run_name="cut", epochs=1, **settings))
    _train(_config(tmp_path, run_name="cut", **settings))
    one, other = (checkpoints.variables(tmp_path / n / "checkpoints") for n in ("whole", "cut"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    code = pathlib.Path(own_objects.__file__).read_text()
    kept = {path.name: path.read_text() for path in (tmp_path / "cut" / "code").iterdir()}
    names = ("data", "loss", "model", "schedule")
    assert kept == {f"{name}.py": code for name in names}


def test_an_optimizer_that_asks_for_the_last_step_ends_with_the_run(tmp_path: pathlib.Path) -> None:
    settings = {"optimizer": ":optimizer_of", "metrics": ":metrics"}
    _train(_config(tmp_path, epochs=1, **settings))
    with pytest.raises(
        errors.InputError, match=r"extended: its --optimizer=\S+ ends with --epochs=1"
    ):
        _train(_config(tmp_path, epochs=2, **settings))
    _train(_config(tmp_path, epochs=1, **settings | {"metrics": "accuracy"}))  # may change


def test_a_cross_entropy_below_zero_is_noted(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(_config(tmp_path, **_BINARY, loss=":log_loss", optimizer="adam", learning_rate=0.5))
    assert "a cross-entropy is never below 0: are the labels from 0 to 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": ":number"}, "must be a function of labels and predictions, or a Keras Loss; rec"),
        ({**_LINE, "loss": ":total"}, "received a MeanSquaredError with reduction='sum'"),
        ({**_LINE, "loss": ":swapped"}, r"labels come first, .* parameters \(y_pred, y\): swap th"),
        ({**_LINE, "loss": ":Swapped"}, r"labels come first, .* \(logits, labels\): swap them"),
        ({**_BINARY, "loss": ":of_probabilities"}, "needs predictions that are probabilities"),
        ({"model": ":line", "data": ":shifted_data", "loss": ":binary_entropy"}, "received 1 to 2"),
        ({"data": ":numbers_data"}, "needs labels 0, 1, ... below the number of the model's"),
        ({"data": ":names_data"}, "needs numbers as labels; received texts, such as "),
        ({"metrics": ":number"}, "must be a list of Keras metrics or their names, .* received 0.1"),
        ({"metrics": ":curve"}, "must be a list of Keras metrics .* received <function curve"),
        ({**_BINARY, "loss": "mse", "metrics": ":auc"}, "auc needs predictions that are probab"),
        (
            {**_BINARY, "loss": ":binary_entropy", "metrics": ":twice"},
            "each metric needs a name of its own; received 'a'",
        ),
        ({"metrics": ":Confident"}, r"making it raised TypeError: .*'limit' \(Confident in "),
        ({"optimizer": ":number"}, "must be a new Keras optimizer, .*; received 0.1"),
        ({"optimizer": ":used"}, "must be a new Keras optimizer"),
        ({"optimizer": ":needs_more"}, "takes nothing but learning_rate and last_step; rec"),
        ({"optimizer": ":averaging"}, "has use_ema=True"),
        ({"optimizer": ":optimizer", "learning_rate": 0.1}, "would ignore --learning_rate: leave"),
        ({"optimizer": ":optimizer", "schedule": ":rate"}, "would ignore --schedule: leave out"),
        ({"optimizer": ":optimizer_of", "clip_norm": 1.0}, "would ignore --clip_norm: leave out"),
        (
            {"schedule": ":number"},
            "must be a function of the step, or a Keras LearningRateSchedule",
        ),
        ({"schedule": ":infinite"}, r"one finite number for each step; received \[inf, "),
        ({"schedule": ":raising"}, "the learning rate raised KeyError: .*in the schedule"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(
    tmp_path: pathlib.Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InputError, match=words) as caught:
        _train(_config(tmp_path, **settings))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
