"""The packages form layers, and files are short."""

import ast
import pathlib

import pipeline

ROOT = pathlib.Path(pipeline.__file__).parent
SHARED = {
    *("__init__", "arguments", "cli", "config", "console", "errors", "fields", "files", "flagfile"),
    *("graphs", "tf_runtime", "user_calls", "user_code"),
}
LAYERS = (SHARED, {"distributed"}, {"data"}, {"training"}, {"evaluation"}, {"reporting"}, {"run"})
NODES = {
    path.relative_to(ROOT).with_suffix("").parts: list(ast.walk(ast.parse(path.read_text())))
    for path in ROOT.rglob("*.py")
}
IMPORTS = {  # dotted names, imported anywhere in a file
    module: {
        f"{getattr(node, 'module', '')}.{alias.name}".lstrip(".")
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for module, nodes in NODES.items()
}


def _layer(*module: str) -> int:
    """The number of a module's layer; entry points are above them all, settings below."""
    if module[-1] == "settings":
        return 0
    return next((i for i, names in enumerate(LAYERS) if module[0] in names), len(LAYERS))


def test_a_module_imports_only_from_its_layer_and_below() -> None:
    """The shared modules are one layer, and nothing imports an entry point."""
    assert {"train", "predict", "sweep", "watch", "data", "run"} <= {name[0] for name in NODES}
    for module, names in IMPORTS.items():
        for name in (name for name in names if name.startswith("pipeline.")):
            highest = min(_layer(*module), len(LAYERS) - 1)
            assert _layer(*name.split(".")[1:]) <= highest, (module, name)


def test_some_modules_do_not_know_others() -> None:
    """Reports know no command line; files are read before TensorFlow is imported."""
    for module, names in IMPORTS.items():
        if module[0] == "reporting":
            assert not {"pipeline.cli", "pipeline.run.run_dir"} & names, module
        if module[0] == "data" and module[1] not in ("batches", "shuffle", "streams"):
            assert not any(name.startswith("tensorflow") for name in names), module


def test_imports_have_no_circle() -> None:
    """This includes imports anywhere in a file, even those for types only."""
    waiting = {
        module: {other for other in NODES if ".".join(("pipeline", *other)) in names}
        for module, names in IMPORTS.items()
    }
    while free := [module for module, others in waiting.items() if not others & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > 300}
