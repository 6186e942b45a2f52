"""TensorBoard's web page, with defaults that show every run and every step, and follow training.

No flag of TensorBoard sets these defaults, and its URL sets only the smoothing. So the texts in
the page's script are replaced. The page still remembers the user's own choices.
"""

import io
import zipfile
from typing import BinaryIO

_SCRIPT = "index.js"
# A text of the script, its number of occurrences in TensorBoard 2.20 and 2.21, its replacement.
_DEFAULTS = (
    # The side bar of Time Series selects up to 500 runs; the other dashboards select up to 40.
    (b"maxNamesToEnableByDefault=40", 1, b"maxNamesToEnableByDefault=500"),
    # Smoothing distorts the start of a curve, and "outliers" are the steps that move most.
    (b"scalarSmoothing:.6", 1, b"scalarSmoothing:0"),  # Time Series
    (b'"_smoothingWeight",{defaultValue:.6}', 4, b'"_smoothingWeight",{defaultValue:0}'),
    (b"ignoreOutliers:!0", 1, b"ignoreOutliers:!1"),  # Time Series
    (
        b'"_ignoreYOutliers",{defaultValue:!0',
        4,
        # Uses another key of the browser's storage, as the page stores its own default there too.
        b'"_cutYOutliers",{polymerProperty:"_ignoreYOutliers",defaultValue:!1',
    ),
    # Every 30 seconds, the shortest period that the page accepts.
    (b"reloadEnabled:!1", 1, b"reloadEnabled:!0"),
    (b"{isSettingsPaneOpen:!0", 1, b"{isSettingsPaneOpen:!1"),  # leaves more room for the charts
)


def with_defaults(page: BinaryIO) -> BinaryIO:
    """Sets these defaults in the page, a zip file; an unknown version is left unchanged."""
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
