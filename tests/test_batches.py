"""Tests of pipeline.data.batches."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from tests import helpers

_N = 23


@functools.cache  # batches have no state, and compiling takes a second
def _batches(
    n: int = _N,
    *,
    batch_size: int = 5,
    seed: int = 0,
    num_features: int = 1,
    run_eagerly: bool = False,
) -> batches_lib.Batches:
    """Batches of n examples with y = 0 ... n-1, and x = -y in every feature."""
    y = np.arange(n, dtype=np.float32)
    examples = batch_lib.Batch(np.repeat(-y[:, None], num_features, axis=1), y)
    config = config_lib.Config(batch_size=batch_size, seed=seed, run_eagerly=run_eagerly)
    return batches_lib.Batches(examples, config)


def _numbers(batches: batches_lib.Batches, first: int, last: int) -> list[list[int]]:
    """The numbers of the examples in each batch, after a check of x."""
    result = []
    for x, y, _ in helpers.singly(batches, first, last):
        np.testing.assert_array_equal(x, np.broadcast_to(-y.numpy()[:, None], x.shape))
        result.append([int(number) for number in y.numpy()])
    return result


def _epochs(batches: batches_lib.Batches, count: int) -> list[list[int]]:
    """The order of the examples in each of the first epochs."""
    steps = batches.steps_per_epoch
    numbers = _numbers(batches, 0, count * steps)
    starts = range(0, count * steps, steps)
    return [[i for batch in numbers[k : k + steps] for i in batch] for k in starts]


@pytest.mark.slow
@pytest.mark.parametrize("num_features", [1, 3])
@pytest.mark.parametrize(("n", "batch_size"), [(23, 5), (20, 5), (9, 1), (100, 99)])
def test_each_epoch_is_a_permutation_of_all_examples(
    n: int, batch_size: int, num_features: int
) -> None:
    batches = _batches(n, batch_size=batch_size, num_features=num_features)
    for order in _epochs(batches, 3):
        assert sorted(order) == list(range(n))


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(5, [5, 5, 5, 5, 3]), (12, [12, 11]), (22, [22, 1]), (0, [23])]
)
def test_only_the_last_batch_of_an_epoch_is_smaller(batch_size: int, sizes: list[int]) -> None:
    batches = _batches(batch_size=batch_size)
    assert batches.steps_per_epoch == len(sizes)
    assert batches.short_size == (sizes[-1] if len(sizes) > 1 else 0)
    assert [len(batch) for batch in _numbers(batches, 0, 2 * len(sizes))] == sizes * 2


def test_batches_that_divide_the_examples_have_one_size() -> None:
    batches = _batches(20)
    assert batches.short_size == 0
    assert [len(batch) for batch in _numbers(batches, 0, 9)] == [5] * 9


@pytest.mark.slow
def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(order) for seed in (0, 1, 2**32 - 1) for order in _epochs(_batches(seed=seed), 4)
    ]
    assert len({*orders, tuple(range(_N))}) == 3 * 4 + 1


def test_same_seed_gives_the_same_batches() -> None:
    one, other = (_batches.__wrapped__(seed=7) for _ in range(2))
    assert _numbers(one, 0, 20) == _numbers(other, 0, 20)


@pytest.mark.slow
def test_every_position_holds_every_example_equally_often() -> None:
    """Counts are within half and double of the expected count, a wide margin for 3000 epochs."""
    orders = np.array(_epochs(_batches(batch_size=12), 3000))
    share = np.array([(orders == number).mean(axis=0) for number in range(_N)])
    assert 0.5 / _N < share.min() < share.max() < 2 / _N


@pytest.mark.slow
def test_orders_do_not_repeat_in_a_long_run() -> None:
    orders = _epochs(_batches(batch_size=12), 1000)
    assert len({tuple(order) for order in orders}) > 990


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 5])
@pytest.mark.parametrize("first", [1, 4, 5, 7, 16, 33])
def test_starting_at_any_step_gives_the_same_batches(first: int, batch_size: int) -> None:
    batches = _batches(batch_size=batch_size, run_eagerly=True)  # blocks of 16 steps
    assert _numbers(batches, first, 41) == _numbers(batches, 0, 41)[first:]


@pytest.mark.parametrize("batch_size", [0, 5])
@pytest.mark.parametrize("first", [0, 3])
def test_last_step_is_exclusive(first: int, batch_size: int) -> None:
    batches = _batches(batch_size=batch_size)
    for count in (0, 1, 2, 17):
        assert len(_numbers(batches, first, first + count)) == count


def test_block_size_does_not_change_the_batches() -> None:
    small, large = _batches(run_eagerly=True), _batches()
    assert small.block_steps < 100 < large.block_steps
    assert _numbers(small, 0, 101) == _numbers(large, 0, 101)


@pytest.mark.parametrize("num_features", [1, 3])
def test_blocks_hold_the_batches_and_have_one_shape(num_features: int) -> None:
    batches = _batches(num_features=num_features, run_eagerly=True)
    rows = []
    for block in batches.blocks(3, 41):
        assert block.batch.x.shape == (16, 5, num_features)
        assert block.batch.y.shape == (16, 5)
        assert block.batch.weight is None
        assert block.size.shape == (16,)
        columns = (part.numpy() for part in (*block.batch.arrays, block.size))
        rows += [(x[:n], y[:n]) for x, y, n in zip(*columns, strict=True)]
    assert len(rows) == 48  # three blocks of 16 steps for the 38 steps
    for (x, y), (batch_x, batch_y, _) in zip(rows, helpers.singly(batches, 3, 51), strict=True):
        np.testing.assert_array_equal(x, batch_x)
        np.testing.assert_array_equal(y, batch_y)


@pytest.mark.parametrize("batch_size", [0, 5])
def test_the_batch_of_an_update_is_that_of_its_block(batch_size: int) -> None:
    batches = _batches(batch_size=batch_size, num_features=2, run_eagerly=True)
    for step, (x, y, _) in enumerate(helpers.singly(batches, 3, 19), start=3):
        batch = batches.batch(step)
        np.testing.assert_array_equal(batch.x, x)
        np.testing.assert_array_equal(batch.y, y)


@pytest.mark.parametrize("batch_size", [0, 5])
def test_batches_keep_the_structure_and_the_dtypes_of_the_examples(batch_size: int) -> None:
    """The examples have images, tokens and texts, two labels, and weights."""
    number = np.arange(_N)
    x = {
        "image": np.tile(np.float32(number)[:, None, None, None], (4, 3, 2)),
        "tokens": (number[:, None] + [0, 1], np.array([f"{i}" for i in number])),
    }
    examples = batch_lib.Batch(x, (number, np.eye(_N)[:, :2] > 0), np.float32(number / 2))
    batches = batches_lib.Batches(examples, config_lib.Config(batch_size=batch_size))
    spec = batches.spec
    assert spec.x["image"] == tf.TensorSpec([None, 4, 3, 2], tf.float32)
    assert spec.x["tokens"] == (
        tf.TensorSpec([None, 2], tf.int64),
        tf.TensorSpec([None], tf.string),
    )
    assert spec.y == (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2], tf.bool))
    assert spec.weight == tf.TensorSpec([None], tf.float32)
    seen = []
    for batch in helpers.singly(batches, 0, batches.steps_per_epoch):
        for expected, found, form in zip(
            examples.rows(batch.y[0].numpy()).arrays, batch.arrays, spec.arrays, strict=True
        ):
            assert form.is_compatible_with(found)
            np.testing.assert_array_equal(found.numpy().astype(expected.dtype), expected)
        seen += batch.y[0].numpy().tolist()
    assert sorted(seen) == number.tolist()


@pytest.mark.parametrize("batch_size", [0, _N, _N + 1, 10**9])
@pytest.mark.parametrize("num_features", [1, 2])
def test_full_batch_is_all_examples_in_their_order(batch_size: int, num_features: int) -> None:
    batches = _batches(batch_size=batch_size, num_features=num_features, run_eagerly=True)
    assert (batches.batch_size, batches.steps_per_epoch) == (_N, 1)
    assert _numbers(batches, 0, 3) == [list(range(_N))] * 3

    blocks = list(batches.blocks(0, 41))
    assert len(blocks) == 3
    for block in blocks:
        np.testing.assert_array_equal(block.batch.y, [range(_N)])
        assert block.batch.x.shape == (1, _N, num_features)
        assert block.size.numpy().tolist() == [_N]
