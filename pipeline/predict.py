"""Predicts with an exported SavedModel: reads a table, and writes it with predictions.

Examples:
  python -m pipeline.predict --export_dir=logs/<run>/export --x=1.5,-2
  python -m pipeline.predict --export_dir=logs/<run>/export --input=points.csv --output=y.csv
  zcat points.csv.gz | python -m pipeline.predict --export_dir=logs/<run>/export --input=- | head
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import textwrap
import types
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np
from absl import flags

from pipeline import cli, console, errors, files, tf_runtime
from pipeline.data import tables, text_tables
from pipeline.run import run_dir, signals, versions

if TYPE_CHECKING:
    from pipeline.run import exported, predictions, predictor

_STANDARD = "-"  # stdin or stdout


def load(directory: "str | os.PathLike[str]") -> "predictor.Predictor":
    """Loads the newest export of a run, or an export directory, to predict from Python.

    Raises:
      errors.InputError: there is no export.
    """
    path = pathlib.Path(directory)
    errors.require(path.is_dir(), f"{path}: is not a directory; give that of a run or an export")
    with tf_runtime.as_guest(), tf_runtime.importing():
        from pipeline.run import predictor

        export = run_dir.RunDir(path).export
        return predictor.Predictor(export if export.is_dir() else path)


def _define_flags() -> None:
    exports = "A SavedModel, or a directory of numbered ones: the newest is taken."
    inputs = "Inputs, separated by commas. With D features, each D numbers are one input."
    table_help = "A table in place of --x: what --data of train reads, or - for stdin."
    results = "The CSV file to write the rows with their predictions to; - prints them."
    on_error = "What is done at a row that can't be used: fail, or skip the row."
    describe = "Print what the SavedModel says of where it came from, as JSON."
    flags.DEFINE_string("export_dir", None, exports)
    flags.DEFINE_list("x", [], inputs)
    flags.DEFINE_string("input", "", table_help)
    flags.DEFINE_string("output", _STANDARD, results)
    flags.DEFINE_enum("on_error", "fail", ["fail", "skip"], on_error)
    flags.DEFINE_bool("describe", False, describe)


def main(arguments: list[str]) -> None:
    """Predicts as the flags say."""
    cli.refuse(arguments)
    values = flags.FLAGS
    errors.require(values.export_dir, "say with --export_dir which SavedModel to load")
    export_dir = pathlib.Path(values.export_dir)
    errors.require(export_dir.is_dir(), f"--export_dir={export_dir}: is not a directory")
    if values.describe:
        found = versions.description(export_dir)
        errors.require(
            found is not None,
            f"--export_dir={export_dir}: has no {versions.DESCRIPTION}; exports of earlier "
            "versions of this package, and of other programs, do not say where they came from",
        )
        console.say(json.dumps(found, indent=2))
        return
    errors.require(bool(values.x) != bool(values.input), "give the inputs with --x or --input")
    errors.require(
        not os.path.isdir(values.output),
        f"--output={values.output}: is a directory; give the name of a file",
    )
    errors.require(
        all(map(text_tables.is_number, values.x)),
        f"--x must be finite numbers; received {','.join(values.x)}",
    )
    _stop_cleanly()
    # The header is read before TensorFlow is imported, which takes seconds.
    table = text_tables.open_table(values.input) if values.input else None
    tf_runtime.import_tensorflow()
    from pipeline.run import exported, predictions

    model = exported.load(export_dir)
    table = table or _table(values.x, model)
    rows = predictions.Predictions(table, model, skips=values.on_error == "skip")
    _write(rows, values.output)
    if rows.skipped:
        console.say(
            f"predict: {rows.skipped:,} of {rows.rows:,} rows skipped; the first: "
            f"{rows.first_skipped}",
            sys.stderr,
        )


def _stop_cleanly() -> None:
    """Makes signals raise an exception, so no half-written file is left."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    for number in signals.SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def _table(numbers: list[str], model: "exported.Exported") -> tables.Table:
    """Makes a table of the numbers in --x, and keeps their texts."""
    names = list(model.columns)
    texts = next((name for name, known in model.columns.items() if known), None)
    errors.require(
        texts is None, f"--x is for models of numbers; the column {texts!r} is text: use --input"
    )
    errors.require(
        len(numbers) % len(names) == 0,
        f"--x must be {len(names)} numbers for each input, one a feature "
        f"({textwrap.shorten(', '.join(names), 200)}); received {len(numbers)}",
    )
    cells = np.array(numbers).reshape(-1, len(names))
    return tables.Arrays("--x", dict(zip(names, cells.T, strict=True)))


def _write(rows: "predictions.Predictions", path: str) -> None:
    """Writes all rows: a file atomically, a stream row by row.

    Raises:
      errors.RunError: the output can't be written. A closed stdout is not an error.
    """
    is_stdout = path in ("", _STANDARD) or _is_stdout(path)
    progress = console.LiveLine(sys.stderr)
    try:
        with _output(path, is_stdout=is_stdout) as file:
            for text in rows.texts():
                file.write(text)
                if progress.is_due() and not (is_stdout and sys.stdout.isatty()):
                    progress.show(f"{rows.rows:,} rows")
    except OSError as error:
        if is_stdout and console.has_no_reader(1, error):
            return
        name = "stdout:" if is_stdout else f"--output={path} can't be written:"
        raise errors.RunError(f"{name} {error.strerror}") from error
    finally:
        progress.close()


@contextlib.contextmanager
def _output(path: str, *, is_stdout: bool) -> Iterator[IO[bytes]]:
    """Opens the output: stdout, a pipe or device, or a new file that replaces an old one."""
    if is_stdout or (os.path.exists(path) and not os.path.isfile(path)):
        place: int | str = 1 if is_stdout else path
        with open(place, "wb", closefd=not is_stdout) as file:
            yield file
        return
    target = pathlib.Path(os.path.realpath(path))  # the target of a link
    files.remove_abandoned(target)
    with files.replacing(target) as unfinished, open(unfinished, "wb") as file:
        files.mark_as_used(file)
        yield file


def _is_stdout(path: str) -> bool:
    """Whether a path such as /dev/stdout is the same as stdout."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
