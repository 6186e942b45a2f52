"""TensorBoard event files; the only module that knows their formats."""

import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import SupportsFloat, SupportsInt

import numpy as np
import tensorflow as tf

from pipeline import metrics

_SECONDS_BETWEEN_FLUSHES = 1.0
_Numbers = Iterable[SupportsFloat]


class EventFile:
    """One event file, to which scalars and images are appended.

    Written as records of one protobuf object that is filled again and again: that
    takes microseconds where a tf.summary.scalar call takes hundreds.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens a new file in `folder`, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._writer = tf.io.TFRecordWriter(os.path.join(folder, name))
        self._write(tf.compat.v1.Event(file_version="brain.Event:2"))
        self.flush()

    def scalars(self, steps: Iterable[SupportsInt], values: Mapping[str, _Numbers]) -> None:
        """Appends K points of each tag: steps is [K], each of values is [K]."""
        event = tf.compat.v1.Event(wall_time=time.time())
        slots = [event.summary.value.add(tag=tag) for tag in values]
        for step, *row in zip(steps, *values.values(), strict=True):
            event.step = int(step)
            for slot, value in zip(slots, row, strict=True):
                slot.simple_value = float(value)
            self._writer.write(event.SerializeToString())
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Appends one picture."""
        event = tf.compat.v1.Event(wall_time=time.time(), step=step)
        event.summary.value.add(tag=tag).image.encoded_image_string = png
        self._write(event)

    def flush(self) -> None:
        """Makes what was written visible to TensorBoard."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, event: "tf.compat.v1.Event") -> None:
        self._writer.write(event.SerializeToString())


class RunSummaries:
    """The curves of one run, each in a folder of its own, under the same tags.

    TensorBoard draws curves of one tag from several folders into one chart.
    """

    def __init__(self, folder: Callable[[str], pathlib.Path], *, features: tuple[str, ...]):
        """Takes the function from a curve's name to its folder."""
        self._tags = ("W",) if len(features) == 1 else tuple(f"W/{name}" for name in features)
        self._folder = folder
        self._files: dict[str, EventFile] = {}

    def steps(self, points: metrics.StepMetrics) -> None:
        """Records training points."""
        self._file("train").scalars(points.step, self._values(points.W, points.b, points.loss))

    def epochs(self, ends: metrics.EpochMetrics) -> None:
        """Records the validation loss at the ends of epochs."""
        if ends.validation_loss is not None:
            self._file("validation").scalars(ends.step, {"loss": ends.validation_loss})

    def reference(self, curve: str, at: metrics.Parameters, *, loss: float, last_step: int) -> None:
        """Draws a flat line from step 0 to last_step."""
        values = self._values(np.array([at.W] * 2), [at.b] * 2, [loss] * 2)
        self._file(curve).scalars([0, last_step], values)
        self._file(curve).flush()

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Records a picture of the training run."""
        self._file("train").image(step, tag, png)

    def close(self) -> None:
        """Ends all files."""
        for file in self._files.values():
            file.close()

    def _values(self, W: metrics.Floats, b: _Numbers, loss: _Numbers) -> dict[str, _Numbers]:
        """The K points of each tag: W is [K] or [K, D], b and loss are [K]."""
        columns = W.reshape(len(W), -1).T
        return {**dict(zip(self._tags, columns, strict=True)), "b": b, "loss": loss}

    def _file(self, curve: str) -> EventFile:
        if curve not in self._files:
            self._files[curve] = EventFile(self._folder(curve))
        return self._files[curve]
