"""Chooses how to run the training step: as plain Python, as a graph, or compiled by XLA."""

import enum
import re
from typing import Any, NamedTuple

import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, graphs, tf_runtime, user_calls, user_code
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import streams
from pipeline.training import optimizers, train_step
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib

# On CPUs, XLA's code for these operations is slower than TensorFlow's kernels, by factors from 3
# (random numbers, convolution over one dimension) to 20 (convolution over two dimensions).
_SLOW_IN_XLA = {"Conv": "convolutions", "StatelessRandom": "random numbers, as for dropout,"}
# With more multiplications than this in a step, TensorFlow's matrix products are faster.
_MOST_MULTIPLICATIONS = 5e8
# Stateful operations that a step may contain: variables (checkpoints save them), lookup tables of
# preprocessing layers, control flow, messages between workers, and checks. A resumed run could not
# repeat any other stateful operation.
_ALLOWED = re.compile(
    r"VarHandleOp|VarIsInitializedOp|VariableShape|ReadVariableOp|Assign\w*VariableOp|Resource\w+"
    r"|DisableCopyOnRead|\w*(HashTable|LookupTable)\w*|Anonymous\w*Table\w*|If|While|Case"
    r"|StatefulPartitionedCall|Collective\w+|Assert|CheckNumerics|Print\w*|NoOp|Placeholder"
    r"|TensorArray\w+|TensorList\w+|Stack\w*"
)
_OFTEN = "random numbers of tf.random, or tf.py_function"


class Mode(enum.Enum):
    """A way to run the training step."""

    EAGER = "as plain Python"
    GRAPH = "as a graph"
    XLA = "compiled by XLA"


class Compilation(NamedTuple):
    """The chosen mode, and the reason if it is a fallback or was chosen for speed."""

    mode: Mode
    reason: str = ""


def prepare(
    config: config_lib.Config,
    task: task_lib.Task,
    optimizer: optimizers.Optimizer,
    batches: batches_lib.AnyBatches,
    step: train_step.Step,
) -> tuple[Any, Compilation]:
    """Traces the training step and chooses how to run it.

    Returns:
      The GraphDef of the step (None with --run_eagerly, which must not trace the step before
      training), and the choice. It is the same each time, as it affects a run's rounding.

    Raises:
      errors.InputError: the step can't be traced, or a resumed run could not repeat it.
    """
    if config.run_eagerly:
        return None, Compilation(Mode.EAGER)
    functions = user_code.of_training(config).values()
    with user_calls.user_errors("tracing the training step", *functions):
        traced = train_step.trace(step, task, optimizer)
        graph = traced.as_graph_def()
        _check_variables(traced, task, optimizer)
        _check_repeatable(graph)
    on_cpu = not tf.config.list_physical_devices("GPU")
    is_auto = config.jit_compile == "auto" and on_cpu
    is_stream = isinstance(batches, streams.Batches)
    if config.jit_compile == "false" or (is_auto and (config.loop == "fit" or is_stream)):
        return graph, Compilation(Mode.GRAPH)  # for fit, as Keras decides
    work = batches.own_batch_size * task.variables.num_trainable
    reason = _slower_in_xla(graph, work) if is_auto else ""
    if not reason and any(function.is_own for function in functions):
        reason = _why_not_in_xla(step, batches.batch(0))
    return graph, Compilation(Mode.GRAPH if reason else Mode.XLA, reason)


def _slower_in_xla(graph: Any, multiplications: int) -> str:
    """Returns in words why XLA would run a step slower on a CPU, or ''."""
    names = {node.op for node in graphs.nodes(graph)}
    for prefix, what in _SLOW_IN_XLA.items():
        if any(name.startswith(prefix) for name in names):
            return f"XLA is slower at {what} on CPUs"
    is_large = multiplications > _MOST_MULTIPLICATIONS
    return "XLA is slower at steps of this size on CPUs" if is_large else ""


def _check_variables(traced: Any, task: task_lib.Task, optimizer: optimizers.Optimizer) -> None:
    """Raises InputError if a traced step uses variables that checkpoints don't save."""
    known = task.variables.with_optimizer(optimizer)
    known += getattr(task.model, "metrics_variables", [])  # reset at each evaluation
    unknown = {id(v): v.name for v in traced.variables}
    unknown |= {id(variables_lib.inner(v)): "" for v in known}
    names = sorted(filter(None, unknown.values()))
    errors.require(
        not names,
        f"the training step uses variables that the model does not list as its own: "
        f"{', '.join(names)}; a tf.Module lists the tf.Variable in its attributes, but not those "
        "of Keras layers: make it a keras.Model",
    )


def _check_repeatable(graph: Any) -> None:
    """Raises InputError if a resumed run could not repeat the GraphDef of a step."""
    found = sorted(graphs.unrepeatable(graph, _ALLOWED))
    errors.require(
        not found,
        f"the model uses {_OFTEN} ({', '.join(found)}): a resumed run could not reproduce them. "
        "Use a Keras layer such as keras.layers.Dropout, keras.random with a "
        "keras.random.SeedGenerator, or tf.random.stateless_normal",
    )


def _why_not_in_xla(step: train_step.Step, batch: batch_lib.Batch) -> str:
    """Compiles the step with XLA without running it; returns XLA's problem in words, or ''."""

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def run_step() -> None:
        step(batch)

    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
    def run(steps: tf.Tensor) -> tf.Tensor:
        while steps > 0:
            run_step()
            steps -= 1
        return steps

    if any(array.dtype == tf.string for array in batch.arrays):
        return "XLA has no texts"
    try:
        with tf_runtime.quiet_stderr():  # XLA prints a long version there
            run(tf.constant(0))
    except (tf.errors.OpError, ValueError) as error:
        found = re.search(r"XLA_\w+: (\S+) .*?\(No registered", str(error))
        return f"XLA can't compile {found[1] if found else errors.one_line(error)[:100]}"
    return ""
