"""Tests of pipeline.training.compilation: modes of running steps, and unrepeatable steps."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.training import compilation, keras_loop, make_task, optimizers, task, train_step
from pipeline.training.compilation import Mode

_MINE = """
import keras
import tensorflow as tf

layers = keras.layers


def sequential(n, *more):
    return keras.Sequential([keras.Input([n]), *more, layers.Dense(1)])


def dense(n):
    return sequential(n)


def conv(n):
    return sequential(n, layers.Reshape([n, 1]), layers.Conv1D(4, 1), layers.Flatten())


def conv2d(n):
    return sequential(n, layers.Reshape([n, 1, 1]), layers.Conv2D(4, 1), layers.Flatten())


def dropout(n):
    return sequential(n, layers.Dropout(0.5))


def noise(n):
    return sequential(n, layers.GaussianNoise(0.5))


class Layer(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x, training=False):
        return x + self.function(x) if training else x


def random_normal(n):
    return sequential(n, Layer(lambda x: tf.random.normal([1])))


def random_shuffle(n):
    return sequential(n, Layer(lambda x: tf.random.shuffle(x)))


def truncated(n):
    return sequential(n, Layer(lambda x: tf.random.truncated_normal([1])))


def gamma(n):
    return sequential(n, Layer(lambda x: tf.random.gamma([1], 1.0)))


def poisson(n):
    return sequential(n, Layer(lambda x: tf.random.poisson([1], 1.0)))


def sampler(n):
    def sample(x):
        ids = tf.random.log_uniform_candidate_sampler([[1]], 1, 1, True, 5)[0]
        return tf.cast(ids, tf.float32)

    return sequential(n, Layer(sample))


def known(number):
    return tf.ensure_shape(number, [])


def in_python(n):
    return sequential(n, Layer(lambda x: known(tf.py_function(abs, [x[0, 0]], tf.float32))))


def in_numpy(n):
    return sequential(n, Layer(lambda x: known(tf.numpy_function(abs, [x[0, 0]], tf.float32))))


def in_a_branch(n):
    def maybe(x):
        return tf.cond(x[0, 0] > 0, lambda: tf.random.uniform([1]), lambda: x[0, :1])

    return sequential(n, Layer(maybe))


def clock(n):
    return sequential(n, Layer(lambda x: tf.cast(tf.timestamp(), tf.float32)))


def stateless(n):
    return sequential(n, Layer(lambda x: tf.random.stateless_normal([1], [1, 2])))


def looks_up(n):
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1, 2], [3.0, 4.0]), 0.0)
    return sequential(n, Layer(lambda x: table.lookup(tf.cast(x, tf.int32))))


def checks(n):
    def check(x):
        tf.debugging.assert_less(x, 1e9)
        tf.print(x[0], output_stream="file:///dev/null")
        i = 0
        while i < 2:
            x, i = tf.debugging.check_numerics(x, "x"), i + 1
        return tf.map_fn(lambda row: row * 2, x)

    return sequential(n, Layer(check))


def normal_and_counts(n):
    return sequential(n, layers.BatchNormalization(), layers.Dropout(0.1))


def without_generator(n):
    return sequential(n, Layer(lambda x: keras.random.normal([1])))


class Generator(Layer):
    def __init__(self):
        super().__init__(lambda x: keras.random.normal([1], seed=self.generator))
        self.generator = keras.random.SeedGenerator(1)


def with_generator(n):
    return sequential(n, Generator())


def as_text(x):
    return tf.strings.to_number(tf.strings.as_string(x))


def strings(n):
    return sequential(n, Layer(as_text))


def strings_loss(y, prediction):
    return tf.square(y - prediction) + 0 * as_text(y)


def numpy_loss(y, prediction):
    return tf.square(y - prediction.numpy())


class Module(tf.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.w = tf.Variable(1.0)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x, training=False):
        y = self.w * x[:, 0]
        if hasattr(self, "drop"):
            y = self.drop(y, training=training)
        return y + self.dense(x)[:, 0] if hasattr(self, "dense") else y


def module(n):
    return Module()


