"""The scripts, as far as they can be tried without setting up again."""

import os
import pathlib
import re
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
SETTINGS = SCRIPTS.parent / "setup.cfg"
IS_SET_UP = any(
    stamp.read_bytes() == SETTINGS.read_bytes()
    for stamp in (SCRIPTS.parent / ".venv").glob(".installed*")
)


def _run(
    script: pathlib.Path, *flags: str, cwd: pathlib.Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(script), *flags],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_unsuited_python_is_refused_with_what_to_do(tmp_path: pathlib.Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("environment.sh", "train.sh"):
        (tmp_path / "scripts" / name).write_bytes((SCRIPTS / name).read_bytes())
    (tmp_path / "scripts" / "train.sh").chmod(0o755)
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = _run(tmp_path / "scripts" / "train.sh", cwd=tmp_path, PYTHON=str(old))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "Python 3.10, 3.11, 3.12 or 3.13" in line
    assert str(old) in line
    assert {path.name for path in tmp_path.iterdir()} == {"scripts", "python2"}


@pytest.mark.slow
@pytest.mark.skipif(
    not IS_SET_UP, reason="the scripts' environment, which scripts/test.sh makes, is not up to date"
)
def test_compare_shows_three_equal_tables_from_anywhere(tmp_path: pathlib.Path) -> None:
    result = _run(SCRIPTS / "compare.sh", "--epochs=2", "--batch_size=32", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Installing" not in result.stderr
    rows = [line for line in result.stdout.splitlines() if "W = " in line]
    assert len(rows) == 4  # the start, two epochs, least squares
    for row in rows:
        reports = re.findall(r"W = \S+ b = \S+ loss=\S+", row)
        assert len(reports) == 3
        assert len(set(reports)) == 1
    (logdir,) = (tmp_path / "logs" / "compare").iterdir()
    names = {path.name for path in logdir.iterdir()}
    assert names == {"module-custom", "keras-custom", "keras-fit"}


def test_the_readme_names_the_line_of_the_update() -> None:
    """Where its recipe sets a breakpoint, and where its output says that the debugger stops."""
    readme = (SCRIPTS.parent / "README.md").read_text()
    found = re.search(r"break (pipeline/\S+):(\d+)\n.*\n-> (.*)\n", readme)
    assert found
    line = (SCRIPTS.parent / found[1]).read_text().splitlines()[int(found[2]) - 1]
    assert line.strip() == found[3]
