"""Tests of pipeline.examples."""

import pathlib
from typing import Any

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors, examples


def _noise(drawn: examples.Examples) -> np.ndarray:
    """What was added to the default line y = 3x + 2."""
    return drawn.y.astype(np.float64) - (3 * drawn.x.astype(np.float64) + 2)


def _rows(*parts: examples.Examples) -> list[tuple[float, ...]]:
    return [(*np.atleast_1d(x), y) for part in parts for x, y in zip(*part, strict=True)]


def test_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, again, other = (examples.load(config_lib.Config(seed=s)) for s in (7, 7, 8))
    assert first.validation is not None
    assert again.validation is not None
    assert first.train.y.tobytes() == again.train.y.tobytes()
    assert first.validation.y.tobytes() == again.validation.y.tobytes()
    assert np.mean(first.train.y == other.train.y) < 0.05


def test_synthetic_data_are_the_guides_by_default() -> None:
    data = examples.load(config_lib.Config())
    assert data.validation is not None
    assert (data.features, data.label) == (("x",), "y")
    assert data.train.x.dtype == data.train.y.dtype == np.float32
    for part in (data.train, data.validation):
        np.testing.assert_array_equal(part.x, np.linspace(-2, 2, 201).astype(np.float32))


def test_x_is_evenly_spaced_and_y_on_the_line_without_noise() -> None:
    data = examples.load(
        config_lib.Config(x_min=1, x_max=3, num_examples=5, true_w=-4, true_b=0.5, noise_stddev=0)
    )
    np.testing.assert_array_equal(data.train.x, [1, 1.5, 2, 2.5, 3])
    np.testing.assert_array_equal(data.train.y, [-3.5, -5.5, -7.5, -9.5, -11.5])


@pytest.mark.parametrize("count", [10_000, 1_000_000])
def test_noise_has_mean_0_and_the_stddev_asked_for(count: int) -> None:
    """Within five standard errors: σ/√N of the mean, σ/√(2N) of the stddev."""
    data = examples.load(config_lib.Config(num_examples=count, noise_stddev=0.5))
    noise = _noise(data.train)
    assert len(noise) == count
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(count)
    assert abs(noise.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * count)


def test_validation_noise_is_independent_of_training_noise() -> None:
    data = examples.load(config_lib.Config(num_examples=5000, validation_examples=5000))
    assert data.validation is not None
    correlation = np.corrcoef(_noise(data.train), _noise(data.validation))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(5000)


def test_number_of_validation_examples_leaves_the_training_examples_alone() -> None:
    some = examples.load(config_lib.Config(validation_examples=10))
    none = examples.load(config_lib.Config(validation_examples=0))
    assert some.validation is not None
    assert len(some.validation.y) == 10
    assert none.validation is None
    assert some.train.y.tobytes() == none.train.y.tobytes()


@pytest.mark.parametrize(
    ("content", "flags", "features", "label", "x", "y"),
    [
        pytest.param("a,y\n1,2\n3,4\n", {}, ("a",), "y", [1, 3], [2, 4], id="one feature"),
        pytest.param(
            "a,b,y\n1,2,3\n4,5,6\n",
            {},
            ("a", "b"),
            "y",
            [[1, 2], [4, 5]],
            [3, 6],
            id="the label is the last column",
        ),
        pytest.param(
            "a,b,c\n1,2,3\n4,5,6\n",
            {"label": "b", "features": "c, a"},
            ("c", "a"),
            "b",
            [[3, 1], [6, 4]],
            [2, 5],
            id="chosen columns in the order chosen",
        ),
        pytest.param(
            "a,b,c\n1,2,3\n4,5,6\n",
            {"label": "a"},
            ("b", "c"),
            "a",
            [[2, 3], [5, 6]],
            [1, 4],
            id="all columns but the label",
        ),
        pytest.param(
            '"a, in m","y"\n"1",2\n3,"4"\n', {}, ("a, in m",), "y", [1, 3], [2, 4], id="quotes"
        ),
        pytest.param("\ufeffa,y\n1,2\n3,4\n", {}, ("a",), "y", [1, 3], [2, 4], id="BOM"),
        pytest.param("a , y\r\n1, 2\r\n3,4", {}, ("a",), "y", [1, 3], [2, 4], id="Windows, blanks"),
        pytest.param("a,y\n\n1,2\n\n\n3,4\n\n", {}, ("a",), "y", [1, 3], [2, 4], id="empty lines"),
        pytest.param(
            "a,y\n1e-3,-2E2\n.5,+4.\n",
            {},
            ("a",),
            "y",
            [1e-3, 0.5],
            [-200, 4],
            id="forms of numbers",
        ),
        pytest.param(
            'a,t,y\n1,"x,y",2\n3,,4\n',
            {"features": "a"},
            ("a",),
            "y",
            [1, 3],
            [2, 4],
            id="unused text",
        ),
    ],
)
def test_csv_is_read(
    tmp_path: pathlib.Path,
    content: str,
    flags: dict[str, Any],
    features: tuple[str, ...],
    label: str,
    x: list[Any],
    y: list[float],
) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content.encode())
    data = examples.load(config_lib.Config(data=str(path), **flags))
    assert (data.features, data.label, data.validation) == (features, label, None)
    assert data.train.x.dtype == data.train.y.dtype == np.float32
    np.testing.assert_array_equal(data.train.x, np.array(x, np.float32))
    np.testing.assert_array_equal(data.train.y, np.array(y, np.float32))


