"""Tests of pipeline.distributed.workers and each worker's data, without messages."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import fingerprint
from pipeline.distributed import workers
from pipeline.evaluation import evaluate
from pipeline.run import agreement
from pipeline.training import make_task
from tests import kinds

_TWO = ["a:1", "b:2"]


def _config(cluster: Any, kind: Any = "worker", index: Any = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", workers.Worker()),
        (_config({"worker": _TWO}), workers.Worker(0, 2, (("worker", 2),))),
        (_config({"worker": _TWO}, index="1"), workers.Worker(1, 2, (("worker", 2),))),
        (
            _config({"worker": _TWO, "chief": ["c:3"]}, index=1),
            workers.Worker(2, 3, (("chief", 1), ("worker", 2))),
        ),
        (
            _config({"worker": _TWO, "chief": ["c:3"]}, "chief"),
            workers.Worker(0, 3, (("chief", 1), ("worker", 2))),
        ),
    ],
)
def test_tf_config_says_who_a_process_is(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: workers.Worker
) -> None:
    """The chief, if there is one, comes before the workers."""
    monkeypatch.setenv("TF_CONFIG", text)
    assert workers.from_environment() == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it can't be read: JSONDecodeError"),
        ("[]", "it can't be read: TypeError"),
        ('{"cluster": {"worker": ["a:1"]}}', "it can't be read: KeyError 'task'"),
        (_config(["a:1"]), "it can't be read: AttributeError"),
        (_config({"worker": _TWO}, index=2), "the task worker 2 is not in the cluster"),
        (_config({"worker": _TWO}, index=-1), "the task worker -1 is not in the cluster"),
        (_config({"worker": _TWO}, "chief"), "the task chief 0 is not in the cluster"),
        (_config({"worker": _TWO, "ps": ["c:3"]}), "only jobs chief and worker are known"),
        (_config({"chief": _TWO}, "chief"), "there may be one chief only"),
        (_config({"worker": ["a", "b:2"]}), "each worker needs an address host:port of its own"),
        (_config({"worker": ["a:1", "a:1"]}), "each worker needs an address host:port of its own"),
    ],
)
def test_a_wrong_tf_config_is_one_line(
    monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(errors.InputError) as caught:
        workers.from_environment()
    assert str(caught.value).startswith(f"TF_CONFIG: {problem}")
    assert "\n" not in str(caught.value)
    assert f"received {text}" in str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 2, 9, 64, 201])
def test_shares_are_all_positions_once_and_even(count: int, size: int) -> None:
    shares = [workers.Worker(index, count).share(size) for index in range(count)]
    assert [p for s in shares for p in range(s.first, s.first + s.size)] == list(range(size))
    assert max(s.size for s in shares) - min(s.size for s in shares) <= 1
    parts = [workers.Worker(index, count).part(np.arange(size)) for index in range(count)]
    assert [len(part) for part in parts] == [s.size for s in shares]
    assert sorted(np.concatenate(parts)) == list(range(size))


def _table(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file of 40 rows with blank lines among them."""
    path = tmp_path / "data.csv"
    rows = [f"{i},{i % 7},{i * i}" + "\n" * (1 + (i % 5 == 0)) for i in range(40)]
    path.write_text("a,b,y\n" + "".join(rows))
    return path


@pytest.mark.parametrize("settings", [{}, {"features": "b"}, {"label": "a", "features": "y,b"}])
@pytest.mark.parametrize("count", [2, 3])
def test_workers_read_only_the_rows_they_need(
    tmp_path: pathlib.Path, count: int, settings: dict[str, Any]
) -> None:
    """Each reads its part of a full batch and of validation rows; all read all mini-batch rows."""
    path = _table(tmp_path)
    for batch_size in (0, 8):
        config = config_lib.Config(
            data=str(path), validation_examples=11, batch_size=batch_size, **settings
        )
        whole = datasets_lib.load(config)
        assert whole.validation is not None
        parts = [datasets_lib.load(config, workers.Worker(i, count)) for i in range(count)]
        assert {(part.num_train, part.num_validation) for part in parts} == {(29, 11)}
        for i, part in enumerate(parts):
            assert part.validation is not None
            every = slice(i, None, count)
            for own, all_ in zip(part.validation.arrays, whole.validation.arrays, strict=True):
                np.testing.assert_array_equal(own, all_[every])
            columns = (each.arrays for each in (part.train, part.evaluated, whole.train))
            for own, evaluated, all_ in zip(*columns, strict=True):
                np.testing.assert_array_equal(own, all_ if batch_size else all_[every])
                np.testing.assert_array_equal(evaluated, all_[every])
        together = sum(part.fingerprint() for part in parts) % fingerprint.COUNT
        assert together == whole.fingerprint()


def test_more_workers_than_examples_are_refused() -> None:
    with pytest.raises(errors.InputError, match="3 workers need as many examples; received 2"):
        datasets_lib.load(config_lib.Config(num_examples=2), workers.Worker(0, 3))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("batch_size", [0, 64, 200])
