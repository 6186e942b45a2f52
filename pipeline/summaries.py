"""What TensorBoard shows of a run, dashboard by dashboard."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams

from pipeline import events, metrics

_HISTOGRAM_BUCKETS = 30
# One tag has one meaning, whichever the loop, the model and the curve.
_DESCRIPTIONS = {
    "W": "The weight of the feature after so many updates.",
    "b": "The bias after so many updates.",
    "loss": "Mean squared error at that step's W and b: in `train` over the batch of the next "
    "update, in the other curves over all examples.",
    "gradient_norm": "Length of the gradient of the loss over all training examples.",
    "distance_to_optimum": "Distance of (W, b) from the least-squares solution.",
    "final_loss": "Mean squared error of the trained model over all training examples.",
    "final_validation_loss": "The same over the validation examples.",
    "steps_per_second": "Steps in the time since the point before.",
    "examples_per_second": "Training examples looked at in the time since the point before.",
}


class RunSummaries:
    """The curves of one run, each in a folder of its own, under the same tags.

    TensorBoard draws curves of one tag from several folders into one chart.
    """

    def __init__(self, folder: pathlib.Path, *, features: tuple[str, ...], first_step: int):
        """Prepares to write from first_step on, beside what earlier starts have written."""
        self._tags = ("W",) if len(features) == 1 else tuple(f"W/{name}" for name in features)
        self._descriptions = _DESCRIPTIONS | dict.fromkeys(self._tags, _DESCRIPTIONS["W"])
        self._folder = folder
        self._first_step = first_step
        self._files: dict[str, events.EventFile] = {}

    def steps(self, points: metrics.StepMetrics) -> None:
        """Records training points."""
        self._file("train").scalars(points.step, self._values(points.W, points.b, points.loss))

    def scalars(self, steps: npt.ArrayLike, values: Mapping[str, npt.ArrayLike]) -> None:
        """Records other values of the training run: steps is [K], each of values is [K]."""
        self._file("train").scalars(steps, values)

    def epochs(self, ends: metrics.EpochMetrics) -> None:
        """Records the validation loss at the ends of epochs."""
        if ends.validation_loss is not None:
            self._file("validation").scalars(ends.step, {"loss": ends.validation_loss})

    def reference(
        self, curve: str, at: metrics.Parameters, *, loss: float, steps: list[int]
    ) -> None:
        """Draws a flat line through some steps."""
        count = len(steps)
        values = self._values(np.array([at.W] * count), [at.b] * count, [loss] * count)
        self._file(curve).scalars(steps, values)

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Records a picture."""
        image = tf.compat.v1.Summary.Image(encoded_image_string=png)
        self._write(step, tag=tag, image=image)

    def histogram(self, step: int, tag: str, numbers: npt.NDArray[Any]) -> None:
        """Records how the numbers [N] are distributed."""
        numbers = numbers.astype(np.float64)  # the limits of close float32 would be equal
        counts, limits = np.histogram(numbers, _HISTOGRAM_BUCKETS)
        proto = tf.compat.v1.HistogramProto(
            min=limits[0],
            max=limits[-1],
            num=len(numbers),
            sum=numbers.sum(),
            sum_squares=np.square(numbers).sum(),
            bucket_limit=limits[1:],
            bucket=counts,
        )
        self._write(step, tag=tag, histo=proto)

    def text(self, tag: str, markdown: str, *, step: int) -> None:
        """Records a text in Markdown."""
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="text")
        )
        tensor = tf.make_tensor_proto([markdown.encode()])
        self._write(step, tag=tag, metadata=metadata, tensor=tensor)

    def graph(self, graph: Any) -> None:
        """Records the GraphDef of the training step."""
        self._file("train").write(graph_def=graph.SerializeToString())

    def layout(self) -> None:
        """Records which curves belong into one custom chart."""
        charts = [
            layout_pb2.Chart(
                title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"{title}$|{title}/"])
            )
            for title in ("W", "b", "loss")
        ]
        category = layout_pb2.Category(title="W, b and loss with their references", chart=charts)
        self._write_summary(custom_scalar.pb(layout_pb2.Layout(category=[category])))

    def hparams(self, values: Mapping[str, Any], *, has_validation: bool) -> None:
        """Records the settings that runs are compared by, and the metrics to compare."""
        shown = [hparams_api.Metric("final_loss", display_name="loss")]
        if has_validation:
            shown.append(
                hparams_api.Metric("final_validation_loss", display_name="validation loss")
            )
        columns = [hparams_api.HParam(name) for name in values]
        self._write_summary(hparams_api.hparams_config_pb(columns, shown))
        self._write_summary(hparams_api.hparams_pb(dict(values), trial_id=str(self._folder.name)))

    def end(self, *, is_success: bool) -> None:
        """Records whether the run came to its end."""
        status = api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE
        self._write_summary(hparams.session_end_pb(status))

    def sizes(self) -> dict[str, int]:
        """The sizes in bytes of all event files of the run, by their paths in its folder."""
        for file in self._files.values():
            file.flush()
        return {str(p.relative_to(self._folder)): p.stat().st_size for p in _files(self._folder)}

    def close(self) -> None:
        """Ends all files."""
        for file in self._files.values():
            file.close()

    def _values(
        self, W: metrics.Floats, b: npt.ArrayLike, loss: npt.ArrayLike
    ) -> dict[str, npt.ArrayLike]:
        """The K points of each tag: W is [K] or [K, D], b and loss are [K]."""
        columns: Sequence[npt.ArrayLike] = list(W.reshape(len(W), len(self._tags)).T)
        return {**dict(zip(self._tags, columns, strict=True)), "b": b, "loss": loss}

    def _write(self, step: int, **value: Any) -> None:
        """Writes one value of the training run."""
        self._write_summary(
            tf.compat.v1.Summary(value=[tf.compat.v1.Summary.Value(**value)]), step=step
        )

    def _write_summary(self, summary: Any, *, step: int = 0) -> None:
        # TensorBoard's protocol buffers are copies of TensorFlow's, of the same form.
        own = tf.compat.v1.Summary.FromString(summary.SerializeToString())
        self._file("train").write(step=step, summary=own)

    def _file(self, curve: str) -> events.EventFile:
        if curve not in self._files:
            self._files[curve] = events.EventFile(
                self._folder / curve, first_step=self._first_step, descriptions=self._descriptions
            )
        return self._files[curve]


def cut_back(folder: pathlib.Path, sizes: Mapping[str, int]) -> None:
    """Cuts the event files in a run's folder back to the sizes that they had once."""
    for path in _files(folder):
        size = sizes.get(str(path.relative_to(folder)))
        if size is None:
            path.unlink()
        else:
            os.truncate(path, size)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob("*/events.out.tfevents.*"))
