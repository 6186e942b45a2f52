"""A run's flagfile restores its config, and detects other settings."""

import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from pipeline import config as config_lib
from pipeline import errors, flagfile

_VALUES = {  # values that no rule gives, or that are hard to write
    "model": "keras",
    "loss": "huber",
    "metrics": "mae,auc",
    "loop": "fit",
    "callbacks": f"{pathlib.Path(__file__).with_name('step_kinds.py')}:plateau_callbacks",
    "x_min": -2.5,
    "learning_rate": 0.1 + 0.2,
    "noise_stddev": 1e-300,
    "initial_w": -1e-7,
    "initial_b": 1e22,
    "data": "some folder/a=b.csv",
    "label": "price in $, 'net'",
    "features": "rooms,area = m2",
    "categorical": "rooms",
    "weight": "people & pets",
    "class_weight": "0:1,1:2.5",
    "standardize": False,
    "initialize_from": "other logs/run",
    "validation_examples": 0,
    "validation_fraction": 0.5,
    "profile_steps": "100,2000",
    "export_formats": "onnx",
    "logdir": "some logs",
    "run_name": "a-b_c.d,e=f+1",
}


def _changed(field: "dataclasses.Field[Any]") -> Any:
    """A value that differs from the default."""
    if field.name in _VALUES:
        return _VALUES[field.name]
    if choices := field.metadata["choices"]:
        return choices[-1]
    return not field.default if field.type is bool else field.default + 1


_EVERY_FIELD_CHANGED = config_lib.Config(
    **{field.name: _changed(field) for field in dataclasses.fields(config_lib.Config)}
)
_CONFIGS = pytest.mark.parametrize(
    "config", [config_lib.Config(), _EVERY_FIELD_CHANGED], ids=["default", "changed"]
)

_PRINT_CONFIG = """
from pipeline import cli
cli.define_flags()
cli.start(lambda arguments: print(cli.config_from_flags()))
"""

_HARD_VALUES = [
    *("a b", " ends with a space ", "two\nlines", "a\r\nb", "tab\t", "a\u2028b\u2029c\x85d"),
    *("# no comment", "a#b", "'single'", '"double"', "back\\slash\\", "--seed=3", "größe,面积"),
    *("$HOME", "`ls`", "\x1b[31mred", "%41", "a=b", "=", "-", "--", "\U0001f600"),
]


def test_changed_config_changes_every_field() -> None:
    """This guards the round trips below against a forgotten new field."""
    changed, default = (vars(c) for c in (_EVERY_FIELD_CHANGED, config_lib.Config()))
    assert not [name for name in default if changed[name] == default[name]]


