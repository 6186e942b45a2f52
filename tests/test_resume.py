"""Runs that are resumed, extended, or started from others."""

import dataclasses
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from tests import helpers


def final_state(run: pathlib.Path) -> dict[str, bytes]:
    """The model and the optimizer's variables in the newest checkpoint, as bits."""
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"ckpt-{helpers.newest(run)}"))
    names = [
        n for n in reader.get_variable_to_shape_map() if n.startswith(("model/", "optimizer/"))
    ]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


def test_run_of_an_earlier_version_is_refused(tmp_path: pathlib.Path) -> None:
    """Its flags.txt had no first line that identifies it."""
    run = tmp_path / "logs" / "run"
    run.mkdir(parents=True)
    (run / "flags.txt").write_text("--epochs=10\n--logdir=logs\n--run_name=run\n")
    for more in ((), ("--overwrite",)):
        result = helpers.call("train", "--run_name=run", *more, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr == (
            "train: logs/run exists already and is no run of this pipeline, or of an earlier "
            "version of it; choose another --run_name\n"
        )
    assert [path.name for path in run.iterdir()] == ["flags.txt"]


def copy(runs: helpers.Runs, name: str, directory: pathlib.Path) -> pathlib.Path:
    """Copies one of the three runs to logs/run in another directory."""
    run = directory / "logs" / "run"
    shutil.copytree(runs.logdir / name, run)
    return run


@pytest.mark.slow
def test_finished_run_says_so_and_stays_as_it_is(
    runs: helpers.Runs, tmp_path: pathlib.Path
) -> None:
    run = copy(runs, "module-custom", tmp_path)
    before = {path: path.stat().st_mtime for path in run.rglob("*") if path.is_file()}
    for flags, code, message in (
        ((), 0, "logs/run is finished; raise --epochs to extend it"),
        (("--learning_rate=0.2",), 2, "--learning_rate=0.1 (now 0.2)"),
        (("--epochs=5",), 2, "may grow but not shrink"),
    ):
        result = helpers.call("train", "--run_name=run", *flags, cwd=tmp_path)
        assert result.returncode == code, result.stderr
        assert message in (result.stderr if code else result.stdout)
    after = {path: path.stat().st_mtime for path in run.rglob("*") if path.is_file()}
    del before[run / ".lock"], after[run / ".lock"]
    assert after == before


def tensors(directory: pathlib.Path) -> dict[tuple[str, int], list[bytes]]:
    """The images and histograms of a directory, by tag and step, as bits."""
    found: dict[tuple[str, int], list[bytes]] = {}
    for step, value in helpers.values(directory):
        plugin = value.metadata.plugin_data.plugin_name
        if value.HasField("image") or plugin == "histograms":
            found.setdefault((value.tag, step), []).append(value.SerializeToString())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["module-custom", "keras-fit"])
