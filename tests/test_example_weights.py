"""Tests of --weight and --class_weight, compared with plain Keras."""

import json
import pathlib
from typing import Any

import numpy as np
import polars
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.data import fingerprint
from pipeline.distributed import workers
from pipeline.run import checkpoints, trainer
from pipeline.training import make_task
from tests import helpers

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_N = 300
_random = np.random.default_rng(0)
_Y = (_random.random(_N) < 0.1).astype(int)
_X = (_random.normal(size=(_N, 2)) + _Y[:, None]).astype(np.float32)
_W = _random.choice([0.0, 0.5, 3.0], _N)
_BALANCED = {label: _N / (2 * float((label == _Y).sum())) for label in (0, 1)}
_CODE = """
import tensorflow as tf
from tests.test_example_weights import _X, _Y, _W


def model(n):
    layers = tf.keras.Input([n]), tf.keras.layers.Dense(4, "tanh"), tf.keras.layers.Dense(1)
    made = tf.keras.Sequential(layers)
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    made.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    return made


def softmax():
    made = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Dense(2)])
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile("adam", loss, jit_compile=False)
    return made


ints = lambda: (_X, _Y)
one_hot = lambda: (_X, tf.keras.utils.to_categorical(_Y))
weighed = lambda: (_X, _Y, _W)
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "mine.py").write_text(_CODE)
    table = {"a": _X[:, 0], "b": _X[:, 1], "passed": _Y, "w": _W}
    polars.DataFrame(table).write_csv(tmp_path / "t.csv")
    polars.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    return tmp_path


def _config(folder: pathlib.Path, data: str, **more: Any) -> config_lib.Config:
    settings: dict[str, Any] = {"model": f"{folder}/mine.py:model", "epochs": 3} | more
    return config_lib.Config(data=f"{folder}/{data}", logdir=str(folder), **settings)


_CASES: list[tuple[str, dict[str, Any], Any, dict[int, float] | None]] = [
    # The data, the flags, and the sample_weight and class_weight of plain Keras.
    ("t.parquet", {"label": "passed", "class_weight": "balanced"}, None, _BALANCED),
    ("t.csv", {"weight": "w", "class_weight": "1:5"}, _W * np.where(_Y, 5, 1), None),
    ("mine.py:ints", {"class_weight": "0:0.5,1:2e1"}, None, {0: 0.5, 1: 20}),
    ("mine.py:one_hot", {"class_weight": "balanced"}, None, _BALANCED),
    ("mine.py:weighed", {"class_weight": "1:5"}, _W * np.where(_Y, 5, 1), None),
]


@pytest.mark.parametrize(("data", "flags", "weight", "by_class"), _CASES)
def test_examples_are_weighed_as_by_plain_keras(
    folder: pathlib.Path, data: str, flags: dict[str, Any], weight: Any, by_class: Any
) -> None:
    """Weights agree exactly with fit, also after a resume; evaluation is unweighted as in Keras.

    Only a weight that the data function returns also weighs evaluation.
    """
    if "one_hot" in data:
        flags = flags | {"model": f"{folder}/mine.py:softmax"}
    config = _config(folder, data, batch_size=64, **flags)
    datasets = datasets_lib.load(config)
    if weight is not None:
        np.testing.assert_array_equal(datasets.train.weight, np.float32(weight))
    assert datasets.train.weight.dtype == np.float32
    model = make_task.make_task(config, datasets).model
    examples = helpers.batches_for_keras(config, datasets)
    if by_class:
        examples = examples.map(lambda x, y, _: (x, y))
    model.fit(examples, shuffle=False, verbose=0, class_weight=by_class)
    expected = [variable.numpy() for variable in model.variables]
    given = _W if "weighed" in data else None
    evaluated = model.evaluate(*datasets.train[:2], sample_weight=given, verbose=0)
    for loop, epochs in (("custom", [3]), ("fit", [1, 3])):
        for count in epochs:
            settings = {"batch_size": 64, "loop": loop, "epochs": count, "run_name": loop}
            result = trainer.train(_config(folder, data, **settings, **flags), datasets)
        found = checkpoints.variables(folder / loop / "checkpoints")
        names = make_task.make_task(config, datasets).variables.by_name
        for value, key in zip(expected, names, strict=True):
            tolerance = {"rtol": 1e-5, "atol": 1e-6} if loop == "custom" else {"rtol": 0}
            np.testing.assert_allclose(found[key], value, **tolerance)
        np.testing.assert_allclose(
            list(result.evaluation.train.values()), np.ravel(evaluated), rtol=1e-5
        )


@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_a_weighted_step_is_drawn_beside_unweighted_evaluations(
    folder: pathlib.Path, loop: str
) -> None:
    """Huge weights are no divergence, least squares is left out, and plots are drawn."""
    huge = polars.read_csv(folder / "t.csv").with_columns(polars.col("w") * 1e8)
    huge.write_csv(folder / "huge.csv")
    flags = {"weight": "w", "validation_fraction": 0.3, "learning_rate": 1e-12, "model": "keras"}
    config = _config(folder, "huge.csv", loop=loop, run_name="r", **flags)
    datasets = datasets_lib.load(config)
    assert datasets.validation is not None
    assert datasets.validation.weight is None
    trainer.train(config, datasets)
    curves = helpers.scalars(folder / "r" / "train")
    x, y, weight = datasets.train
    assert curves["evaluation/loss"][0][1] == pytest.approx(np.mean(y**2), rel=1e-5)
    assert curves["loss"][0][1] == pytest.approx(np.mean(weight * y**2), rel=1e-5)
    result = json.loads((folder / "r" / "result.json").read_text())
    assert list(result["fits"]) == ["training, model", "validation, model"]
    residuals = y - x @ np.zeros(2)
    assert result["fits"]["training, model"]["rmse"] == pytest.approx(
        np.std(residuals) * datasets.preprocessing.stddev[-1], rel=1e-3
    )
    assert (folder / "r" / "figures" / "trained.png").exists()


def test_each_worker_has_the_weights_of_its_examples(folder: pathlib.Path) -> None:
    """The parts make up the whole, and so do their fingerprints."""
    for data, flags in (("t.csv", {"weight": "w"}), ("mine.py:weighed", {})):
        config = _config(folder, data, class_weight="balanced", **flags)
        whole = datasets_lib.load(config)
        parts = [datasets_lib.load(config, workers.Worker(i, 3)) for i in range(3)]
        for i, part in enumerate(parts):
            np.testing.assert_array_equal(part.train.weight, whole.train.weight[i::3])
        sums = sum(part.fingerprint() for part in parts) % fingerprint.COUNT
        assert sums == whole.fingerprint()
        other = _config(folder, data, class_weight="1:2", **flags)
        assert datasets_lib.load(other).fingerprint() != whole.fingerprint()


_TEXT = {
    "negative": "x,y,w\n1,0,1\n2,1,-3\n3,1,1\n",
    "infinite": "x,y,w\n1,0,1\n2,1,inf\n3,1,1\n",
    "too-large": "x,y,w\n1,0,1e39\n2,1,1\n3,1,1\n",
    "zero": "x,y,w\n1,0,0\n2,1,0\n3,1,0\n",
    "empty": "x,y,w\n1,0,\n2,1,1\n3,1,1\n",
    "continuous": "x,w,y\n1,1,0.25\n2,1,1\n3,0,1\n",
}
_RANGE = "train.*must be finite as float32, and not all 0"


@pytest.mark.parametrize(
    ("data", "flags", "message"),
    [
        ("negative", {}, "line 3, column 'w': expected a finite weight of at least 0; received"),
        ("infinite", {}, "line 3, column 'w': expected a finite weight"),
        ("too-large", {}, _RANGE),
        ("zero", {}, _RANGE),
        ("empty", {}, "line 2, column 'w': the value is missing"),
        ("zero", {"label": "w"}, "--weight=w must not be the label"),
        ("zero", {"features": "x,w"}, "--features must not contain the weight 'w'"),
        ("zero", {"weight": "v"}, r"has no column 'v' \(--weight\)"),
        ("continuous", {"class_weight": "balanced"}, "whole numbers .* received the label 0.25"),
        ("zero", {"class_weight": "0:1,7:2"}, r"names the classes \[7\], .* they have \[0, 1\]"),
        ("zero", {"class_weight": "0:1,0:2"}, "must be 'balanced', or classes with their weights"),
        ("zero", {"class_weight": "0=1"}, "must be 'balanced'.* received '0=1'"),
        ("zero", {"class_weight": "0:-1"}, "must be 'balanced'"),
        ("zero", {"class_weight": "0:nan"}, "must be 'balanced'"),
    ],
)
def test_wrong_weights_of_a_table_are_refused(
    tmp_path: pathlib.Path, data: str, flags: dict[str, str], message: str
) -> None:
    (tmp_path / "t.csv").write_text(_TEXT[data])
    with pytest.raises(errors.InputError, match=message):
        datasets_lib.load(config_lib.Config(data=f"{tmp_path}/t.csv", **{"weight": "w"} | flags))


@pytest.mark.parametrize(
    ("returned", "flag", "message"),
    [
        ("x, {'a': y, 'b': y}", "class_weight", "received several outputs"),
        ("x, x", "class_weight", "received rows with other numbers than one 1 and zeros"),
        ("x, x[..., None]", "class_weight", r"received float32 \[9, 2, 1\]"),
        ("x, y.astype(str)", "class_weight", "received <U"),
        ("x, y, {'a': y}", "class_weight", "needs one array of weights; received several"),
        ("x, y", "weight", "--weight=balanced has no effect, as d in .* returns arrays"),
    ],
)
def test_wrong_weights_of_arrays_are_refused(
    tmp_path: pathlib.Path, returned: str, flag: str, message: str
) -> None:
    code = "import numpy as np\nx, y = np.ones([9, 2]), np.arange(9) % 3\n"
    (tmp_path / "d.py").write_text(f"{code}def d():\n    return {returned}\n")
    config = config_lib.Config(data=f"{tmp_path}/d.py:d", model="mlp", **{flag: "balanced"})
    with pytest.raises(errors.InputError, match=message):
        datasets_lib.load(config)


@pytest.mark.parametrize("flag", ["weight", "class_weight"])
def test_synthetic_examples_have_no_weights(flag: str) -> None:
    with pytest.raises(errors.InputError, match=f"--{flag}=balanced is for a table"):
        config_lib.Config(**{flag: "balanced"})
