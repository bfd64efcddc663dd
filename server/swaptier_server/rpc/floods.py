"""Which callers do so much of something that it is a flood, and when that began and ended.

Pure: `look` is told the time, about once a second. What a caller does is counted between two looks; the rate of one
kind is a flood from its limit on, and until it stays below half of it for some seconds, so one flood is named once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

LOOK_SECONDS_MIN: Final = 0.5
"""Between two looks; a rate over less would be chance."""
QUIET_SECONDS: Final = 5.0
"""Below half the limit for so long, a flood is over."""


class Kind(StrEnum):
    """What there can be too much of."""

    CALLS = "calls"
    """Unary calls and streams begun; the messages of a stream are no calls."""
    REFUSED = "refused"
    """Calls that ended with an error, and messages of streams that were answered with one."""
    RESETS = "resets"
    """Calls that their client broke off."""
    CONNECTIONS = "connections"
    """Connections that were made and called, or shook hands."""
    HEALTH = "health"
    """Health calls."""


LIMITS: Final = {Kind.CALLS: 500, Kind.REFUSED: 50, Kind.RESETS: 50, Kind.CONNECTIONS: 50, Kind.HEALTH: 50}
"""Per second, from which on it is a flood. A host has a stream and calls a few times a second, also when it starts
anew or is refused, since it waits ever longer between attempts; some hundred probes ask for health once a second."""


class Flood(NamedTuple):
    """One flood, as it begins or when it is over."""

    kind: Kind
    caller: str | None
    per_second: int
    """When it began; on average, when it is over."""
    seconds: float
    """How long it lasted; 0 when it begins."""
    is_over: bool


@dataclass(slots=True)
class _Course:
    began_ns: int
    loud_ns: int
    """When it was last above half its limit."""
    count: int


class Floods:
    """What callers do, counted by kind and caller."""

    def __init__(self, now_ns: int) -> None:
        """Count from *now_ns* on, of a monotonic clock."""
        self._counts: Final[Counter[tuple[Kind, str | None]]] = Counter()
        self._courses: Final[dict[tuple[Kind, str | None], _Course]] = {}
        self._looked_ns = now_ns

    def count(self, kind: Kind, caller: str | None, times: int = 1) -> None:
        """Note that *caller* did this."""
        if times:
            self._counts[kind, caller] += times

    def under_way(self, kind: Kind) -> int:
        """Return how many floods of this *kind* there are now."""
        return sum(one is kind for one, _ in self._courses)

    def look(self, now_ns: int) -> Iterator[Flood]:
        """Yield the floods that have begun, and those that are over, since the last look."""
        seconds = (now_ns - self._looked_ns) / 1e9
        if seconds < LOOK_SECONDS_MIN:
            return
        self._looked_ns = now_ns
        counts = dict(self._counts)
        self._counts.clear()
        for (kind, caller), count in counts.items():
            course = self._courses.get((kind, caller))
            if course is not None:
                course.count += count
                if count / seconds >= LIMITS[kind] / 2:
                    course.loud_ns = now_ns
            elif count / seconds >= LIMITS[kind]:
                self._courses[kind, caller] = _Course(now_ns - round(seconds * 1e9), now_ns, count)
                yield Flood(kind, caller, round(count / seconds), 0.0, is_over=False)
        for (kind, caller), course in list(self._courses.items()):
            if now_ns - course.loud_ns >= round(QUIET_SECONDS * 1e9):
                del self._courses[kind, caller]
                lasted = (course.loud_ns - course.began_ns) / 1e9
                yield Flood(kind, caller, round(course.count / lasted), lasted, is_over=True)
