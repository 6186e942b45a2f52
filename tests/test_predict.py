"""Tests of the output of `python -m pipeline.predict`."""

import gzip
import json
import os
import pathlib
import select
import shlex
import signal
import stat
import subprocess
import sys
import time
from typing import Any

import numpy as np
import polars
import pytest
import tensorflow as tf

from pipeline.data import batch, preprocessing
from pipeline.data import datasets as datasets_lib
from pipeline.run import export
from pipeline.training import models
from tests import helpers

_PRICES = '"a, in m",b,price\n10,1,8.5\n20,2,16.5\n'
_OTHERS = (  # columns that the model does not know, texts as they are, and a line that is empty
    '\ufeffb;note;"a, in m";price\n\n1;"semi;colon";10.0;8\n2;"two\nlines, ""quoted""";020;\n'
    "-0;größe;16777217;x\n"
)
_WITH_PREDICTIONS = (
    'b;note;a, in m;price;predicted_price\n1;"semi;colon";10.0;8;8.5\n'
    '2;"two\nlines, ""quoted""";020;;16.5\n-0;größe;16777217;x;16777216\n'
)
_BAD = "x,id\n1,a\n2\nthree,c\n,d\n1e39,e\n-0.1,f\n"
_PRINTED = {
    ("--export_dir=line", "--x=1.5,-2"): "x,y\n1.5,6.5\n-2,-4\n",
    ("--export_dir=line/1", "--x=0"): "x,y\n0,2\n",
    ("--export_dir=line", "--x=1e9,0.1,1e-9"): "x,y\n1e9,3000000000\n0.1,2.3\n1e-9,2\n",
    ("--export_dir=plane", "--x=10,1,20,2"): _PRICES,
    (
        "--export_dir=plane",
        "--input=plane.csv",
    ): 'b,other,"a, in m",price\n1,text,10,8.5\n2,text,20,16.5\n',
    ("--export_dir=plane", "--input=others.csv"): _WITH_PREDICTIONS,
    ("--export_dir=plane", "--input=others.csv.gz"): _WITH_PREDICTIONS,
    ("--export_dir=line", "--input=line.csv"): "position,y\n0,2\n0.5,3.5\n",
    (
        "--export_dir=line",
        "--input=inches.csv",
    ): 'x,note,y\n1,"5"" pipe",5\n2,b,8\n3,"6"" tube",11\n',
    **{
        (
            "--export_dir=flats",
            f"--input={name}",
        ): 'city,area,note,price\nOslo,1,"a, b",103\nBonn,2.5,,16\n'
        for name in ("flats.csv", "flats.csv.gz", "flats.jsonl", "flats.parquet", "flat-*.csv")
    },
    ("--export_dir=line", "--input=empty.csv"): "x,y\n",
    ("--export_dir=plane", "--input=empty_plane.csv"): 'b,"a, in m",price\n',
}
_MISTAKES = {
    (): ("--export_dir", 2),
    ("--export_dir=line",): ("with --x or --input", 2),
    ("--export_dir=nowhere", "--x=1"): ("--export_dir=nowhere: is not a directory", 2),
    ("--export_dir=line", "--x=1,one"): ("received 1,one", 2),
    ("--export_dir=line", "--x=1,nan"): ("received 1,nan", 2),
    ("--export_dir=line", "--x=1e39"): ("'x': must be finite as float32; received 1e39", 2),
    ("--export_dir=line", "--input=nowhere.csv"): ("nowhere.csv: there is no such file", 2),
    ("--export_dir=empty", "--x=1"): ("--export_dir=empty must be a SavedModel", 2),
    ("--export_dir=unsigned", "--x=1"): ("serving_default", 2),
    ("--export_dir=unsigned", "--describe"): ("has no assets.extra/description.json", 2),
    ("--export_dir=plane", "--x=1,2,3"): ("one a feature (a, in m, b); received 3", 2),
    ("--export_dir=plane", "--input=line.csv"): ("has no column 'a, in m'", 2),
    ("--export_dir=plane", "--input=two.csv"): ("has no column 'a, in m'", 2),
    ("--export_dir=flats", "--x=1,2"): ("the column 'city' is text: use --input", 2),
    ("--export_dir=flats", "--input=rome.csv"): (
        "rome.csv: line 3, column 'city': the model was trained with Bonn, Oslo; received 'Rome'; ",
        2,
    ),
    ("--export_dir=flats", "--input=nocity.csv"): (
        "line 2, column 'city': the value is missing",
        2,
    ),
    ("--export_dir=line", "--input=lists.parquet"): ("lists.parquet: can't be written as CSV", 2),
    ("--export_dir=flats", "--input=no*.jsonl"): ("no*.jsonl: there is no such file", 2),
    ("--export_dir=line", "--x=1", "--output=empty"): ("--output=empty: is a directory", 2),
    ("--export_dir=line", "--x=1", "--output=nowhere/y.csv"): ("nowhere/y.csv", 1),
    ("--export_dir=line", "--input=latin1.csv"): ("latin1.csv: can't be read", 2),
    ("--export_dir=line", "--input=bad.csv"): ("bad.csv: line 3 has 1 cells", 2),
    ("--export_dir=line", "--input=open.csv"): ("open.csv: line 3: a quote is not closed", 2),
    ("--export_dir=line", "--input=header.csv"): ("header.csv: line 2: a quote is not", 2),
    ("--export_dir=plane", "--input=flipped.csv.gz"): ("flipped.csv.gz: can't be read", 2),
    ("--export_dir=plane", "--input=cut.csv.gz"): ("cut.csv.gz: can't be read", 2),
}
Answers = dict[tuple[str, ...], tuple[Any, str, str]]


