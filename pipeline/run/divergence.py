"""What a person can do about a run that diverges, or will."""

import math

from pipeline import config as config_lib
from pipeline.evaluation import linear, monitor
from pipeline.reporting import progress
from pipeline.training import hooks


def warning(config: config_lib.Config, line: linear.Linear | None) -> str:
    """Says before training that the learning rate is too large, if that is known."""
    largest = _largest_rate(config, line)
    assert config.learning_rate is not None
    if config.learning_rate <= largest:
        return ""
    return (
        f"--learning_rate={config.learning_rate:g} is above {largest:.4g}, the largest with which "
        "gradient descent is stable on these data; the loss will rise"
    )


def message(
    end: hooks.Divergence,
    config: config_lib.Config,
    line: linear.Linear | None,
    watched: monitor.Monitor,
) -> str:
    """Says what happened, what was good, and what to change."""
    finite = f"has risen to {end.loss:.3g}" if math.isfinite(end.loss) else "is not finite"
    what = f"the loss {finite} at step {end.step}"
    if end.step == 0 or watched.best.step < 0:
        return f"{what}: the examples, or the model at its start, are too large for float32"
    best = progress.number(watched.best.loss)
    words = [what, f"the best {watched.monitored} was {best} at step {watched.best.step}"]
    largest = _largest_rate(config, line)
    if math.isfinite(largest):
        few = "" if watched.steps_per_epoch == 1 else ", for mini-batches it is less"
        words.append(f"the largest stable learning rate for these data is {largest:.4g}{few}")
    return f"{'; '.join(words)}; received --learning_rate={config.learning_rate:g}"


def _largest_rate(config: config_lib.Config, line: linear.Linear | None) -> float:
    """The largest stable learning rate of plain gradient descent; infinite if unknown."""
    if config.optimizer != "sgd" or config.clip_norm or line is None:
        return math.inf
    return line.largest_stable_rate
