"""Datasets of batches (streams) in both loops, compared with plain Keras, resumed and refused."""

import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.data import streams as streams_lib
from pipeline.run import checkpoints, trainer
from pipeline.training import learning_rate, make_task
from tests import helpers, kinds, streams

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_FOLDER = pathlib.Path(streams.__file__).parent
_STEPS = 5  # in an epoch; a pass over the data has 7 to 9, so runs are cut in the midst of it


def _config(kind: str, folder: pathlib.Path, name: str, **more: Any) -> config_lib.Config:
    return config_lib.Config(
        data=f"{_FOLDER / 'streams.py'}:{kind}_data",
        model=f"{_FOLDER}/{streams.MODELS[kind]}",
        logdir=str(folder),
        run_name=name,
        steps_per_epoch=_STEPS,
        **{"epochs": 4, **more},
    )


@pytest.mark.parametrize("kind", streams.MODELS)
def test_a_stream_is_trained_on_as_by_plain_keras_in_both_loops(
    tmp_path: pathlib.Path, kind: str
) -> None:
    """Weights agree exactly with fit, and up to rounding in the other loop; resuming is exact."""
    _, expected = helpers.fitted_by_keras(_config(kind, tmp_path, "plain"))
    found, results = {}, {}
    for name, loop, epochs in (
        ("fit", "fit", [4]),
        ("custom", "custom", [4]),
        ("cut", "custom", [1, 3, 4]),
    ):
        for count in epochs:
            config = _config(kind, tmp_path, name, loop=loop, epochs=count)
            results[name] = trainer.train(config, datasets_lib.load(config))
        found[name] = checkpoints.variables(tmp_path / name / "checkpoints")
        curve = helpers.scalars(tmp_path / name / "train")["loss"]
        assert [step for step, _ in curve] == list(range(4 * _STEPS + 1))
    assert results["cut"].evaluation == results["custom"].evaluation
    for name, value in expected.items():
        np.testing.assert_array_equal(found["fit"][name], value, err_msg=name)
        np.testing.assert_array_equal(found["cut"][name], found["custom"][name], err_msg=name)
        np.testing.assert_allclose(found["custom"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    (export,) = (tmp_path / "fit" / "export").iterdir()
    assert "serving_default" in tf.saved_model.load(str(export)).signatures


def test_the_validation_stream_is_evaluated_whole(tmp_path: pathlib.Path) -> None:
    """The losses at the end are those of Keras' evaluate on the same batches."""
    config = _config("augmented", tmp_path, "run", epochs=1)
    datasets = datasets_lib.load(config)
    result = trainer.train(config, datasets)
    task = make_task.make_task(config, datasets)
    task.variables.assign(checkpoints.variables(tmp_path / "run" / "checkpoints"))
    assert isinstance(datasets.validation, streams_lib.Stream)
    for own, part in zip(result.evaluation, (datasets.stream, datasets.validation), strict=True):
        assert part
        batches = part.kept
        loss = [float(task.model.evaluate(b.x, b.y, 64, verbose=0)[0]) for b in batches]
        mean = np.average(loss, weights=[batch.num_examples for batch in batches])
        assert own["loss"] == pytest.approx(mean, rel=1e-5)
    assert sum(batch.num_examples for batch in datasets.validation) == 40


def test_classes_are_weighed_as_by_plain_keras(tmp_path: pathlib.Path) -> None:
    """The evaluation is unweighted."""
    config = _config("records", tmp_path, "run", loop="fit", class_weight="0:1,2:10", epochs=1)
    result = trainer.train(config, datasets_lib.load(config))
    plain = datasets_lib.load(_config("records", tmp_path, "plain"))
    assert plain.stream
    model = make_task.make_task(config, plain).model
    data = plain.stream.dataset.take(_STEPS)
    data = data.apply(tf.data.experimental.assert_cardinality(_STEPS))
    model.fit(data, class_weight={0: 1, 1: 1, 2: 10}, shuffle=False, verbose=0)
    found = checkpoints.variables(tmp_path / "run" / "checkpoints")
    np.testing.assert_array_equal(found["dense.kernel"], model.layers[0].kernel)
    data = plain.stream.dataset.apply(tf.data.experimental.assert_cardinality(7))
    loss = model.evaluate(data, verbose=0)[0]
    assert result.evaluation.train["loss"] == pytest.approx(loss, rel=1e-5)


def _slices() -> Any:
    return tf.data.Dataset.from_tensor_slices((kinds.X, kinds.CLASSES))


def _mapped(function: Callable[[Any], Any]) -> Any:
    return _slices().map(lambda x, y: (function(x), y)).batch(32)


def _augmented() -> Any:
    layer = tf.keras.layers.GaussianNoise(0.1)
    return _mapped(lambda x: layer(x, training=True))


def _drawn() -> Any:
    generator = tf.random.Generator.from_seed(1)
    return _mapped(lambda x: x + generator.normal([12]))


def _unordered() -> Any:
    options = tf.data.Options()
    options.deterministic = False
    return _slices().batch(32).with_options(options)


def _interleaved() -> Any:
    make = tf.data.Dataset.from_tensors
    both = _slices().interleave(
        lambda x, y: make((x, y)), num_parallel_calls=2, deterministic=False
    )
    return both.batch(32)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _mapped(lambda x: x + tf.random.normal([12])), "uses RandomStandardNormal, whose"),
        (lambda: _mapped(lambda x: x + tf.random.normal([12], seed=1)), "use tf.random.stateless_"),
        (lambda: _mapped(tf.random.shuffle), "uses RandomShuffle, whose random numbers"),
        (_augmented, "uses AssignVariableOp, whose random numbers a resumed run could not repeat"),
        (_drawn, "uses RngReadAndSkip, whose"),
        (_unordered, "deterministic=False gives the batches another order"),
        (_interleaved, "deterministic=False gives the batches another order"),
        (_slices, "whose tensors have the same first dimension; received [[12], []]: batch it"),
        (lambda: _slices().batch(32).take(0), "returned an empty dataset"),
        (lambda: _slices().batch(32).repeat(), "without an end; set --steps_per_epoch"),
        (lambda: _slices().map(lambda x, y: (x, y, y, y)).batch(32), "(x, y, weight); received 4"),
    ],
)
def test_what_can_not_be_trained_on_or_repeated_is_refused(
    make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(errors.InputError) as caught:
        streams_lib.Stream(make(), "data in mine.py").steps_per_epoch()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "is_saved"),
    [
        (lambda: _slices().shuffle(10).batch(32), True),
        (lambda: _slices().cache().batch(32, num_parallel_calls=2).prefetch(3), True),
        (lambda: _mapped(lambda x: tf.numpy_function(np.square, [x], tf.float32)), False),
        (lambda: _mapped(tf.keras.layers.Normalization(mean=1.0, variance=2.0)), True),
        (streams.generated_data, False),
    ],
)
def test_a_stream_knows_whether_a_checkpoint_can_hold_its_position(
    make: Callable[[], Any], is_saved: bool
) -> None:
    assert streams_lib.Stream(make(), "data").is_saved == is_saved


