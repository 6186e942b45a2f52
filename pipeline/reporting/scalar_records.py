"""Encodes the scalars of many steps at once, as records of an event file.

The records of consecutive steps differ only in the time, the step, the values and the checksum.
So a block of records is one numpy array with a row for each, and only these columns are filled:

  bytes     12 (8 + 4)   9           1 + width   2        ...                 4       4
          +------------+-----------+-----------+--------+-------------------+-------+----------+
          | length,    | wall time | step      | key,   | for each tag: tag,| value | checksum |
          | its CRC    |           |           | length | a tensor's type   |       | of data  |
          +------------+-----------+-----------+--------+-------------------+-------+----------+
                       |<------------------- data: one Event -------------->|

(TensorFlow's record_writer.h defines the frame; the data are a protocol buffer.) Creating an Event
object for each step would take as long as many training steps.
"""

import functools
import io
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto import event_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer import record_writer

# Bytes of a record before its data (the length and its checksum) and after it (a checksum).
_HEADER, _FOOTER = 12, 4
_MASK = np.uint32(0xA282EAD8)

Values = Mapping[str, npt.NDArray[np.float32]]


def tensor(value: float) -> tensor_pb2.TensorProto:
    """Makes a float32 scalar tensor as tf.summary.scalar writes it."""
    content, shape = np.array(value, "<f4").tobytes(), tensor_shape_pb2.TensorShapeProto()
    return tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT, tensor_shape=shape, tensor_content=content
    )


def encode(
    steps: npt.NDArray[np.int64], wall_times: npt.NDArray[np.float64], values: Values
) -> Iterator[npt.NDArray[np.uint8]]:
    """Encodes K records, each an Event with a step and a value for each tag.

    The steps [K] are ascending, at least 0 and less than 2**56; wall_times [K] are in seconds
    since the epoch. Yields the records in parts [k, L], k records of L bytes.
    """
    # A step takes one byte for each seven bits.
    bounds = np.searchsorted(steps, [0, *(1 << 7 * width for width in range(1, 9))])
    for width, (first, end) in enumerate(itertools.pairwise(bounds), start=1):
        if first < end:
            columns = {tag: array[first:end] for tag, array in values.items()}
            yield _encode_equally_long(steps[first:end], width, wall_times[first:end], columns)


def _encode_equally_long(
    steps: npt.NDArray[np.int64], width: int, wall_times: npt.NDArray[np.float64], values: Values
) -> npt.NDArray[np.uint8]:
    """Encodes records whose steps all take `width` bytes."""
    # Protobuf omits a step of 0, so the template has another step of this width.
    event = event_pb2.Event(wall_time=wall_times[0], step=1 << 7 * (width - 1))
    sizes = [event.summary.value.add(tag=tag, tensor=tensor(0)).ByteSize() for tag in values]
    buffer = io.BytesIO()
    record_writer.RecordWriter(buffer).write(event.SerializeToString())
    template = np.frombuffer(buffer.getvalue(), np.uint8)
    positions = {1: _low_bytes(wall_times), 10: _varint(steps, width)}  # each after its key
    end = len(template) - _HEADER - _FOOTER
    for size, array in zip(reversed(sizes), reversed(list(values.values())), strict=True):
        positions[end - 4] = array.astype("<f4").view(np.uint8).reshape(-1, 4)
        end -= size + 1 + -(-size.bit_length() // 7)  # the value, its key and its length
    return _fill(template, positions)


def _low_bytes(wall_times: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Returns the lower bytes [K, N] of times, up to the highest byte that differs."""
    times = wall_times.astype("<f8")
    changed = int(np.bitwise_or.reduce(times.view("<u8") ^ times.view("<u8")[0]))
    return times.view(np.uint8).reshape(-1, 8)[:, : changed.bit_length() // 8 + 1]


def _varint(steps: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint8]:
    """Returns the steps as protocol buffer varints [K, width]."""
    encoded = np.empty((len(steps), width), np.uint8)
    for i in range(width):
        encoded[:, i] = steps >> 7 * i & 0x7F | (0x80 if i < width - 1 else 0)
    return encoded


def _fill(
    template: npt.NDArray[np.uint8], columns: Mapping[int, npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """Makes K records [K, L] from a template [L] and the bytes [K, N] at positions in its data.

    A CRC is linear: a changed byte changes it by the CRC of the change alone, which depends only
    on the byte and its distance from the end. A record stores its CRC rotated by 15 bits, plus a
    constant.
    """
    count, last = len(next(iter(columns.values()))), len(template) - _FOOTER - 1
    # Much faster than numpy's copy loops; so is assigning several bytes as one value.
    records = np.frombuffer(bytearray(template) * count, np.uint8).reshape(count, -1)
    changes = _changes(last - _HEADER + 1)
    rotated = template[-_FOOTER:].copy().view("<u4") - _MASK
    unchanged = rotated << np.uint32(15) | rotated >> np.uint32(17)
    crc = np.zeros(count, np.uint32)
    for position, column in columns.items():
        first, as_one = _HEADER + position, f"V{column.shape[1]}"
        records[:, first : first + column.shape[1]].view(as_one)[:] = column.view(as_one)
        for at, values in enumerate(column.T, start=first):
            crc ^= changes[last - at].take(values)
            unchanged ^= changes[last - at, template[at]]
    crc ^= unchanged
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + _MASK
    records[:, -_FOOTER:] = masked.astype("<u4").view(np.uint8).reshape(-1, _FOOTER)
    return records


@functools.cache
def _changes(length: int) -> npt.NDArray[np.uint32]:
    """Returns CRC changes [length, 256], by distance from the end and change of a byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> np.uint32(1) ^ (table & np.uint32(1)) * np.uint32(0x82F63B78)
    changes = [table]
    for _ in range(length - 1):
        changes.append(table[changes[-1] & 0xFF] ^ changes[-1] >> 8)
    return np.stack(changes)
