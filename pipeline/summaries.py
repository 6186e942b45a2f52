"""TensorBoard event files; the only module that knows their formats."""

import os
import pathlib
import socket
import time
from collections.abc import Iterable, Mapping
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

    def __init__(self, folder: pathlib.Path, *, first_step: int):
        """Opens a new file in `folder`, which is made if needed.

        Its first event says that training starts at first_step: a TensorBoard that has
        already read later steps from an earlier file forgets them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._writer = tf.io.TFRecordWriter(os.path.join(folder, name))
        self._write(tf.compat.v1.Event(file_version="brain.Event:2"))
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._write(tf.compat.v1.Event(wall_time=time.time(), step=first_step, session_log=start))
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

    def __init__(self, folder: pathlib.Path, *, features: tuple[str, ...], first_step: int):
        """Prepares to write from first_step on, beside what earlier starts have written."""
        self._tags = ("W",) if len(features) == 1 else tuple(f"W/{name}" for name in features)
        self._folder = folder
        self._first_step = first_step
        self._files: dict[str, EventFile] = {}

    def steps(self, points: metrics.StepMetrics) -> None:
        """Records training points."""
        self._file("train").scalars(points.step, self._values(points.W, points.b, points.loss))

    def epochs(self, ends: metrics.EpochMetrics) -> None:
        """Records the validation loss at the ends of epochs."""
        if ends.validation_loss is not None:
            self._file("validation").scalars(ends.step, {"loss": ends.validation_loss})

    def reference(
        self, curve: str, at: metrics.Parameters, *, loss: float, steps: list[int]
    ) -> None:
        """Draws a flat line through some steps."""
        count = len(steps)
        values = self._values(np.array([at.W] * count), [at.b] * count, [loss] * count)
        self._file(curve).scalars(steps, values)

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Records a picture of the training run."""
        self._file("train").image(step, tag, png)

    def sizes(self) -> dict[str, int]:
        """The sizes in bytes of all event files of the run, by their paths in its folder."""
        for file in self._files.values():
            file.flush()
        return {str(p.relative_to(self._folder)): p.stat().st_size for p in _files(self._folder)}

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
            self._files[curve] = EventFile(self._folder / curve, first_step=self._first_step)
        return self._files[curve]


def cut_back(folder: pathlib.Path, sizes: Mapping[str, int]) -> None:
    """Cuts the event files in a run's folder back to the sizes that they had once."""
    for path in _files(folder):
        size = sizes.get(str(path.relative_to(folder)))
        if size is None:
            path.unlink()
        else:
            os.truncate(path, size)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob("*/events.out.tfevents.*"))
