"""Monitors the evaluations of a run: the best one, early stopping, and divergence."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optree
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import evaluate
from pipeline.training import hooks, step_metrics
from pipeline.training import variables as variables_lib

_MOST_PAUSES = 1000  # evaluations of a run, at ends of epochs
# A pause takes as long as several thousand short steps, so long runs have fewer of them.
_MANY_STEPS, _FEW_PAUSES = 200_000, 200
_RISEN = 1e6
_MOST_LABELS = 10_000  # labels that the loss of predicting 0 is computed on


class Best(NamedTuple):
    """The step and the monitored loss of the best evaluation so far."""

    step: int = -1
    loss: float = math.inf


class EpochEvaluation(NamedTuple):
    """An evaluation at the end of an epoch; epoch 0 is the start."""

    step: int
    values: npt.NDArray[np.float32]  # [M], the watched values
    evaluation: evaluate.Evaluation
    best: Best  # including this evaluation


class Monitor(hooks.Hook):
    """Evaluates at evenly spaced ends of epochs, and decides when training ends.

    It evaluates up to 1,000 times, and up to 200 times in a run of more than 200,000 steps; with
    --callbacks it evaluates after every epoch.

    Training ends when patience has run out, or when it diverges: the loss becomes NaN or infinite,
    or a million times larger than at the start.

    Attributes:
      steps_per_epoch: Steps between the ends of epochs.
      every: Steps between evaluations.
      best: The best evaluation so far.
      best_variables: The model's variables at `best`; None if an earlier process saved them.
      start_loss: The training loss before training.
      monitored: The name of the monitored loss, in words.
    """

    def __init__(
        self,
        evaluator: evaluate.Evaluator,
        datasets: datasets_lib.Datasets,
        config: config_lib.Config,
    ):
        """Prepares to evaluate during the run of a config."""
        self._evaluator, self._task, self._datasets = evaluator, evaluator.task, datasets
        self.steps_per_epoch = datasets.steps_per_epoch(config)
        is_long = config.last_step(self.steps_per_epoch) > _MANY_STEPS
        most = _FEW_PAUSES if is_long else _MOST_PAUSES
        stride = step_metrics.power_of_two_stride(config.epochs, most)
        stride = 1 if config.callbacks else stride
        self.every = stride * self.steps_per_epoch
        self._patience = config.early_stopping_patience
        self.monitored = "validation loss" if datasets.validation else "loss"
        self.best, self.start_loss = Best(), math.nan
        self.best_variables: variables_lib.Arrays | None = None

    def next_pause(self, step: int) -> float:
        """The next step with an evaluation."""
        return (step // self.every + 1) * self.every

    def pause(self, step: int) -> EpochEvaluation | None:
        """Evaluates the model.

        Raises:
          hooks.EndOfTraining: patience has run out.
          hooks.Divergence: the loss has risen.
        """
        evaluation = self.checked(step)
        if self.is_exhausted(step, evaluation):
            evaluations = f"--early_stopping_patience={self._patience} evaluations"
            reason = f"no smaller {self.monitored} in {evaluations}"
            raise hooks.EndOfTraining(step, reason)  # the last evaluation follows its checkpoint
        if not evaluation.is_finite:
            return None  # the next step is the last one
        return self.noted(step, evaluation)

    def checked(self, step: int) -> evaluate.Evaluation:
        """Evaluates the model; raises hooks.Divergence if the loss has risen too far."""
        evaluation = self._evaluator.evaluate()
        loss = evaluation.train["loss"]
        if self._has_risen(np.array([loss]))[0]:
            raise hooks.Divergence(step, loss)
        return evaluation

    def noted(self, step: int, evaluation: evaluate.Evaluation) -> EpochEvaluation:
        """Records an evaluation of the current model as the run's next one."""
        if step == 0:
            self.start_loss = evaluation.train["loss"]
        if evaluation.monitored < self.best.loss:
            self.best = Best(step, evaluation.monitored)
            self.best_variables = self._task.variables.arrays()
        values = self._task.variables.values_now()
        return EpochEvaluation(step, values, evaluation, self.best)

    def is_exhausted(self, step: int, evaluation: evaluate.Evaluation) -> bool:
        """Whether patience has run out.

        It depends only on the losses up to the step, so a resumed run stops at the same step.
        """
        if not self._patience or step % self.every or evaluation.monitored < self.best.loss:
            return False
        return step - self.best.step >= self._patience * self.every

    def is_good(self, rows: step_metrics.StepMetrics) -> npt.NDArray[np.bool_]:
        """Returns [K]: whether training has not diverged at a row."""
        good = rows.is_finite
        # The loss of a step may be of one batch only, or weighted by flags.
        if self.steps_per_epoch == 1 and self._datasets.unweighted is None:
            good &= ~self._has_risen(rows.loss)
        return good

    def _has_risen(self, losses: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether training losses [K] are a million times larger than at the start.

        The start may be close to an optimum of 0. So the losses must also be a million times larger
        than the loss of predicting 0, which no optimum exceeds.
        """
        losses = np.asarray(losses, np.float64)
        risen = losses > _RISEN * abs(self.start_loss)
        if not risen.any():  # the start may be unknown yet
            return np.asarray(risen)
        limit = _RISEN * max(abs(self.start_loss), self._loss_of_zero())
        return np.asarray((losses > limit) & (limit > 0))

    def _loss_of_zero(self) -> float:
        """The mean loss of a model that predicts 0; infinite if it is not finite or unknown."""
        if self._task.has_own_step:
            return math.inf
        train = self._datasets.unweighted or self._datasets.train
        stride = -(-train.num_examples // _MOST_LABELS)
        batch = batches_lib.tensors(train.rows(slice(None, None, stride)))
        zeros = optree.tree_map(tf.zeros_like, self._task.outputs(batch.x))
        loss = abs(float(self._task.loss_of(batch, zeros)))
        return loss if math.isfinite(loss) else math.inf
