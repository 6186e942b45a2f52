"""TensorBoard's web page, with defaults that show every run and every step, and follow training.

No flag of TensorBoard sets these defaults, and its address only the smoothing: they are texts in
the script of the page. The page keeps what a person has chosen instead, as it always does.
"""

import io
import zipfile
from typing import BinaryIO

_SCRIPT = "index.js"
# A text of the script, how often it is there in TensorBoard 2.20 and 2.21, and what replaces it.
_DEFAULTS = (
    # The side bar of Time Series selects up to 500 runs, those of the other dashboards up to 40.
    (b"maxNamesToEnableByDefault=40", 1, b"maxNamesToEnableByDefault=500"),
    # Smoothing bends the beginning of a curve, and "outliers" are the steps that move most.
    (b"scalarSmoothing:.6", 1, b"scalarSmoothing:0"),  # Time Series
    (b'"_smoothingWeight",{defaultValue:.6}', 4, b'"_smoothingWeight",{defaultValue:0}'),
    (b"ignoreOutliers:!0", 1, b"ignoreOutliers:!1"),  # Time Series
    (
        b'"_ignoreYOutliers",{defaultValue:!0',
        4,
        # Under another key in the browser's memory, where the page stores its own default too.
        b'"_cutYOutliers",{polymerProperty:"_ignoreYOutliers",defaultValue:!1',
    ),
    # Every 30 seconds, the shortest period that the page accepts.
    (b"reloadEnabled:!1", 1, b"reloadEnabled:!0"),
    (b"{isSettingsPaneOpen:!0", 1, b"{isSettingsPaneOpen:!1"),  # the charts need its place
)


def with_defaults(page: BinaryIO) -> BinaryIO:
    """The page, a zip file, with these defaults; an unknown version of it stays as it is."""
    with zipfile.ZipFile(page) as original:
        files = {name: original.read(name) for name in original.namelist()}
    page.seek(0)
    script = files.get(_SCRIPT, b"")
    if any(script.count(text) != count for text, count, _ in _DEFAULTS):
        return page
    for text, _, replacement in _DEFAULTS:
        script = script.replace(text, replacement)
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as copy:
        for name, content in (files | {_SCRIPT: script}).items():
            copy.writestr(name, content)
    changed.seek(0)
    return changed
