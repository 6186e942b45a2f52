"""What a finished run says: commands that work."""

import pathlib
import shlex

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import trainer
from tests import helpers

_WIDE = """
def wide():
    return {f"x{i}": [i, 1.0 * i * i, 2.0] for i in range(21)} | {"y": [1, 2, 3]}
"""


def test_the_printed_command_predicts(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gives numbers, or a file if there are texts or many columns; else none is printed."""
    (tmp_path / "mine.py").write_text(_WIDE)
    (tmp_path / "texts.csv").write_text("x,city,y\n1,Nice,2\n2,Lyon,3\n4,Nice,6\n")
    np.savetxt(
        tmp_path / "wide.csv",
        np.eye(22)[:4],
        delimiter=",",
        comments="",
        header=",".join("abcdefghijklmnopqrstuv"),
    )
    cases = [
        ({}, "--x="),
        ({"data": "texts.csv", "categorical": "city"}, "--input=texts.csv"),
        ({"data": "wide.csv"}, "--input=wide.csv"),
        ({"data": "mine.py:wide"}, ""),
    ]
    commands = []
    for number, (settings, _) in enumerate(cases):
        own = {k: str(tmp_path / v) if k == "data" else v for k, v in settings.items()}
        config = config_lib.Config(epochs=1, logdir=str(tmp_path), run_name=f"{number}", **own)  # type: ignore[arg-type]
        trainer.train(config, datasets_lib.load(config))
        lines = capsys.readouterr().out.splitlines()
        commands.append([line for line in lines if line.startswith("Predict: ")])
    for (_, flag), printed in zip(cases, commands, strict=True):
        name, _, value = flag.partition("=")
        assert len(printed) == bool(flag)
        assert all(f" {name}=" in line and value in line for line in printed)
    given = [["predict", *shlex.split(line)[4:]] for lines in commands for line in lines]
    assert [code for code, _, _ in helpers.answers(given, cwd=tmp_path)] == [0, 0, 0]
