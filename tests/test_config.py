"""Tests of pipeline.config."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras.src import losses as losses_of_keras

from pipeline import config as config_lib
from pipeline import errors, fields

_NO_LOSSES = {"Loss", "LossFunctionWrapper"}
_FINITE_FLOATS = (
    *("learning_rate", "clip_norm", "initial_w", "initial_b"),
    *("true_w", "true_b", "noise_stddev"),
)


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("loop", "while", "one of custom, fit"),
        (
            *("schedule", "linear"),
            "one of constant, cosine, exponential, or of your own, such as mine:schedule",
        ),
        ("jit_compile", "yes", "one of auto, true, false"),
        ("synthetic", "circle", "one of line, sine"),
        ("export", "first", "one of last, best"),
        ("epochs", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", -0.1, "above 0"),
        ("batch_size", -1, "at least 0"),
        ("clip_norm", -1.0, "at least 0"),
        ("decay_steps", -1, "at least 0 and at most 1,000,000,000,000,000"),
        ("warmup_steps", 10**16, "at least 0 and at most 1,000,000,000,000,000"),
        ("early_stopping_patience", -1, "at least 0"),
        ("seed", -1, "at least 0 and at most 4,294,967,295"),
        ("seed", 2**32, "at least 0 and at most 4,294,967,295"),
        ("num_examples", 1, "at least 2 and at most 2,147,483,647"),
        ("validation_examples", -1, "at least 0 and at most 2,147,483,647"),
        ("noise_stddev", -0.5, "at least 0"),
        ("summary_every", -1, "at least 0 and at most 1,000,000,000,000,000"),
        ("checkpoint_every", 10**20, "at least 0 and at most 1,000,000,000,000,000"),
        ("checkpoint_secs", 0.0, "above 0"),
        ("initial_w", 1e39, "a finite float32"),
        *[(name, math.nan, "a finite float32") for name in _FINITE_FLOATS],
        *[(name, math.inf, "a finite float32") for name in _FINITE_FLOATS],
        *[(name, -math.inf, "a finite float32") for name in ("x_min", "x_max")],
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: Any, bounds: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        config_lib.Config(**{name: value})
    assert str(caught.value) == f"--{name} must be {bounds}; received {value!r}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1),
        ("learning_rate", 5e-324),
        ("batch_size", 0),
        ("clip_norm", 0.0),
        ("warmup_steps", 10**15),
        ("early_stopping_patience", 0),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("num_examples", 2),
        ("validation_examples", 0),
        ("validation_examples", None),
        ("noise_stddev", 0.0),
        ("summary_every", 0),
        ("profile_steps", "0,1"),
    ],
)
def test_a_value_on_its_bound_is_accepted(name: str, value: Any) -> None:
    assert getattr(config_lib.Config(**{name: value}), name) == value


def test_each_setting_is_in_one_group() -> None:
    names = [name for group in config_lib.GROUPS.values() for name in fields.names(group)]
    assert sorted(names) == sorted(fields.names(config_lib.Config))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", sorted(losses_of_keras.ALL_OBJECTS_DICT.keys() - _NO_LOSSES))
def test_a_loss_has_one_name_however_it_is_spelled(name: str) -> None:
    """Each name of Keras gives the loss that it gives in Keras."""
    canonical = config_lib.Config(loss=name).loss
    assert re.fullmatch("[a-z_]+", canonical)
    classes, prediction = np.array([0, 2, 1]), np.float32([[0.7, 0.2, 0.1]] * 3)
    y = classes if canonical.startswith("sparse") else np.eye(3, dtype=np.float32)[classes]
    if name.lower() in ("ctc", "circle"):  # losses of sequences and of pairs
        assert canonical == name.lower()
        return
    one, other = (losses_of_keras.get(each) for each in (name, canonical))
    of_keras = one.call if isinstance(one, tf.keras.losses.Loss) else one
    np.testing.assert_array_equal(of_keras(y, prediction), other(y, prediction))


def test_other_names_stay_as_they_are() -> None:
    for name in ("mine.py:MeanSquaredError", "no_such_loss"):
        assert config_lib.Config(loss=name).loss == name
    assert config_lib.Config(loss="MSE") == config_lib.Config()
    assert config_lib.Config(optimizer="Adam") == config_lib.Config(optimizer="adam")
    assert config_lib.Config(schedule="Cosine") == config_lib.Config(schedule="cosine")
    own = config_lib.Config(optimizer="mine.py:Make", schedule="Mine:rate")
    assert (own.optimizer, own.schedule, own.learning_rate) == ("mine.py:Make", "Mine:rate", None)


def test_only_losses_of_regression_may_be_of_standardized_labels() -> None:
    for loss, expected in (("LogCosh", True), ("mape", True), ("hinge", False), ("m:f", None)):
        assert config_lib.Config(loss=loss).is_regression is expected
    assert config_lib.Config(loss="mse").is_linear_regression
    assert not config_lib.Config(loss="mae").is_linear_regression


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loop": "fit"}, ("--model=module", "--loop=fit", "keras.Model")),
        ({"validation_fraction": 0.1}, ("--validation_fraction=0.1", "--data")),
        ({"export_formats": "onnx,tf"}, ("--export_formats", "litert, onnx", "'onnx,tf'")),
        ({"x_min": 3.0}, ("--x_min=3", "--x_max=2")),
        ({"x_min": 1.5, "x_max": 1.5}, ("--x_min=1.5", "--x_max=1.5")),
        ({"label": "price"}, ("--label=price", "--data")),
        ({"features": "a,b"}, ("--features=a,b", "--data")),
        ({"model": "mlp", "initial_w": 0.0}, ("--initial_w=0", "--model=mlp")),
        ({"model": "m.py:f", "initial_b": 1.5}, ("--initial_b=1.5", "--model=m.py:f")),
        ({"decay_steps": 9}, ("--decay_steps=9", "--schedule=cosine", "--schedule=exponential")),
        ({"decay_steps": 9, "schedule": "m:f"}, ("--decay_steps=9", "--schedule=cosine")),
        ({"learning_rate": 0.1, "schedule": "m:f"}, ("--learning_rate=0.1", "--schedule=m:f")),
        *[
            ({"metrics": names}, ("--metrics", repr(names)))
            for names in (",", "mae,", "a b", "m:f,mae")
        ],
        *[
            ({"profile_steps": steps}, ("--profile_steps", "100,200", repr(steps)))
            for steps in ("10", "10,", "20,10", "10,10", "-1,5", "1,2,3", "a,b", "1.5,2", "1, 2")
        ],
        *[
            ({"run_name": name}, ("--run_name", repr(name)))
            for name in ("a/b", "/tmp", "a b", "..", ".", "a\n", "$HOME", "a\\b")
        ],
    ],
)
def test_a_contradiction_is_refused_in_one_line(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(errors.InputError) as caught:
        config_lib.Config(**changes)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_profiled_gives_the_two_steps() -> None:
    assert config_lib.Config().profiled is None
    assert config_lib.Config(profile_steps="9,100").profiled == (9, 100)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"),
    [(10, 0, 1), (10, 10, 1), (10, 11, 1), (10, 5, 2), (10, 4, 3), (10, 3, 4), (10, 1, 10)],
)
def test_every_example_is_in_a_batch_of_each_epoch(
    num_examples: int, batch_size: int, steps: int
) -> None:
    assert config_lib.Config(batch_size=batch_size).num_batches(num_examples) == steps
    config = config_lib.Config(batch_size=batch_size, epochs=7)
    assert config.last_step(steps) == 7 * steps


def test_last_step_can_be_counted_exactly() -> None:
    """A float64 counts up to 10**15 steps with room to spare."""
    most = 10**15
    assert config_lib.Config(epochs=most).last_step(1) == most
    with pytest.raises(errors.InputError, match=r"--epochs=1000000000000001 .*1,000,000,000,000,"):
        config_lib.Config(epochs=most + 1).last_step(1)
    with pytest.raises(errors.InputError, match=f"--epochs={most} makes more steps than can be"):
        config_lib.Config(epochs=most).last_step(2)


def test_a_profile_begins_before_the_last_step() -> None:
    config = config_lib.Config(epochs=5, profile_steps="9,100")
    assert config.last_step(2) == 10
    with pytest.raises(errors.InputError, match=r"--profile_steps=9,100 begins after .* step, 5;"):
        config.last_step(1)


def test_only_module_and_keras_are_linear() -> None:
    """Only linear models may start from given W and b."""
    for model in ("module", "keras"):
        assert config_lib.Config(model=model, initial_w=0.5, initial_b=-1.0).is_linear
    for model in ("polynomial", "mlp", "logistic", "mine:module", "models/keras.py:keras"):
        assert not config_lib.Config(model=model).is_linear


def test_each_metric_is_taken_once_in_the_order_given() -> None:
    assert config_lib.Config().metric_names == ()
    assert config_lib.Config(metrics="mine:metrics").metric_names == ()
    assert config_lib.Config(metrics="auc").metric_names == ("auc",)
    names = config_lib.Config(metrics="mae,auc,mae,accuracy").metric_names
    assert names == ("mae", "auc", "accuracy")


def test_examples_are_synthetic_unless_a_file_is_given() -> None:
    assert config_lib.Config().is_synthetic
    assert not config_lib.Config(data="points.csv").is_synthetic


def test_paths_names_and_modes_of_running_are_not_swept() -> None:
    """A sweep takes several values of every other flag."""
    all_fields = dataclasses.fields(config_lib.Config)
    assert {field.name for field in all_fields if not field.metadata["may_sweep"]} == {
        *("metrics", "run_eagerly", "validation_fraction", "data", "label", "features"),
        *("categorical", "weight", "class_weight", "missing", "standardize", "initialize_from"),
        *("references", "profile_steps", "peer_timeout_secs", "export", "export_formats"),
        *("export_versions_to_keep", "logdir", "run_name", "overwrite", "steps_per_epoch"),
    }


_OF_TABLES = {
    *("data", "label", "features", "categorical", "missing", "validation_fraction"),
    *("standardize", "weight", "class_weight", "steps_per_epoch"),
}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, _OF_TABLES),
        ({"model": "mlp"}, {*_OF_TABLES, "initial_w", "initial_b"}),
        ({"initialize_from": "x"}, {*_OF_TABLES, "initial_w", "initial_b"}),
        (
            {"data": "x.csv"},
            {"synthetic", "num_examples", "true_w", "true_b", "noise_stddev", "x_min", "x_max"},
        ),
    ],
)
def test_settings_of_other_models_and_data_do_not_apply(
    settings: dict[str, Any], missing: set[str]
) -> None:
    config = config_lib.Config(**settings)
    everything = dataclasses.asdict(config)
    assert config.applied == {k: v for k, v in everything.items() if k not in missing}


def test_runs_are_compared_by_what_their_results_depend_on() -> None:
    compared = config_lib.Config(epochs=7, loop="fit", model="keras").compared
    assert (compared["epochs"], compared["loop"], compared["model"]) == (7, "fit", "keras")
    assert {"learning_rate", "batch_size", "early_stopping_patience", "seed"} <= compared.keys()
    others = {"summary_every", "checkpoint_secs", "references", "logdir", "run_name", "metrics"}
    assert not others & compared.keys()
    assert None not in compared.values()  # HParams has no such value