def test_extended_run_equals_one_that_was_as_long_at_once(
    runs: helpers.Runs, tmp_path: pathlib.Path, name: str
) -> None:
    """From 10 to 13 and then 16 epochs, each value at every step is exactly the same."""
    model, loop = name.split("-")
    flags = (f"--model={model}", f"--loop={loop}", "--epochs=16")
    process = helpers.start("train", "--run_name=once", *flags, cwd=tmp_path)
    run = copy(runs, name, tmp_path)
    for epochs, step in ((13, 10), (16, 13)):
        more = ("--run_name=run", *flags, f"--epochs={epochs}")
        result = helpers.call("train", *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"Resuming at step {step} of {epochs}\n" in result.stdout
    once = helpers.finish(process)
    assert once.returncode == 0, once.stderr
    # It prints the same as the last part of the other run.
    pattern = r"(?m)^(?:Epoch 1[456]|Least squares):.*$"
    assert re.findall(pattern, result.stdout) == re.findall(pattern, once.stdout)
    assert len(re.findall(pattern, once.stdout)) == 4

    other = tmp_path / "logs" / "once"
    assert helpers.saved_steps(run) == [10, 13, 16]
    assert helpers.saved_steps(other) == [0, 16]
    assert final_state(run) == final_state(other)
    for curve in ("train", "validation"):
        extended, expected = (
            {t: points for t, points in helpers.scalars(path / curve).items() if t[:6] != "speed/"}
            for path in (run, other)
        )
        assert extended == expected
    assert (run / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for tag in ("W", "b", "loss"):
        assert [step for step, _ in helpers.scalars(run / "train")[tag]] == list(range(17))
    assert tensors(run / "train") == tensors(other / "train")
    for path in other.glob("figures/*.png"):
        assert (run / "figures" / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in (run / "export").iterdir()) == ["1", "2", "3"]
    assert "--epochs=16\n" in (run / "flags.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["/export", "/checkpoints/ckpt-10"])
def test_new_run_starts_where_another_ended(runs: helpers.Runs, source: str) -> None:
    """The module trains in the custom loop, then Keras fit continues, as in the lecture."""
    name = f"from{source.replace('/', '_')}"
    flags = (
        f"--initialize_from=logs/module-custom{source}",
        *("--model=keras", "--loop=fit", "--epochs=2", "--logdir=more", f"--run_name={name}"),
    )
    result = helpers.call("train", *flags, cwd=runs.folder)
    assert result.returncode == 0, result.stderr
    end = helpers.scalars(runs.logdir / "module-custom" / "train")
    start = helpers.scalars(runs.folder / "more" / name / "train")
    for tag in ("W", "b"):
        assert start[tag][0] == (0, end[tag][-1][1])
    assert start["loss"][0] == (0, pytest.approx(end["loss"][-1][1], rel=1e-6))


@pytest.mark.slow
def test_diverged_run_goes_on_at_a_smaller_rate(tmp_path: pathlib.Path) -> None:
    flags = ("--epochs=1000", "--learning_rate=0.9", "--checkpoint_every=10", "--run_name=hot")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 3
    step = helpers.newest(tmp_path / "logs" / "hot")
    last_recorded = helpers.scalars(tmp_path / "logs" / "hot" / "train")["W"][-1][0]
    assert last_recorded - 10 <= step <= last_recorded + 1
    variables = checkpoints.variables(tmp_path / "logs" / "hot" / "checkpoints")
    assert np.isfinite([*variables["W"], variables["b"]]).all()
    cool = ("--initialize_from=logs/hot", "--learning_rate=0.1", "--run_name=cool")
    result = helpers.call("train", *cool, "--epochs=1000", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    curve = helpers.scalars(tmp_path / "logs" / "cool" / "train")["W"]
    assert curve[-1][1] == pytest.approx(3.05, abs=0.01)


@pytest.mark.slow
def test_run_outlives_the_run_that_it_started_from(
    runs: helpers.Runs, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(runs.logdir / "module-custom", tmp_path / "logs" / "source")
    flags = ("--initialize_from=logs/source", "--run_name=run")
    assert helpers.call("train", *flags, cwd=tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "logs" / "source")
    result = helpers.call("train", *flags, "--epochs=20", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Resuming at step 10 of 20" in result.stdout


@pytest.mark.slow
def test_anything_else_in_the_data_is_noticed(tmp_path: pathlib.Path) -> None:
    """Changes are an example, a validation row, and the names of two columns."""
    table = tmp_path / "p.csv"
    content = "a,b,y\n1,2,3\n2,3,4\n3,5,7\n4,4,4\n"
    config = config_lib.Config(
        data=str(table),
        validation_examples=1,
        learning_rate=0.01,
        epochs=2,
        logdir=str(tmp_path),
        run_name="run",
    )
    table.write_text(content)
    trainer.train(config, datasets_lib.load(config))
    longer = dataclasses.replace(config, epochs=4)
    changes = [content.replace(number, "9,9") for number in ("1,2", "2,3", "3,5", "4,4")]
    for changed in (*changes, content.replace("a,b", "b,a"), content.replace("y", "z")):
        table.write_text(changed)
        with pytest.raises(errors.InputError, match="are not what they were"):
            trainer.train(longer, datasets_lib.load(longer))
    table.write_text(content)
    trainer.train(longer, datasets_lib.load(longer))


def exports(run: pathlib.Path) -> list[int]:
    """The versions of the exported model."""
    return sorted(int(path.name) for path in (run / "export").iterdir())


@pytest.mark.slow
def test_finished_is_what_the_newest_export_says(
    runs: helpers.Runs, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cases are damage, a kill before the export of more epochs, and a removed export."""
    run = copy(runs, "module-custom", tmp_path)
    config = config_lib.Config(logdir=str(tmp_path / "logs"), run_name="run")

    def trained(epochs: int) -> str:
        again = dataclasses.replace(config, epochs=epochs)
        trainer.train(again, datasets_lib.load(again))
        return capsys.readouterr().out

    os.truncate(run / "checkpoints" / "ckpt-10.index", 0)
    assert "Resuming at step 0 of 10" in trained(10)
    assert exports(run) == [1, 2]
    assert "is finished" in trained(10)
    assert "Resuming at step 10 of 20" in trained(20)
    shutil.rmtree(run / "export" / "3")  # as if it was killed before
    assert "Resuming at step 20 of 20" in trained(20)
    assert "is finished" in trained(20)
    assert exports(run) == [1, 2, 3]
    saved = tf.saved_model.load(str(run / "export" / "3")).signatures["variables"]()["W"]
    assert saved.numpy() == helpers.scalars(run / "train")["W"][-1][1]