@pytest.mark.parametrize("num_features", [1, 2])
def test_validation_rows_are_set_apart_by_the_seed(
    tmp_path: pathlib.Path, num_features: int
) -> None:
    """Disjoint, together all rows, x with its y, both in the order of the file."""
    rows = [(*(float(i) for _ in range(num_features)), float(100 + i)) for i in range(30)]
    path = tmp_path / "data.csv"
    header = ",".join([*"ab"[:num_features], "y"])
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))

    chosen = []
    for seed in (0, 0, 1):
        config = config_lib.Config(data=str(path), validation_examples=12, seed=seed)
        data = examples.load(config)
        assert data.validation is not None
        train, validation = _rows(data.train), _rows(data.validation)
        assert len(validation) == 12
        assert sorted(train + validation) == rows
        assert train == sorted(train)
        assert validation == sorted(validation)
        chosen.append(validation)
    assert chosen[0] == chosen[1] != chosen[2]


_GOOD = "a,b,y\n1,2,3\n4,5,6\n7,8,9\n"


def _with_cell(cell: str) -> str:
    return _GOOD.replace("5", cell)


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        pytest.param(None, {}, ["No such file"], id="missing"),
        pytest.param("", {}, ["empty"], id="empty"),
        pytest.param("a,b,y\n", {}, ["no rows"], id="header only"),
        pytest.param("a,b,y\n\n\n", {}, ["no rows"], id="header and empty lines"),
        pytest.param("a,b,y\n1,2,3\n", {}, ["2 rows", "1 row"], id="one row"),
        pytest.param("1,2\n3,4\n5,6\n", {}, ["first line", "'1,2'"], id="no header"),
        pytest.param("a,b,a\n1,2,3\n4,5,6\n", {}, ["once", "'a,b,a'"], id="repeated names"),
        pytest.param("a,,y\n1,2,3\n4,5,6\n", {}, ["each column", "'a,,y'"], id="nameless column"),
        pytest.param(_GOOD, {"label": "z"}, ["'z'", "--label", "a, b, y"], id="unknown label"),
        pytest.param(
            _GOOD, {"features": "a,z"}, ["'z'", "--features", "a, b, y"], id="unknown feature"
        ),
        pytest.param(_GOOD, {"features": "a,a"}, ["--features", "['a', 'a']"], id="feature twice"),
        pytest.param(
            _GOOD, {"features": "a,b", "label": "b"}, ["--features", "'b'"], id="label as feature"
        ),
        pytest.param("y\n1\n2\n", {}, ["feature", "'y'"], id="one column"),
        pytest.param("a;y\n1;2\n3;4\n", {}, ["feature", "'a;y'"], id="semicolons"),
        *[
            pytest.param(_with_cell(cell), {}, ["line 3", "'b'", repr(cell)], id=f"cell {cell!r}")
            for cell in ("oops", "", " ", "NaN", "inf", "-inf", "1e99", "1 000", "1_000", "0x1F")
        ],
        pytest.param("a,b,y\n1,2,3\n\n4,x,6\n", {}, ["line 4", "'b'", "'x'"], id="after a gap"),
        pytest.param(_GOOD.replace("9", "ten"), {}, ["line 4", "'y'", "'ten'"], id="label cell"),
        pytest.param("a,b,y\n1,2,3\n4,5\n", {}, ["line 3", "2 cells", "3"], id="short row"),
        pytest.param("a,b,y\n1,2,3\n4,5,6,7\n", {}, ["line 3", "4 cells", "3"], id="long row"),
        pytest.param(
            "a,y\n1,5,2,5\n3,5,4,5\n", {}, ["line 2", "4 cells", "2"], id="decimal commas"
        ),
        pytest.param(
            '"a\nb",y\n1,2\n3,4\n', {}, [r"a\nb", "each column once"], id="line break in a name"
        ),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\xff", {}, ["can't be read"], id="binary"),
        pytest.param(b"a,y\n1,2\n\xff\xfe\x00,3\n", {}, ["can't be read"], id="binary below"),
        pytest.param(
            _GOOD,
            {"validation_examples": 2},
            ["2 rows", "3 rows", "--validation_examples=2"],
            id="too many validation rows",
        ),
    ],
)
def test_bad_csv_costs_one_line_that_names_it(
    tmp_path: pathlib.Path, content: str | bytes | None, flags: dict[str, Any], words: list[str]
) -> None:
    path = tmp_path / "data.csv"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(errors.InputError) as caught:
        examples.load(config_lib.Config(data=str(path), **flags))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message or "--features" in message
    assert [word for word in words if word not in message] == []


def test_folder_in_place_of_a_csv_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match="must be a file on disk") as caught:
        examples.load(config_lib.Config(data=str(tmp_path)))
    assert str(tmp_path) in str(caught.value)
