"""Notes for the user: fallbacks, expected problems, and why a run diverged."""

import math
import re
from collections.abc import Iterator

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import linear, monitor
from pipeline.reporting import progress
from pipeline.training import compilation, hooks, make_task
from pipeline.training import task as task_lib

_COLLINEAR = 30  # condition number


def before_training(
    config: config_lib.Config,
    datasets: datasets_lib.Datasets,
    task: task_lib.Task,
    line: linear.Linear | None,
    compiled: compilation.Compilation,
) -> Iterator[str]:
    """Yields notes on fallbacks and expected problems."""
    if datasets.stream and not datasets.stream.is_saved:
        yield (
            "Note: checkpoints can't hold the position in this dataset (it uses a generator, a "
            "Python function or a variable), so a resumed run makes all batches before it again"
        )
    if config.is_linear_regression and (line is None or line.why_not):
        why = line.why_not if line else "this model with this loss is not linear regression"
        yield f"Note: {why}, so the least-squares reference is left out"
    layer = make_task.raw_layer(task.model)
    if layer and datasets.preprocessing and config.standardize is None:
        article = "an" if layer[0] in "AEIOU" else "a"
        yield (
            f"Note: the model has {article} {layer} layer, so the features are not standardized; "
            "set --standardize=true if they should be"
        )
    squares = line.standardized if line else None
    if datasets.units and squares and squares.condition_number > _COLLINEAR:
        yield (
            "Note: the features are nearly collinear (condition number "
            f"{squares.condition_number:.3g}): many W fit about as well, and training takes long "
            "to come near least squares"
        )
    if compiled.reason:
        yield f"Note: {compiled.reason}, so the steps run {compiled.mode.value}"
    largest = _largest_rate(config, line)
    if config.learning_rate is not None and config.learning_rate > largest:
        yield (
            f"Warning: --learning_rate={config.learning_rate:g} is above {largest:.4g}, the "
            "largest with which gradient descent is stable on these data; the loss will rise"
        )


def of_divergence(
    end: hooks.Divergence,
    config: config_lib.Config,
    line: linear.Linear | None,
    watched: monitor.Monitor,
) -> str:
    """Describes a divergence, the last good state, and what to change."""
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
    if config.learning_rate is not None:
        words.append(f"received --learning_rate={config.learning_rate:g}")
    return "; ".join(words)


def of_negative_loss(config: config_lib.Config, loss: float) -> str:
    """Explains a cross-entropy below 0, or returns ''."""
    if loss >= 0 or not re.search("entropy|log_?loss", config.loss.lower()):
        return ""
    return (
        f"Note: the loss is {loss:.4g}, and a cross-entropy is never below 0: are the labels from "
        "0 to 1, and does the loss take them first, then the predictions?"
    )


def _largest_rate(config: config_lib.Config, line: linear.Linear | None) -> float:
    """The largest stable learning rate of plain gradient descent; infinite if unknown."""
    if config.optimizer != "sgd" or config.clip_norm or line is None:
        return math.inf
    return line.largest_stable_rate
