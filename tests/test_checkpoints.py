"""A checkpoint is restored bit for bit with its step; a damaged one is skipped."""

import os
import pathlib
import signal
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.evaluation import monitor
from pipeline.run import checkpoints, run_state, signals
from pipeline.training import hooks, optimizers, step_metrics, train_step
from tests import helpers

_BATCH = batch_lib.Batch(tf.constant([[-1.0], [0.5], [2.0]]), tf.constant([0.25, 3.0, 8.5]))


class _Run:
    """A process of a run: a model, its optimizer and the checkpoints."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        model: str = "module",
        optimizer: str = "adam",
        features: tuple[str, ...] = ("x",),
    ):
        self.directory = directory
        config = config_lib.Config(model=model, optimizer=optimizer)
        self.task = helpers.linear(features, model=model)
        self.optimizer = optimizers.create(config, self.task, last_step=100)
        variables = self.task.variables
        self.checkpoints = checkpoints.Checkpoints(directory, variables, self.optimizer)

    def train(self, steps: int) -> list[bytes]:
        """Makes some updates; returns the values after each as bits."""
        values, step = [], train_step.guide_step(self.task, self.optimizer)
        for _ in range(steps):
            step(_BATCH)
            values.append(self.values())
        return values

    def values(self) -> bytes:
        """W and b as bits."""
        result: bytes = self.task.variables.values().numpy().tobytes()
        return result

    def save(self, step: int, *, last_step: int = 100, best: int = -1) -> None:
        """Saves the current model, and as the best epoch's model if `best` is given."""
        state = run_state.RunState(
            step=step,
            last_step=last_step,
            fingerprint=7,
            best=monitor.Best(best, 0.5),
            start_loss=10.0,
            time=1.5e9,
            seconds=0.25,
            history=step_metrics.empty(2),
            event_files={"train/events": 10 * step},
        )
        self.checkpoints.save(state, self.task.variables.arrays() if best >= 0 else None)


def _names(directory: pathlib.Path, pattern: str = "*") -> list[str]:
    """The names of the checkpoints in a directory."""
    return sorted(path.stem for path in directory.glob(f"{pattern}.index"))


