"""Writes a run's TensorBoard summaries, for each dashboard."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram import summary_v2 as histogram
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams
from tensorboard.plugins.text import summary_v2 as text

from pipeline import console, files
from pipeline.reporting import event_file
from pipeline.training import clock as clock_lib
from pipeline.training import step_metrics

# A tag has the same meaning for every loop, model and curve.
_DESCRIPTIONS = {
    "W": "The weight of the feature after so many updates.",
    "b": "The bias after so many updates.",
    "loss": "The loss of that step's model: in `train` over the batch of the next "
    "update, in the other curves over all examples.",
    "training/gradient_norm": "Length of the gradient of that step's loss, before --clip_norm.",
    "training/learning_rate": "The learning rate of the next update.",
    "training/distance_to_optimum": "Distance of (W, b) from the least-squares solution.",
    "evaluation/best_epoch": "The epoch with the smallest validation loss (or training loss, "
    "where there are no validation examples) up to then.",
    "speed/steps_per_second": "Steps in a second of training alone, without compilation, "
    "evaluation, summaries and checkpoints.",
    "speed/examples_per_second": "Training examples in a second of training alone.",
    "final/diverged": "1 if training diverged, 0 if it came to its end.",
}
_REPORTED = {
    "rmse": "rmse, root mean squared error,",
    "mae": "mae, mean absolute error,",
    "r2": "R²",
}


@dataclasses.dataclass(eq=False)
class SummaryWriter:
    """Writes the curves of one run, each in its own directory with the same tags."""

    directory: pathlib.Path  # of the run
    names: tuple[str, ...]  # of the watched values
    clock: clock_lib.Clock
    first_step: int
    earlier: Mapping[str, int]  # the earlier result of `sizes`; later data are cut off

    def __post_init__(self) -> None:
        """Prepares to write from first_step on, beside the files of earlier processes."""
        written = [path for path in self.directory.glob("*/*") if event_file.number_of(path)]
        last = max(map(event_file.number_of, written), default=0)
        self._file_name = event_file.file_name(last + 1)
        with files.writing(self.directory):
            self._earlier = _cut_back(self.directory, written, self.earlier)
        self._files: dict[str, event_file.EventFile] = {}

    def steps(self, rows: step_metrics.StepMetrics) -> None:
        """Writes the watched values and the loss of some training steps."""
        columns = dict(zip(self.names, rows.values.T, strict=True))
        self.scalars(rows.step, columns | {"loss": rows.loss})

    def scalars(
        self,
        steps: npt.ArrayLike,
        values: Mapping[str, npt.ArrayLike],
        *,
        curve: str = "train",
        times: npt.ArrayLike | None = None,
    ) -> None:
        """Writes values [K] at steps [K], by default at the times of the steps."""
        times = self.clock.times(np.asarray(steps)) if times is None else times
        self._file(curve).scalars(steps, values, times)

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Writes an image."""
        image = summary_pb2.Summary.Image(encoded_image_string=png)
        value = summary_pb2.Summary.Value(tag=tag, image=image)
        self._write(summary_pb2.Summary(value=[value]), step=step)

    def histogram(self, step: int, tag: str, numbers: npt.NDArray[Any]) -> None:
        """Writes the distribution of numbers [N], if they are finite."""
        if np.isfinite(numbers).all():
            self._write(histogram.histogram_pb(tag, numbers), step=step)

    def text(self, tag: str, markdown: str, *, step: int) -> None:
        """Writes a Markdown text."""
        self._write(text.text_pb(tag, [markdown]), step=step)

    def graph(self, graph: Any) -> None:
        """Writes the GraphDef of the training step."""
        self._file("train").write(graph_def=graph.SerializeToString())

    def layout(self) -> None:
        """Writes the layout of the custom charts."""
        variables = dict.fromkeys(name.partition("/")[0] for name in self.names)
        titles, line = [*variables, "loss"], layout_pb2.MultilineChartContent
        charts = [
            layout_pb2.Chart(title=title, multiline=line(tag=[f"{title}$|{title}/"]))
            for title in (*titles, "evaluation/loss")
        ]
        title = f"{', '.join(titles)} and evaluation/loss with their references"
        category = layout_pb2.Category(title=title, chart=charts)
        self._write(custom_scalar.pb(layout_pb2.Layout(category=[category])))

    def hparams(self, values: Mapping[str, Any]) -> None:
        """Writes the settings for HParams, which compares runs by all scalars in a directory."""
        # The run name comes first: TensorBoard cuts off the end.
        trial = f"{self.directory.name} ({self.directory.parent.name})"
        self._write(hparams_api.hparams_pb(dict(values), trial_id=trial), curve="final")

    def end(self, *, is_success: bool) -> None:
        """Writes whether the run finished successfully."""
        status = api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE
        self._write(hparams.session_end_pb(status), curve="final")

    def sizes(self) -> dict[str, int]:
        """The sizes in bytes of all event files, by their paths in the run's directory."""
        sizes = dict(self._earlier)
        for curve, file in self._files.items():
            file.flush()
            name = f"{curve}/{self._file_name}"
            sizes[name] = (self.directory / name).stat().st_size
        return sizes

    def close(self) -> None:
        """Closes all files."""
        for file in self._files.values():
            file.close()

    def _write(self, summary: Any, *, step: int = 0, curve: str = "train") -> None:
        # Some of TensorBoard's plugins use TensorFlow's protocol buffers, with the same format.
        own = summary_pb2.Summary.FromString(summary.SerializeToString())
        self._file(curve).write(step=step, summary=own)

    def _file(self, curve: str) -> event_file.EventFile:
        if curve not in self._files:
            path, first_step = self.directory / curve / self._file_name, self.first_step
            self._files[curve] = event_file.EventFile(
                path, first_step=first_step, clock=self.clock, describe=_description
            )
        return self._files[curve]


def _description(tag: str) -> str:
    """The description that TensorBoard shows beside a tag's charts."""
    first, _, name = tag.partition("/")
    if found := _DESCRIPTIONS.get(tag) or _DESCRIPTIONS.get(first):
        return found
    if name.endswith("_learning_rate"):
        return f"The learning rate of {name.removesuffix('_learning_rate')} in the next update."
    if first == "training":
        return f"The {name} that the model's train_step returned for the batch of the next update."
    if first == "evaluation":
        return f"The {name} over all training examples, in `validation` over all validation ones."
    if first == "final":
        part = "validation" if name.startswith("validation_") else "training"
        name = name.removeprefix("validation_")
        return f"The {_REPORTED.get(name, name)} over all {part} examples, of the trained model."
    return f"The {tag.replace('/', ' ')} of the model after so many updates."


def _cut_back(
    directory: pathlib.Path, written: list[pathlib.Path], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Truncates event files to their earlier sizes; returns their sizes now."""
    found = {str(path.relative_to(directory)): path for path in written}
    for name in found.keys() - sizes.keys():
        found.pop(name).unlink()
    for name, size in sizes.items():
        if name not in found or not event_file.cut_back(found[name], size):
            console.say(
                f"Warning: a part of {directory / name} is gone, so its curves have a gap",
                sys.stderr,
            )
    return {name: path.stat().st_size for name, path in found.items()}
