"""Reads TensorFlow graphs: their nodes, and operations that could not be repeated."""

import re
from collections.abc import Iterator
from typing import Any

from tensorflow.python.framework import op_def_registry


def nodes(graph: Any) -> Iterator[Any]:
    """The NodeDefs of a GraphDef and of its functions."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def unrepeatable(graph: Any, allowed: re.Pattern[str]) -> set[str]:
    """The types of the operations that TensorFlow's registry marks as stateful, but for some."""
    found = {node.op for node in nodes(graph)}
    return {name for name in found if _is_stateful(name) and not allowed.fullmatch(name)}


def _is_stateful(operation: str) -> bool:
    definition = op_def_registry.get(operation)  # None for a function of the graph
    return definition is not None and bool(definition.is_stateful)
