"""When a full collection is."""

from swaptier_server.garbage import PARTS, PATIENCE, PAUSE_SECONDS, Collector


class Tried:
    """A collector, a clock that stands until told, and how often it was collected."""

    def __init__(self, seconds: float = 0.01) -> None:
        """Let a collection take so long."""
        self.ns = 0
        self.collected = 0
        self._seconds = seconds
        self.collector = Collector(lambda: self.ns, self._collect)

    def _collect(self) -> None:
        self.collected += 1
        self.pass_time(self._seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * 1e9)


def test_an_idle_server_is_collected_after_a_pause() -> None:
    """Not before, and then not again before the next one."""
    tried = Tried()
    tried.collector.look(5)
    tried.pass_time(PAUSE_SECONDS / 2)
    tried.collector.look(5)
    assert tried.collected == 0
    tried.pass_time(PAUSE_SECONDS / 2)
    tried.collector.look(5)
    tried.collector.look(5)
    assert tried.collected == 1


def test_nobody_waits_for_a_collection_that_can_wait() -> None:
    """A server that is asked all the time is collected when it was due for long."""
    tried = Tried()
    for asked in range(PATIENCE):
        tried.pass_time(PAUSE_SECONDS - 1)
        tried.collector.look(asked + 1)
    assert tried.collected == 0
    tried.pass_time(PATIENCE)
    tried.collector.look(PATIENCE + 1)
    assert tried.collected == 1


def test_long_collections_are_rare() -> None:
    """They take a thousandth of the time at most."""
    tried = Tried(seconds=1)
    for _ in range(2):
        tried.pass_time(PAUSE_SECONDS)
        tried.collector.look(0)
    assert tried.collected == 1
    tried.pass_time(PARTS)
    tried.collector.look(0)
    assert tried.collected == 2
