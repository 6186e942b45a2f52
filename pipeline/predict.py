"""Predicts with an exported SavedModel.

Examples:
  python -m pipeline.predict --export_dir=logs/<run>/export --x=1.5,-2
  python -m pipeline.predict --export_dir=logs/<run>/export --input=points.csv --output=y.csv
"""

import csv
import os
import pathlib
import sys
from typing import TYPE_CHECKING, TextIO

import numpy as np
from absl import flags

from pipeline import cli, errors, examples

if TYPE_CHECKING:
    from pipeline import export


def _define_flags() -> None:
    flags.DEFINE_string(
        "export_dir",
        None,
        "A SavedModel, or a folder of numbered ones, of which the newest is taken.",
    )
    flags.DEFINE_list(
        "x",
        [],
        "Inputs, separated by commas. With D features, each D numbers are one input.",
    )
    flags.DEFINE_string(
        "input", "", "A CSV file of inputs in place of --x: a header, then numeric columns."
    )
    flags.DEFINE_string(
        "output",
        "",
        "The CSV file to write inputs and predictions to; by default they are printed. "
        "Replaced if it exists.",
    )


def main(arguments: list[str]) -> None:
    """Runs what the flags ask for."""
    cli.refuse(arguments)
    values = flags.FLAGS
    if not values.export_dir:
        raise errors.InputError("say with --export_dir which SavedModel to load")
    if bool(values.x) == bool(values.input):
        raise errors.InputError("give the inputs either with --x or with --input")
    export_dir = pathlib.Path(values.export_dir)
    if not export_dir.is_dir():
        raise errors.InputError(f"--export_dir={export_dir}: is not a folder")
    if os.path.isdir(values.output):
        raise errors.InputError(f"--output={values.output}: is a folder; give the name of a file")
    numbers = _numbers(values.x)
    if values.input:
        examples.read_header(values.input)

    cli.import_tensorflow()
    from pipeline import export

    exported = export.load(export_dir)
    features = exported.features or _default_names(exported.num_features)
    x = _read(values.input, exported, features) if values.input else _rows(numbers, exported)
    y = exported.predict(x)
    table = np.column_stack([x, y])
    header = [*features, exported.label or "y"]
    if values.output and not _is_stdout(values.output):
        _write(table, header, values.output)
    else:
        _print(table, header, sys.stdout)


def _numbers(texts: list[str]) -> examples.Array:
    try:
        with np.errstate(over="ignore"):
            numbers = np.array([float(text) for text in texts]).astype(np.float32)
    except ValueError as error:
        raise errors.InputError(f"--x must be numbers; received {','.join(texts)}") from error
    if not np.isfinite(numbers).all():
        raise errors.InputError(
            f"--x must be numbers that are finite as float32; received {','.join(texts)}"
        )
    return numbers


def _default_names(num_features: int | None) -> tuple[str, ...]:
    return ("x",) if num_features is None else tuple(f"x{i}" for i in range(num_features))


def _rows(x: examples.Array, exported: "export.Exported") -> examples.Array:
    """The inputs as the model takes them: [N], or [N, D]."""
    if exported.num_features is None:
        return x
    if len(x) % exported.num_features:
        raise errors.InputError(
            f"--x must be {exported.num_features} numbers for each input, one a feature "
            f"({', '.join(exported.features)}); received {len(x)}"
        )
    return x.reshape(-1, exported.num_features)


def _read(path: str, exported: "export.Exported", features: tuple[str, ...]) -> examples.Array:
    """The features' columns of a CSV file.

    An only column may have another name, and so may all where the model has no names.
    """
    names = list(features)
    header = examples.read_header(path)
    may_differ = len(header) == len(names) and (len(names) == 1 or not exported.features)
    if may_differ and not set(names) <= set(header):
        names = header
    table = examples.read_columns(path, names)
    return table[:, 0] if exported.num_features is None else table


def _is_stdout(path: str) -> bool:
    """Whether a path such as /dev/stdout leads to where is printed anyway."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except OSError:
        return False


def _write(table: examples.Array, header: list[str], path: str) -> None:
    """Writes a CSV file; whole or not at all, unless it is a device or a pipe."""
    target = pathlib.Path(os.path.realpath(path))  # not a link, but what it leads to
    if target.exists() and not target.is_file():
        with open(target, "w", encoding="utf-8") as pipe:
            _print(table, header, pipe)
        return
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            _print(table, header, file)
        unfinished.rename(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise errors.RunError(f"--output={path} can't be written: {error.strerror}") from error


def _print(table: examples.Array, header: list[str], file: TextIO) -> None:
    csv.writer(file, lineterminator="\n").writerow(header)
    np.savetxt(file, table, fmt="%s", delimiter=",")  # the shortest digits that give it back


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