def _files(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("model", ["module", "keras"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_restored_training_goes_on_with_the_same_bits(
    tmp_path: pathlib.Path, model: str, optimizer: str
) -> None:
    """The model, the optimizer's variables and the run's state are restored."""
    run = _Run(tmp_path, model=model, optimizer=optimizer)
    saved = run.train(3)[-1]
    run.save(3, last_step=2, best=2)
    expected = run.train(4)

    resumed = _Run(tmp_path, model=model, optimizer=optimizer)
    assert resumed.values() != saved
    state = resumed.checkpoints.restore()
    assert (state.step, state.last_step, state.event_files) == (3, 2, {"train/events": 30})
    assert state.best == (2, 0.5)
    assert resumed.values() == saved
    assert resumed.train(4) == expected
    assert len(set(expected)) == 4


def test_three_newest_are_kept_by_all_processes(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path)
    for step in (0, 9, 10, 100):
        run.save(step)
    assert _names(tmp_path) == ["ckpt-10", "ckpt-100", "ckpt-9"]
    for steps in ((101,), (250, 1000)):
        run = _Run(tmp_path)
        run.checkpoints.restore()
        for step in steps:
            run.save(step)
    assert _names(tmp_path) == ["ckpt-1000", "ckpt-101", "ckpt-250"]
    # Nothing is left of removed checkpoints.
    assert len(_files(tmp_path)) == 6


def test_step_that_is_saved_is_not_saved_again(tmp_path: pathlib.Path) -> None:
    """Earlier steps are not saved either, nor by a process that has restored the step."""
    run = _Run(tmp_path)
    run.save(10)
    before = _files(tmp_path)
    resumed = _Run(tmp_path)
    resumed.checkpoints.restore()
    for saver in (run, resumed):
        saver.train(1)
        saver.save(10, last_step=2)
        saver.save(9, last_step=2)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_model_that_is_not_finite_is_not_saved(tmp_path: pathlib.Path, number: float) -> None:
    run = _Run(tmp_path)
    run.save(1)
    before = _files(tmp_path)
    run.task.model.b.assign(number)
    run.save(2, best=2)
    assert _files(tmp_path) == before
    run.task.model.b.assign(1.0)
    run.save(3)
    assert _names(tmp_path) == ["ckpt-1", "ckpt-3"]


def test_optimizer_that_is_not_finite_is_not_saved(tmp_path: pathlib.Path) -> None:
    """Adam's second moment may be infinite, as the square of a finite gradient."""
    run = _Run(tmp_path)
    run.optimizer.variables[-1].assign(np.inf)
    run.save(1)
    assert not _files(tmp_path)


def test_best_is_saved_beside_the_newest(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path)
    run.train(1)
    first = run.values()
    run.save(10, best=8)
    run.train(1)
    run.save(20)  # no better epoch came
    assert _names(tmp_path, "best-*") == ["best-8"]
    best = checkpoints.variables(tmp_path / "best-8")
    assert np.concatenate([best["W"], [best["b"]]]).tobytes() == first
    run.save(30, best=25)
    assert sorted(_files(tmp_path)) == sorted(
        f"{name}.{suffix}"
        for name in ("best-25", "ckpt-10", "ckpt-20", "ckpt-30")
        for suffix in ("data-00000-of-00001", "index")
    )
    best = checkpoints.variables(tmp_path / "best-25")
    assert np.concatenate([best["W"], [best["b"]]]).tobytes() == run.values()


def test_best_is_read_or_its_damage_costs_one_line(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path)
    run.save(10, best=8)
    best = run.checkpoints.best(8)
    assert np.concatenate([best["W"], [best["b"]]]).tobytes() == run.values()
    _empty(tmp_path / "best-8.data-00000-of-00001")
    for step in (8, 9):
        with pytest.raises(errors.RunError, match="the best model can't be exported") as caught:
            run.checkpoints.best(step)
        assert "\n" not in str(caught.value)


def test_best_that_was_saved_already_stays(tmp_path: pathlib.Path) -> None:
    """This happens if a run resumes from a step before its best epoch."""
    run = _Run(tmp_path)
    run.checkpoints.save_best(5, {"W": np.array([2.0], np.float32), "b": np.float32(1.0)})
    before = _files(tmp_path)
    run.checkpoints.save_best(5, {"W": np.array([9.0], np.float32), "b": np.float32(9.0)})
    assert _files(tmp_path) == before


def test_one_best_is_left_after_a_kill(tmp_path: pathlib.Path) -> None:
    """The kill comes after best-8 is saved and before best-4 is removed; step 8 is best again."""
    variables = {"W": np.array([2.0], np.float32), "b": np.float32(1.0)}
    for step, directory in ((4, tmp_path), (8, tmp_path / "other")):
        _Run(directory).checkpoints.save_best(step, variables)
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / path.name)
    _Run(tmp_path).checkpoints.save_best(8, variables)
    assert _names(tmp_path) == ["best-8"]


def _truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: pathlib.Path) -> None:
    os.truncate(path, 0)


def _flip_bits(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def _garbage(path: pathlib.Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


_DAMAGES = (_truncate, _empty, _flip_bits, _garbage, pathlib.Path.unlink)


@pytest.mark.parametrize("damage", _DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_newest_undamaged_checkpoint_is_restored(
    tmp_path: pathlib.Path,
    damage: Callable[[pathlib.Path], None],
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = _Run(tmp_path)
    older = run.train(1)[-1]
    run.save(999)
    newer = run.train(1)[-1]
    run.save(1000)

    resumed = _Run(tmp_path)
    assert resumed.checkpoints.restore().step == 1000
    assert resumed.values() == newer
    damage(tmp_path / f"ckpt-1000{suffix}")
    resumed = _Run(tmp_path)
    assert resumed.checkpoints.restore().step == 999
    assert resumed.values() == older
    W = checkpoints.variables(tmp_path)["W"]
    np.testing.assert_array_equal(W, resumed.task.variables.arrays()["W"])
    # A checkpoint without its index does not exist, so nothing is skipped.
    is_gone = damage is pathlib.Path.unlink and suffix == ".index"
    assert ("which is damaged" in caplog.text) != is_gone
    assert ("ckpt-1000" in caplog.text) != is_gone


def test_damaged_checkpoint_is_saved_again(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path)
    run.save(1)
    run.train(1)
    run.save(2)
    before = _files(tmp_path)
    _garbage(tmp_path / "ckpt-2.data-00000-of-00001")
    resumed = _Run(tmp_path)
    assert resumed.checkpoints.restore().step == 1
    resumed.train(1)
    resumed.save(2)
    assert _files(tmp_path).keys() == before.keys()
    last = _Run(tmp_path)
    assert last.checkpoints.restore().step == 2
    assert last.values() == run.values()


@pytest.mark.parametrize("damaged", [(20, 30), (20, 30, 40)])
def test_damaged_newer_ones_do_not_displace_a_saved_one(
    tmp_path: pathlib.Path, damaged: tuple[int, ...]
) -> None:
    """There are three if a process was killed after it saved step 40, before it removed step 10."""
    run = _Run(tmp_path)
    run.save(10)
    first = _files(tmp_path)
    for step in (20, 30, 40)[: len(damaged)]:
        run.save(step)
    for name, content in first.items():
        (tmp_path / name).write_bytes(content)
    for step in damaged:
        _empty(tmp_path / f"ckpt-{step}.index")
    resumed = _Run(tmp_path)
    assert resumed.checkpoints.restore().step == 10
    resumed.save(15)
    assert _Run(tmp_path).checkpoints.restore().step == 15


def test_all_damaged_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    run = _Run(tmp_path)
    for step in (1, 2):
        run.save(step)
        _empty(tmp_path / f"ckpt-{step}.index")
    before = _files(tmp_path)
    with pytest.raises(errors.RunError, match=r"no undamaged checkpoint.*--overwrite") as caught:
        _Run(tmp_path).checkpoints.restore()
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == before


def test_only_what_a_killed_save_left_is_removed(tmp_path: pathlib.Path) -> None:
    """Files that a user has put beside it stay, whatever their names."""
    run = _Run(tmp_path)
    run.save(1)
    own = (
        "ckpt-1.txt",
        "ckpt-1.index.bak",
        "notes.data-1",
        "x_temp",
        "ckpt-2.tempstate1",
        "best-1",
    )
    for name in own:
        (tmp_path / name).write_text("mine")
    (tmp_path / "my_temp").mkdir()
    before = _files(tmp_path)
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-2_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "ckpt-2.index.tempstate123").write_bytes(b"half")
    (tmp_path / "ckpt-3.data-00000-of-00001").write_bytes(b"without its index")
    resumed = _Run(tmp_path)
    resumed.checkpoints.remove_unfinished()
    assert _files(tmp_path) == before
    assert [path.name for path in tmp_path.glob("*_temp") if path.is_dir()] == ["my_temp"]
    assert resumed.checkpoints.restore().step == 1
    for step in range(2, 6):
        resumed.save(step, best=step)
    assert {name: _files(tmp_path).get(name) for name in own} == dict.fromkeys(own, b"mine")
    assert _names(tmp_path, "ckpt-?") == ["ckpt-3", "ckpt-4", "ckpt-5"]


def _of_adam(directory: pathlib.Path) -> None:
    _Run(directory, optimizer="adam").save(9)


def _of_other_features(directory: pathlib.Path) -> None:
    _Run(directory, features=("a", "b")).save(9)


def _best_renamed(directory: pathlib.Path) -> None:
    _Run(directory).save(9, best=8)
    for path in directory.glob("best-8.*"):
        path.replace(directory / path.name.replace("best-8", "ckpt-9"))


def _of_another_program(directory: pathlib.Path) -> None:
    old = tf.train.Checkpoint(W=tf.Variable(3.14), b=tf.Variable(1.79))
    old.write(str(directory / "ckpt-9"))


def _of_strings(directory: pathlib.Path) -> None:
    model = {"W": tf.Variable(["a"]), "b": tf.Variable("b")}
    tf.train.Checkpoint(model=model, run_state=tf.Variable("no state")).write(
        str(directory / "ckpt-9")
    )


_OTHERS = [_of_adam, _of_other_features, _best_renamed, _of_another_program, _of_strings]


@pytest.mark.parametrize("make", _OTHERS, ids=lambda make: make.__name__)
def test_whole_checkpoint_of_another_run_is_skipped(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The newest checkpoint of this run is restored; if there is none, one line says so."""
    make(tmp_path)
    with pytest.raises(errors.RunError, match=r"no undamaged checkpoint of this run.*--overwrite"):
        _Run(tmp_path, optimizer="sgd").checkpoints.restore()
    run = _Run(tmp_path, optimizer="sgd")
    run.train(3)
    run.save(3)
    resumed = _Run(tmp_path, optimizer="sgd")
    assert resumed.checkpoints.restore().step == 3
    assert resumed.values() == run.values()
    assert "ckpt-9, which belongs to another run" in caplog.text


@pytest.mark.parametrize("path", ["", "ckpt-20", "ckpt-20.index"])
def test_variables_are_those_of_the_model(tmp_path: pathlib.Path, path: str) -> None:
    """They have names and exclude the optimizer's; a directory gives the newest checkpoint."""
    run = _Run(tmp_path)
    run.save(3)
    run.train(2)
    run.save(20)
    variables = checkpoints.variables(tmp_path / path)
    assert sorted(variables) == ["W", "b"]
    assert np.concatenate([variables["W"], [variables["b"]]]).tobytes() == run.values()
    earlier = checkpoints.variables(tmp_path / "ckpt-3")
    assert (earlier["W"].tolist(), float(earlier["b"])) == ([5.0], 0.0)


@pytest.mark.parametrize("path", ["", "nowhere", "file", "ckpt-1", "ckpt-1.index", "other"])
def test_variables_of_anything_else_are_refused(tmp_path: pathlib.Path, path: str) -> None:
    (tmp_path / "file").write_text("no checkpoint")
    (tmp_path / "ckpt-1.index").write_bytes(b"no index")
    tf.train.Checkpoint(kernel=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(errors.InputError, match="holds no undamaged checkpoint") as caught:
        checkpoints.variables(tmp_path / path)
    assert str(tmp_path / path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _rows(first: int, end: int) -> step_metrics.StepMetrics:
    count = end - first
    values, nothing = np.zeros((count, 2), np.float32), np.zeros(count, np.float32)
    return step_metrics.StepMetrics(np.arange(first, end), values, nothing, nothing)


def test_checkpoint_bears_the_step_after_the_last_row() -> None:
    saved: list[int] = []
    with signals.StopRequest() as stop:
        every = hooks.Every(steps=10, step=15)
        hook = checkpoints.SaveCheckpoints(saved.append, every, stop, "train")
        assert [hook.next_pause(step) for step in (15, 19, 20)] == [20, 20, 30]
        for first, end in ((15, 17), (17, 20), (20, 29), (29, 45), (45, 49)):
            hook.after(_rows(first, end))
    assert saved == [20, 45]


def test_checkpoint_is_saved_when_seconds_have_passed() -> None:
    now = 100.0
    saved: list[int] = []
    with signals.StopRequest() as stop:
        every = hooks.Every(seconds=10, clock=lambda: now)
        hook = checkpoints.SaveCheckpoints(saved.append, every, stop, "train")
        for end in range(1, 7):
            now += 4
            hook.after(_rows(end - 1, end))
    assert saved == [3, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_training_after_a_checkpoint(number: signal.Signals) -> None:
    """The test sends a real signal to this process."""
    saved: list[int] = []
    before = signal.getsignal(number)
    with signals.StopRequest() as stop:
        hook = checkpoints.SaveCheckpoints(saved.append, hooks.Every(steps=100), stop, "train --x")
        hook.after(_rows(0, 1))
        os.kill(os.getpid(), number)
        with pytest.raises(errors.StoppedError) as caught:
            hook.after(_rows(1, 8))
    assert saved == [8]
    assert str(caught.value) == f"stopped by {number.name}; resume with: train --x"
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before


def test_ignored_hangup_stays_ignored() -> None:
    """The command nohup ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
