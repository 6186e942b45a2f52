"""What a real TensorBoard answers for every dashboard, and what a real browser draws."""

import importlib.util
import io
import json
import pathlib
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from tests import conftest
from tests.conftest import SOLUTIONS, Runs, TensorBoard

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
PICTURES = {"data", "before_training", "fit", "parameters", "trained", "path"}
SCALARS = {
    *("W", "b", "loss", "gradient_norm", "distance_to_optimum"),
    *("steps_per_second", "examples_per_second", "final_loss", "final_validation_loss"),
}


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow"])
def board(
    request: pytest.FixtureRequest, runs: Runs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TensorBoard]:
    """TensorBoard over both loops and a resumed run, with either of its readers."""
    logdir = tmp_path_factory.mktemp("dashboards") / "logs"
    shutil.copytree(runs.logdir, logdir)
    resumed = logdir / "module-custom"
    flags = (resumed / "flags.txt").read_text().replace(str(runs.logdir), str(logdir))
    (resumed / "flags.txt").write_text(flags)
    result = conftest.call("train", f"--flagfile={resumed}/flags.txt", "--epochs=20", cwd=logdir)
    assert result.returncode == 0, result.stderr
    with conftest.tensorboard(logdir, f"--load_fast={request.param}") as server:
        for name in SOLUTIONS:
            server.scalars(f"{name}/train", "final_loss")
        yield server


def steps_of(name: str) -> int:
    return 20 if name == "module-custom" else 10


def test_no_run_but_the_curves(board: TensorBoard) -> None:
    curves = ("least_squares", "train", "truth", "validation")
    assert sorted(board.get("runs")) == sorted(f"{n}/{c}" for n in SOLUTIONS for c in curves)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_each_scalar_has_a_description_and_every_step_once(board: TensorBoard, name: str) -> None:
    tags = board.get("plugin/scalars/tags")
    assert set(tags[f"{name}/train"]) == SCALARS
    assert set(tags[f"{name}/validation"]) == {"loss"}
    assert all(entry["description"] for run in tags.values() for entry in run.values())
    for tag in ("W", "b", "loss", "gradient_norm", "distance_to_optimum"):
        points = board.scalars(f"{name}/train", tag)
        assert [step for step, _ in points] == list(range(steps_of(name) + 1))
    assert board.scalars(f"{name}/train", "examples_per_second")[-1][1] > 0


def test_distance_and_gradient_norm_are_those_of_the_points(board: TensorBoard) -> None:
    from pipeline import config, examples

    x, y = (v.astype(np.float64) for v in examples.load(config.Config()).train)
    best = np.polyfit(x, y, 1)
    W, b, norms, distances = (
        np.array([value for _, value in board.scalars("keras-fit/train", tag)])
        for tag in ("W", "b", "gradient_norm", "distance_to_optimum")
    )
    residuals = W[:, None] * x + b[:, None] - y
    gradients = np.stack([2 * (residuals * x).mean(axis=1), 2 * residuals.mean(axis=1)])
    np.testing.assert_allclose(norms, np.linalg.norm(gradients, axis=0), rtol=1e-5)
    np.testing.assert_allclose(distances, np.hypot(W - best[0], b - best[1]), rtol=1e-5)


def test_custom_scalars_has_a_chart_for_each_parameter(board: TensorBoard) -> None:
    layout = board.get("plugin/custom_scalars/layout")
    (category,) = layout["category"]
    assert [chart["title"] for chart in category["chart"]] == ["W", "b", "loss"]
    for chart in category["chart"]:
        (tag,) = chart["multiline"]["tag"]
        for run in ("keras-fit/train", "keras-fit/least_squares"):
            answer = board.get("plugin/custom_scalars/scalars", run=run, tag=tag)
            assert answer["regex_valid"]
            assert set(answer["tag_to_events"]) == {chart["title"]}


def test_text_shows_the_settings_and_the_command(board: TensorBoard) -> None:
    entries = board.get("plugin/text/text", run="module-custom/train", tag="settings")
    assert [("20, 1 an epoch" in e["text"], e["step"]) for e in entries] == [(False, 0), (True, 11)]
    (entry,) = board.get("plugin/text/text", run="keras-fit/train", tag="settings")
    for part in (
        "<table>",
        "learning_rate",
        "0.1",
        tf.__version__,
        "201 to train on",
        "--flagfile=",
    ):
        assert part in entry["text"]


