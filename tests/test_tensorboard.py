"""Tests of a real TensorBoard's answers for every dashboard, and a real browser's plots."""

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

from tests import helpers

pytestmark = pytest.mark.slow

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
IMAGES = {"fit", "training/data", "training/parameters", "training/path"}
OF_EACH_STEP = (
    *("W", "b", "loss", "evaluation/loss", "evaluation/best_epoch", "training/gradient_norm"),
    *("training/learning_rate", "training/distance_to_optimum"),
)


@pytest.fixture(scope="module")
def logdir(runs: helpers.Runs, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The runs of the three solutions, one of them extended from 10 to 20 steps."""
    logdir = tmp_path_factory.mktemp("dashboards") / "logs"
    shutil.copytree(runs.logdir, logdir)
    extended = logdir / "module-custom"
    flags = (extended / "flags.txt").read_text().replace(str(runs.logdir), str(logdir))
    (extended / "flags.txt").write_text(flags)
    result = helpers.call("train", f"--flagfile={extended}/flags.txt", "--epochs=20", cwd=logdir)
    assert result.returncode == 0, result.stderr
    return logdir


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow"])
def board(request: pytest.FixtureRequest, logdir: pathlib.Path) -> Iterator[helpers.TensorBoard]:
    """A TensorBoard of these runs, with each of its two readers."""
    with helpers.tensorboard(logdir, f"--load_fast={request.param}") as server:
        for name in helpers.SOLUTIONS:
            server.scalars(f"{name}/final", "final/loss")
        yield server


def _last_step(name: str) -> int:
    return 20 if name == "module-custom" else 10


def test_the_runs_are_the_curves_and_nothing_else(board: helpers.TensorBoard) -> None:
    curves = ("final", "least_squares", "train", "truth", "validation")
    assert sorted(board.get("runs")) == sorted(
        f"{n}/{c}" for n in helpers.SOLUTIONS for c in curves
    )


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_scalars_have_descriptions_and_each_step_once(
    board: helpers.TensorBoard, name: str
) -> None:
    tags = board.get("plugin/scalars/tags")
    # Training takes some milliseconds, so there is no speed to measure unless the machine is busy.
    found = {tag for tag in tags[f"{name}/train"] if not tag.startswith("speed/")}
    assert found == set(OF_EACH_STEP)
    assert set(tags[f"{name}/validation"]) == {"loss", "evaluation/loss"}
    final = {"final/diverged", "final/loss", "final/validation_loss"}
    assert set(tags[f"{name}/final"]) == final
    assert all(entry["description"] for run in tags.values() for entry in run.values())
    for tag in OF_EACH_STEP:
        curve = board.scalars(f"{name}/train", tag)
        assert [step for step, _ in curve] == list(range(_last_step(name) + 1))
    rates = {rate for _, rate in board.scalars(f"{name}/train", "training/learning_rate")}
    assert rates == {float(np.float32(0.1))}
    assert [s for s, _ in board.scalars(f"{name}/final", "final/loss")] == [_last_step(name)]
    for run, tag in (("train", "W"), ("validation", "loss"), ("truth", "W")):
        points = board.get("plugin/scalars/scalars", run=f"{name}/{run}", tag=tag)
        times = [time for time, _, _ in points]
        assert times == sorted(times)
        assert len(set(times)) == len(times) > 10


def test_custom_scalars_has_a_chart_for_each_value(board: helpers.TensorBoard) -> None:
    layout = board.get("plugin/custom_scalars/layout")
    (category,) = layout["category"]
    titles = [chart["title"] for chart in category["chart"]]
    assert titles == ["W", "b", "loss", "evaluation/loss"]
    for chart in category["chart"][:3]:
        (tag,) = chart["multiline"]["tag"]
        for run in ("keras-fit/train", "keras-fit/least_squares"):
            answer = board.get("plugin/custom_scalars/scalars", run=run, tag=tag)
            assert answer["regex_valid"]
            assert set(answer["tag_to_events"]) == {chart["title"]}


def test_text_shows_the_settings_and_the_command(board: helpers.TensorBoard) -> None:
    entries = board.get("plugin/text/text", run="module-custom/train", tag="settings")
    assert [("20, 1 an epoch" in e["text"], e["step"]) for e in entries] == [(False, 0), (True, 10)]
    (entry,) = board.get("plugin/text/text", run="keras-fit/train", tag="settings")
    for part in ("<table>", "learning_rate", "0.1", tf.__version__, "201 examples", "--flagfile="):
        assert part in entry["text"]


def _post(board: helpers.TensorBoard, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{board.url}/data/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_hparams_compares_the_runs(board: helpers.TensorBoard) -> None:
    experiment = _post(board, "plugin/hparams/experiment", {"experimentName": ""})
    infos = experiment["hparamInfos"]
    names = [info["name"] for info in infos]
    assert {"learning_rate", "batch_size", "optimizer", "loss", "schedule"} <= set(names)
    # One of them was extended, but HParams keeps the first number of epochs that it has read.
    assert [info["name"] for info in infos if info["differs"]] == names[:2] == ["loop", "model"]
    assert sorted(infos[0]["domainDiscrete"]) == ["custom", "fit"]
    assert "domainInterval" in infos[names.index("learning_rate")]
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert metrics == ["final/diverged", "final/loss", "final/validation_loss"]
    columns = [{"metric": info["name"]} for info in experiment["metricInfos"]]
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    groups = _post(
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
    assert set(found) == {f"{name} (logs)" for name in helpers.SOLUTIONS}
    for trial, group in found.items():
        name = trial.removesuffix(" (logs)")
        assert f"{group['hparams']['model']}-{group['hparams']['loop']}" == name
        assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        values = {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        for tag, value in values.items():
            assert value == pytest.approx(board.scalars(f"{name}/final", tag)[-1][1])
        assert set(values) == set(metrics)


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_images_are_decodable(board: helpers.TensorBoard, name: str) -> None:
    tags = board.get("plugin/images/tags")[f"{name}/train"]
    assert set(tags) == IMAGES
    for tag in IMAGES:
        for png in board.images(f"{name}/train", tag):
            height, width, _ = matplotlib.image.imread(io.BytesIO(png)).shape
            assert min(height, width) > 300
    last = _last_step(name)
    drawn = [*(s for s in (0, 1, 4, 16) if s < last), last]
    for tag, steps in (("fit", drawn), ("training/path", [last])):
        entries = board.get("plugin/images/images", run=f"{name}/train", tag=tag, sample="0")
        assert [entry["step"] for entry in entries] == steps


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_the_graph_is_that_of_a_training_step(board: helpers.TensorBoard, name: str) -> None:
    assert board.get("plugin/graphs/info")[f"{name}/train"]["run_graph"]
    assert set(board.get("plugin/graphs/info")) == {f"{n}/train" for n in helpers.SOLUTIONS}
    text = board.get("plugin/graphs/graph", run=f"{name}/train")
    graph = text_format.Parse(text, tf.compat.v1.GraphDef())
    scopes = {node.name.split("/")[0] for node in graph.node}
    assert {"x", "y", "loss_and_gradients", "gradient_tape", "update"} <= scopes


@pytest.mark.parametrize("name", helpers.SOLUTIONS)
def test_histograms_show_residuals_over_time(board: helpers.TensorBoard, name: str) -> None:
    histograms = board.get("plugin/histograms/histograms", run=f"{name}/train", tag="residuals")
    expected = {*range(11), *range(12, _last_step(name) + 1, 2)}  # 10 steps, extended by 10
    assert [step for _, step, _ in histograms] == sorted(expected)
    for _, _, buckets in histograms:
        assert sum(count for _, _, count in buckets) == pytest.approx(201)


@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="Chromium and ChromeDriver are not installed (Debian: chromium, chromium-driver)",
)
def test_a_browser_draws_W_b_and_loss(  # noqa: N802
    runs: helpers.Runs, tmp_path: pathlib.Path
) -> None:
    """The script for the README waits for the three charts, and fails without them."""
    screenshot = tmp_path / "screenshot.png"

    def take(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(SCRIPTS / "screenshot.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    result = take(runs.logdir / "keras-fit", screenshot)
    assert result.returncode == 0, result.stderr
    pixels = matplotlib.image.imread(screenshot)[..., :3]
    # The curve of `train` in each of the three pinned charts: many pixels of strong colour
    # below the orange bar, in the left, the middle and the right of the page.
    charts = pixels[200:460, 290:]
    strong = (charts.max(axis=2) - charts.min(axis=2)) > 0.4
    assert all(part.sum() > 100 for part in np.array_split(strong, 3, axis=1))
    empty = tmp_path / "empty"
    empty.mkdir()
    result = take(empty, screenshot, "--seconds=3")
    assert result.returncode == 1
    assert "no charts of W, b and loss" in result.stderr


def test_the_first_steps_are_there_while_training_runs(tmp_path: pathlib.Path) -> None:
    (tmp_path / "logs").mkdir()
    flags = ("--run_name=run", "--epochs=100000000")
    with helpers.tensorboard(tmp_path / "logs") as server:
        process = helpers.start("train", *flags, cwd=tmp_path)
        try:
            first = server.scalars("run/train", "W", points=2)
            assert process.poll() is None
            last = first[-1][0]
            server.wait_for(lambda: server.scalars("run/train", "W")[-1][0] > last)
            assert process.poll() is None
        finally:
            process.kill()
            helpers.finish(process)
