"""Mistakes in flags are reported at once, in one line, and leave no files."""

import pathlib
import re
import signal
import subprocess
import sys

import pytest

from pipeline import config, fields
from tests import helpers

README = pathlib.Path(config.__file__).parents[1] / "README.md"

MISTAKES = {
    ("--epoch=3",): "Did you mean: epochs",
    ("--epochs=ten",): "'ten'",
    ("--epochs=0",): "--epochs must be at least 1; received 0",
    ("--learning_rate=0",): "--learning_rate must be above 0; received 0",
    ("--learning_rate=nan",): "--learning_rate must be a finite float32; received nan",
    ("--batch_size=-1",): "--batch_size must be at least 0; received -1",
    ("--model=moduel",): "must be one of module, keras, polynomial, mlp, logistic, or a function",
    ("--model=nowhere:make",): "Python finds no module nowhere from",
    ("--loss=points.csv.py:loss",): "there is no file",
    ("--loop=while",): "custom|fit",
    ("--loss=huber", "--optimizer=Adem"): "sgd, adadelta",
    ("--model=module", "--loop=fit"): "a tf.Module has none",
    ("--run_name=a/b",): "'a/b'",
    ("--flagfile=nowhere.txt",): "nowhere.txt",
    ("--data=nowhere.csv",): "nowhere.csv: there is no such file",
    ("--data=points.csv", "--label=z"): "has no column 'z' (--label); its columns are ['x', 'y']",
    ("--run_name=taken",): "taken exists already and is no run of this pipeline",
    ("--run_name=taken", "--overwrite"): "taken exists already and is no run of this pipeline",
    ("epochs=3",): "'epochs=3'",
    ("--data=\x1b[31mred\n.csv",): r"\x1b[31mred\n.csv: there is no such file",
}


def _modules_imported_by(*arguments: str, cwd: pathlib.Path) -> tuple[str, set[str]]:
    """The output of an entry point, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    imports = (line.rpartition("|")[2].strip() for line in result.stderr.splitlines())
    return result.stdout, set(imports)


@pytest.mark.parametrize("flags", MISTAKES, ids=" ".join)
def test_a_mistake_costs_one_line(flags: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    (tmp_path / "points.csv").write_text("x,y\n1,2\n2,3\n")
    thesis = tmp_path / "logs" / "taken" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.touch()
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("train: ")
    assert MISTAKES[flags] in result.stderr
    assert {path.name for path in tmp_path.rglob("*")} == {
        *("points.csv", "logs", "taken", "thesis.txt")
    }


@pytest.mark.parametrize("entry", ["train", "predict", "sweep", "watch"])
def test_help_does_not_import_tensorflow(entry: str, tmp_path: pathlib.Path) -> None:
    out, imported = _modules_imported_by(f"pipeline.{entry}", "--help", cwd=tmp_path)
    assert f"python -m pipeline.{entry}" in out
    assert "absl.flags" in imported
    assert not {"tensorflow", "matplotlib", "keras", "tensorboard"} & imported


def test_help_lists_each_flag_in_its_group(tmp_path: pathlib.Path) -> None:
    """The help has the bounds; the README's table has the same groups in the same order."""
    out, _ = _modules_imported_by("pipeline.train", "--helpshort", cwd=tmp_path)
    assert re.findall(r"^(\w[^:\n]*):$", out, re.MULTILINE) == ["Example", "flags", *config.GROUPS]
    parts = re.split("\n(?=" + "|".join(f"{title}:\n" for title in config.GROUPS) + ")", out)
    table = README.read_text().partition("| topic | flags (default) |\n|---|---|\n")[2]
    for (title, group), part, row in zip(
        config.GROUPS.items(), parts[1:], table.splitlines(), strict=False
    ):
        names = sorted(fields.names(group))
        assert re.findall(r"^  --(?:\[no\])?(\w+)", part, re.MULTILINE) == names, title
        assert row.startswith(f"| {title} | ")
        assert sorted(re.findall(r"`--(\w+)`", row)) == names
    assert "Bounds: at least 1." in " ".join(out.split())


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("", 0),
        ("os._exit(1)", 1),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.killpg(0, signal.SIGINT)", -signal.SIGINT),  # Ctrl-C
    ],
)
def test_only_known_noise_is_kept_from_stderr(last: str, code: int, tmp_path: pathlib.Path) -> None:
    """Other output during TensorFlow's import is shown, also at a crash."""
    script = f"""
import os, signal
from pipeline import tf_runtime
signal.signal(signal.SIGINT, signal.SIG_DFL)
with tf_runtime._without_start_up_noise():
    os.write(2, b"I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"W0000 00:00:1 1 something.cc:1] a real warning\\n\\n")
    os.write(2, b"F0000 00:00:1 1 something.cc:2] last words\\xff")
    {last}
os.write(2, b", and what follows")
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, timeout=60, start_new_session=True
    )
    expected = b"W0000 00:00:1 1 something.cc:1] a real warning\n\n"
    expected += b"F0000 00:00:1 1 something.cc:2] last words\xff"
    assert result.stderr == expected + b", and what follows" * (not last)
    assert result.returncode == code