@_CONFIGS
def test_the_config_is_read_again_from_anywhere(
    config: config_lib.Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths become absolute; --overwrite is left out, so the run is resumed."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flags.txt"
    flagfile.write(path, flagfile.from_config(config))
    paths = {name: getattr(config, name) for name in ("data", "initialize_from")}
    absolute = {name: path and str(tmp_path / path) for name, path in paths.items()}
    place = {"logdir": str(tmp_path.parent), "run_name": tmp_path.name}
    expected = dataclasses.replace(config, **absolute, **place, overwrite=False)
    assert _printed(f"--flagfile={path}") == str(expected)


def test_each_of_several_files_becomes_absolute(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with a comma in its name is one file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.csv").touch()
    for data, expected in (
        ("a,b.csv", f"{tmp_path}/a,b.csv"),
        ("c.csv,/d/*.csv", f"{tmp_path}/c.csv,/d/*.csv"),
    ):
        assert flagfile.from_config(config_lib.Config(data=data))["data"] == expected


@pytest.mark.parametrize("form", ["{name}.py:{function}", "{name}:{function}"])
def test_own_functions_are_found_again_from_anywhere(
    form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found by file path, or as modules of the directory where the run started."""
    monkeypatch.chdir(tmp_path)
    for name, function in (("my_model", "make"), ("my_loss", "loss")):
        (tmp_path / f"{name}.py").write_text(f"def {function}(*arguments):\n    return 0\n")
    config = config_lib.Config(
        model=form.format(name="my_model", function="make"),
        loss=form.format(name="my_loss", function="loss"),
    )
    flags = flagfile.from_config(config)
    assert flags["model"] == f"{tmp_path}/my_model.py:make"
    assert flags["loss"] == f"{tmp_path}/my_loss.py:loss"
    monkeypatch.chdir("/")
    again = config_lib.Config(model=flags["model"], loss=flags["loss"])
    assert flagfile.from_config(again) == flags


def _printed(*arguments: str, cwd: pathlib.Path | str = "/") -> str:
    """The output, on stdout or stderr, of an entry point that prints its config."""
    command = [sys.executable, "-c", _PRINT_CONFIG, *arguments]
    result = subprocess.run(command, cwd=cwd, text=True, capture_output=True)
    return (result.stdout or result.stderr).rstrip("\n")


def test_a_run_is_where_its_flagfile_is(tmp_path: pathlib.Path) -> None:
    """It may be moved or copied; later flags on the command line take precedence."""
    run = tmp_path / "logs" / "run"
    run.mkdir(parents=True)
    flagfile.write(run / "flags.txt", flagfile.from_config(config_lib.Config(epochs=7)))
    run.rename(tmp_path / "moved")
    moved = config_lib.Config(epochs=7, logdir=str(tmp_path), run_name="moved")
    for form in (("--flagfile=flags.txt",), ("--flagfile", "flags.txt"), ("-flagfile=flags.txt",)):
        assert _printed(*form, cwd=tmp_path / "moved") == str(moved)
    printed = _printed("--flagfile=moved/flags.txt", "--run_name=", "--epochs=9", cwd=tmp_path)
    assert printed == str(dataclasses.replace(moved, epochs=9, run_name=""))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--epochs=9\n", "epochs=9"),  # a person's own flagfile, read by absl
        (b"\x00\xff\xfe binary", "can't decode"),
        (b"--epochs=\n", "flag --epochs=: invalid literal"),
    ],
    ids=["own", "binary", "empty"],
)
def test_other_flagfiles_are_read_or_refused(
    tmp_path: pathlib.Path, content: bytes, message: str
) -> None:
    (tmp_path / "flags.txt").write_bytes(content)
    printed = _printed("--flagfile=flags.txt", cwd=tmp_path)
    assert message in printed
    assert "\n" not in printed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\xff\xfe", "can't be read as a flagfile"),
        (b"--epochs='9\n", "can't be read as a flagfile: No closing quotation"),
        (b"--epoch=9\n", "'--epoch=9' is no --flag=value"),
        (b"epochs=9\n", "'epochs=9' is no --flag=value"),
    ],
)
def test_damaged_flagfile_is_refused_in_one_line(
    tmp_path: pathlib.Path, damage: bytes, message: str
) -> None:
    path = tmp_path / "flags.txt"
    flagfile.write(path, flagfile.from_config(config_lib.Config()))
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(errors.InputError) as caught:
        flagfile.read(path)
    assert f"{path}: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_value_comes_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flags.txt"
    for value in _HARD_VALUES:
        flags = flagfile.from_config(config_lib.Config(data="d", label=value, features=value))
        flagfile.write(path, flags)
        assert flagfile.read(path) == flags
        assert flagfile.is_of_run(path)


@_CONFIGS
def test_read_gives_what_was_written(config: config_lib.Config, tmp_path: pathlib.Path) -> None:
    flags = flagfile.from_config(config)
    flagfile.write(tmp_path / "flags.txt", flags)
    assert flagfile.read(tmp_path / "flags.txt") == flags
    assert [path.name for path in tmp_path.iterdir()] == ["flags.txt"]


def test_flags_that_may_change_make_no_difference() -> None:
    config = config_lib.Config()
    changed = dataclasses.replace(
        config,
        epochs=20,
        metrics="mae",
        early_stopping_patience=7,
        summary_every=3,
        checkpoint_every=5,
        checkpoint_secs=1.0,
        export="best",
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
