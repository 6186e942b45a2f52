"""Tests of pipeline.printing."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import TextIO

import pytest

from pipeline import printing


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """Both ends of a pipe; closing one flushes it, as Python does at exit."""
    read, write = os.pipe()
    with open(read) as reader, open(write, "w") as writer:
        yield reader, writer


def test_a_text_is_printed_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    printing.say("größe")
    printing.say("of", end=" ")
    printing.say("x")
    assert capsys.readouterr() == ("größe\nof x\n", "")


def test_a_text_can_be_read_at_once() -> None:
    with _pipe() as (reader, writer):
        printing.say("while it trains", writer)
        assert reader.readline() == "while it trains\n"


def test_output_to_a_closed_pipe_is_dropped() -> None:
    """As with `| head`: neither this text, nor the next, nor the flush at exit ends the program."""
    with _pipe() as (reader, writer):
        printing.say("first", writer)
        assert reader.readline() == "first\n"
        reader.close()
        printing.say("second", writer)
        printing.say("third" * 100_000, writer)
        writer.write("by another print")
        writer.close()  # raises if what was not written is still to be written


def test_a_text_cut_off_by_the_reader_is_dropped() -> None:
    with _pipe() as (reader, writer):
        reader.close()
        printing.say("x" * 1_000_000, writer)  # more than a pipe or a buffer holds
        writer.flush()


def test_other_errors_are_raised() -> None:
    """Output to a file on a full disk is not lost without a word."""
    out = open("/dev/full", "w")  # noqa: SIM115 (closed below, which fails)
    with pytest.raises(OSError, match="No space left"):
        printing.say("x", out)
    with pytest.raises(OSError, match="No space left"):
        out.close()


def test_a_stream_of_any_kind_is_written_to(tmp_path: pathlib.Path) -> None:
    memory = io.StringIO()
    printing.say("x", memory)
    with (tmp_path / "log.txt").open("w") as file:
        printing.say("y", file)
    assert (memory.getvalue(), (tmp_path / "log.txt").read_text()) == ("x\n", "y\n")