_FILE = """
import numpy as np
import tensorflow as tf


def both(split):
    count = {"train": 100, "validation": 20}[split]
    return np.ones([count, 2]), np.ones(count)


def columns(split):
    return {"x": np.ones(9), "y": np.ones(9)}


def endless(split):
    data = tf.data.Dataset.from_tensor_slices(both(split)).batch(10)
    return data.repeat() if split == "validation" else data


def batches():
    return tf.data.Dataset.from_tensor_slices(both("train")).batch(10)


def named():
    return batches().map(lambda x, y: {"x": x, "y": y})
"""


def _load(folder: pathlib.Path, function: str, **settings: Any) -> datasets_lib.Datasets:
    (folder / "mine.py").write_text(_FILE)
    return datasets_lib.load(config_lib.Config(data=f"{folder}/mine.py:{function}", **settings))


def test_a_function_with_a_split_makes_both_parts_of_arrays(tmp_path: pathlib.Path) -> None:
    datasets = _load(tmp_path, "both")
    assert (datasets.num_train, datasets.num_validation) == (100, 20)


@pytest.mark.parametrize(
    ("function", "settings", "words"),
    [
        ("both", {"validation_fraction": 0.1}, "mine.py makes the validation examples"),
        ("both", {"steps_per_epoch": 2}, "--steps_per_epoch=2 is for a function that returns a "),
        ("columns", {}, "split by --validation_fraction; leave out its parameter `split`"),
        ("endless", {}, "a dataset without an end for split='validation'; leave out repeat()"),
        ("batches", {"batch_size": 32}, "--batch_size=32 has no effect, as batches in "),
        ("batches", {"validation_examples": 9}, "returns batches: let it take `split`, and"),
    ],
)
def test_flags_that_do_not_fit_a_split_or_a_stream_are_refused(
    tmp_path: pathlib.Path, function: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InputError) as caught:
        _load(tmp_path, function, **settings)
    assert words in str(caught.value)


def test_the_automatic_learning_rate_of_a_stream_is_that_of_its_first_batch(
    tmp_path: pathlib.Path,
) -> None:
    """All examples are equal here, so the curvature of a batch is that of all arrays."""
    rates = []
    for function in ("both", "batches"):
        datasets = _load(tmp_path, function)
        config = config_lib.Config(data=f"{tmp_path}/mine.py:{function}", model="mlp")
        task = make_task.make_task(config, datasets)
        rates.append(learning_rate.choose(config, task, datasets, largest_stable=math.inf))
    assert rates[0] == rates[1] != 0.01  # the rate without a known curvature


def test_a_dataset_of_dicts_has_no_labels(tmp_path: pathlib.Path) -> None:
    datasets = _load(tmp_path, "named")
    config = config_lib.Config(model=f"{_FOLDER}/kinds.py:augmented")
    with pytest.raises(errors.InputError, match=r"returns no labels: .* return \(x, y\)"):
        make_task.make_task(config, datasets)


_LARGE = """
import resource

import tensorflow as tf


def data():
    def image(i):
        return tf.random.stateless_normal([64, 64, 64], tf.stack([i, i])), i % 2

    return tf.data.Dataset.range(4096).map(image).batch(32)


def make_model():
    parts = tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(1)
    model = tf.keras.Sequential([tf.keras.Input([64, 64, 64]), *parts])
    model.compile("sgd", "mse")
    return model
"""


def _peak(folder: pathlib.Path, *flags: str) -> Iterator[int]:
    """Yields the peak memory of a run in bytes."""
    process = helpers.start(
        "train", "--data=large.py:data", "--model=large.py:make_model", *flags, cwd=folder
    )
    peak = 0
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status")
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            break
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
        helpers.time.sleep(0.05)
    assert helpers.finish(process).returncode == 0
    yield 1024 * peak


def test_a_stream_may_be_larger_than_the_memory_that_training_takes(tmp_path: pathlib.Path) -> None:
    """An epoch of 4 GiB is streamed; a tenth of that must be enough to hold what is in flight."""
    (tmp_path / "large.py").write_text(_LARGE)
    (short,) = _peak(tmp_path, "--steps_per_epoch=2", "--epochs=1")
    (whole,) = _peak(tmp_path, "--steps_per_epoch=128", "--epochs=1")
    assert whole - short < 2**32 / 10
