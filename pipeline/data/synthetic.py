"""Synthetic examples, drawn from a line or a sine with noise. Imports numpy only."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib


class Truth(NamedTuple):
    """The curve that synthetic examples are drawn from."""

    w: float
    b: float
    is_line: bool = True

    def at(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns y at x: w*x + b, or w*sin(pi*x) + b."""
        return self.w * (x if self.is_line else np.sin(np.pi * x)) + self.b


def examples(config: config_lib.Config, count: int, *, stream: int) -> batch_lib.Batch:
    """Draws y = true_w * x + true_b (or sin(pi*x) for x) + noise at `count` evenly spaced x.

    The same seed and stream give the same bits.

    Raises:
      errors.InputError: a y is not finite as float32.
    """
    x = np.linspace(config.x_min, config.x_max, count, dtype=np.float32)
    generator = np.random.default_rng([config.seed, stream])
    y = generator.standard_normal(count, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        y *= np.float32(config.noise_stddev)
        shape = x if config.synthetic == "line" else np.sin(np.float32(np.pi) * x)
        y += np.float32(config.true_w) * shape
        y += np.float32(config.true_b)
    names = ("true_w", "true_b", "noise_stddev", "x_min", "x_max")
    errors.require(
        np.isfinite(y).all(),
        "the synthetic y are too large for float32; give smaller numbers than "
        + " ".join(f"--{name}={getattr(config, name):g}" for name in names),
    )
    return batch_lib.Batch(x[:, None], y)
