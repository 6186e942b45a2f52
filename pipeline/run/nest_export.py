"""The signature of a model whose examples are arrays or nests of arrays, and no table."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import optree
import tensorflow as tf

from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.training import task as task_lib

Arrays = dict[str, npt.NDArray[Any]]


def signature(task: task_lib.Task) -> Any:
    """A function from the inputs by name to the outputs by name, with their own dtypes.

    One array is called x, or y; those of a dict have its keys, those of a tuple x_0, x_1, ...
    """
    named = _named(task.spec.x, "x")
    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in named.items()}
    structure = optree.tree_structure(task.spec.x)

    # The model's own calls are converted by AutoGraph; the rest need not be, which takes a while.
    @tf.function(input_signature=[specs], autograph=False)  # type: ignore[untyped-decorator]
    def serve(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        x = optree.tree_unflatten(structure, [inputs[name] for name in specs])
        return _named(task.predict(x), "y")

    return serve


def check(saved_model: pathlib.Path, task: task_lib.Task, sample: batch_lib.Batch) -> None:
    """Compares a SavedModel, reloaded, with the live model on some examples.

    Raises:
      errors.RunError: it predicts something else.
    """
    inputs = _named(sample.map(tf.constant).x, "x")
    loaded = tf.saved_model.load(str(saved_model))
    found = loaded.signatures["serving_default"](**inputs)
    for name, expected in signature(task)(inputs).items():
        same = np.isclose(found[name], expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        if not same.all():
            raise errors.RunError(
                f"the SavedModel does not predict the {name} that the model predicts; it was not "
                "exported"
            )


def _named(nest: Any, default: str) -> dict[str, Any]:
    """The leaves of a nest by name."""
    leaves = optree.tree_leaves(nest)
    if len(leaves) == 1 and not isinstance(nest, dict):
        return {default: leaves[0]}
    paths = ["_".join(map(str, path)) for path in optree.tree_paths(nest)]
    names = [path if path[:1].isalpha() else f"{default}_{path}" for path in paths]
    return dict(zip(names, leaves, strict=True))
