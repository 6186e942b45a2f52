"""The modules stand on floors, and data flows one way."""

import ast
import pathlib

import pipeline

FLOORS = (
    {"errors", "output", "shuffle"},
    {"config", "metrics"},
    {"cli", "examples", "folder", "stopping"},
    {"data", "losses", "model", "optimizers"},
    {"checkpoints", "console", "events", "export", "figures", "profiler", "step", "yardstick"},
    {"custom_loop", "fit_loop", "summaries"},
    {"pictures"},
    {"recorder"},
    {"run"},
    {"predict", "sweep", "train", "watch"},
)


def _imports(path: pathlib.Path) -> set[str]:
    """The modules of the package that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            names.add((node.module or "").split(".")[1])
    return names


def test_a_module_imports_only_from_lower_floors() -> None:
    files = {path.stem: path for path in pathlib.Path(pipeline.__file__).parent.glob("*.py")}
    del files["__init__"]
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    assert set(files) == set(floor_of)
    upward = [
        (name, imported)
        for name, path in files.items()
        for imported in _imports(path)
        if floor_of[imported] >= floor_of[name]
    ]
    assert not upward
