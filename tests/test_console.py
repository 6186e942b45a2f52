"""Tests of pipeline.console; most use a separate process that loses its streams."""

import os
import pathlib
import pty
import subprocess
import sys
import time

import pytest

from pipeline import console

_BEGIN = """
import sys
from pipeline import console
console.open_streams()
"""
_WORK = f"""{_BEGIN}
console.say("first")
console.say("x" * 1_000_000)  # more than a pipe or a buffer holds
console.say("to stderr", sys.stderr)
sys.stdout.close()  # as code of the user may do
file = open("file.txt", "w")
assert file.fileno() > 2
sys.stdout.write("by another print")  # which Python flushes at exit
sys.exit(7)
"""


def _start(script: str, cwd: pathlib.Path, **streams: int) -> "subprocess.Popen[bytes]":
    everything = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | streams
    return subprocess.Popen([sys.executable, "-c", script], cwd=cwd, **everything)


def _end(process: "subprocess.Popen[bytes]") -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_a_text_is_printed_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("größe")
    console.say("of", end=" ")
    console.say("x")
    assert capsys.readouterr() == ("größe\nof x\n", "")


def test_a_text_can_be_read_at_once(tmp_path: pathlib.Path) -> None:
    """It does not stay in a buffer, which a killed process would lose."""
    script = f"{_BEGIN}import os; console.say('while it trains'); os._exit(7)"
    assert _end(_start(script, tmp_path)) == (7, b"while it trains\n", b"")


def test_output_without_a_reader_is_dropped(tmp_path: pathlib.Path) -> None:
    """With `| head`, neither a text, nor the next one, nor the flush at exit ends the program."""
    for stream in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        code, out, err = _end(_start(_WORK, tmp_path, **{stream: write}))
        os.close(write)
        assert code == 7
        assert (out or b"")[:6] == (b"" if stream == "stdout" else b"first\n")
        assert (err or b"") == (b"" if stream == "stderr" else b"to stderr\n")


def test_output_to_a_closed_terminal_is_dropped(tmp_path: pathlib.Path) -> None:
    """This happens after a hang-up that nohup made the program ignore."""
    master, terminal = pty.openpty()
    os.close(master)
    assert _end(_start(_WORK, tmp_path, stdout=terminal)) == (7, None, b"to stderr\n")
    assert _end(_start(_WORK, tmp_path, stdout=terminal, stderr=terminal)) == (7, None, None)
    os.close(terminal)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed: str, tmp_path: pathlib.Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", _WORK]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20)
    assert result.returncode == 7
    assert result.stderr == (b"" if "2>" in closed else b"to stderr\n")
    assert bool(result.stdout) == (closed in ("2>&-", "<&-"))


def test_a_full_disk_is_said_once_and_ends_nothing(tmp_path: pathlib.Path) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = _end(_start(_WORK, tmp_path, stdout=full.fileno()))
    assert code == 7
    assert err == b"stdout: No space left on device; going on without it\nto stderr\n"


def test_a_full_disk_is_an_error_where_the_output_counts(tmp_path: pathlib.Path) -> None:
    """Output written to sys.stdout itself, such as predictions, is not lost silently."""
    script = f"""{_BEGIN}
try:
    print("predictions", flush=True)
except OSError as error:
    assert (error.filename, error.strerror) == ("stdout", "No space left on device")
    raise SystemExit(7)
"""
    with open("/dev/full", "wb") as full:
        assert _end(_start(script, tmp_path, stdout=full.fileno())) == (7, None, b"")


def test_a_reader_that_is_slow_gets_everything(tmp_path: pathlib.Path) -> None:
    """Another program has made the pipe or terminal non-blocking."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = _start(_WORK, tmp_path, stdout=write)
    os.close(write)
    time.sleep(0.5)  # the pipe fills meanwhile
    with open(read, "rb") as reader:
        assert reader.read() == b"first\n" + b"x" * 1_000_000 + b"\nby another print"
    assert _end(process)[0] == 7


def test_ascii_is_enough(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    script = f"{_BEGIN}console.say('größe'); console.say('\\udcff', sys.stderr)"
    assert _end(_start(script, tmp_path)) == (0, rb"gr\xf6\xdfe" + b"\n", rb"\udcff" + b"\n")


def test_only_progress_is_printed_where_the_rest_is_not_wanted(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    """A sweep uses this."""
    with (tmp_path / "log.txt").open("w") as file, console.only_progress():
        live = console.LiveLine()
        live.show("alive")
        live.add("a row")
        console.say("of the run")
        console.say("y", file)
    console.say("and all again")
    assert capsys.readouterr() == ("alive\nand all again\n", "")
    assert (tmp_path / "log.txt").read_text() == "y\n"


def test_columns_of_a_table_are_aligned() -> None:
    """Cells may contain wide characters and text that looks like rich's markup."""
    rows = [("名前 [b]", "1.50", "2"), ("x", "21116.7", "")]
    assert console.table(("Fit", "RMSE", "R²"), rows).splitlines() == [
        "Fit            RMSE    R²",
        "名前 [b]       1.50     2",
        "x           21116.7",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 名前 😀, 'x' \\ $", "größe 名前 😀, 'x' \\ $"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m", r"\x9b31m"),  # the same in one character
        ("\u202eexe", r"\u202eexe"),  # turns the direction of writing
        ("\u2028", r"\u2028"),
        ("\udcff", r"\udcff"),  # a byte that is not UTF-8
    ],
)
def test_nothing_printable_commands_a_terminal(text: str, shown: str) -> None:
    assert console.printable(text) == shown
