"""An exported model for Python: predicts from columns, or from arrays as in training."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import errors
from pipeline.data import arrays, tables
from pipeline.run import exported, predictions, versions


class Predictor:
    """The newest export of a run.

    Attributes:
      path: The SavedModel.
      features, label: The names of the columns; () and "" for a model of arrays.
      description: What the export says of where it came from.
    """

    def __init__(self, path: pathlib.Path):
        """Loads an export version, or the newest one in a directory.

        Raises:
          errors.InputError: there is none, or it is damaged.
        """
        found = versions.find(path)
        errors.require(found, f"{path}: holds no export of a run, and is none")
        assert found
        self.path, self.description = found, versions.description(found) or {}
        self._table: exported.Exported | None = None
        self._serve: Any = None
        if self.description.get("features"):
            self._table = exported.Exported(found)
            self.features, self.label = tuple(self._table.columns), self._table.label
            return
        self.features, self.label = (), ""
        with exported.loaded(found) as self._loaded:
            self._serve = self._loaded.signatures[exported.SERVE]

    def __repr__(self) -> str:
        inputs = self.features or tuple(self._serve.structured_input_signature[1])
        return f"<{self.path}: {', '.join(inputs)} -> {self.label or 'y'}>"

    def predict(self, inputs: Any) -> Any:
        """Predicts for many inputs at once.

        Args:
          inputs: For a model of a table: columns by their names (a mapping or a data frame), or
            numbers x [N, D] ([N] for one feature). For a model of arrays: x as in training, an
            array or a nest (dict, tuple) of arrays.

        Returns:
          An array [N] or [N, C]; a dict of arrays if the model has several outputs.

        Raises:
          errors.InputError: a column is missing, or a value can't be used.
        """
        if self._table is None:
            return self._predict_arrays(inputs)
        if isinstance(inputs, Mapping) or hasattr(inputs, "columns"):
            return self._predict_columns(self._table, arrays.columns_of(inputs))
        text = next((name for name, texts in self._table.columns.items() if texts), None)
        errors.require(
            text is None, f"the column {text!r} is text: give columns by their names, not one array"
        )
        x = np.asarray(inputs, self._table.dtype)
        wanted = len(self._table.columns)
        errors.require(
            x.shape[1:] == (wanted,) or (wanted == 1 and x.ndim == 1),
            f"x must be [N, {wanted}], or columns by their names; received {list(x.shape)}",
        )
        return self._table.predict(x)

    def _predict_columns(self, model: exported.Exported, columns: dict[str, Any]) -> exported.Array:
        if set(model.columns) <= set(columns):  # others may be of any type
            columns = {name: columns[name] for name in model.columns}
        arrays.check_lengths(columns, "the columns must have one length")
        rows = predictions.Predictions(tables.Arrays("the inputs", columns), model)
        return np.concatenate([y for _, _, y in rows.blocks()])

    def _predict_arrays(self, inputs: Any) -> Any:
        specs = self._serve.structured_input_signature[1]
        given = exported.named(inputs, "x")
        errors.require(
            set(given) == set(specs),
            f"the inputs must be {', '.join(specs)}; received {', '.join(given)}",
        )
        try:
            tensors = {name: tf.constant(given[name], spec.dtype) for name, spec in specs.items()}
            outputs = {name: y.numpy() for name, y in self._serve(**tensors).items()}
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise errors.InputError(
                f"{self.path}: can't predict: {errors.one_line(error)[:200]}"
            ) from error
        return outputs["y"] if list(outputs) == ["y"] else outputs
