"""Fingerprints of examples, and random numbers for rows. Imports numpy only."""

import numpy as np
import numpy.typing as npt

from pipeline.data import batch as batch_lib
from pipeline.distributed import workers

COUNT = 2**48  # of possible fingerprints

_CHUNK = 2**20  # numbers whose bits are mixed at a time
_WORD = np.uint64


def of(examples: batch_lib.Batch, worker: workers.Worker) -> int:
    """This worker's term of an order-sensitive checksum of the examples.

    The bits of each row are mixed with its position among the rows of all workers. The sum of the
    terms, modulo 2**48, is the same for any number of workers.
    """
    width = sum(_bits(array[:1]).shape[1] for array in examples.arrays)
    words = mixed(np.arange(width + 1, dtype=_WORD)) | _WORD(1)
    result = 0
    rows = max(1, _CHUNK // len(words))
    for first in range(0, examples.num_examples, rows):
        piece = examples.rows(slice(first, first + rows))
        part = np.concatenate([_bits(array) for array in piece.arrays], axis=1)
        place = worker.index + worker.count * np.arange(first, first + len(part), dtype=_WORD)
        bits = mixed(place * words[-1] + part.astype(_WORD) @ words[:-1])
        result += int((bits >> _WORD(16)).sum(dtype=_WORD))
    return result % COUNT


def _bits(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint32]:
    """Returns the bits of each row of an array [N, ...], as [N, W] words of 32 bits."""
    content = np.ascontiguousarray(array).reshape(len(array), -1)
    content = content.view(np.uint8).reshape(len(array), -1)
    padded = np.pad(content, ((0, 0), (0, -content.shape[1] % 4)))
    return padded.view("<u4")


def random_words(seed: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """Returns a 64-bit random number for each row, a function of the seed and the row."""
    rows = np.arange(first, first + count, dtype=_WORD)
    return mixed(rows ^ mixed(np.array([seed], _WORD) + _WORD(1)))


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ words >> _WORD(30)) * _WORD(0xBF58476D1CE4E5B9)
    words = (words ^ words >> _WORD(27)) * _WORD(0x94D049BB133111EB)
    return words ^ words >> _WORD(31)
