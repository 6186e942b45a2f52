"""Event files: the records that TensorBoard reads."""

import functools
import itertools
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.scalar import metadata as scalar

_SECONDS_BETWEEN_FLUSHES = 1.0
# Bytes of a record before its data, the length and its checksum, and after, its checksum.
_HEADER, _FOOTER = 12, 4
_SCRATCH = "ram://record"


class EventFile:
    """One event file, to which scalars and other events are appended."""

    def __init__(self, folder: pathlib.Path, *, first_step: int, descriptions: Mapping[str, str]):
        """Opens a new file in `folder`, which is made if needed.

        Its first event says that training starts at first_step: a TensorBoard that has
        already read later steps from an earlier file forgets them.

        Args:
          folder: A run in TensorBoard's sense.
          first_step: No earlier step will be written.
          descriptions: What TensorBoard says beside the charts, by tag.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = open(folder / name, "ab")  # noqa: SIM115 (closed by close)
        self._descriptions = descriptions
        self._described: set[str] = set()
        self._flushed = 0.0
        self.write(file_version="brain.Event:2")
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self.write(step=first_step, session_log=start)

    def scalars(self, steps: npt.ArrayLike, values: Mapping[str, npt.ArrayLike]) -> None:
        """Appends K points of each tag.

        Args:
          steps: [K], ascending.
          values: [K] each.

        Raises:
          ValueError: A tag has more or fewer values than there are steps.
        """
        steps = np.asarray(steps, np.int64)
        numbers = {tag: np.asarray(array, np.float32) for tag, array in values.items()}
        for tag, array in numbers.items():
            if array.shape != steps.shape:
                raise ValueError(f"{tag} has values {array.shape} for steps {steps.shape}")
        if len(steps) and not numbers.keys() <= self._described:
            self._write_described(int(steps[0]), {tag: a[0] for tag, a in numbers.items()})
            steps, numbers = steps[1:], {tag: array[1:] for tag, array in numbers.items()}
        for records in _scalar_records(steps, time.time(), numbers):
            self._file.write(records.data)
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def write(self, **fields: Any) -> None:
        """Appends one tf.compat.v1.Event with these fields."""
        event = tf.compat.v1.Event(wall_time=time.time(), **fields)
        with tf.io.TFRecordWriter(_SCRATCH) as writer:
            writer.write(event.SerializeToString())
        with tf.io.gfile.GFile(_SCRATCH, "rb") as scratch:
            self._file.write(scratch.read())
        tf.io.gfile.remove(_SCRATCH)  # or a shorter record would keep the end of this one

    def flush(self) -> None:
        """Makes what was written visible to TensorBoard."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _write_described(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a tag's first point, with which TensorBoard expects its description."""
        summary = tf.compat.v1.Summary()
        for tag, number in values.items():
            # Its fast reader takes a description with the newer form of a value only.
            value = summary.value.add(tag=tag, tensor=tf.make_tensor_proto(number))
            described = scalar.create_summary_metadata("", self._descriptions[tag])
            value.metadata.ParseFromString(described.SerializeToString())
        self.write(step=step, summary=summary)
        self._described |= values.keys()


def _scalar_records(
    steps: npt.NDArray[np.int64], wall_time: float, values: Mapping[str, npt.NDArray[np.float32]]
) -> Iterator[npt.NDArray[np.uint8]]:
    """K records, each an Event with a step and a value for each tag: a file's content, in parts.

    All records of a stretch have the same bytes but for the step, the values and the
    checksum, so they are made at once, as the rows of an array. An Event object for each
    would take as long as many training steps. steps is [K], ascending, at least 0 and below
    2**56; each of values is [K].
    """
    # A step takes a byte for each seven bits.
    bounds = np.searchsorted(steps, [0, *(1 << 7 * width for width in range(1, 9))])
    for width, (first, end) in enumerate(itertools.pairwise(bounds), start=1):
        if first < end:
            columns = {tag: array[first:end] for tag, array in values.items()}
            yield _equally_long_records(steps[first:end], width, wall_time, columns)


def _equally_long_records(
    steps: npt.NDArray[np.int64],
    width: int,
    wall_time: float,
    values: Mapping[str, npt.NDArray[np.float32]],
) -> npt.NDArray[np.uint8]:
    # A step of 0 would be left out of the template.
    event = tf.compat.v1.Event(wall_time=wall_time, step=1 << 7 * (width - 1))
    sizes = [event.summary.value.add(tag=tag, simple_value=0.0).ByteSize() for tag in values]
    template = np.frombuffer(event.SerializeToString(), np.uint8)
    length = np.frombuffer(len(template).to_bytes(8, "little"), np.uint8)
    records = np.empty((len(steps), _HEADER + len(template) + _FOOTER), np.uint8)
    records[:, :_HEADER] = [*length, *_masked(np.array([_crc32c(length)])).tobytes()]
    data = records[:, _HEADER:-_FOOTER]
    data[:] = template
    for i in range(width):
        more = 0x80 if i < width - 1 else 0
        data[:, 10 + i] = steps >> 7 * i & 0x7F | more  # 10: after wall_time and the step's key
    varying = list(range(10, 10 + width))
    end = len(template)
    for size, array in zip(reversed(sizes), reversed(list(values.values())), strict=True):
        data[:, end - 4 : end] = array.astype("<f4").view(np.uint8).reshape(-1, 4)
        varying += range(end - 4, end)
        end -= size + 1 + -(-size.bit_length() // 7)  # the value, its key and its length
    checksums = _checksums(data, template, varying)
    records[:, -_FOOTER:] = checksums.view(np.uint8).reshape(-1, _FOOTER)
    return records


def _checksums(
    data: npt.NDArray[np.uint8], template: npt.NDArray[np.uint8], varying: list[int]
) -> npt.NDArray[np.uint32]:
    """[K] masked CRC-32C of the rows of data [K, L], which are the template but for some bytes.

    A CRC is linear: a changed byte changes it by the CRC of the change alone, which
    depends on nothing but the byte and its distance from the end.
    """
    crc = np.full(len(data), _crc32c(template), np.uint32)
    changes = _changes(len(template))
    for position in varying:
        crc ^= changes[len(template) - 1 - position][data[:, position] ^ template[position]]
    return _masked(crc)


def _masked(crc: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The form in which a record holds its checksum (TensorFlow's record_writer.h)."""
    return ((crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)).astype("<u4")


@functools.cache
def _table() -> npt.NDArray[np.uint32]:
    """[256] CRC-32C of single bytes, without its initial and final inversion."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> np.uint32(1) ^ (table & np.uint32(1)) * np.uint32(0x82F63B78)
    return table


@functools.cache
def _changes(length: int) -> npt.NDArray[np.uint32]:
    """[length, 256] by how much a changed byte changes the CRC, by distance from the end."""
    changes = [_table()]
    for _ in range(length - 1):
        changes.append(_table()[changes[-1] & 0xFF] ^ changes[-1] >> 8)
    return np.stack(changes)


def _crc32c(data: npt.NDArray[np.uint8]) -> np.uint32:
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = _table()[(crc ^ byte) & np.uint32(0xFF)] ^ crc >> np.uint32(8)
    return np.uint32(~crc)