def test_parts_of_each_batch_are_the_whole(count: int, batch_size: int) -> None:
    """The order is kept, also in the short last batch of an epoch."""
    config = config_lib.Config(batch_size=batch_size, seed=5)
    whole = datasets_lib.load(config)
    expected = batches_lib.Batches(whole.train, config)
    steps = 2 * expected.steps_per_epoch
    parts = []
    for index in range(count):
        data = datasets_lib.load(config, workers.Worker(index, count))
        own = batches_lib.Batches(data.train, config, worker=data.worker, count=data.num_train)
        assert (own.batch_size, own.short_size) == (expected.batch_size, expected.short_size)
        parts.append(own)
    for k in range(steps):
        shares = [part.batch(k) for part in parts]
        sizes = [share.num_examples for share in shares]
        assert max(sizes) - min(sizes) <= 1
        for column, array in enumerate(expected.batch(k).arrays):
            together = np.concatenate([share.arrays[column] for share in shares])
            if not batch_size:  # spread over all of them, not one after the other
                together = np.sort(together, axis=0)
                array = np.sort(array, axis=0)
            np.testing.assert_array_equal(together, array)


_NOT_SHARED = (
    *("initialize_from", "summary_every", "references", "profile_steps", "checkpoint_every"),
    *("checkpoint_secs", "peer_timeout_secs", "export_formats", "export_versions_to_keep"),
    *("logdir", "run_name", "overwrite"),
)


def test_workers_that_differ_in_any_setting_are_told_so(tmp_path: pathlib.Path) -> None:
    """Settings of the first worker's tasks may differ; for --data, the examples are compared."""
    (tmp_path / "mine.py").write_text("def a(*args): ...\n")
    mine = f"{tmp_path}/mine.py:a"
    of_table = {"data": "t.csv", "learning_rate": 0.2}
    changed: list[dict[str, Any]] = [
        {"metrics": "mae", "epochs": 3, "batch_size": 3, "seed": 1, "export": "best"},
        {"loop": "fit", "model": "keras", "jit_compile": "false", "callbacks": mine},
        {"run_eagerly": True, "clip_norm": 1.0, "early_stopping_patience": 1, "l2": 0.5},
        {"schedule": "cosine", "decay_steps": 5, "warmup_steps": 1, "optimizer": "adam"},
        {"synthetic": "sine", "model": "mlp", "learning_rate": 0.2, "loss": "huber"},
        {"initial_w": 1.0, "initial_b": 1.0, "num_examples": 9, "validation_examples": 1},
        {"true_w": 1.0, "true_b": 1.0, "noise_stddev": 2.0, "x_min": -9.0, "x_max": 9.0},
        {**of_table, "label": "y", "features": "a", "missing": "drop", "standardize": "false"},
        {**of_table, "validation_fraction": 0.5, "categorical": "a", "weight": "w"},
        {**of_table, "class_weight": "balanced", "steps_per_epoch": 3},
        {"data": mine, "model": mine, "learning_rate": 0.2},
    ]
    expected = agreement.settings(config_lib.Config())
    found = set()
    for each in changed:
        other = agreement.settings(config_lib.Config(**each))
        assert list(other) == list(expected)
        differing = {name[2:] for name in expected if other[name] != expected[name]}
        assert each.keys() - {"data"} <= differing
        found |= differing
    assert {f"--{name}" for name in found} == expected.keys()
    names = {field.name for field in dataclasses.fields(config_lib.Config)}
    assert names == found | set(_NOT_SHARED)


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        ({}, {"loss": "huber"}, ["--loss"]),
        ({"loss": "huber"}, {"loss": "mae"}, ["--loss"]),
        ({"model": "mlp"}, {"model": "polynomial"}, ["--model"]),
        ({"loss": "mine.py:a"}, {"loss": "mine.py:b"}, ["--loss"]),
        ({"model": "mine.py:a"}, {"model": "mine.py:b"}, ["--model"]),
        ({"loss": "mine.py:a"}, {"loss": "theirs.py:a"}, ["--loss"]),
        ({"loss": "mine.py:a"}, {"loss": "mae"}, ["--loss"]),
        ({"loss": "mine.py:a"}, {"loss": "copies/mine.py:a"}, []),
    ],
)
def test_workers_that_differ_are_told_so(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    one: dict[str, Any],
    other: dict[str, Any],
    differing: list[str],
) -> None:
    """Everything that must be the same has a number, which does not depend on file paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copies").mkdir()
    for name in ("mine.py", "copies/mine.py"):
        pathlib.Path(name).write_text("def a(*args): ...\ndef b(*args): ...\n")
    pathlib.Path("theirs.py").write_text("def a(*args): return args\n")
    settings = [agreement.settings(config_lib.Config(**each)) for each in (one, other)]
    assert [name for name in settings[0] if settings[0][name] != settings[1][name]] == differing


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("normalized", "with variables that change without a gradient: moving_mean, moving_var"),
        ("penalized", "the loss of a batch is not the mean of the losses of its parts"),
        ("double", "several workers train float32 variables only; "),
        ("embedded", "several workers train embeddings with --optimizer=sgd only"),
        ("two_inputs", ""),
    ],
)
def test_what_several_workers_would_train_otherwise_is_refused(kind: str, why: str) -> None:
    own = f"{kinds.__file__}:{kind}"
    config = config_lib.Config(model=own, data=f"{own}_data", batch_size=32)
    data = datasets_lib.load(config)
    task = make_task.make_task(config, data)
    is_mean = evaluate.Evaluator(task, data, config).is_mean_over_examples
    said = agreement.unfit(config, data, task, is_mean_over_examples=is_mean)
    assert why in said
    assert bool(said) == bool(why)
