"""Starts TensorBoard on a run, or on a directory of runs, with settings that show all.

Examples:
  python -m pipeline.watch
  python -m pipeline.watch logs/<run> --port=6007
  python -m pipeline.watch logs --bind_all

Flags after the directory are those of the program tensorboard. Without --bind_all or --host,
only this machine can open the page.

The page follows training: it reloads every 30 seconds, and at once by its round arrow.
TensorBoard selects up to 500 of its runs by itself (a training has three to five: train,
validation, ...), and none if there are more. Then filter them by a regular expression in
the side bar and tick the box above them, or watch a directory further down.
"""

import html
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.parse

from pipeline import cli, console, errors, tf_runtime
from pipeline.reporting import tensorboard_page

_PINNED = ("W", "b", "loss")
_IN_BACKGROUND = """
from pipeline import cli, watch
cli.start(watch.serve_for_parent, flags_parser=cli.parse_nothing)
"""
_SETTINGS = (
    # By default TensorBoard keeps 1000 values and 10 images of a tag, and drops the rest.
    "--samples_per_plugin=scalars=200000,images=100",
    "--reload_interval=2",  # seconds
    "--load_fast=true",  # the default, but without its note
)


_shown: list["Page"] = []  # without a reference, a server would end


class Page:
    """TensorBoard's page, which a notebook shows; its server ends with `close`, or with Python.

    Attributes:
      url: The link to open in a browser.
    """

    def __init__(self, url: str, server: "subprocess.Popen[str]"):
        """Keeps the link and the process that serves it."""
        self.url, self._server = url, server
        _shown.append(self)

    def close(self) -> None:
        """Ends the server."""
        self._server.communicate()  # closes stdin, and waits for the end
        _shown.remove(self)

    def __repr__(self) -> str:
        return f"<TensorBoard: {self.url}>"

    def _repr_html_(self) -> str:
        url = html.escape(self.url)
        frame = f'<iframe src="{url}" width="100%" height="800" frameborder="0"></iframe>'
        return f'<a href="{url}" target="_blank">{url}</a>{frame}'


def show(directory: "str | os.PathLike[str]" = "logs", *flags: str) -> Page:
    """Starts TensorBoard in the background on a run, or on a directory of runs, for a notebook.

    Args:
      directory: A run, or a directory of runs.
      *flags: Flags of the program tensorboard, such as "--bind_all".

    Raises:
      errors.InputError: there is no such directory, or a flag is wrong.
      errors.RunError: TensorBoard can't start.
    """
    command = [sys.executable, "-c", _IN_BACKGROUND, os.fspath(directory), *flags]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+") as log:
        # It is in its own session, so a notebook's stop button does not end it.
        server = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, text=True, start_new_session=True
        )
        assert server.stdout
        server.stdout.readline()  # what is said before the seconds of the start
        url = server.stdout.readline().strip()
        if not url:
            server.communicate()
            log.seek(0)
            message = log.read().strip().rpartition("\n")[2].removeprefix("-c: ")
            raise (errors.InputError if server.returncode == 2 else errors.RunError)(message)
    return Page(url, server)


def link(url: str) -> str:
    """The URL that shows W, b and loss first in TensorBoard."""
    cards = json.dumps([{"plugin": "scalars", "tag": tag} for tag in _PINNED])
    return f"{url.rstrip('/')}/?pinnedCards={urllib.parse.quote(cards)}#timeseries"


def main(arguments: list[str]) -> None:
    """Serves until Ctrl-C."""
    if _serve(arguments):
        threading.Event().wait()


def serve_for_parent(arguments: list[str]) -> None:
    """Serves until the parent process closes stdin or ends."""
    if _serve(arguments):
        sys.stdin.read()


def _serve(arguments: list[str]) -> bool:
    """Starts the server; False if only help was asked for."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__ or "usage: watch [<directory>] [flags of the program tensorboard]")
        return False
    logdir, *flags = arguments or ["logs"]
    errors.require(logdir[:1] != "-", f"the directory comes before the flags; received {logdir!r}")
    is_there = os.path.isdir(logdir)
    errors.require(is_there, f"{logdir}: is not a directory; give that of a run, or of runs")

    console.say(f"Starting TensorBoard on {logdir}; Ctrl-C ends it. Its page:")
    tf_runtime.import_tensorflow()
    from tensorboard import assets, program
    from tensorboard.plugins import base_plugin

    # TensorBoard asks another process on this machine for the data, never through a proxy.
    os.environ["no_grpc_proxy"] = "localhost"  # noqa: SIM112 (as gRPC spells it)
    page = assets.get_default_assets_zip_provider()
    changed = page and (lambda: tensorboard_page.with_defaults(page()))
    server = program.TensorBoard(assets_zip_provider=changed)
    try:
        server.configure(["tensorboard", "--logdir", logdir, *_SETTINGS, *flags])
        url = server.launch()
    except base_plugin.FlagsError as error:
        raise errors.InputError(str(error)) from error
    except program.TensorBoardServerException as error:
        raise errors.RunError(f"TensorBoard can't start: {error.msg}") from error
    console.say(link(url))
    return True


if __name__ == "__main__":
    cli.start(main, flags_parser=cli.parse_nothing)
