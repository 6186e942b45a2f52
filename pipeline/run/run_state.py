"""The state of a run in a checkpoint, besides the variables of model and optimizer."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation import monitor
from pipeline.training import step_metrics


class RunState(NamedTuple):
    """The state of a run at a step."""

    step: int  # updates so far
    last_step: int  # the step at which the run will be complete
    fingerprint: int  # of the datasets
    best: monitor.Best
    start_loss: float  # the training loss before training
    time: float  # wall time in seconds since the epoch
    seconds: float  # of training so far
    event_files: Mapping[str, int]  # sizes in bytes, by paths in the run's directory
    history: step_metrics.StepMetrics  # a selection of the rows so far
    callbacks: Sequence[Mapping[str, Any]] = ()  # what each of --callbacks keeps

    def to_bytes(self) -> bytes:
        """Serializes the state as an .npz file."""
        buffer = io.BytesIO()
        others = self._asdict()
        history = others.pop("history")._asdict().items()
        columns = {name: column for name, column in history if column is not None}
        np.savez(buffer, others=json.dumps(others), **columns)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "RunState":
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(content)) as arrays:
            columns = dict(arrays)
        others = json.loads(str(columns.pop("others")))
        others["best"] = monitor.Best(*others["best"])
        others["callbacks"] = tuple(others["callbacks"])
        return cls(**others, history=step_metrics.StepMetrics(**columns))
