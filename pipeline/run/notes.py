"""Notes for the user: fallbacks, expected problems, and why a run diverged."""

import math
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
    assert config.learning_rate is not None
    if config.learning_rate > largest:
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
    return f"{'; '.join(words)}; received --learning_rate={config.learning_rate:g}"


def _largest_rate(config: config_lib.Config, line: linear.Linear | None) -> float:
    """The largest stable learning rate of plain gradient descent; infinite if unknown."""
    if config.optimizer != "sgd" or config.clip_norm or line is None:
        return math.inf
    return line.largest_stable_rate