def _publish(
    version: pathlib.Path,
    W: list[float],
    b: float,
    *,
    features: tuple[str, ...],
    label: str,
    learned: preprocessing.Preprocessing | None = None,
) -> None:
    """Exports y = x·W + b as the model of step 10."""
    model = models.module(len(W))
    model.W.assign(W)
    model.b.assign(b)
    trained = helpers.task(model, features)
    x = np.ones((3, len(W)), np.float32)
    x[:, 2:] = 0  # of two texts, one is in a row
    examples = batch.Batch(x, np.ones(3, np.float32))
    datasets = datasets_lib.Datasets(examples, None, features, label, preprocessing=learned)
    export.publish(trained, datasets, version, {"step": 10})


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Exports of y = 3x + 2 and of price = a - 2b + 0.5."""
    directory = tmp_path_factory.mktemp("exports")
    for name in ("line", "plane", "empty"):
        (directory / name).mkdir()
    _publish(directory / "line" / "1", [3.0], 2.0, features=("x",), label="y")
    features = ("a, in m", "b")
    _publish(directory / "plane" / "1", [1.0, -2.0], 0.5, features=features, label="price")
    flats = preprocessing.unchanged({"area": None, "city": ("Bonn", "Oslo")}, "price")
    _publish(
        directory / "flats" / "1",
        [2.0, 10.0, 100.0],
        1.0,
        features=flats.features,
        label=flats.label,
        learned=flats,
    )
    table = polars.DataFrame(
        {"city": ["Oslo", "Bonn"], "area": ["1", "2.5"], "note": ["a, b", None]}
    )
    table.write_parquet(directory / "flats.parquet")
    table.write_ndjson(directory / "flats.jsonl")
    polars.DataFrame({"x": [1], "v": [[1, 2]]}).write_parquet(directory / "lists.parquet")
    for name, rows in (("flats", table), ("flat-1", table[:1]), ("flat-2", table[1:])):
        rows.write_csv(directory / f"{name}.csv")
    packed = gzip.compress((directory / "flats.csv").read_bytes())
    (directory / "flats.csv.gz").write_bytes(packed)
    (directory / "rome.csv").write_text("area,city\n1, Bonn\n2,Rome\n")
    (directory / "nocity.csv").write_text("area,city\n1,n/a\n")
    (directory / "plane.csv").write_text('b,other,"a, in m"\n1,text,10\n2,text,20\n')
    (directory / "others.csv").write_text(_OTHERS)
    (directory / "others.csv.gz").write_bytes(gzip.compress(_OTHERS.encode()))
    (directory / "cut.csv.gz").write_bytes(gzip.compress(_OTHERS.encode())[:-9])
    damaged = bytearray(gzip.compress(np.random.default_rng(0).bytes(500).hex().encode()))
    damaged[100:110] = bytes(10)
    (directory / "flipped.csv.gz").write_bytes(damaged)
    (directory / "inches.csv").write_text('x,note\n1,5" pipe\n2,b\n3,6" tube\n')
    (directory / "open.csv").write_text('x,note\n1,a\n2,"never\nclosed\n')
    (directory / "header.csv").write_text('x,"y\n1,2')
    (directory / "two.csv").write_text("b,c\n1,10\n")
    (directory / "line.csv").write_text("position\n0\n0.5\n")
    (directory / "empty.csv").write_text("x\n")
    (directory / "empty_plane.csv").write_text('b,"a, in m"\n\n')
    (directory / "latin1.csv").write_bytes("x,name\n1,größe\n".encode("latin-1"))
    (directory / "bad.csv").write_text(_BAD)
    tf.saved_model.save(tf.Module(), str(directory / "unsigned"))
    return directory


@pytest.fixture(scope="module")
def answers(exports: pathlib.Path) -> Answers:
    """The answers of `predict` to all these flags; no files appear in the directory."""
    before = sorted(exports.rglob("*"))
    commands = [*_PRINTED, *_MISTAKES]
    results = helpers.answers([["predict", *flags] for flags in commands], cwd=exports)
    answers = dict(zip(commands, results, strict=True))
    assert sorted(exports.rglob("*")) == before
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("flags", _PRINTED, ids=" ".join)
def test_prints_x_and_y(answers: Answers, flags: tuple[str, ...]) -> None:
    assert answers[flags] == (0, _PRINTED[flags], "")


@pytest.mark.slow
@pytest.mark.parametrize("flags", _MISTAKES, ids=" ".join)
def test_mistake_costs_one_line(answers: Answers, flags: tuple[str, ...]) -> None:
    message, expected = _MISTAKES[flags]
    code, _, err = answers[flags]
    assert code == expected
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.slow
def test_output_to_stdout_keeps_what_is_in_its_file(exports: pathlib.Path) -> None:
    path = exports.parent / "both.csv"
    command = [sys.executable, "-m", "pipeline.predict", f"--export_dir={exports}/line", "--x=1"]
    with open(path, "w") as file:
        print("before", file=file, flush=True)
        subprocess.run([*command, "--output=/dev/stdout"], stdout=file, check=True)
        subprocess.run(["echo", "after"], stdout=file, check=True)
    assert path.read_text() == "before\nx,y\n1,5\nafter\n"


@pytest.mark.slow
def test_writes_a_file_in_place_of_printing(exports: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Writing to a link writes its target."""
    (tmp_path / "link.csv").symlink_to("y.csv")
    flags = (f"--export_dir={exports}/line", "--x=1", "--output=link.csv")
    result = helpers.call("predict", *flags, cwd=tmp_path)
    assert result.stdout == ""
    assert (tmp_path / "link.csv").is_symlink()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "link.csv": "x,y\n1,5\n",
        "y.csv": "x,y\n1,5\n",
    }


