"""Tests of pipeline.data.datasets."""

import pathlib
from typing import Any

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets, synthetic


def _noise(drawn: datasets.Batch) -> np.ndarray:
    """The noise that was added to the default line y = 3x + 2."""
    return drawn.y.astype(np.float64) - (3 * drawn.x[:, 0].astype(np.float64) + 2)


def test_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, again, other = (datasets.load(config_lib.Config(seed=s)) for s in (7, 7, 8))
    assert first.validation is not None
    assert again.validation is not None
    assert first.train.y.tobytes() == again.train.y.tobytes()
    assert first.validation.y.tobytes() == again.validation.y.tobytes()
    assert np.mean(first.train.y == other.train.y) < 0.05


def test_synthetic_data_are_the_guides_by_default() -> None:
    data = datasets.load(config_lib.Config())
    assert data.validation is not None
    assert (data.features, data.label, data.truth) == (("x",), "y", (3, 2, True))
    assert data.train.x.dtype == data.train.y.dtype == np.float32
    for part in (data.train, data.validation):
        np.testing.assert_array_equal(part.x[:, 0], np.linspace(-2, 2, 201).astype(np.float32))


def test_x_is_evenly_spaced_and_y_on_the_line_without_noise() -> None:
    data = datasets.load(
        config_lib.Config(x_min=1, x_max=3, num_examples=5, true_w=-4, true_b=0.5, noise_stddev=0)
    )
    np.testing.assert_array_equal(data.train.x, [[1], [1.5], [2], [2.5], [3]])
    np.testing.assert_array_equal(data.train.y, [-3.5, -5.5, -7.5, -9.5, -11.5])
    assert data.truth == synthetic.Truth(w=-4, b=0.5, is_line=True)
    np.testing.assert_array_equal(data.truth.at(data.train.x[:, 0]), data.train.y)


def test_y_may_be_on_a_sine_curve() -> None:
    """The curve is w·sin(pi·x) + b, with the same x and noise as on a line."""
    settings = {"x_min": 0, "x_max": 2, "num_examples": 5, "true_w": -4, "true_b": 0.5}
    data = datasets.load(config_lib.Config(synthetic="sine", noise_stddev=0, **settings))
    np.testing.assert_array_equal(data.train.x, [[0], [0.5], [1], [1.5], [2]])
    np.testing.assert_allclose(data.train.y, [0.5, -3.5, 0.5, 4.5, 0.5], atol=1e-5)
    assert data.truth == synthetic.Truth(w=-4, b=0.5, is_line=False)
    np.testing.assert_allclose(data.truth.at(data.train.x[:, 0]), data.train.y, atol=1e-5)

    noisy, line, without_noise = (
        datasets.load(config_lib.Config(**settings, **more))
        for more in ({"synthetic": "sine"}, {}, {"noise_stddev": 0})
    )
    np.testing.assert_allclose(
        noisy.train.y - data.train.y, line.train.y - without_noise.train.y, atol=1e-5
    )


@pytest.mark.parametrize("count", [10_000, 1_000_000])
def test_noise_has_mean_0_and_the_stddev_asked_for(count: int) -> None:
    """The tolerance is five standard errors: σ/√N of the mean, σ/√(2N) of the stddev."""
    data = datasets.load(config_lib.Config(num_examples=count, noise_stddev=0.5))
    noise = _noise(data.train)
    assert len(noise) == count
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(count)
    assert abs(noise.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * count)


@pytest.mark.parametrize(
    "changes",
    [
        {"true_w": 3e38},
        {"true_w": 1e20, "x_max": 1e20},
        {"true_b": 3e38, "noise_stddev": 1e38},
        {"noise_stddev": 3e38},
        {"x_min": -3e38},
        {"true_w": 1e38, "x_max": 1e38, "true_b": -3e38},
    ],
)
def test_synthetic_y_beyond_float32_are_refused(changes: dict[str, float]) -> None:
    """The message has the settings that cause them, as for a file."""
    with pytest.raises(errors.InputError, match="y are too large for float32") as caught:
        datasets.load(config_lib.Config(**changes))
    assert all(f"--{name}={value:g}" in str(caught.value) for name, value in changes.items())


def test_validation_noise_is_independent_of_training_noise() -> None:
    data = datasets.load(config_lib.Config(num_examples=5000, validation_examples=5000))
    assert data.validation is not None
    correlation = np.corrcoef(_noise(data.train), _noise(data.validation))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(5000)


