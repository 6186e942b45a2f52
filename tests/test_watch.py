"""Tests of the page of `python -m pipeline.watch` with its defaults."""

import io
import pathlib
import re
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator

import pytest
import tensorflow as tf
from tensorboard import assets

from pipeline.reporting import tensorboard_page
from scripts import screenshot
from tests import helpers

_PINNED = {"W", "b", "loss"}
_RUNS = 45  # more than the 40 up to which TensorBoard itself selects them all
_VALUES = (100.0, *[1.0] * 30)  # the first is an outlier: not one in twenty
# The corners of the curves in the Scalars dashboard.
_CURVES = """
const curves = root => [...root.querySelectorAll("*")].flatMap(element => [
    ...(element.matches("path.line") ? [element.getAttribute("d")] : []),
    ...(element.shadowRoot ? curves(element.shadowRoot) : [])]);
return curves(document);
"""

# All texts of the page, in its order.
_TEXTS = """
const texts = root => [...root.childNodes].flatMap(node =>
    node.nodeType === Node.TEXT_NODE ? [node.textContent.trim()]
    : ["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName) ? []
    : [...(node.shadowRoot ? texts(node.shadowRoot) : []), ...texts(node)]);
return texts(document.body).filter(text => text);
"""
_RELATIVE = """
const all = root => [...root.querySelectorAll("*")].flatMap(element =>
    [element, ...(element.shadowRoot ? all(element.shadowRoot) : [])]);
const buttons = all(document).filter(element => element.matches("paper-button"));
buttons.filter(button => button.textContent.trim() === "relative").forEach(one => one.click());
"""


def _files(page: io.BufferedIOBase) -> dict[str, bytes]:
    with zipfile.ZipFile(page) as files:
        return {name: files.read(name) for name in files.namelist()}


def test_only_the_script_of_the_page_is_changed() -> None:
    """All defaults are found in the script of the TensorBoard that is installed."""
    original = assets.get_default_assets_zip_provider()
    with original() as page:
        before, changed = _files(page), tensorboard_page.with_defaults(page)
    after = _files(changed)
    assert list(after) == list(before)
    assert [name for name in before if after[name] != before[name]] == ["index.js"]


@pytest.mark.parametrize("name", ["index.js", "main.js"])
def test_a_page_that_is_not_known_stays_as_it_is(name: str) -> None:
    """One page has another script, and one lacks a script with that name."""
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w") as files:
        files.writestr(name, "let maxNamesToEnableByDefault=40, scalarSmoothing:.6")
    content = page.getvalue()
    assert tensorboard_page.with_defaults(page).read() == content


@pytest.mark.slow
def test_it_is_served_where_the_person_says(tmp_path: pathlib.Path) -> None:
    """The link opens on this machine only, on all of its addresses, or on the given one."""
    hosts = {(): "localhost", ("--bind_all",): None, ("--host=127.0.0.1",): "127.0.0.1"}
    started = {
        flags: helpers.start("watch", tmp_path, "--port=0", *flags, cwd=tmp_path) for flags in hosts
    }
    for flags, process in started.items():
        assert process.stdout
        assert process.stdout.readline().startswith(f"Starting TensorBoard on {tmp_path}")
        link = process.stdout.readline()
        urllib.request.urlopen(link).close()
        process.terminate()
        out, err = process.communicate()
        assert (out, err) == ("", "")
        host = re.match(r"http://([^:/]+):\d+/\?pinnedCards=", link)
        assert host
        assert hosts[flags] in (None, host[1])
    both = helpers.call("watch", tmp_path, "--bind_all", "--host=localhost", cwd=tmp_path)
    assert both.returncode == 2
    assert both.stderr == "watch: Must not specify both --host and --bind_all.\n"


