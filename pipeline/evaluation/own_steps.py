"""Evaluates Keras models with a train_step or test_step of their own, such as a VAE or a GAN."""

from typing import Any

import numpy as np
import optree
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import user_calls, user_code
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.evaluation import evaluate
from pipeline.training import optimizers, train_step
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib


def evaluator(
    task: task_lib.Task,
    datasets: datasets_lib.Datasets,
    config: config_lib.Config,
    total: workers.Total,
) -> evaluate.Evaluator:
    """Makes the evaluator that a task needs; raises errors.InputError as Evaluator does."""
    if any(task_lib.overrides(task.model, name) for name in ("train_step", "test_step")):
        return StepEvaluator(task, datasets, config)  # fit has one worker
    return evaluate.Evaluator(task, datasets, config, total)


class StepEvaluator(evaluate.Evaluator):
    """Calls test_step on batches of --batch_size, as Keras' evaluate does.

    A model with neither a test_step nor a loss of its own is evaluated by its train_step: the
    numbers are means over the examples, each batch with the variables as they are. Either way all
    variables, such as the state of random numbers, are put back.
    """

    def __init__(
        self, task: task_lib.Task, datasets: datasets_lib.Datasets, config: config_lib.Config
    ):
        """Prepares to call the model's step."""
        self.task, self.is_mean_over_examples = task, False
        self._evaluated = datasets.evaluated, datasets.validation
        self._piece_size, self._kept = config.batch_size or datasets.num_train, {}
        self._function = user_code.find(config)["model"]
        model = task.model
        has_loss = task.spec.y is not None and getattr(model, "_compile_loss", None) is not None
        self._trains = not has_loss and not any(
            task_lib.overrides(model, name) for name in ("test_step", "compute_loss")
        )
        optimizer = optimizers.of_own_step(model)
        self._variables = task.variables.with_optimizer(optimizer)
        leaves, self._structure = optree.tree_flatten(task.spec)  # type: ignore[arg-type, var-annotated]
        self._run: Any = self._numbers
        if not config.run_eagerly:
            self._run = tf.function(self._numbers, input_signature=leaves, autograph=False)

    def _over(self, examples: evaluate.Examples) -> dict[str, float]:
        self.task.model.reset_metrics()
        found: list[dict[str, float]] = []
        sizes = []
        with (
            user_calls.user_errors("evaluating the model", self._function),
            variables_lib.unchanged(self._variables),
        ):
            for tensors in self._pieces(examples):
                with variables_lib.unchanged(self._variables if self._trains else ()):
                    numbers = self._run(*tensors)
                found.append({name: float(number) for name, number in numbers.items()})
                sizes.append(tensors[0].shape[0])
        if not self._trains:
            return found[-1]  # the metrics of test_step are over all batches so far
        return {
            name: float(np.average([f[name] for f in found], weights=sizes)) for name in found[0]
        }

    def _numbers(self, *leaves: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the numbers of a batch by name; 'loss' is the first one."""
        batch: batch_lib.Batch = optree.tree_unflatten(self._structure, leaves)  # type: ignore[assignment]
        if self._trains:
            return train_step.of_own_step(self.task.model, batch)[0]
        return train_step.numbers_of(self.task.model.test_step, batch)
