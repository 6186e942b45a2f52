"""An event file, which TensorBoard reads."""

import os
import pathlib
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer import record_writer

from pipeline import files
from pipeline.reporting import scalar_records
from pipeline.training import clock as clock_lib
from pipeline.training import hooks

_SECONDS_BETWEEN_FLUSHES = 1.0


def file_name(number: int) -> str:
    """The name of a process's event files; TensorBoard reads files in the order of their names."""
    return f"events.out.tfevents.{number:010d}.pipeline"


def number_of(path: pathlib.Path) -> int:
    """The number in a name made by `file_name`; 0 for any other file."""
    found = re.fullmatch(r"events\.out\.tfevents\.(\d{10})\.pipeline", path.name)
    return int(found[1]) if found else 0


def cut_back(path: pathlib.Path, size: int) -> bool:
    """Truncates a file to an earlier size in bytes.

    Returns False if the file is already shorter. Then it is truncated after its last whole record,
    because TensorBoard stops at a partial one.
    """
    is_all_there = path.stat().st_size >= size
    if not is_all_there:
        content, size, frame = path.read_bytes(), 0, 16  # frame: length and two checksums
        while size + frame <= len(content):
            end = size + frame + struct.unpack_from("<Q", content, size)[0]
            if end > len(content):
                break
            size = end
    os.truncate(path, size)
    return is_all_there


class EventFile:
    """One event file, to which scalars and other events are appended."""

    def __init__(
        self,
        path: pathlib.Path,
        *,
        first_step: int,
        clock: clock_lib.Clock,
        describe: Callable[[str], str],
    ):
        """Opens a new file, and makes its directory if needed; `describe` explains a tag.

        The first event says that training starts at first_step, so TensorBoard drops later steps
        that it has read from an earlier file.
        """
        self._path = path
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "xb")  # noqa: SIM115 (closed by close)
        self._records = record_writer.RecordWriter(self._file)
        self._clock, self._describe = clock, describe
        self._described: set[str] = set()
        self._flushing = hooks.Every(seconds=_SECONDS_BETWEEN_FLUSHES)
        self.write(file_version="brain.Event:2")
        self.write(step=first_step, session_log={"status": event_pb2.SessionLog.START})

    def scalars(
        self, steps: npt.ArrayLike, values: Mapping[str, npt.ArrayLike], times: npt.ArrayLike
    ) -> None:
        """Appends K values [K] of each tag, at ascending steps [K] and wall times [K] in seconds.

        Raises:
          ValueError: a tag has more or fewer values than there are steps.
        """
        steps = np.asarray(steps, np.int64)
        times = np.asarray(times, np.float64)
        with np.errstate(over="ignore"):  # values beyond float32 become infinite
            numbers = {tag: np.asarray(array, np.float32) for tag, array in values.items()}
        for tag, array in numbers.items():
            if array.shape != steps.shape:
                raise ValueError(f"{tag} has values {array.shape} for steps {steps.shape}")
        is_new = len(steps) > 0 and not numbers.keys() <= self._described
        if is_new:  # TensorBoard expects the description of a tag with its first value
            summary = summary_pb2.Summary()
            for tag, array in numbers.items():
                metadata = scalar_metadata.create_summary_metadata("", self._describe(tag))
                tensor = scalar_records.tensor(float(array[0]))
                summary.value.add(tag=tag, tensor=tensor, metadata=metadata)
            self.write(wall_time=float(times[0]), step=int(steps[0]), summary=summary)
            self._described |= numbers.keys()
            steps, times = steps[1:], times[1:]
            numbers = {tag: array[1:] for tag, array in numbers.items()}
        with files.writing(self._path):
            for records in scalar_records.encode(steps, times, numbers):
                self._file.write(records.data)
        if is_new or self._flushing.is_due():
            self.flush()

    def write(self, *, wall_time: float | None = None, **fields: Any) -> None:
        """Appends one event_pb2.Event with these fields; wall_time is now by default."""
        event = event_pb2.Event(wall_time=wall_time or self._clock.now(), **fields)
        with files.writing(self._path):
            self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Flushes the file, so TensorBoard can read all events."""
        with files.writing(self._path):
            self._file.flush()
        self._flushing.done()

    def close(self) -> None:
        """Closes the file."""
        with files.writing(self._path):
            self._file.close()
