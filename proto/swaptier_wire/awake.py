"""A clock that stands still while its program does: stopped by a signal, a suspended machine, a loop that is held up.

Pure; the clock under it is handed in. Rules of conduct:
  - Whatever runs the program's event loop calls `beat()` at regular intervals. From one beat to the next the clock
    advances by one step at most, so the time for which the loop did not run does not count.
  - It never goes back, whatever the clock under it does.
  - What was queued meanwhile is read by the loop in the interval after the beat that came late. So nothing is expired,
    by this clock or by another, while `is_settled` is false.
"""

from collections.abc import Callable


class AwakeClock:
    """Time in which the program ran."""

    __slots__ = ("_awake_ns", "_beat_ns", "_is_late", "_now_ns", "_said_ns", "_step_ns")

    def __init__(self, now_ns: Callable[[], int], step_seconds: float) -> None:
        """Begin at what *now_ns* says. A step is longer than a beat's interval, by what a busy loop may need."""
        self._now_ns = now_ns
        self._step_ns = round(step_seconds * 1e9)
        self._beat_ns = self._awake_ns = self._said_ns = now_ns()
        self._is_late = False

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
        """The last beat was in time, and the next one is not overdue: what was sent to the program has been read."""
        return not self._is_late and self._now_ns() - self._beat_ns <= self._step_ns

    def beat(self) -> float:
        """Say that the loop runs; return for how many seconds it did not: 0 when this beat is in time."""
        now_ns = self._now_ns()
        lost_ns = max(now_ns - self._beat_ns - self._step_ns, 0)
        self._awake_ns, self._beat_ns, self._is_late = self.now_ns(), now_ns, lost_ns > 0
        return lost_ns / 1e9
