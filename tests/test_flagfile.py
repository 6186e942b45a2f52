"""The flagfile of a run gives its config again, and tells it from another one."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest

from pipeline import config as config_lib
from pipeline import flagfile

_EVERY_FIELD_CHANGED = config_lib.Config(
    model="keras",
    loop="fit",
    epochs=10**9,
    learning_rate=0.1 + 0.2,
    batch_size=64,
    optimizer="adam",
    run_eagerly=True,
    seed=2**32 - 1,
    initial_w=-1e-7,
    initial_b=1e22,
    num_examples=2,
    validation_examples=0,
    true_w=1 / 3,
    true_b=-0.25,
    noise_stddev=1e-300,
    x_min=-2.5,
    x_max=2.25,
    data="some folder/a=b,c.csv",
    label="price in $, 'net'",
    features="rooms,area = m2",
    initialize_from="other logs/run",
    summary_every=7,
    profile_steps="100,2000",
    checkpoint_every=100,
    checkpoint_secs=0.5,
    logdir="some logs",
    run_name="a-b_c.d,e=f+1",
    overwrite=True,
)
_CONFIGS = pytest.mark.parametrize(
    "config", [config_lib.Config(), _EVERY_FIELD_CHANGED], ids=["default", "changed"]
)

_PRINT_CONFIG = """
import sys
from absl import flags
from pipeline import cli
cli.define_flags()
flags.FLAGS(sys.argv)
print(cli.config_from_flags())
"""


def test_changed_config_changes_every_field() -> None:
    """Guards the round trips below against a field that was added and forgotten."""
    changed, default = (vars(c) for c in (_EVERY_FIELD_CHANGED, config_lib.Config()))
    assert not [name for name in default if changed[name] == default[name]]


@_CONFIGS
def test_absl_reads_the_config_again_from_anywhere(
    config: config_lib.Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths become absolute; --overwrite is left out, so that the run is resumed."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flags.txt"
    flagfile.write(path, flagfile.from_config(config))
    command = [sys.executable, "-c", _PRINT_CONFIG, f"--flagfile={path}"]
    printed = subprocess.run(command, cwd="/", check=True, text=True, capture_output=True).stdout
    paths = {name: getattr(config, name) for name in ("logdir", "data", "initialize_from")}
    absolute = {name: path and str(tmp_path / path) for name, path in paths.items()}
    assert printed.strip() == str(dataclasses.replace(config, **absolute, overwrite=False))


@_CONFIGS
def test_read_gives_what_was_written(config: config_lib.Config, tmp_path: pathlib.Path) -> None:
    flags = flagfile.from_config(config)
    flagfile.write(tmp_path / "flags.txt", flags)
    assert flagfile.read(tmp_path / "flags.txt") == flags
    assert [path.name for path in tmp_path.iterdir()] == ["flags.txt"]


def test_write_replaces_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flags.txt"
    for config in (_EVERY_FIELD_CHANGED, config_lib.Config(epochs=20)):
        flagfile.write(path, flagfile.from_config(config))
    assert "--epochs=20\n" in path.read_text()
    assert flagfile.read(path) == flagfile.from_config(config_lib.Config(epochs=20))


def test_flags_that_may_change_make_no_difference() -> None:
    config = config_lib.Config()
    changed = dataclasses.replace(
        config,
        epochs=20,
        summary_every=3,
        checkpoint_every=5,
        checkpoint_secs=1.0,
        logdir="other",
        run_name="a",
        profile_steps="1,2",
        overwrite=True,
    )
    flags = flagfile.from_config(config), flagfile.from_config(changed)
    assert flagfile.differences(*flags) == []


def test_differences_name_flags_that_shape_the_training() -> None:
    config = config_lib.Config(validation_examples=7)
    changed = dataclasses.replace(config, seed=1, learning_rate=0.2, validation_examples=None)
    saved, given = flagfile.from_config(config), flagfile.from_config(changed)
    assert flagfile.differences(saved, given) == [
        "--learning_rate=0.1 (now 0.2)",
        "--seed=0 (now 1)",
        "--validation_examples=7 (now default)",
    ]
    assert flagfile.differences(given, saved)[-1] == "--validation_examples=default (now 7)"
