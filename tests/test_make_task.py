"""Tests of pipeline.training.make_task: refused models, names, and seeds."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.training import make_task, task

_MINE = """
import keras
import tensorflow as tf

dense = keras.layers.Dense


class Module(tf.Module):
    def __init__(self, call, **attributes):
        super().__init__()
        self._call = call
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x):
        return self._call(self, x)


def nothing(n):
    pass


def layer(n):
    return dense(1)


def uncallable(n):
    return tf.Module()


def module(n):
    return Module(lambda self, x: x @ self.kernel, kernel=tf.Variable(tf.zeros([n, 1])))


def no_variables(n):
    return Module(lambda self, x: x[:, 0])


def frozen(n):
    model = keras.Sequential([keras.Input([n]), dense(1)])
    model.trainable = False
    return model


def cube(n):
    return keras.Sequential([keras.Input([n]), dense(4), keras.layers.Reshape([2, 2])])


def mean(n):
    return Module(lambda self, x: tf.reduce_mean(x) * self.w, w=tf.Variable(1.0))


def half(n):
    return Module(lambda self, x: x[::2, 0] * self.w, w=tf.Variable(1.0))


def half_a_nest(n):
    return Module(lambda self, x: {"a": x[:, 0] * self.w, "b": x[::2]}, w=tf.Variable(1.0))


def empty(n):
    return Module(lambda self, x: [], w=tf.Variable(1.0))


def text(n):
    return Module(lambda self, x: "y", w=tf.Variable(1.0))


def random(n):
    return Module(lambda self, x: x[:, 0] * self.w + tf.random.normal([]), w=tf.Variable(1.0))


def counting(n):
    def call(self, x):
        return x[:, 0] * self.w + 0 * self.calls.assign_add(1.0)

    return Module(call, w=tf.Variable(1.0), calls=tf.Variable(0.0, trainable=False))


def raising(n):
    raise KeyError("in making it")


def raises_later(n):
    def call(self, x):
        raise KeyError("in calling it")

    return Module(call, w=tf.Variable(1.0))


def classes(n):
    return keras.Sequential([keras.Input([n]), dense(3, activation="softmax")])


def line(n):
    return keras.Sequential([keras.Input([n]), dense(1)])


def nested(n):
    inner = keras.Sequential([dense(2), dense(2)])
    return keras.Sequential([keras.Input([n]), inner, dense(1)])


def hidden_in_a_list(n):
    variables = [tf.Variable([1.0], name="w"), tf.Variable([1.0], name="w")]
    return Module(lambda self, x: x[:, 0] * self.all[0] * self.all[1] + self.b, all=variables,
                  b=tf.Variable(0.0, name="of_another_name"))


class Later(tf.Module):
    w = None

    @tf.function
    def __call__(self, x):
        if self.w is None:
            self.w = tf.Variable(tf.ones([x.shape[1], 1]), name="w")
        return x @ self.w


def built_at_the_first_call(n):
    return Module(lambda self, x: self.all[0](x) + self.all[1](x), all=[Later(), Later()])


def dropout(n):
    return keras.Sequential([keras.Input([n]), dense(20), keras.layers.Dropout(0.5), dense(1)])


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def own_step(n):
    return OwnStep([keras.Input([n]), dense(1)])


class OwnTest(keras.Sequential):
    def test_step(self, data):
        return super().test_step(data)


def own_test(n):
    return OwnTest([keras.Input([n]), dense(1)])