@pytest.mark.slow
def test_output_replaces_a_file_whole_for_its_owner(
    exports: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """One of two writers wins; mode and owner are kept, and a planted link is not followed."""
    output, secret = tmp_path / "y.csv", tmp_path / "secret"
    for path in (output, secret):
        path.write_text("before\n")
    (tmp_path / ".unfinished.y.csv").symlink_to(secret)
    output.chmod(0o600)
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(output, owner, -1)
    rows = [f"{x}.0" for x in range(100_000)]
    (tmp_path / "x.csv").write_text("\n".join(["x", *rows, ""]))
    flags = (f"--export_dir={exports}/line", "--input=x.csv", "--output=y.csv")
    processes = [helpers.start("predict", *flags, cwd=tmp_path) for _ in range(2)]
    for result in map(helpers.finish, processes):
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    lines = output.read_text().splitlines()
    assert lines == ["x,y", *(f"{x}.0,{3 * x + 2}" for x in range(100_000))]
    assert (stat.S_IMODE(output.stat().st_mode), output.stat().st_uid) == (0o600, owner)
    assert secret.read_text() == "before\n"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("y.csv", "secret", ".unfinished.y.csv", "x.csv")
    }


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_error(exports: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """This holds for stdout, as in `| head -1`; for a pipe given by --output it is an error."""
    (tmp_path / "x.csv").write_text("x\n" + "1.0\n" * 100_000)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    flags = (f"--export_dir={exports}/line", "--input=x.csv")
    printing = helpers.start("predict", *flags, cwd=tmp_path)
    writing = helpers.start("predict", *flags, "--output=pipe", cwd=tmp_path)
    assert printing.stdout is not None
    assert printing.stdout.readline() == "x,y\n"
    printing.stdout.close()
    assert select.select([reader], [], [], 60)[0]
    os.close(reader)
    assert printing.stderr is not None
    assert (printing.stderr.read(), printing.wait(timeout=60)) == ("", 0)
    printing.stderr.close()
    result = helpers.finish(writing)
    assert result.returncode == 1
    assert result.stderr == "predict: --output=pipe can't be written: Broken pipe\n"


@pytest.mark.slow
def test_features_of_any_name_are_given_by_their_numbers(tmp_path: pathlib.Path) -> None:
    """A CSV file could not have such a header."""
    for version, features in enumerate((("0", "1"), (" a|b", "a|b"), ("a\nb", ""))):
        path = tmp_path / str(version)
        _publish(path, [1.0, 2.0], 0.0, features=features, label="y")
        (answer,) = helpers.answers([["predict", f"--export_dir={path}", "--x=1,1"]], cwd=tmp_path)
        assert answer[0] == 0
        assert answer[1].endswith("\n1,1,3\n")


@pytest.mark.slow
def test_says_where_the_model_came_from(exports: pathlib.Path) -> None:
    """The newest version, as JSON."""
    (answer,) = helpers.answers([["predict", "--export_dir=line", "--describe"]], cwd=exports)
    assert (answer[0], json.loads(answer[1]), answer[2]) == (0, {"step": 10}, "")


@pytest.mark.slow
def test_rows_that_can_not_be_used_are_left_out_and_counted(exports: pathlib.Path) -> None:
    command = ["predict", "--export_dir=line", "--input=bad.csv", "--on_error=skip"]
    (answer,) = helpers.answers([command], cwd=exports)
    assert answer[:2] == (0, "x,id,y\n1,a,5\n-0.1,f,1.7\n")
    assert answer[2] == (
        "predict: 4 of 6 rows skipped; the first: bad.csv: line 3 has 1 cells, separated by ','; "
        "the header names 2 columns\n"
    )


_ROWS = 800_000
_MAKE = r"""
BEGIN {
  print "id,x,note"
  for (i = 0; i < rows; i++)
    printf "%d,%.6f,\"no, \"\"é\"\" %d\"\n", i, i / 7, i
  print "-1,one,bad"
}
"""
_CHECK = """
NR > 1 { y = 3 * $2 + 2; d = ($NF - y) / y; if (d * d > 1e-13) print }
END { print NR }
"""
_PREDICT = f"{shlex.quote(sys.executable)} -m pipeline.predict --export_dir=line"


def _shell(script: str, folder: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def awk(exports: pathlib.Path) -> pathlib.Path:
    """The folder of the exports, with programs that make a table and check its predictions."""
    (exports / "make.awk").write_text(_MAKE)
    (exports / "check.awk").write_text(_CHECK)
    return exports


@pytest.mark.slow
def test_a_filter_takes_no_more_memory_for_more_rows(awk: pathlib.Path) -> None:
    """It takes less than 100 MB more than for one row; the rows of 30 MB keep their texts.

    Only the last row is left out, and the message has its line.
    """
    peak = "import sys; from pipeline import cli, predict; predict._define_flags()\n"
    peak += "try: cli.start(predict.main)\n"
    peak += "finally: print(*[l.split()[1] for l in open('/proc/self/status') if 'VmPeak' in l])"
    small = [sys.executable, "-c", peak, "--export_dir=line", "--x=1"]
    out = subprocess.run(small, cwd=awk, capture_output=True, text=True, timeout=60).stdout
    most = int(out.split()[-1]) + 100_000
    result = _shell(
        f"awk -v rows={_ROWS} -f make.awk | tee all.csv | "
        f"(ulimit -v {most}; {_PREDICT} --input=- --output=- --on_error=skip) | tee out.csv | "
        "awk -F, -f check.awk; (sed 's/,[^,]*$//' out.csv; tail -1 all.csv) | cmp - all.csv; "
        "rm all.csv out.csv",
        awk,
    )
    assert result.stdout == f"{_ROWS + 1}\n"
    assert result.stderr == (
        f"predict: 1 of {_ROWS + 1:,} rows skipped; the first: stdin: line {_ROWS + 2}, "
        "column 'x': expected a finite number; received 'one'\n"
    )


@pytest.mark.slow
def test_a_killed_filter_leaves_nothing_that_stays(awk: pathlib.Path) -> None:
    """SIGTERM leaves nothing; leftovers of SIGKILL go when the same file is written again."""
    before = set(awk.iterdir())
    flags = ("--export_dir=line", "--input=-", "--output=y.csv")
    for number, left in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
        command = [sys.executable, "-m", "pipeline.predict", *flags]
        process = subprocess.Popen(command, cwd=awk, stdin=subprocess.PIPE)
        assert process.stdin
        process.stdin.write(b"x\n" + b"1\n" * 1_000_000)
        process.stdin.flush()
        end = time.monotonic() + 60
        while not set(awk.iterdir()) - before:
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(number)
        process.stdin.close()
        assert process.wait(timeout=60) == (143 if number == signal.SIGTERM else -number)
        assert len(set(awk.iterdir()) - before) == left
    time.sleep(0.6)
    result = helpers.call("predict", "--export_dir=line", "--x=1", "--output=y.csv", cwd=awk)
    assert result.returncode == 0
    assert set(awk.iterdir()) - before == {awk / "y.csv"}
    (awk / "y.csv").unlink()


@pytest.mark.slow
def test_head_ends_a_filter_at_once(awk: pathlib.Path) -> None:
    """It ends quietly although its input never ends, and also without stdout."""
    script = f"(echo x; yes 2) | {_PREDICT} --input=- | head -2; echo ${{PIPESTATUS[1]}}"
    result = _shell(script, awk)
    assert (result.stdout, result.stderr) == ("x,y\n2,8\n0\n", "")
    result = _shell(f"{_PREDICT} --x=2 >&-", awk)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
