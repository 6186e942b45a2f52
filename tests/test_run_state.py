"""The state of a run is restored unchanged from a checkpoint."""

import math

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import monitor
from pipeline.run import run_state
from pipeline.training import step_metrics


def _state(num_values: int, steps: int) -> run_state.RunState:
    """The state of a run of 30,000 steps; the history keeps every 16th step and the last."""
    history = step_metrics.History(30_000, step_metrics.empty(num_values))
    if steps:
        random = np.random.default_rng(0)
        numbers = random.normal(size=(steps, num_values + 2)).astype(np.float32)
        columns = numbers[:, 2:], numbers[:, 0], numbers[:, 1]
        rows = step_metrics.StepMetrics(np.arange(steps), *columns)
        history.add(rows)
    return run_state.RunState(
        step=steps,
        last_step=10**15,
        fingerprint=datasets_lib.load(config_lib.Config()).fingerprint(),
        best=monitor.Best(step=4, loss=1 / 3) if steps else monitor.Best(),
        start_loss=2 / 3 if steps else math.nan,
        time=1_700_000_000.123456,
        seconds=0.1,
        history=history.rows(),
        event_files={"train/events.out.tfevents.1.5.größe": 2**40, "truth/events 2": 0},
    )


@pytest.mark.parametrize("num_values", [2, 101])
@pytest.mark.parametrize("steps", [0, 1, 1_234])
def test_state_comes_back_from_its_bytes(num_values: int, steps: int) -> None:
    """All bits, types and shapes are equal, also for an empty state."""
    state = _state(num_values, steps)
    restored = run_state.RunState.from_bytes(state.to_bytes())
    np.testing.assert_equal(restored.start_loss, state.start_loss)  # also before it is known
    same = {"history": state.history, "start_loss": state.start_loss}
    assert restored._replace(**same) == state
    assert len(state.history.step) == (79 if steps == 1_234 else steps)
    for column, expected in zip(restored.history[:4], state.history[:4], strict=True):
        assert (column.dtype, column.shape) == (expected.dtype, expected.shape)
        assert column.tobytes() == expected.tobytes()
    for name in ("step", "last_step", "fingerprint"):
        assert type(getattr(restored, name)) is int
    assert [type(value) for value in restored.best] == [int, float]


def test_run_without_an_epoch_has_no_best() -> None:
    restored = run_state.RunState.from_bytes(_state(2, 0).to_bytes())
    assert restored.best == (-1, math.inf)


def test_bytes_are_the_same_for_the_same_state() -> None:
    assert _state(2, 100).to_bytes() == _state(2, 100).to_bytes()
    assert _state(2, 100).to_bytes() != _state(2, 101).to_bytes()
