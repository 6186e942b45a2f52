"""The packages form layers, and functions are short."""

import ast
import pathlib

import pipeline

ROOT = pathlib.Path(pipeline.__file__).parent
SHARED = {
    *("__init__", "cli", "config", "errors", "files", "flagfile", "printing", "tf_runtime"),
    "user_code",
}
LAYERS = (SHARED, {"distributed"}, {"data"}, {"training"}, {"reporting"}, {"run"})
NODES = {
    path.relative_to(ROOT).with_suffix("").parts: list(ast.walk(ast.parse(path.read_text())))
    for path in ROOT.rglob("*.py")
}
IMPORTS = {  # dotted names, wherever in a file they are imported
    module: {
        f"{getattr(node, 'module', '')}.{alias.name}".lstrip(".")
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for module, nodes in NODES.items()
}


def _layer(name: str) -> int:
    """The number of a module's layer; entry points are above them all."""
    return next((i for i, names in enumerate(LAYERS) if name in names), len(LAYERS))


def test_a_module_imports_only_from_its_layer_and_below() -> None:
    """The shared modules are one layer, and nothing imports an entry point."""
    assert {"train", "predict", "sweep", "watch", "data", "run"} <= {name[0] for name in NODES}
    for module, names in IMPORTS.items():
        for name in (name for name in names if name.startswith("pipeline.")):
            highest = min(_layer(module[0]), len(LAYERS) - 1)
            assert _layer(name.split(".")[1]) <= highest, (module, name)


def test_some_modules_do_not_know_others() -> None:
    """Reports know no command line; files are read before TensorFlow is imported."""
    for module, names in IMPORTS.items():
        if module[0] == "reporting":
            assert not {"pipeline.cli", "pipeline.run.run_dir"} & names, module
        if module[0] == "data" and module[1] not in ("batches", "shuffle"):
            assert not any(name.startswith("tensorflow") for name in names), module


def test_no_function_is_longer_than_40_lines() -> None:
    too_long = [
        (*module, node.name)
        for module, nodes in NODES.items()
        for node in nodes
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 40
    ]
    assert not too_long
