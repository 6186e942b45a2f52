"""Starts TensorFlow as every entry point does, and trains the three solutions once."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from pipeline import tf_runtime

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as on a terminal, and not as under nohup

tf_runtime.import_tensorflow()  # must be the first import: XLA reads its flags once in a process

from tests import helpers  # noqa: E402


def pytest_xdist_auto_num_workers() -> int:
    """One more than the number of cores, because some test always waits for a server."""
    return min(4, 1 + (os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the browser tests first; at the end they would leave the other cores idle."""
    items.sort(key=lambda item: item.path.name != "test_watch.py")


@pytest.fixture(scope="module", autouse=True)
def _same_path() -> Iterator[None]:
    """Removes a test file's user folders from the path, as other tests use the same file names."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> helpers.Runs:
    """The three solutions, trained on the default problem."""
    return helpers.Runs(tmp_path_factory.mktemp("runs"))