def unused(n):
    return Module(forgotten=tf.Variable([1.0, 2.0]), frozen=tf.Variable(1.0, trainable=False))


def layer_in_module(n):
    return Module(dense=layers.Dense(1))


def dropout_in_module(n):
    return Module(drop=layers.Dropout(0.5))


def whole_numbers(n):
    def call(x):
        return tf.cast(tf.cast(x, tf.int32), tf.float32)

    return keras.Sequential([keras.Input([n]), layers.Dense(1), layers.Lambda(call)])


def unused_layer(n):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = layers.Dense(1), layers.Dense(2)

        def call(self, x):
            self.other(x)
            return self.one(x)

    return Model()
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(_MINE)
    return path


def _prepare(
    mine: pathlib.Path, *, count: int = 6, **settings: Any
) -> tuple[task.Task, Any, compilation.Compilation]:
    """Prepares to train on some examples; names after a colon are functions of the user's file."""
    settings = {k: f"{mine}{v}" if str(v)[0] == ":" else v for k, v in settings.items()}
    config = config_lib.Config(**settings)
    x = np.linspace(-1, 1, 2 * count, dtype=np.float32).reshape(-1, 2)
    examples = batch_lib.Batch(x, x[:, 0])
    datasets = datasets_lib.Datasets(examples, None, ("a", "b"), "y")
    made = make_task.make_task(config, datasets)
    optimizer = optimizers.create(config, made, last_step=10)
    before = made.variables.arrays()
    batches = batches_lib.Batches(examples, config)
    make_step = train_step.guide_step
    if config.loop == "fit":
        keras_loop.compile_model(made, optimizer)
        make_step = train_step.keras_step
    step = make_step(made, optimizer)
    graph, chosen = compilation.prepare(config, made, optimizer, batches, step)
    after = made.variables.arrays()
    assert all(np.array_equal(before[name], after[name]) for name in before)  # nothing has run
    return made, graph, chosen


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="what is known is known of CPUs"
)
@pytest.mark.parametrize(
    ("settings", "mode", "words"),
    [
        ({"model": "module"}, Mode.XLA, ""),
        ({"model": "mlp"}, Mode.XLA, ""),
        ({"model": "mlp", "optimizer": "adam", "clip_norm": 1.0}, Mode.XLA, ""),
        ({"model": "mlp", "loop": "fit"}, Mode.GRAPH, ""),  # as Keras itself decides
        ({"model": ":dense"}, Mode.XLA, ""),
        ({"model": ":module"}, Mode.XLA, ""),
        ({"model": ":conv"}, Mode.GRAPH, "XLA is slower at conv"),
        ({"model": ":conv2d"}, Mode.GRAPH, "XLA is slower at conv"),
        ({"model": ":dropout"}, Mode.GRAPH, "XLA is slower at random numbers"),
        ({"model": ":noise"}, Mode.GRAPH, "XLA is slower at random numbers"),
        ({"model": ":with_generator"}, Mode.GRAPH, "XLA is slower at random numbers"),
        ({"model": "mlp", "count": 200_000}, Mode.GRAPH, "XLA is slower at steps of this size"),
        ({"model": "mlp", "count": 200_000, "batch_size": 32}, Mode.XLA, ""),
    ],
)
def test_auto_takes_what_is_faster_and_says_why(
    mine: pathlib.Path, settings: dict[str, Any], mode: Mode, words: str
) -> None:
    """No reason is needed for XLA, or for Keras' own choice."""
    _, graph, chosen = _prepare(mine, **settings)
    assert chosen.mode is mode
    assert chosen.reason.startswith(words)
    assert bool(chosen.reason) == bool(words)
    assert graph.node


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"model": "mlp", "jit_compile": "true"}, Mode.XLA),
        ({"model": ":dropout", "jit_compile": "true"}, Mode.XLA),
        ({"model": "mlp", "loop": "fit", "jit_compile": "true"}, Mode.XLA),
        ({"model": "mlp", "jit_compile": "false"}, Mode.GRAPH),
        ({"model": ":conv", "jit_compile": "false"}, Mode.GRAPH),
        ({"model": "mlp", "jit_compile": "true", "run_eagerly": True}, Mode.EAGER),
    ],
)
def test_what_is_asked_for_is_followed_without_a_word(
    mine: pathlib.Path, settings: dict[str, Any], mode: Mode
) -> None:
    _, graph, chosen = _prepare(mine, **settings)
    assert chosen == (mode, "")
    assert (graph is None) == (mode is Mode.EAGER)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": ":strings"},
        {"model": ":strings", "jit_compile": "true"},
        {"model": ":strings", "jit_compile": "true", "loop": "fit"},
        {"model": "mlp", "loss": ":strings_loss"},
    ],
)
def test_what_xla_cannot_compile_runs_as_a_graph(
    mine: pathlib.Path, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The note names the operation; XLA's own output is hidden."""
    _, _, chosen = _prepare(mine, **settings)
    assert chosen.mode is Mode.GRAPH
    assert chosen.reason == "XLA can't compile AsString"
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_choice_is_the_same_each_time(mine: pathlib.Path) -> None:
    """The choice affects rounding, so a resumed run must make the same one."""
    for model in (":strings", ":dropout"):
        one, other = (_prepare(mine, model=model)[2] for _ in range(2))
        assert one == other


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            ":random_normal",
            "(RandomStandardNormal): a resumed run could not reproduce them. Use a ",
        ),
        (
            ":random_shuffle",
            "uses random numbers of tf.random, or tf.py_function (RandomShuffle): ",
        ),
        (":truncated", "(TruncatedNormal): a resumed"),
        (":gamma", "(RandomGamma): a resumed"),
        (":poisson", "(RandomPoissonV2): a resumed"),
        (":sampler", "(LogUniformCandidateSampler): a resumed"),
        (":in_python", "(EagerPyFunc): a resumed"),
        (":in_numpy", "(PyFunc): a resumed"),
        (":in_a_branch", "(RandomUniform): a resumed"),
        (":clock", "(Timestamp): a resumed"),
        (":without_generator", "uses variables that the model does not list as its own: "),
        (":dropout_in_module", "uses variables that the model does not list as its own: "),
        (":layer_in_module", "uses variables that the model does not list as its own: "),
        (":unused", "the loss does not depend on forgotten: use it"),
        (":whole_numbers", "the loss does not depend on kernel, bias: use it"),
        (":unused_layer", "the loss does not depend on dense_1.kernel, dense_1.bias: use"),
    ],
)
def test_what_could_not_be_trained_or_repeated_is_refused(
    mine: pathlib.Path, model: str, words: str
) -> None:
    """One line names the user's function and file."""
    with pytest.raises(errors.InputError) as caught:
        _prepare(mine, model=model)
    message = str(caught.value)
    assert "\n" not in message
    assert words in message
    assert f"{model[1:]} in {mine}" in message


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize(
    "model", [":stateless", ":looks_up", ":checks", ":normal_and_counts", ":with_generator"]
)
def test_what_can_be_repeated_is_taken(mine: pathlib.Path, model: str, loop: str) -> None:
    """This includes operations that TensorFlow's registry marks as stateful."""
    _, graph, _ = _prepare(mine, model=model, loop=loop)
    assert graph.node


def test_an_unused_variable_is_refused_in_the_fit_loop_too(mine: pathlib.Path) -> None:
    """Keras itself would only warn and continue."""
    with pytest.raises(errors.InputError, match=r"does not depend on dense_1\.kernel, dense_1\.b"):
        _prepare(mine, model=":unused_layer", loop="fit")


def test_what_fails_only_in_a_graph_is_the_users(mine: pathlib.Path) -> None:
    """The loss could be called eagerly before; the model is this package's."""
    with pytest.raises(errors.UserCodeError) as caught:
        _prepare(mine, model="mlp", loss=":numpy_loss")
    message = str(caught.value)
    assert message.startswith(f"--loss={mine}:numpy_loss: tracing the training step raised Attrib")
    assert "has no attribute 'numpy'" in message
    assert "return tf.square(y - prediction.numpy())" in caught.value.traceback
