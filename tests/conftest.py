"""What holds for every test: how long an example of a property may take, and which files begin."""

import gc
import os
import signal
import sys

import pytest
from hypothesis import settings

# A property says what is right, not how fast: 200 ms, the default, are missed on a machine that has other work, and the
# test then fails as flaky. The rest is taken from the profile that hypothesis chose, which is another one under CI.
settings.register_profile("swaptier", deadline=None)
settings.load_profile("swaptier")


LONG = ("test_cells.py", "test_workloads.py")
"""Files that take a core tens of seconds, and have no slow race in them."""


# Under nohup SIGHUP is ignored, in a background job SIGINT and SIGQUIT; what a test starts would inherit that.
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


# Programs that tests start by the hundred take twice as long to load where nothing keeps their bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: one that begins last is waited for alone."""
    slow = {item.path for item in items if item.path.name in LONG or item.get_closest_marker("slow_race")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Collect garbage less often, and not among the modules and thousands of tests, which stay to the end.

    The explorer builds a world for each schedule: its tests take a tenth less CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)