class VectorLoss(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.square(y - y_pred[:, 0])


def vector_loss(n):
    model = VectorLoss([keras.Input([n]), dense(1)])
    model.compile("sgd")
    return model


class TwiceTheLoss(keras.Sequential):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


def twice_the_loss(n):
    return TwiceTheLoss([keras.Input([n]), dense(1, kernel_initializer="zeros")])


def compiled(n):
    model = line(n)
    model.compile("adam", loss="mae", metrics=["mse"])
    return model


def of_nothing():
    return line(1)


def of_its_spec(spec, units=1):
    assert spec.weight is None
    return keras.Sequential([keras.Input(spec.x.shape), keras.layers.Flatten(), dense(units)])


def with_a_default(units=7):
    return keras.Sequential([keras.layers.Flatten(), dense(1, name=f"of_{units}")])


def mean_loss(y, prediction):
    return tf.reduce_mean((y - prediction) ** 2)


def own_loss(y, prediction):
    return tf.reduce_sum(tf.abs(y - prediction), axis=-1) / 2


def number_loss(y, prediction):
    return 1.0


def raising_loss(y, prediction):
    raise KeyError("in the loss")
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(_MINE)
    return path


def _examples(features: int, y: list[float]) -> datasets_lib.Datasets:
    x = np.linspace(-1, 1, len(y) * features, dtype=np.float32).reshape(-1, features)
    examples = batch_lib.Batch(x, np.array(y, np.float32))
    return datasets_lib.Datasets(examples, None, ("area", "age", "c")[:features], "y")


def _make(
    features: int = 1, y: tuple[float, ...] = (0, 1, 1, 0, 1, 0), **settings: Any
) -> task.Task:
    return make_task.make_task(config_lib.Config(**settings), _examples(features, list(y)))


def _own(mine: pathlib.Path, settings: dict[str, str]) -> dict[str, str]:
    """The settings, with names after a colon as functions of the user's file."""
    return {k: f"{mine}{v}" if v.startswith(":") else v for k, v in settings.items()}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": ":nothing"}, "must return a keras.Model, or a tf.Module with __call__; .*None"),
        ({"model": ":layer"}, "must return a keras.Model, or a tf.Module .*; received Dense"),
        ({"model": ":uncallable"}, "must return a keras.Model, or a tf.Module with __call__"),
        ({"model": ":module", "loop": "fit"}, "returns a tf.Module, .*use --loop=custom"),
        ({"model": ":no_variables"}, "no trainable variables; a keras.Model tracks layers"),
        ({"model": ":frozen"}, "no trainable variables"),
        ({"model": ":cube"}, r"calling the loss raised .*Incompatible shapes: \[6\] vs. \[6,2,2\]"),
        (
            {"model": ":classes"},
            r"calling the loss raised .*Incompatible shapes: \[6\] vs. \[6,3\]",
        ),
        ({"model": ":mean"}, r"one row for each example, .*; for 6 examples it gave \[\]"),
        ({"model": ":half"}, r"for 6 examples it gave \[3\]"),
        ({"model": ":half_a_nest"}, r"for 6 examples it gave \[6\], \[3, 1\]"),
        ({"model": ":empty"}, "for 6 examples it gave nothing"),
        ({"model": ":text"}, "must give a tensor with one row for each example"),
        ({"model": ":own_step"}, "a train_step of its own, which only a compiled model uses: com"),
        ({"model": ":own_test"}, "a test_step of its own, which only a compiled model uses: comp"),
        ({"model": ":vector_loss"}, r"the loss of a batch must be one number; received \(6,\)"),
        ({"model": ":twice_the_loss"}, "has a compute_loss of its own, which only a compiled mod"),
        ({"model": ":random"}, "predict the same each time .*its predictions differed"),
        ({"model": ":counting"}, "leave its variables as they are, .*it changed calls"),
        ({"model": ":raising"}, "making the model raised KeyError: .*in making it"),
        ({"model": ":raises_later"}, "calling the model raised KeyError: .*in calling it"),
        ({"model": "mlp", "loss": ":mean_loss"}, r"one number for each .*\(\): do not take the"),
        ({"model": "mlp", "loss": ":number_loss"}, "one number for each of the ex.*received float"),
        ({"model": "mlp", "loss": ":raising_loss"}, "calling the loss raised KeyError: .*in the l"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    mine: pathlib.Path, settings: dict[str, str], words: str
) -> None:
    """One line names the user's function and its file."""
    with pytest.raises(errors.InputError, match=words) as caught:
        _make(**_own(mine, settings))
    name = [value[1:] for value in settings.values() if value.startswith(":")][-1]
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name} in {mine}" in message


@pytest.mark.parametrize(
    ("settings", "y", "words"),
    [
        ({"model": "logistic"}, (0, 1, 2), "needs labels from 0 to 1; received 0 to 2"),
        ({"model": "logistic"}, (-1, 1, 1), "needs labels from 0 to 1; received -1 to 1"),
        ({"model": "polynomial"}, (0, 1, 0), ""),  # its predictions are all 0 at first
        ({"model": ":line"}, (0, 1, 0), "that are probabilities; received -.*; end the model with"),
    ],
)
def test_binary_crossentropy_is_of_probabilities(
    mine: pathlib.Path, settings: dict[str, str], y: tuple[float, ...], words: str
) -> None:
    """Keras silently clips other predictions and accepts other labels."""
    settings = _own(mine, settings) | {"loss": "binary_crossentropy"}
    if not words:
        _make(y=y, **settings)
        return
    with pytest.raises(errors.InputError, match=f"--loss=binary_crossentropy {words}|{words}"):
        _make(y=y, **settings)


@pytest.mark.parametrize(
    ("model", "y", "words"),
    [
        (":classes", (0, 1, 3), "received labels from 0 to 3 and 3 outputs"),
        (":classes", (-1, 1, 2), "received labels from -1 to 2 and 3 outputs"),
        (":classes", (0, 0.5, 2), "needs labels 0, 1, ... below the number"),
        ("logistic", (0, 1, 0), "received labels from 0 to 1 and 1 outputs"),
    ],
)
def test_sparse_labels_are_numbers_of_outputs(
    mine: pathlib.Path, model: str, y: tuple[float, ...], words: str
) -> None:
    settings = _own(mine, {"model": model, "loss": "sparse_categorical_crossentropy"})
    with pytest.raises(errors.InputError, match=words):
        _make(y=y, **settings)


