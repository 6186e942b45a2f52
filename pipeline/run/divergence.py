"""Ends training where it diverges."""

from pipeline import config as config_lib
from pipeline import errors
from pipeline.reporting import progress, recorder
from pipeline.training import evaluation, hooks, metrics


class StopOnDivergence(hooks.Hook):
    """Ends training at the first step whose loss or watched values are not finite."""

    def __init__(
        self, config: config_lib.Config, evaluator: evaluation.Evaluator, records: recorder.Recorder
    ):
        """Prepares to check rows that the recorder has had before."""
        self._config, self._evaluator, self._recorder = config, evaluator, records

    def after(self, rows: metrics.StepMetrics) -> None:
        """Raises errors.DivergedError where a row is not finite."""
        finite = rows.until_divergence()
        if len(finite.step) < len(rows.step):
            self._recorder.diverged()
            raise errors.DivergedError(self._message(int(rows.step[len(finite.step)])))

    def _message(self, step: int) -> str:
        message = f"the loss is not finite at step {step}"
        last = self._recorder.history.last
        if not len(last.step):
            return f"{message}: the examples, or the model at its start, are too large for float32"
        report = progress.report(
            self._evaluator.task.names, last.values[0], {"loss": float(last.loss[0])}
        )
        message += f"; the last good step is {last.step[0]}: {report}; "
        reference = self._evaluator.closed_form.train
        if self._config.optimizer == "sgd" and reference:
            largest = reference.largest_stable_learning_rate()
            is_full_batch = self._evaluator.steps_per_epoch == 1
            few = "" if is_full_batch else ", for mini-batches it is less"
            message += f"the largest stable learning rate for these data is {largest:.4g}{few}; "
        return f"{message}received --learning_rate={self._config.learning_rate:g}"
