"""Takes the picture of TensorBoard that the README shows.

Usage: .venv/bin/python scripts/screenshot.py LOGDIR PICTURE.png [--seconds=60]

Needs Chromium and its ChromeDriver (on Debian: apt-get install chromium chromium-driver),
which is spoken to in its own protocol (https://www.w3.org/TR/webdriver2/).
"""

import argparse
import base64
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
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


class Browser:
    """One page in headless Chromium."""

    def __init__(self, address: str):
        """Opens a session at a running ChromeDriver."""
        options = {"args": list(_CHROMIUM_FLAGS)}
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
        self._address = address
        self._session = ""
        session = self._post("session", {"capabilities": capabilities})["sessionId"]
        self._session = f"session/{session}/"

    def open(self, url: str, *, width: int = 1400, height: int = 900) -> None:
        """Goes to a page in a window of that size in pixels."""
        self._post("window/rect", {"width": width, "height": height})
        self._post("url", {"url": url})

    def script(self, code: str) -> Any:
        """Runs JavaScript in the page and returns what it returns."""
        return self._post("execute/sync", {"script": code, "args": []})

    def charts(self) -> list[str]:
        """The names of TensorBoard's scalar charts that show curves."""
        return list(self.script(_CHARTS))

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
    """Whether there is a browser to use."""
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
    """Starts TensorBoard as a user would, and gives the link that it prints."""
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


def main(logdir: str, path: str, *, seconds: float) -> None:
    """Waits until W, b and loss are drawn, and saves what is seen then."""
    with tensorboard(logdir) as url, browser() as page:
        page.open(url)
        end = time.monotonic() + seconds
        while not {"W", "b", "loss"} <= set(page.charts()):
            if time.monotonic() > end:
                sys.exit(f"screenshot: TensorBoard shows no charts of W, b and loss in {logdir}")
            time.sleep(0.5)
        time.sleep(1)  # curves move into their places
        pathlib.Path(path).write_bytes(page.picture())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("logdir")
    parser.add_argument("picture")
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    if not is_installed():
        sys.exit("screenshot: chromium and chromedriver are needed and not installed")
    main(chosen.logdir, chosen.picture, seconds=chosen.seconds)
