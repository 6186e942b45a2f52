"""Keras callbacks through --callbacks, compared with plain Keras."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_code
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from pipeline.training import make_task
from tests import helpers, step_kinds, test_kinds

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_FILE = pathlib.Path(step_kinds.__file__)


def _config(folder: pathlib.Path, name: str, kind: str = "plateau", **more: Any) -> Any:
    settings = {"callbacks": f"{_FILE}:{kind}_callbacks", "epochs": 30, "loop": "fit"} | more
    return test_kinds.config_of(kind, folder, name, file=_FILE, **settings)


def _train(config: config_lib.Config) -> list[tuple[Any, ...]]:
    """Trains; returns the calls of the callbacks."""
    function: Any = user_code.find(config)["callbacks"].load()
    calls: list[Any] = function.__globals__["CALLS"] if callable(function) else []
    calls.clear()
    trainer.train(config, datasets_lib.load(config))
    return list(calls)


def _calls_of_plain_keras(
    config: config_lib.Config, logs_of_epochs: list[dict[str, float]]
) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """The calls in plain fit on the same batches with the same logs, and its last weights."""
    datasets = datasets_lib.load(config)
    task = make_task.make_task(config, datasets)

    class SameLogs(tf.keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs.clear()
            logs.update(logs_of_epochs[epoch])

    data = helpers.batches_for_keras(config, datasets)
    step_kinds.CALLS.clear()
    callbacks = [SameLogs(), *step_kinds.plateau_callbacks()]
    how = {"steps_per_epoch": datasets.steps_per_epoch(config), "shuffle": False, "verbose": 0}
    task.model.fit(data, epochs=config.epochs, callbacks=callbacks, **how)
    return list(step_kinds.CALLS), dict(task.variables.arrays())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[Any]]:
    """A run that its callbacks end, and their calls."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, _train(_config(folder, "whole", checkpoint_every=5))


def test_calls_rates_and_the_end_are_those_of_plain_keras(
    whole: tuple[pathlib.Path, list[Any]],
) -> None:
    folder, calls = whole
    logs = [call[-1] for call in calls if call[0] == "end"]
    assert list(logs[0]) == ["loss", "mae", "val_loss", "val_mae"]
    expected, weights = _calls_of_plain_keras(_config(folder, "plain"), logs)
    assert calls == expected
    found = checkpoints.variables(folder / "whole" / "checkpoints")
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value)
    rates = [call[2] for call in calls if call[0] == "epoch"]
    assert len(set(rates)) > 3  # it was reduced
    curve = helpers.scalars(folder / "whole" / "train")["training/learning_rate"]
    assert [rate for _, rate in curve[:-1]] == np.repeat(rates, 7).tolist()


def test_ended_run_does_not_go_on(whole: tuple[pathlib.Path, list[Any]], capsys: Any) -> None:
    folder, calls = whole
    metrics = (folder / "whole" / "metrics.csv").read_text()
    assert metrics.count("\n") == 2 + len([call for call in calls if call[0] == "end"])
    for epochs in (30, 40):
        assert _train(_config(folder, "whole", checkpoint_every=5, epochs=epochs)) == []
        assert "is finished; its --callbacks ended it" in capsys.readouterr().out
    assert (folder / "whole" / "metrics.csv").read_text() == metrics
    assert len(list((folder / "whole" / "export").iterdir())) == 1


@pytest.mark.parametrize("step", [70, 75])  # the end of an epoch, and within one
def test_killed_run_ends_the_same(whole: tuple[pathlib.Path, list[Any]], step: int) -> None:
    """What callbacks keep, such as `wait`, is in the checkpoint."""
    folder, calls = whole
    name = f"killed-at-{step}"
    shutil.copytree(folder / "whole", folder / name)
    shutil.rmtree(folder / name / "export")
    for path in (folder / name).glob("checkpoints/ckpt-*"):
        if not path.name.startswith(f"ckpt-{step}."):
            path.unlink()
    resumed = _train(_config(folder, name, checkpoint_every=5))
    assert resumed[0] == calls[0]
    assert resumed[1:] == calls[-len(resumed[1:]) :]
    _assert_same_files(folder / "whole", folder / name)


def test_extended_run_ends_the_same(whole: tuple[pathlib.Path, list[Any]]) -> None:
    folder, _ = whole
    for epochs in (1, 6, 30):
        _train(_config(folder, "extended", epochs=epochs, checkpoint_every=5))
    _assert_same_files(folder / "whole", folder / "extended")


def _assert_same_files(one: pathlib.Path, other: pathlib.Path) -> None:
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    weights = checkpoints.variables(other / "checkpoints")
    for name, value in checkpoints.variables(one / "checkpoints").items():
        np.testing.assert_array_equal(weights[name], value)
    assert helpers.scalars(one / "train").keys() == helpers.scalars(other / "train").keys()
    curves = (helpers.scalars(each / "train")["training/learning_rate"] for each in (one, other))
    assert next(curves) == next(curves)


def test_callbacks_of_keras(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A list; the trained model is that of the last step whatever EarlyStopping restores."""
    monkeypatch.chdir(tmp_path)
    _train(_config(tmp_path, "run", "scheduled"))
    out = capsys.readouterr().out
    assert "Note: LambdaCallback has on_train_batch_end, which --callbacks never calls" in out
    assert "Note: EarlyStopping(restore_best_weights=True) has no effect here; use --export" in out
    assert "ModelCheckpoint" not in out
    curve = dict(helpers.scalars(tmp_path / "run" / "train")["training/learning_rate"])
    np.testing.assert_allclose([curve[0], curve[6], curve[7]], [0.1, 0.1, 0.05], rtol=1e-6)
    metrics = np.genfromtxt(tmp_path / "run" / "metrics.csv", delimiter=",", names=True)
    best = metrics[1:][np.argmin(metrics["validation_loss"][1:])]
    config = _config(tmp_path, "run", "scheduled")
    x, y = datasets_lib.load(config).validation[:2]
    saved = tf.keras.models.load_model(tmp_path / "best.keras")
    found = saved.evaluate(x, y, verbose=0)[0]
    assert found == pytest.approx(best["validation_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loop": "custom"}, "needs --loop=fit; received --loop=custom"),
        ({"callbacks": "early"}, "--callbacks=early must be a function or list of your own"),
        ({"callbacks": f"{_FILE}:N"}, "defines no N"),
        ({"callbacks": f"{_FILE}:one_callback"}, "must give a list of keras.callbacks.Callback; r"),
        ({"callbacks": f"{_FILE}:tensorboard"}, "leave out TensorBoard; a run writes event files"),
        ({"callbacks": f"{_FILE}:backup"}, "leave out BackupAndRestore; a run saves checkpoints"),
        ({"callbacks": f"{_FILE}:unknown_direction"}, "isn't able to automatically dete"),
        ({"callbacks": f"{_FILE}:raising"}, "calling on_epoch_end raised KeyError: 'missing'"),
    ],
)
def test_what_cannot_be_called_is_refused(
    tmp_path: pathlib.Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InputError, match=words):
        _train(_config(tmp_path, "run", **({"epochs": 1} | settings)))