def test_validation_examples_leave_training_examples_alone() -> None:
    some = datasets.load(config_lib.Config(validation_examples=10))
    none = datasets.load(config_lib.Config(validation_examples=0))
    assert some.validation is not None
    assert len(some.validation.y) == 10
    assert none.validation is None
    assert some.train.y.tobytes() == none.train.y.tobytes()


@pytest.mark.parametrize(
    ("flags", "features", "label", "x", "y"),
    [
        pytest.param({}, ("a", "b"), "y", [[1, 2], [4, 5]], [3, 6], id="last column is the label"),
        pytest.param(
            {"label": "b", "features": "y, a"},
            ("y", "a"),
            "b",
            [[3, 1], [6, 4]],
            [2, 5],
            id="chosen columns in the order chosen",
        ),
        pytest.param(
            {"label": "a"}, ("b", "y"), "a", [[2, 3], [5, 6]], [1, 4], id="all but the label"
        ),
        pytest.param({"features": "b"}, ("b",), "y", [[2], [5]], [3, 6], id="one feature"),
    ],
)
def test_columns_of_a_file_become_features_and_label(
    tmp_path: pathlib.Path,
    flags: dict[str, Any],
    features: tuple[str, ...],
    label: str,
    x: list[list[float]],
    y: list[float],
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b,y\n1,2,3\n4,5,6\n")
    data = datasets.load(config_lib.Config(data=str(path), standardize=False, **flags))
    assert data[1:5] == (None, features, label, None)  # no validation examples, no true line
    assert data.train.x.dtype == data.train.y.dtype == np.float32
    np.testing.assert_array_equal(data.train.x, x)
    np.testing.assert_array_equal(data.train.y, y)


@pytest.mark.parametrize("num_features", [1, 2])
def test_examples_lie_in_memory_as_they_are_read(tmp_path: pathlib.Path, num_features: int) -> None:
    """They lie row by row, as the fingerprint and TensorFlow need them."""
    path = tmp_path / "data.csv"
    path.write_text("a,b,y\n1,2,3\n4,5,6\n7,8,9\n")
    flags = {"features": ",".join("ab"[:num_features]), "validation_examples": 1}
    data = datasets.load(config_lib.Config(data=str(path), **flags))
    assert data.validation is not None
    for array in (*data.train.arrays, *data.validation.arrays):
        assert array.flags.c_contiguous


def test_settings_that_do_not_fit_the_rows_are_refused(tmp_path: pathlib.Path) -> None:
    """The check precedes TensorFlow's import: 3 rows in batches of 2 make 2 steps an epoch."""
    path = tmp_path / "data.csv"
    path.write_text("x,y\n1,2\n3,4\n5,6\n")
    flags = {"data": str(path), "batch_size": 2, "profile_steps": "4,6"}
    with pytest.raises(errors.InputError, match="begins after the last step, 4"):
        datasets.load(config_lib.Config(epochs=2, **flags))
    datasets.load(config_lib.Config(epochs=3, **flags))


def _datasets(**changes: Any) -> datasets.Datasets:
    """Two training examples and one for validation, of two features."""
    x, y = np.array([[1, 2], [3, 4]], np.float32), np.array([5, 6], np.float32)
    validation = datasets.Batch(np.array([[7, 8]], np.float32), np.array([9], np.float32))
    return datasets.Datasets(datasets.Batch(x, y), validation, ("a", "b"), "y")._replace(**changes)


def test_fingerprint_changes_with_any_number_name_or_order() -> None:
    (x, y, _), validation = _datasets()[:2]
    others = [
        _datasets(train=datasets.Batch(x[::-1].copy(), y)),
        _datasets(train=datasets.Batch(x, y[::-1].copy())),
        _datasets(train=datasets.Batch(x[::-1].copy(), y[::-1].copy())),
        _datasets(train=datasets.Batch(x, y, y)),
        _datasets(train=datasets.Batch(np.nextafter(x, np.float32(9)), y)),
        _datasets(train=validation),
        _datasets(validation=None),
        _datasets(validation=datasets.Batch(x, y)),
        _datasets(features=("b", "a")),
        _datasets(features=("a", "c")),
        _datasets(label="z"),
    ]
    fingerprints = {data.fingerprint() for data in (_datasets(), *others)}
    assert len(fingerprints) == 1 + len(others)


def test_fingerprint_of_the_same_examples_is_the_same() -> None:
    copies = _datasets(
        train=datasets.Batch(*(part.copy() for part in _datasets().train.arrays)),
        truth=synthetic.Truth(1, 2),
    )
    assert copies.fingerprint() == _datasets().fingerprint()


def test_fingerprint_does_not_change_between_processes() -> None:
    """It does not depend on package versions either, because checkpoints store it."""
    assert _datasets().fingerprint() == 122735880423329
