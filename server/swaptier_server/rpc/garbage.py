"""When Python looks for reference cycles: not while somebody waits.

Touches the collector of the whole process. A full collection looks at every object: 10 ms for what a server consists
of, 0.1 s more for each 250,000 pages in its pool, and Python begins one whenever there are a quarter more objects than
before. Nothing of a message is in a cycle as a rule, so there is little to find. Rules of conduct:
  - What the server consists of is looked at no more. Young objects are, as ever: that takes some 0.1 ms.
  - The rest is looked at when nothing was asked for a second, at most a thousandth of the time; and when it was due for
    long, all the same.
"""

import gc
from collections.abc import Callable
from typing import Final

PAUSE_SECONDS: Final = 60.0
"""From one full collection to the next, at least."""
PARTS: Final = 1000
"""A full collection is due after so many times as long as the last one took."""
PATIENCE: Final = 10
"""One that has been due for so many pauses begins although the server is busy."""
_YOUNG, _MIDDLE, _NEVER = 700, 10, 1 << 30


class Collector:
    """Decides when the next full collection is."""

    def __init__(self, now_ns: Callable[[], int], collect: Callable[[], object] = gc.collect) -> None:
        """Go by the clock *now_ns*."""
        self._now_ns: Final = now_ns
        self._collect: Final = collect
        self._last_ns = now_ns()
        self._pause_ns = round(PAUSE_SECONDS * 1e9)
        self._seen = 0

    def look(self, asked: int) -> None:
        """Collect if it is due and nobody has asked since the last look; *asked* is how often anybody has."""
        is_idle, self._seen = asked == self._seen, asked
        due_ns = self._last_ns + self._pause_ns * (1 if is_idle else PATIENCE)
        if self._now_ns() < due_ns:
            return
        began_ns = self._now_ns()
        self._collect()
        self._last_ns = self._now_ns()
        self._pause_ns = max(round(PAUSE_SECONDS * 1e9), PARTS * (self._last_ns - began_ns))


def leave_the_rest_to_a_collector() -> None:
    """Let Python do no full collection by itself, nor look at what is there now. Called once a server serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)
