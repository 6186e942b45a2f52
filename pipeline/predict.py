"""Predicts with an exported SavedModel.

Examples:
  python -m pipeline.predict --export_dir=logs/<run>/export --x=1.5,-2
  python -m pipeline.predict --export_dir=logs/<run>/export --input=points.csv --output=y.csv
"""

import contextlib
import csv
import os
import pathlib
import sys
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt
from absl import flags

from pipeline import cli, errors, files, tf_runtime
from pipeline.data import csv_reader

if TYPE_CHECKING:
    from pipeline.run import export

Array = npt.NDArray[np.floating[Any]]


def _define_flags() -> None:
    exports = "A SavedModel, or a directory of numbered ones, of which the newest is taken."
    inputs = "Inputs, separated by commas. With D features, each D numbers are one input."
    csv_help = "A CSV file of inputs in place of --x: a header, then numeric columns."
    results = "The CSV file to write inputs and predictions to; they are printed without."
    flags.DEFINE_string("export_dir", None, exports)
    flags.DEFINE_list("x", [], inputs)
    flags.DEFINE_string("input", "", csv_help)
    flags.DEFINE_string("output", "", results)


def main(arguments: list[str]) -> None:
    """Runs what the flags ask for."""
    cli.refuse(arguments)
    values = flags.FLAGS
    errors.require(values.export_dir, "say with --export_dir which SavedModel to load")
    errors.require(bool(values.x) != bool(values.input), "give the inputs with --x or --input")
    export_dir = pathlib.Path(values.export_dir)
    errors.require(export_dir.is_dir(), f"--export_dir={export_dir}: is not a directory")
    errors.require(
        not os.path.isdir(values.output),
        f"--output={values.output}: is a directory; give the name of a file",
    )
    numbers = _numbers(values.x)
    table = csv_reader.Csv(values.input) if values.input else None

    tf_runtime.import_tensorflow()
    from pipeline.run import export

    exported = export.load(export_dir)
    count = exported.num_features
    features = exported.features or (tuple(f"x{i}" for i in range(count)) if count else ("x",))
    x = _read(table, exported, features) if table else _rows(numbers, features)
    x = _as_input(x, exported)
    y = exported.predict(x)
    results = np.column_stack([x, y])
    label, count = exported.label or "y", y.shape[1] if y.ndim == 2 else 0
    header = [*features, *([f"{label}_{i}" for i in range(count)] or [label])]
    if values.output and not _is_stdout(values.output):
        _write(results, header, values.output)
    else:
        _print(results, header, sys.stdout)


def _numbers(texts: list[str]) -> Array:
    errors.require(
        all(map(csv_reader.is_number, texts)),
        f"--x must be finite numbers; received {','.join(texts)}",
    )
    return np.array(texts, object).astype(np.float64)


def _as_input(x: Array, exported: "export.Exported") -> Array:
    """The inputs in the type that the model takes."""
    with np.errstate(over="ignore"):
        result = x.astype(exported.dtype)
    bad = ~np.isfinite(result)
    errors.require(
        not bad.any(),
        f"the inputs must be finite as {np.dtype(exported.dtype)}; received "
        f"{x[bad][0] if bad.any() else ''}",
    )
    return result


def _rows(x: Array, features: tuple[str, ...]) -> Array:
    """The inputs [N, D]."""
    errors.require(
        len(x) % len(features) == 0,
        f"--x must be {len(features)} numbers for each input, one a feature "
        f"({textwrap.shorten(', '.join(features), 200)}); received {len(x)}",
    )
    return x.reshape(-1, len(features))


def _read(table: csv_reader.Csv, exported: "export.Exported", features: tuple[str, ...]) -> Array:
    """The features' columns of a CSV file.

    An only column may have another name, and so may all where the model has no names. A feature
    such as city=Paris is 1 where the column city holds that text.
    """
    names = list(features)
    may_differ = len(table.header) == len(names) and (len(names) == 1 or not exported.features)
    if may_differ and not set(names) <= set(table.header):
        names = table.header
    texts: dict[str, list[str]] = {}
    for name in names:
        column, sign, text = name.partition("=")
        if name not in table.header and sign and column in table.header:
            texts.setdefault(column, []).append(text)
    numbers = [name for name in names if name in table.header or "=" not in name]
    parts = []
    for block in table.blocks(numbers, list(texts)):
        columns = dict(zip(numbers, block.numbers.T, strict=True))
        for (column, known), found in zip(texts.items(), block.texts, strict=True):
            unknown = found[~np.isin(found, known)]
            errors.require(
                not len(unknown),
                f"{table.name}: the model was trained with {column} = "
                f"{textwrap.shorten(', '.join(known), 200)}; received {unknown[:1]}",
            )
            columns |= {f"{column}={text}": found == text for text in known}
        parts.append(np.column_stack([columns[name] for name in names]))
    return np.concatenate(parts)


def _is_stdout(path: str) -> bool:
    """Whether a path such as /dev/stdout leads to where is printed anyway."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except OSError:
        return False


def _write(table: Array, header: list[str], path: str) -> None:
    """Writes a CSV file; whole or not at all, unless it is a device or a pipe."""
    target = pathlib.Path(os.path.realpath(path))  # not a link, but what it leads to
    is_pipe = target.exists() and not target.is_file()
    place = contextlib.nullcontext(target) if is_pipe else files.replacing(target)
    try:
        with place as writable, open(writable, "w", encoding="utf-8") as file:
            _print(table, header, file)
    except OSError as error:
        raise errors.RunError(f"--output={path} can't be written: {error.strerror}") from error


def _print(table: Array, header: list[str], file: TextIO) -> None:
    csv.writer(file, lineterminator="\n").writerow(header)
    np.savetxt(file, table, fmt="%s", delimiter=",")  # the shortest digits that give it back


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
