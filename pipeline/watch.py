"""Starts TensorBoard on a run, or on a directory of runs, with settings that show all.

Examples:
  python -m pipeline.watch
  python -m pipeline.watch logs/<run> --port=6007

Flags after the directory are those of the program tensorboard.
"""

import io
import json
import os
import threading
import urllib.parse
import zipfile
from typing import BinaryIO

from pipeline import cli, errors, printing, tf_runtime

_PINNED = ("W", "b", "loss")
_SETTINGS = (
    # By default it keeps 1000 values and 10 images of a tag, and drops the rest.
    "--samples_per_plugin=scalars=200000,images=100",
    "--reload_interval=2",  # seconds
    "--host=localhost",
    "--load_fast=true",  # as by default, but without a note about it
)

# What a person has set is kept: only what is missing is filled in.
_DEFAULTS = b"""{
  const key = "_tb_global_settings";
  const set = JSON.parse(localStorage.getItem(key) || "{}");
  const defaults = {
    ignoreOutliers: false, scalarSmoothing: 0, timeSeriesSettingsPaneOpened: false};
  localStorage.setItem(key, JSON.stringify({...defaults, ...set}));
}
"""


def link(url: str) -> str:
    """The address under which TensorBoard shows W, b and loss as they are.

    By default it smooths the curves, which bends their beginning. The settings can be
    given in the address only.
    """
    cards = json.dumps([{"plugin": "scalars", "tag": tag} for tag in _PINNED])
    return f"{url.rstrip('/')}/?smoothing=0&pinnedCards={urllib.parse.quote(cards)}#timeseries"


def _assets() -> BinaryIO:
    """TensorBoard's web page as a zip file, with other defaults of its settings.

    "Ignore outliers" is on by default and cuts off the first steps, where training moves
    most. Neither a flag nor the address can change that, only the browser's memory.
    """
    from tensorboard import assets

    changed = io.BytesIO()
    provided = assets.get_default_assets_zip_provider()()
    with zipfile.ZipFile(provided) as original, zipfile.ZipFile(changed, "w") as copy:
        for name in original.namelist():
            content = original.read(name)
            copy.writestr(name, _DEFAULTS + content if name == "index.js" else content)
    changed.seek(0)
    return changed


def main(arguments: list[str]) -> None:
    """Serves until Ctrl-C."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__ or "usage: watch [<directory>] [flags of the program tensorboard]")
        return
    logdir, *flags = arguments or ["logs"]
    errors.require(logdir[:1] != "-", f"the directory comes before the flags; received {logdir!r}")
    is_there = os.path.isdir(logdir)
    errors.require(is_there, f"{logdir}: is not a directory; give that of a run, or of runs")

    tf_runtime.import_tensorflow()
    from tensorboard import program

    # TensorBoard asks another process on this machine for the data, never through a proxy.
    os.environ["no_grpc_proxy"] = "localhost"  # noqa: SIM112 (as gRPC spells it)
    server = program.TensorBoard(assets_zip_provider=_assets)
    server.configure(["tensorboard", "--logdir", logdir, *_SETTINGS, *flags])
    try:
        url = server.launch()
    except program.TensorBoardServerException as error:
        raise errors.RunError(f"TensorBoard can't start: {error.msg}") from error
    printing.say(f"TensorBoard shows {logdir} until Ctrl-C:\n{link(url)}")
    threading.Event().wait()


if __name__ == "__main__":
    cli.start(main, flags_parser=cli.parse_nothing)