def test_all_labels_are_checked_not_only_those_of_the_sample() -> None:
    """The functions are tested on the sample; the label out of range is the last of many."""
    with pytest.raises(errors.InputError, match="received 0 to 7"):
        _make(y=(0.0,) * 500 + (7.0,), model="logistic", loss="binary_crossentropy")


# A compiled model.


def test_a_compiled_model_keeps_its_loss(mine: pathlib.Path) -> None:
    made = _make(model=f"{mine}:compiled")
    assert made.is_compiled
    x = np.zeros([6, 1], np.float32)
    y = np.arange(6, dtype=np.float32)[:, None]
    assert float(made.loss(batch_lib.Batch(tf.constant(x), tf.constant(y)))) == 2.5


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "mae"},
        {"loss": ":mean_loss"},
        {"optimizer": "adam"},
        {"metrics": "mae"},
        {"l2": 0.1},
        {"clip_norm": 1.0},
        {"schedule": "cosine"},
        {"optimizer": ":own_loss", "schedule": ":own_loss"},
        {"schedule": "exponential", "decay_steps": 7},
        {"warmup_steps": 7},
        {"learning_rate": 0.25, "data": "table.csv"},
    ],
)
def test_flags_beside_a_compiled_model_are_refused(
    mine: pathlib.Path, settings: dict[str, Any]
) -> None:
    """The message names them: the model's own settings would silently win."""
    own = _own(mine, {k: v for k, v in settings.items() if isinstance(v, str)})
    with pytest.raises(errors.InputError) as caught:
        _make(**{**settings, **own, "model": f"{mine}:compiled"})
    names = ", ".join(f"--{name}" for name in settings if name != "data")
    words = "returns a compiled model, which brings its loss, optimizer and metrics; received "
    assert f"{words}{names}: leave out these flags" in str(caught.value)


# The arguments of a model function.


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (":of_nothing", (6, 1), ""),
        (":of_its_spec", (6, 2), ""),
        (":of_its_spec", (6, 2, 3), ""),
        (":with_a_default", (6, 2, 3), ""),  # which stays
        (":with_a_default", (6, 2), ""),
        (":line", (6, 2), ""),
        (":line", (6, 2, 3), r"takes n, the number of features, but x is no array \[N, D\]"),
    ],
)
def test_a_function_gets_what_it_asks_for(
    mine: pathlib.Path, model: str, shape: tuple[int, ...], words: str
) -> None:
    """The arguments are none, the number of features, or the TensorSpecs of an example."""
    examples = batch_lib.Batch(np.ones(shape, np.float32), np.zeros(6, np.float32))
    datasets = datasets_lib.Datasets(examples, None)
    config = config_lib.Config(**_own(mine, {"model": model}))
    if words:
        with pytest.raises(errors.InputError, match=words):
            make_task.make_task(config, datasets)
        return
    made = make_task.make_task(config, datasets)
    assert made.predict(tf.constant(examples.x)).shape == (6,)
    assert made.spec.x == tf.TensorSpec([None, *shape[1:]], tf.float32)
    if model == ":with_a_default":
        assert made.model.layers[-1].name == f"of_{7 if len(shape) == 3 else 2}"


# Names.


_SEQUENTIAL = "sequential.dense.kernel/0 sequential.dense.kernel/1 sequential.dense.bias/0"
_OF_MLP = ("dense.kernel", "dense.bias", "dense_1.kernel", "dense_1.bias", "dense_2.kernel")


@pytest.mark.parametrize(
    ("model", "features", "names"),
    [
        ("polynomial", 1, "kernel/0 kernel/1 kernel/2 bias"),
        ("mlp", 1, " ".join(f"norm/{name}" for name in _OF_MLP)),
        (":module", 2, "kernel/area kernel/age"),
        (":nested", 1, _SEQUENTIAL),
        (":hidden_in_a_list", 1, "w w_1 b"),
        (":built_at_the_first_call", 1, "w w_1"),
    ],
)
def test_values_have_the_shortest_names_that_differ(
    mine: pathlib.Path, model: str, features: int, names: str
) -> None:
    """Names come from features if a variable has a number for each, or from attributes."""
    made = _make(features, **_own(mine, {"model": model}))
    watched, expected = made.variables.watched, names.split()
    assert list(watched[: len(expected)]) == expected
    assert len(set(watched)) == len(watched) == len(made.variables.values())


# What a seed gives.


def _is_same(one: task.Task, other: task.Task) -> bool:
    arrays = one.variables.arrays(), other.variables.arrays()
    assert list(arrays[0]) == list(arrays[1])
    return all(np.array_equal(array, arrays[1][name]) for name, array in arrays[0].items())


@pytest.mark.parametrize("model", ["mlp", ":dropout"])
def test_a_seed_gives_names_and_values(mine: pathlib.Path, model: str) -> None:
    """They do not depend on the models that the process made before."""
    settings = _own(mine, {"model": model})
    one = _make(seed=3, **settings)
    _make(model="polynomial")
    other = _make(seed=3, **settings)
    assert one.variables.watched == other.variables.watched
    assert _is_same(one, other)
    assert not _is_same(one, _make(seed=4, **settings))
