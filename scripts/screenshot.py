"""Takes the picture of TensorBoard that the README shows, or one of each dashboard.

Usage: .venv/bin/python scripts/screenshot.py LOGDIR PICTURE.png [--seconds=60]
       .venv/bin/python scripts/screenshot.py LOGDIR FOLDER --dashboards [--seconds=60]

Needs Chromium and its ChromeDriver (on Debian: apt-get install chromium chromium-driver),
which is spoken to in its own protocol (https://www.w3.org/TR/webdriver2/).
"""

import argparse
import base64
import contextlib
import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

_CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",  # it refuses to start as root otherwise
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-device-scale-factor=1",
)

# The names of the charts in which TensorBoard draws at least one curve.
_CHARTS = """
return [...document.querySelectorAll("card-view")]
    .filter(card => card.querySelector("line-chart canvas"))
    .filter(card => card.querySelectorAll("tb-data-table-content-row").length)
    .map(card => card.innerText.split("\\n")[0]);
"""

# What each dashboard draws, by its name in the address.
_DRAWN = {
    "timeseries": "tb-data-table-content-row",
    "scalars": "path.line",
    "custom_scalars": "path.line",
    "images": "img",
    "graphs": "g.node",
    "distributions": "path.area",
    "histograms": "g.histogram",
    "text": "tf-markdown-view",
    "hparams": "vaadin-grid-cell-content",
    "profile": "iframe",
}

# Counts visible elements of a kind, also in the shadow trees of the older dashboards. Dashboards
# that were opened earlier still exist, but are hidden.
_COUNT = """
const [kind] = arguments;
const count = root => [...root.querySelectorAll("*")].reduce((sum, element) => sum
    + (element.matches(kind) && element.checkVisibility({visibilityProperty: true}))
    + (element.shadowRoot ? count(element.shadowRoot) : 0), 0);
return count(document);
"""


class Browser:
    """One page in headless Chromium."""

    def __init__(self, address: str):
        """Opens a session of a running ChromeDriver."""
        options = {"args": list(_CHROMIUM_FLAGS)}
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
        self._address = address
        self._session = ""
        session = self._post("session", {"capabilities": capabilities})["sessionId"]
        self._session = f"session/{session}/"

    def open(self, url: str, *, width: int = 1400, height: int = 900) -> None:
        """Opens a page in a window of this size in pixels."""
        self._post("window/rect", {"width": width, "height": height})
        self._post("url", {"url": url})

    def script(self, code: str, *arguments: Any) -> Any:
        """Runs JavaScript in the page and returns what it returns."""
        return self._post("execute/sync", {"script": code, "args": arguments})

    def charts(self) -> list[str]:
        """The names of TensorBoard's scalar charts that show curves."""
        return list(self.script(_CHARTS))

    def show(self, dashboard: str) -> None:
        """Switches to another dashboard of the open TensorBoard."""
        self.script("location.hash = arguments[0]", dashboard)

    def drawn(self, dashboard: str) -> int:
        """The number of visible curves, pictures, ... in the open dashboard."""
        return int(self.script(_COUNT, _DRAWN[dashboard]))

    def picture(self) -> bytes:
        """The window's content as a PNG file."""
        with urllib.request.urlopen(f"{self._address}/{self._session}screenshot") as answer:
            return base64.b64decode(json.load(answer)["value"])

    def close(self) -> None:
        """Ends Chromium."""
        url = f"{self._address}/{self._session}".rstrip("/")
        request = urllib.request.Request(url, method="DELETE")
        urllib.request.urlopen(request).close()

    def _post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        url = f"{self._address}/{self._session}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return json.load(answer)["value"]


def is_installed() -> bool:
    """Whether a browser is installed."""
    return all(shutil.which(name) for name in ("chromium", "chromedriver"))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Starts Chromium, and ends it afterwards."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert driver.stdout is not None
    try:
        started = next(line for line in driver.stdout if "started successfully" in line)
        port = re.search(r"on port (\d+)", started)
        assert port is not None
        with contextlib.closing(Browser(f"http://localhost:{port[1]}")) as page:
            yield page
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()


@contextlib.contextmanager
def tensorboard(logdir: str, *flags: str, stderr: int | None = None) -> Iterator[str]:
    """Starts TensorBoard as a user would, and yields the link that it prints."""
    command = [sys.executable, "-m", "pipeline.watch", logdir, "--port=0", *flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert server.stdout is not None
    try:
        server.stdout.readline()
        url = server.stdout.readline().strip()
        if not url:
            sys.exit(f"TensorBoard did not start on {logdir}")
        yield url
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def main(logdir: str, picture: pathlib.Path, *, seconds: float) -> None:
    """Waits until W, b and loss are drawn, then saves a screenshot."""
    with tensorboard(logdir) as url, browser() as page:
        page.open(url)
        what = f"charts of W, b and loss in {logdir}"
        _wait_until(lambda: {"W", "b", "loss"} <= set(page.charts()), what, seconds)
        picture.write_bytes(page.picture())


def dashboards(logdir: str, folder: pathlib.Path, *, seconds: float) -> None:
    """Saves a screenshot of each dashboard with data, once it has drawn something."""
    folder.mkdir(parents=True, exist_ok=True)
    with tensorboard(logdir) as url, browser() as page:
        page.open(url)
        _wait_until(functools.partial(page.drawn, "timeseries"), f"curve in {logdir}", seconds)
        with urllib.request.urlopen(url.partition("?")[0] + "data/plugins_listing") as answer:
            plugins = json.load(answer)
        for name in (name for name in _DRAWN if plugins.get(name, {}).get("enabled")):
            page.show(name)
            _wait_until(functools.partial(page.drawn, name), f"{name} of {logdir}", seconds)
            (folder / f"{name}.png").write_bytes(page.picture())


def _wait_until(is_drawn: Callable[[], object], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_drawn():
        if time.monotonic() > end:
            sys.exit(f"screenshot: TensorBoard shows no {what}")
        time.sleep(0.5)
    time.sleep(1)  # the curves are animated


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("logdir")
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--dashboards", action="store_true")
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    if not is_installed():
        sys.exit("screenshot: chromium and chromedriver are needed and not installed")
    save = dashboards if chosen.dashboards else main
    save(chosen.logdir, chosen.path, seconds=chosen.seconds)
