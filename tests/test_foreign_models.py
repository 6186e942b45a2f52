"""SavedModels of other programs and damaged ones are used correctly, or refused in one line.

One process runs `predict` and `train --initialize_from` on all of them.
"""

import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import tensorflow as tf

from tests import helpers

_PREDICTS, _STARTS = "x,y\n1,5\n", "Starting: W = 3.00, b = 2.00"
_PREDICTS_THREE = "x,y_0,y_1,y_2\n1,1,2,5\n"
_NO_EXPORT = "must be a SavedModel or a directory of numbered ones"
_NO_CHECKPOINT = "holds no undamaged checkpoint"
_DAMAGED = "can't be loaded as a SavedModel"
_OTHER = "is no SavedModel whose signature serving_default maps x"
_NO_PARAMETERS = "has no signature variables"
_NOT_FINITE = "is not finite as float32"


class _Model(NamedTuple):
    """A function that makes a SavedModel, and the expected answers."""

    make: Callable[[pathlib.Path], object]
    predict: str = _OTHER
    initialize: str = _OTHER


def _spec(*shape: int | None, name: str = "x", dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def _save(
    path: pathlib.Path,
    serve: Any = lambda x: {"y": 3 * x + 2},
    *specs: tf.TensorSpec,
    parameters: Any = lambda: {"W": tf.constant(3.0), "b": tf.constant(2.0)},
    inputs: tuple[tf.TensorSpec, ...] = (),
    its_name: str = "variables",
    **attributes: Any,
) -> None:
    """Saves y = 3x + 2 with both signatures, or others with the specs of their inputs."""
    module = tf.Module()
    for name, value in {"weight": tf.Variable(tf.ones([100])), **attributes}.items():
        setattr(module, name, value)
    serve = tf.function(serve, input_signature=specs or [_spec(None)])
    parameters = tf.function(parameters, input_signature=inputs)
    signatures = {"serving_default": serve, its_name: parameters}
    tf.saved_model.save(module, str(path), signatures=signatures)


def _serving(serve: Any, *specs: tf.TensorSpec) -> Callable[[pathlib.Path], None]:
    """Saves a model with another serving_default."""
    return lambda path: _save(path, serve, *specs)


def _given(*parameters: Any, names: str = "Wb") -> Callable[[pathlib.Path], None]:
    """Saves a model with other parameters."""
    return lambda path: _save(
        path, parameters=lambda: dict(zip(names, map(tf.constant, parameters), strict=True))
    )


def _keras(path: pathlib.Path) -> None:
    model = tf.keras.Sequential([tf.keras.Input([1]), tf.keras.layers.Dense(1)])
    model.export(str(path), verbose=False)


def _session(path: pathlib.Path) -> None:
    """Saves a model as TensorFlow 1 did."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None])
        w = v1.get_variable("w", initializer=3.0)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": w * x + 2})


def _with_assets(path: pathlib.Path) -> None:
    file = path.with_name("words.txt")
    file.write_text("three\nfive\n")
    initializer = tf.lookup.TextFileInitializer(
        *(str(file), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
        *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
    )
    table = tf.lookup.StaticHashTable(initializer, -1)
    one = lambda: tf.cast(table.lookup(tf.constant("five")), tf.float32)  # noqa: E731
    _save(path, lambda x: {"y": 0 * x + 4 + one()}, table=table)
    file.unlink()


def _shaped(result: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[pathlib.Path], None]:
    """Saves a model whose shape of y is unknown before it predicts."""

    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        y = result(x)
        return {"y": tf.reshape(y, tf.boolean_mask(tf.shape(y), tf.shape(y) > 0))}

    return _serving(serve)


def _fails(x: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    broken = tf.debugging.check_numerics(tf.math.log(tf.constant(-1.0)), "no\nnumber")
    return {"y": broken + x} if x is not None else {"W": broken, "b": broken}


def _damaged(
    change: Callable[[pathlib.Path], object], *files: str
) -> Callable[[pathlib.Path], None]:
    """Saves a model and changes some of its files."""

    def make(path: pathlib.Path) -> None:
        _save(path)
        for file in files:
            change(path / file)

    return make


def _truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _rename_operations(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"AddV2", b"Added"))


def _replace_by_directory(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def _below(path: pathlib.Path) -> None:
    """A version whose saved_model.pb is a directory."""
    (path / "1" / "saved_model.pb").mkdir(parents=True)


_PB, _DATA = "saved_model.pb", "variables/variables.data-00000-of-00001"
_INDEX = "variables/variables.index"
_NAMES = {"features": tf.Variable(["a", "b"]), "label": tf.Variable([b"\xff"])}
_MODELS = {
    "as ours": _Model(_save, _PREDICTS, _STARTS),
    "an earlier version": _Model(
        lambda path: _save(path, its_name="parameters"), _PREDICTS, _STARTS
    ),
    "brackets [1]": _Model(_save, _PREDICTS, _STARTS),
    "star * and back\\slash": _Model(_save, _PREDICTS, _STARTS),
    "an asset": _Model(_with_assets, _PREDICTS, _STARTS),
    "TensorFlow 1": _Model(_session, _PREDICTS, _NO_PARAMETERS),
    "names of others": _Model(lambda path: _save(path, **_NAMES), "x,�\n1,5\n", _STARTS),
    "a column": _Model(
        _serving(lambda x: {"y": 3 * x[:, 0] + 2}, _spec(None, 1)), "x0,y\n1,5\n", _STARTS
    ),
    "unknown shape": _Model(_shaped(lambda x: 3 * x + 2), _PREDICTS, _STARTS),
    "unknown shape, a table": _Model(
        _shaped(lambda x: tf.stack([x, 2 * x, 5 * x], 1)), _PREDICTS_THREE, _STARTS
    ),
    "unknown shape, a cube": _Model(
        _shaped(lambda x: tf.stack([x, x, x], 1)[..., None]), "gave y [1, 3, 1] for 1", _STARTS
    ),
    "y is [N, 3]": _Model(
        _serving(lambda x: {"y": tf.stack([x, 2 * x, 5 * x], 1)}), _PREDICTS_THREE, _STARTS
    ),
    "y is a column": _Model(_serving(lambda x: {"y": 5 * x[:, None]}), "x,y_0\n1,5\n", _STARTS),
    "y of another length": _Model(
        _serving(lambda x: {"y": tf.concat([x, x], 0)}), "gave y [2] for 1 inputs", _STARTS
    ),
    "fails": _Model(_serving(_fails), "can't predict: ", _STARTS),
    **{
        f"x is {dtype.name}": _Model(
            _serving(lambda x: {"y": tf.zeros(tf.shape(x))}, _spec(None, dtype=dtype))
        )
        for dtype in (tf.float64, tf.float16, tf.int32, tf.bool, tf.string)
    },
    **{
        f"x is {list(shape)}": _Model(
            _serving(lambda x: {"y": tf.reshape(tf.reduce_sum(x), [-1])}, _spec(*shape))
        )
        for shape in ((), (2,), (2, 1), (None, None), (None, 0), (None, 1, 1))
    },
    "x is of any rank": _Model(
        _serving(lambda x: {"y": tf.reshape(x, [-1])}, tf.TensorSpec(None, name="x"))
    ),
    "two inputs": _Model(_serving(lambda x, z: {"y": x + z}, _spec(None), _spec(None, name="z"))),
    "another input": _Model(_serving(lambda z: {"y": z}, _spec(None, name="z"))),
    "another output": _Model(_serving(lambda x: {"z": x})),
    **{
        f"y is {name}": _Model(_serving(lambda x, y=y: {"y": y(x)}))
        for name, y in {
            "a scalar": tf.reduce_sum,
            "[N, 3, 1]": lambda x: tf.stack([x, x, x], 1)[..., None],
            "float64": lambda x: tf.cast(x, tf.float64),
            "string": tf.strings.as_string,
        }.items()
    },
    "Keras": _Model(_keras),
    "no signature": _Model(lambda path: tf.saved_model.save(tf.Module(), str(path))),
    "parameters of strings": _Model(_given("3", "2"), _PREDICTS, _NOT_FINITE),
    "parameters of float64": _Model(
        lambda path: _save(
            path, parameters=lambda: {n: tf.constant(3.0, tf.float64) for n in "Wb"}
        ),
        *(_PREDICTS, _NOT_FINITE),
    ),
    "NaN": _Model(_given(float("nan"), 2.0), _PREDICTS, _NOT_FINITE),
    "other parameters": _Model(
        _given(3.0, 2.0, names="ab"), _PREDICTS, "it has 1 a, 1 b; the model for these examples has"
    ),
    "more parameters": _Model(
        _given([3.0, 3.0], 2.0), _PREDICTS, "has 1 W, 1 b; give --data and --features as for its"
    ),
    "parameters from x": _Model(
        lambda path: _save(path, parameters=lambda x: {"W": x}, inputs=(_spec(None),)),
        *(_PREDICTS, _NO_PARAMETERS),
    ),
    "parameters fail": _Model(
        lambda path: _save(path, parameters=_fails), _PREDICTS, _NO_PARAMETERS
    ),
    "nothing": _Model(pathlib.Path.mkdir, _NO_EXPORT, _NO_CHECKPOINT),
    "a directory for saved_model.pb": _Model(
        _damaged(_replace_by_directory, _PB), _NO_EXPORT, _NO_CHECKPOINT
    ),
    "a directory in a version": _Model(_below, _NO_EXPORT, _NO_CHECKPOINT),
    **{
        f"{change.__name__[1:]} {' and '.join(files)}": _Model(
            _damaged(change, *files), _DAMAGED, _DAMAGED
        )
        for change, *files in (
            *((_truncate, _PB), (_truncate, _DATA), (_truncate, _INDEX)),
            *((_flip, _DATA), (_flip, _INDEX), (_rename_operations, _PB)),
            (_replace_by_directory, _DATA),
        )
    },
    **{
        f"empty {file}": _Model(
            _damaged(lambda path: path.write_bytes(b""), file), _DAMAGED, _DAMAGED
        )
        for file in (_PB, _DATA, _INDEX)
    },
    "noise": _Model(
        _damaged(lambda path: path.write_bytes(b"\xff no protobuf"), _PB), _DAMAGED, _DAMAGED
    ),
    "no variables": _Model(_damaged(shutil.rmtree, "variables"), _DAMAGED, _DAMAGED),
}
# All damage is found in the same way, so noise stands for all.
_INITIALIZING = [n for n, m in _MODELS.items() if m.initialize != _DAMAGED or n == "noise"]
Answers = dict[str, tuple[Any, str, str]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    """The answers of `predict` and `train` to each model; nothing else is printed."""
    folder = tmp_path_factory.mktemp("models")
    commands = []
    for name, model in _MODELS.items():
        model.make(folder / name)
        commands += [["predict", f"--export_dir={folder / name}", "--x=1"]]
    for number, name in enumerate(_INITIALIZING):
        flags = [f"--initialize_from={folder / name}", "--epochs=1", "--logdir=logs"]
        commands += [["train", *flags, f"--run_name={number}"]]
    answers = helpers.answers(commands, cwd=tmp_path_factory.mktemp("terminal"))
    predicted = dict(zip(_MODELS, answers, strict=False))
    return predicted, dict(zip(_INITIALIZING, answers[len(_MODELS) :], strict=True))


def _assert_is(expected: str, answer: tuple[Any, str, str], *, is_used: bool) -> None:
    code, out, err = answer
    if is_used:
        assert (code, err) == (0, "")
        assert expected in out
    else:
        assert code == 2, answer
        assert err.count("\n") == 1
        assert expected in err


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_predicts_rightly_or_refuses(answers: tuple[Answers, Answers], name: str) -> None:
    expected = _MODELS[name].predict
    _assert_is(expected, answers[0][name], is_used=expected.endswith(",5\n"))


@pytest.mark.slow
@pytest.mark.parametrize("name", _INITIALIZING)
def test_starts_from_its_parameters_or_refuses(answers: tuple[Answers, Answers], name: str) -> None:
    expected = _MODELS[name].initialize
    _assert_is(expected, answers[1][name], is_used=expected == _STARTS)
