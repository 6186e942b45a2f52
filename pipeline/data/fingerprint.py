"""Fingerprints of examples, and the random numbers of rows. numpy alone."""

import numpy as np
import numpy.typing as npt

from pipeline.distributed import workers

COUNT = 2**48  # of possible fingerprints

_CHUNK = 2**20  # numbers whose bits are mixed at a time
_WORD = np.uint64


def of(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], worker: workers.Worker) -> int:
    """A worker's addend of a number that changes when examples or their order do.

    Of each row of x [N, D] and y [N] it mixes the bits with its place among those of all workers.
    The sum over the workers, modulo 2**48, is the same however many they are.
    """
    words = mixed(np.arange(x.shape[1] + 2, dtype=_WORD)) | _WORD(1)
    result = 0
    rows = max(1, _CHUNK // len(words))
    for first in range(0, len(y), rows):
        part = np.column_stack([x[first : first + rows], y[first : first + rows]])
        place = worker.index + worker.count * np.arange(first, first + len(part), dtype=_WORD)
        bits = mixed(place * words[-1] + part.view("<u4").astype(_WORD) @ words[:-1])
        result += int((bits >> _WORD(16)).sum(dtype=_WORD))
    return result % COUNT


def random_words(seed: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """A random number of 64 bits for each of some rows, a function of the seed and the row."""
    rows = np.arange(first, first + count, dtype=_WORD)
    return mixed(rows ^ mixed(np.array([seed], _WORD) + _WORD(1)))


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ words >> _WORD(30)) * _WORD(0xBF58476D1CE4E5B9)
    words = (words ^ words >> _WORD(27)) * _WORD(0x94D049BB133111EB)
    return words ^ words >> _WORD(31)
