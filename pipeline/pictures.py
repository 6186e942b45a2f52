"""The pictures of a run: when they are drawn, and where they go."""

import time

import numpy as np
from matplotlib.figure import Figure

from pipeline import examples, figures, folder, metrics, summaries, yardstick

_SECONDS_BETWEEN_DRAWINGS = 5.0
_MOST_RESIDUALS = 10_000


class Pictures:
    """Draws the pictures of one run as PNG files and for TensorBoard.

    The fit as it moves is drawn at the steps 1, 4, 16, 64, ... Drawing takes as long as
    many thousand training steps, so that waits for the end, or for some seconds to pass.
    """

    def __init__(
        self,
        data: examples.Data,
        measures: yardstick.Yardstick,
        *,
        paths: folder.RunFolder,
        to: summaries.RunSummaries,
        moving: metrics.StepMetrics,
        drawn: int,
    ):
        """Goes on from the moving fits so far, of which the first `drawn` are drawn."""
        self._data = data
        self._yardstick = measures
        self._paths = paths
        self._summaries = to
        self.moving = moving
        self.drawn = drawn
        self._drawn_at = time.monotonic()

    def start(self, model: metrics.Parameters) -> None:
        """Draws what is known before training."""
        self._save("data", 0, figures.data(self._data))
        self._save("before_training", 0, self._fit(model, "Before training"))
        self._residuals(0, model)

    def __call__(self, points: metrics.StepMetrics) -> None:
        """Takes the next stretch of points."""
        powers = 4 ** np.arange(31, dtype=np.int64)
        self.moving = metrics.concatenate([self.moving, points.at(np.isin(points.step, powers))])
        if time.monotonic() - self._drawn_at > _SECONDS_BETWEEN_DRAWINGS:
            self._draw_moving()

    def finish(self, points: metrics.StepMetrics) -> None:
        """Draws the trained model, and the way there; points end with the last one."""
        self._draw_moving()
        last_step, trained = int(points.step[-1]), points.parameters(-1)
        truth, features = self._yardstick.truth, self._data.features
        self._save("parameters", last_step, figures.parameters(points, features, truth=truth))
        self._save("trained", last_step, self._fit(trained, "After training"))
        if len(features) == 1:
            best = self._yardstick.least_squares
            path = figures.path(points, self._yardstick.train.at, optimum=best, truth=truth)
            self._save("path", last_step, path)
        self._residuals(last_step, trained)

    def _draw_moving(self) -> None:
        for i in range(self.drawn, len(self.moving.step)):
            step, model = int(self.moving.step[i]), self.moving.parameters(i)
            self._summaries.image(step, "fit", figures.png(self._fit(model, f"Step {step:,}")))
            self._residuals(step, model)
        self.drawn = len(self.moving.step)
        self._drawn_at = time.monotonic()

    def _fit(self, model: metrics.Parameters, title: str) -> Figure:
        loss = self._yardstick.loss(model)
        return figures.fit(self._data, model, truth=self._yardstick.truth, loss=loss, title=title)

    def _residuals(self, step: int, model: metrics.Parameters) -> None:
        """Records how far off the predictions are, over an even selection of examples."""
        every = -(-len(self._data.train.y) // _MOST_RESIDUALS)
        x, y = self._data.train.x[::every], self._data.train.y[::every]
        W = model.W.astype(np.float64)  # or large numbers would overflow
        residuals = y - x.reshape(len(x), -1) @ W - model.b
        self._summaries.histogram(step, "residuals", residuals)

    def _save(self, name: str, step: int, figure: Figure) -> None:
        png = figures.png(figure)
        self._paths.figures.mkdir(exist_ok=True)
        (self._paths.figures / f"{name}.png").write_bytes(png)
        self._summaries.image(step, name, png)
