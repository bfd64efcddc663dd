"""A clock that stands still while its program does: stopped by a signal, a suspended machine, a loop that is held up.

Pure; the clock under it is handed in. Rules of conduct:
  - Whatever runs the program's event loop calls `beat()` at regular intervals. From one beat to the next the clock
    advances by one step at most, so the time for which the loop did not run does not count.
  - It never goes back, whatever the clock under it does.
  - What was queued meanwhile is read by the loop in the interval after the beat that came late. So nothing is expired,
    by this clock or by another, while `is_settled` is false.
  - A loop that is only slow makes every beat late. After some in a row all that was queued at the first has been read,
    and things expire again, each beat at most a step nearer to their end.
"""

from collections.abc import Callable
from typing import Final

LATE_BEATS_MAX: Final = 4
"""Late beats in a row that are taken for stops; with this one the program is held to be slow."""


class AwakeClock:
    """Time in which the program ran."""

    __slots__ = ("_awake_ns", "_beat_ns", "_late_beats", "_now_ns", "_said_ns", "_step_ns")

    def __init__(self, now_ns: Callable[[], int], step_seconds: float) -> None:
        """Begin at what *now_ns* says. A step is longer than a beat's interval, by what a busy loop may need."""
        self._now_ns = now_ns
        self._step_ns = round(step_seconds * 1e9)
        self._beat_ns = self._awake_ns = self._said_ns = now_ns()
        self._late_beats = 0

    def now_ns(self) -> int:
        """Return the time."""
        passed_ns = min(self._now_ns() - self._beat_ns, self._step_ns)
        self._said_ns = max(self._said_ns, self._awake_ns + passed_ns)
        return self._said_ns

    def seconds(self) -> float:
        """Return the time in seconds."""
        return self.now_ns() / 1e9

    @property
    def is_settled(self) -> bool:
        """What was sent to the program has been read.

        The last beat was in time, or late like all of the last LATE_BEATS_MAX; and the next one is not overdue.
        """
        is_slow = self._late_beats >= LATE_BEATS_MAX
        return (is_slow or not self._late_beats) and self._now_ns() - self._beat_ns <= self._step_ns

    def beat(self) -> float:
        """Say that the loop runs; return for how many seconds it did not: 0 when this beat is in time."""
        now_ns = self._now_ns()
        lost_ns = max(now_ns - self._beat_ns - self._step_ns, 0)
        self._awake_ns, self._beat_ns = self.now_ns(), now_ns
        self._late_beats = self._late_beats + 1 if lost_ns else 0
        return lost_ns / 1e9
