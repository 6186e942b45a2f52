"""Tests of pipeline.data."""

import numpy as np
import pytest

from pipeline import data as data_lib

_N = 23


def _training_data(
    n: int = _N,
    *,
    batch_size: int = 5,
    seed: int = 0,
    num_features: int | None = None,
    small_blocks: bool = False,
) -> data_lib.TrainingData:
    """Examples with y = 0 ... n-1, and x = -y in every feature."""
    y = np.arange(n, dtype=np.float32)
    x = -y if num_features is None else np.repeat(-y[:, None], num_features, axis=1)
    return data_lib.TrainingData(x, y, batch_size=batch_size, seed=seed, small_blocks=small_blocks)


def _batches(data: data_lib.TrainingData, first: int, last: int) -> list[list[int]]:
    """The numbers of the examples in each batch, after a look at x."""
    result = []
    for x, y in data.batches(first, last):
        np.testing.assert_array_equal(x, np.broadcast_to(-y.numpy(), x.shape[::-1]).T)
        result.append([int(number) for number in y.numpy()])
    return result


def _epochs(data: data_lib.TrainingData, count: int) -> list[list[int]]:
    """The order of the examples in each of the first epochs."""
    steps = data.steps_per_epoch
    batches = _batches(data, 0, count * steps - 1)
    starts = range(0, count * steps, steps)
    return [[i for batch in batches[k : k + steps] for i in batch] for k in starts]


@pytest.mark.parametrize("num_features", [None, 1, 3])
@pytest.mark.parametrize(("n", "batch_size"), [(23, 5), (20, 5), (9, 1), (100, 99)])
def test_each_epoch_is_a_permutation_of_all_examples(
    n: int, batch_size: int, num_features: int | None
) -> None:
    data = _training_data(n, batch_size=batch_size, num_features=num_features)
    for order in _epochs(data, 3):
        assert sorted(order) == list(range(n))


def test_only_the_last_batch_of_an_epoch_is_smaller() -> None:
    data = _training_data()
    assert data.steps_per_epoch == 5
    assert [len(batch) for batch in _batches(data, 0, 9)] == [5, 5, 5, 5, 3] * 2


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(order)
        for seed in (0, 1, 2**32 - 1)
        for order in _epochs(_training_data(seed=seed), 4)
    ]
    assert len({*orders, tuple(range(_N))}) == 3 * 4 + 1


def test_every_example_comes_to_every_place_about_as_often() -> None:
    """Between half and double of chance; 3000 epochs of luck stay far within."""
    orders = np.array(_epochs(_training_data(batch_size=12), 3000))
    share = np.array([(orders == number).mean(axis=0) for number in range(_N)])
    assert 0.5 / _N < share.min() < share.max() < 2 / _N


def test_orders_do_not_come_again_in_a_long_run() -> None:
    orders = _epochs(_training_data(batch_size=12), 1000)
    assert len({tuple(order) for order in orders}) > 990


@pytest.mark.parametrize("batch_size", [0, 5])
@pytest.mark.parametrize("first", [1, 4, 5, 7, 16, 33])
def test_starting_at_a_step_gives_the_tail(first: int, batch_size: int) -> None:
    data = _training_data(batch_size=batch_size, small_blocks=True)  # blocks of 16 steps
    assert _batches(data, first, 40) == _batches(data, 0, 40)[first:]


def test_size_of_the_blocks_does_not_show_in_the_batches() -> None:
    small, large = _training_data(small_blocks=True), _training_data()
    assert small.block_steps < 100 < large.block_steps
    assert _batches(small, 0, 100) == _batches(large, 0, 100)


@pytest.mark.parametrize("num_features", [None, 3])
def test_blocks_hold_the_batches_and_have_one_shape(num_features: int | None) -> None:
    data = _training_data(num_features=num_features, small_blocks=True)
    features = () if num_features is None else (num_features,)
    rows = []
    for block in data.blocks(3, 40):
        assert block.x.shape == (16, 5, *features)
        assert block.y.shape == (16, 5)
        assert block.size.shape == (16,)
        rows += [(x[:n], y[:n]) for x, y, n in zip(*(part.numpy() for part in block), strict=True)]
    assert len(rows) == 48  # three blocks of 16 steps for the 38 steps
    for (x, y), (batch_x, batch_y) in zip(rows, data.batches(3, 50), strict=True):
        np.testing.assert_array_equal(x, batch_x)
        np.testing.assert_array_equal(y, batch_y)


@pytest.mark.parametrize("batch_size", [0, _N, _N + 1, 10**9])
@pytest.mark.parametrize("num_features", [None, 2])
def test_full_batch_is_all_examples_in_file_order(
    batch_size: int, num_features: int | None
) -> None:
    data = _training_data(batch_size=batch_size, num_features=num_features, small_blocks=True)
    assert (data.batch_size, data.steps_per_epoch) == (_N, 1)
    assert _batches(data, 0, 2) == [list(range(_N))] * 3

    blocks = list(data.blocks(0, 40))
    assert len(blocks) == 3
    for block in blocks:
        np.testing.assert_array_equal(block.y, [range(_N)])
        assert block.x.shape[:2] == (1, _N)
        assert block.size.numpy().tolist() == [_N]