def post(board: TensorBoard, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{board.url}/data/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_hparams_compares_the_runs(board: TensorBoard) -> None:
    experiment = post(board, "plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"model", "loop", "learning_rate", "batch_size", "optimizer"} <= names
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert metrics == ["final_loss", "final_validation_loss"]
    columns = [{"metric": info["name"]} for info in experiment["metricInfos"]]
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    groups = post(
        board,
        "plugin/hparams/session_groups",
        {
            "experimentName": "",
            "allowedStatuses": statuses,
            "colParams": columns,
            "startIndex": 0,
            "sliceSize": 10,
        },
    )["sessionGroups"]
    found = {group["name"]: group for group in groups}
    assert set(found) == set(SOLUTIONS)
    for name, group in found.items():
        assert f"{group['hparams']['model']}-{group['hparams']['loop']}" == name
        assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        values = {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        for tag, value in values.items():
            assert value == pytest.approx(board.scalars(f"{name}/train", tag)[-1][1])
        assert set(values) == set(metrics)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_images_are_decodable(board: TensorBoard, name: str) -> None:
    tags = board.get("plugin/images/tags")[f"{name}/train"]
    assert set(tags) == PICTURES
    for tag in PICTURES:
        for png in board.images(f"{name}/train", tag):
            height, width, _ = matplotlib.image.imread(io.BytesIO(png)).shape
            assert min(height, width) > 300
    moving = board.get("plugin/images/images", run=f"{name}/train", tag="fit", sample="0")
    assert [entry["step"] for entry in moving] == [s for s in (1, 4, 16) if s <= steps_of(name)]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_graph_is_that_of_a_training_step(board: TensorBoard, name: str) -> None:
    assert board.get("plugin/graphs/info")[f"{name}/train"]["run_graph"]
    assert set(board.get("plugin/graphs/info")) == {f"{n}/train" for n in SOLUTIONS}
    text = board.get("plugin/graphs/graph", run=f"{name}/train")
    graph = text_format.Parse(text, tf.compat.v1.GraphDef())
    scopes = {node.name.split("/")[0] for node in graph.node}
    assert {"x", "y", "loss_and_gradients", "gradient_tape", "update"} <= scopes


@pytest.mark.parametrize("name", SOLUTIONS)
def test_histograms_show_residuals_over_time(board: TensorBoard, name: str) -> None:
    histograms = board.get("plugin/histograms/histograms", run=f"{name}/train", tag="residuals")
    last = steps_of(name)
    assert [step for _, step, _ in histograms] == [s for s in (0, 1, 4, 16) if s < last] + [last]
    for _, _, buckets in histograms:
        assert sum(count for _, _, count in buckets) == pytest.approx(201)


def screenshot_module() -> Any:
    spec = importlib.util.spec_from_file_location("screenshot", SCRIPTS / "screenshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="Chromium and ChromeDriver are not installed (Debian: chromium, chromium-driver)",
)
def test_a_browser_draws_W_b_and_loss(  # noqa: N802
    runs: Runs, tmp_path: pathlib.Path
) -> None:
    """The README's picture script waits for the three charts, and fails without them."""
    picture = tmp_path / "picture.png"
    script = [sys.executable, str(SCRIPTS / "screenshot.py")]
    result = subprocess.run(
        [*script, str(runs.logdir / "keras-fit"), str(picture)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    pixels = matplotlib.image.imread(picture)[..., :3]
    # The curve of `train` in each of the three pinned charts: many pixels of strong colour
    # below the orange bar, in the left, the middle and the right of the page.
    charts = pixels[200:460, 290:]
    strong = (charts.max(axis=2) - charts.min(axis=2)) > 0.4
    assert all(part.sum() > 100 for part in np.array_split(strong, 3, axis=1))
    empty = tmp_path / "empty"
    empty.mkdir()
    result = subprocess.run(
        [*script, str(empty), str(picture), "--seconds=3"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert "no charts of W, b and loss" in result.stderr


def test_the_first_points_are_there_while_training_runs(tmp_path: pathlib.Path) -> None:
    (tmp_path / "logs").mkdir()
    flags = ("--run_name=run", "--epochs=100000000")
    with conftest.tensorboard(tmp_path / "logs") as server:
        process = conftest.start("train", *flags, cwd=tmp_path)
        try:
            first = server.scalars("run/train", "W", points=2)
            assert process.poll() is None
            last = first[-1][0]
            server.wait_for(lambda: server.scalars("run/train", "W")[-1][0] > last)
            assert process.poll() is None
        finally:
            process.kill()
            conftest.finish(process)
