"""Tests of pipeline.config."""

import dataclasses
import math
import pathlib
from typing import Any

import pytest

from pipeline import config as config_lib
from pipeline import errors

_FINITE_FLOATS = ("learning_rate", "initial_w", "initial_b", "true_w", "true_b", "noise_stddev")


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("model", "forest", "one of module, keras"),
        ("loop", "while", "one of custom, fit"),
        ("epochs", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", -0.1, "above 0"),
        ("batch_size", -1, "at least 0"),
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
def test_value_out_of_bounds_is_refused_by_name_with_the_value(
    name: str, value: Any, bounds: str
) -> None:
    with pytest.raises(errors.InputError) as caught:
        config_lib.Config(**{name: value})
    assert str(caught.value) == f"--{name} must be {bounds}; received {value!r}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1),
        ("learning_rate", 5e-324),
        ("batch_size", 0),
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
def test_value_on_its_bound_is_accepted(name: str, value: Any) -> None:
    assert getattr(config_lib.Config(**{name: value}), name) == value


@pytest.mark.parametrize("model", ["module", "keras"])
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_only_a_module_in_fit_is_refused_and_told_why(model: str, loop: str) -> None:
    if (model, loop) != ("module", "fit"):
        assert config_lib.Config(model=model, loop=loop).loop == loop
        return
    with pytest.raises(errors.InputError, match=r"--model=module .* --loop=fit: .*keras\.Model"):
        config_lib.Config(model=model, loop=loop)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_min": 3.0}, ("--x_min=3", "--x_max=2")),
        ({"x_min": 1.5, "x_max": 1.5}, ("--x_min=1.5", "--x_max=1.5")),
        ({"label": "price"}, ("--label=price", "--data")),
        ({"features": "a,b"}, ("--features=a,b", "--data")),
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
def test_contradiction_is_refused_in_one_line(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(errors.InputError) as caught:
        config_lib.Config(**changes)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_with_changes_is_checked_too() -> None:
    with pytest.raises(errors.InputError, match=r"--epochs .*received 0"):
        config_lib.Config().with_changes(epochs=0)


def test_profiled_are_the_two_steps() -> None:
    assert config_lib.Config().profiled is None
    assert config_lib.Config(profile_steps="9,100").profiled == (9, 100)


def _from_flags(lines: list[str]) -> config_lib.Config:
    """Reads '--name=value' lines as absl reads a flagfile."""
    types: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(config_lib.Config)}
    convert: dict[Any, Any] = {bool: {"true": True, "false": False}.__getitem__, float: float}
    values = {}
    for line in lines:
        name, value = line.removeprefix("--").split("=", 1)
        values[name] = convert.get(types[name], str if types[name] is str else int)(value)
    return config_lib.Config(**values)


_EVERY_FIELD_CHANGED = config_lib.Config(
    model="keras",
    loop="fit",
    epochs=10**9,
    learning_rate=0.1 + 0.2,
    batch_size=64,
    optimizer="adam",
    run_eagerly=True,
    seed=2**32 - 1,
    initial_w=-1e-7,
    initial_b=1e22,
    num_examples=2,
    validation_examples=0,
    true_w=1 / 3,
    true_b=-0.25,
    noise_stddev=1e-300,
    x_min=-2.5,
    x_max=2.25,
    data="some folder/a=b,c.csv",
    label="price in $, 'net'",
    features="rooms,area = m2",
    initialize_from="other logs/run",
    summary_every=7,
    profile_steps="100,2000",
    checkpoint_every=100,
    checkpoint_secs=0.5,
    logdir="some logs",
    run_name="a-b_c.d,e=f+1",
    overwrite=True,
)


def test_the_changed_config_changes_every_field() -> None:
    """Guards the round trip below against a field that was added and forgotten."""
    changed, default = (vars(c) for c in (_EVERY_FIELD_CHANGED, config_lib.Config()))
    assert not [name for name in default if changed[name] == default[name]]


@pytest.mark.parametrize("config", [config_lib.Config(), _EVERY_FIELD_CHANGED])
def test_to_flags_gives_the_config_again_with_absolute_paths(
    config: config_lib.Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for --overwrite: what is read again resumes the run."""
    monkeypatch.chdir(tmp_path)
    lines = config.to_flags()
    monkeypatch.chdir("/")
    paths = {name: getattr(config, name) for name in ("logdir", "data", "initialize_from")}
    absolute = {name: path and str(tmp_path / path) for name, path in paths.items()}
    assert _from_flags(lines) == config.with_changes(**absolute, overwrite=False)


def test_differences_names_the_flags_that_shape_the_training_and_no_others() -> None:
    config = config_lib.Config(validation_examples=7)
    changed = config.with_changes(seed=1, learning_rate=0.2, validation_examples=None)
    free = config.with_changes(
        epochs=20, checkpoint_every=5, checkpoint_secs=1.0, logdir="other", run_name="a"
    ).with_changes(profile_steps="1,2", overwrite=True)
    assert config_lib.differences(config.to_flags(), free.to_flags()) == []
    assert config_lib.differences(config.to_flags(), changed.to_flags()) == [
        "--learning_rate=0.1 (now 0.2)",
        "--seed=0 (now 1)",
        "--validation_examples=7 (now default)",
    ]