@pytest.mark.slow
def test_a_line_comes_before_the_seconds_of_the_start(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is printed even if the import of TensorFlow ends the process."""
    monkeypatch.setenv("TF_XLA_FLAGS", "--no_such_flag")
    result = helpers.call("watch", tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == f"Starting TensorBoard on {tmp_path}; Ctrl-C ends it. Its page:\n"


needs_a_browser = pytest.mark.skipif(
    not screenshot.is_installed(),
    reason="Chromium and ChromeDriver are not installed (Debian: chromium, chromium-driver)",
)


def _link(server: helpers.TensorBoard) -> str:
    return server.output.splitlines()[1]


def _open(page: screenshot.Browser, link: str) -> None:
    """Opens or reloads a page that has W, b and loss."""
    page.open("about:blank")
    page.open(link)
    _wait_for(lambda: set(page.charts()) >= _PINNED)


def _text(page: screenshot.Browser) -> str:
    return str(page.script("return document.body.innerText"))


def _wait_for(is_there: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < end, "the page did not show it in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser() -> Iterator[screenshot.Browser]:
    """One browser for all tests, with its storage for each address."""
    with screenshot.browser() as page:
        yield page


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of many runs, in each of which W, b and loss fall from 100 to 1 in one step."""
    logdir = tmp_path_factory.mktemp("many")
    for run in range(_RUNS):
        with tf.summary.create_file_writer(str(logdir / str(run))).as_default():
            for step, value in enumerate(_VALUES):
                for tag in _PINNED:
                    tf.summary.scalar(tag, value, step)
    with helpers.tensorboard(logdir) as server:
        server.wait_for(lambda: len(server.get("runs")) == _RUNS)
        yield _link(server)


@pytest.mark.slow
@needs_a_browser
def test_scalars_opens_with_all_curves_as_they_are(browser: screenshot.Browser, link: str) -> None:
    """No curve is left out, smoothed (which would bend its flat part) or cut off at its outlier."""
    _open(browser, link)
    browser.script("localStorage._ignoreYOutliers = true")  # as a page of TensorBoard's leaves it
    browser.show("scalars")
    _wait_for(lambda: browser.drawn("scalars") >= _RUNS)
    for curve in browser.script(_CURVES):
        first, *rest = (float(y) for y in re.findall(r",([-\d.]+)", curve))
        assert len(rest) == len(_VALUES) - 1
        assert 0 <= first < rest[0]
        assert len(set(rest)) == 1


@pytest.mark.slow
@needs_a_browser
def test_settings_count_where_they_make_sense(browser: screenshot.Browser, link: str) -> None:
    """Malformed settings leave the page unchanged; a user's settings replace our defaults."""
    _open(browser, link)
    for settings, is_smoothed in (
        ("no JSON", False),
        ("null", False),
        ('{"scalarSmoothing": 0.5}', True),
    ):
        browser.script("localStorage._tb_global_settings = arguments[0]", settings)
        _open(browser, link)
        assert ("Smoothed" in _text(browser)) is is_smoothed, settings


@pytest.mark.slow
@needs_a_browser
def test_a_page_opened_before_training_fills_itself(
    browser: screenshot.Browser, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "logs").mkdir()
    with helpers.tensorboard(tmp_path / "logs") as server:
        browser.open(_link(server))
        _wait_for(lambda: "Pinned" in _text(browser))
        process = helpers.start("train", "--run_name=run", "--epochs=100000000", cwd=tmp_path)
        try:
            _wait_for(lambda: set(browser.charts()) >= _PINNED, seconds=60)
            assert process.poll() is None
        finally:
            process.kill()
            helpers.finish(process)


@pytest.mark.slow
@needs_a_browser
def test_a_comparison_begins_with_what_differs(
    browser: screenshot.Browser, runs: helpers.Runs
) -> None:
    """HParams has loop and model first; over relative time the curves are curves."""
    with helpers.tensorboard(runs.logdir) as server:
        _open(browser, _link(server))
        browser.show("hparams")
        _wait_for(lambda: "keras-fit (logs)" in browser.script(_TEXTS))
        texts = browser.script(_TEXTS)
        columns = texts[texts.index("Trial ID") + 2 :]
        assert columns[:2] == ["loop", "model"]
        assert columns[5:8] == ["final/diverged", "final/loss", "final/validation_loss"]
        browser.show("scalars")
        _wait_for(lambda: browser.drawn("scalars") >= 9)
        browser.script(_RELATIVE)
        time.sleep(1)
        for curve in browser.script(_CURVES):
            x = [float(number) for number in re.findall(r"[ML]([-\d.]+),", curve)]
            assert x == sorted(x)
            assert len(set(x)) > len(x) // 2  # no vertical line, though steps may be close


@pytest.mark.slow
@needs_a_browser
def test_a_sweep_of_twelve_opens_with_all_its_charts(
    browser: screenshot.Browser, tmp_path: pathlib.Path
) -> None:
    """Three of them diverge; the references are there once."""
    flags = ("--learning_rate=0.01,0.1,0.2,5", "--batch_size=0,67,100", "--epochs=30")
    result = helpers.call("sweep", *flags, "--run_name=s", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    with helpers.tensorboard(tmp_path / "logs" / "s") as server:
        # train, validation and final of twelve, and two references.
        server.wait_for(lambda: len(server.get("runs")) == 3 * 12 + 2)
        _open(browser, _link(server))
        for dashboard, least in (("scalars", 12), ("histograms", 6), ("images", 6)):
            browser.show(dashboard)
            _wait_for(lambda: browser.drawn(dashboard) >= least)  # noqa: B023
        browser.show("hparams")
        _wait_for(lambda: "lr=5.0,batch=100 (s)" in " ".join(browser.script(_TEXTS)))
        texts = browser.script(_TEXTS)
        assert texts[texts.index("Trial ID") + 2 :][:2] == ["batch_size", "learning_rate"]
