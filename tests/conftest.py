"""What holds for every test: how long an example of a property may take, and which files begin."""

import pytest
from hypothesis import settings

# A property says what is right, not how fast: 200 ms, the default, are missed on a machine that has other work, and the
# test then fails as flaky. The rest is taken from the profile that hypothesis chose, which is another one under CI.
settings.register_profile("swaptier", deadline=None)
settings.load_profile("swaptier")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow races first: a long file that begins last is waited for alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow_race")}
    items.sort(key=lambda item: item.path not in slow)
