"""Which hand-offs are under way in the whole tier, and which of them ends next.

Pure; the clock is handed in. Rules of conduct:
  - All leases are equally long, so the order in which they were begun is the order in which they end.
  - A lease does not end by itself: `Tier.expire_leases()` ends those whose time has come. Until it is called, a
    lease that is overdue still counts. So an end is an event like any other, and can be put anywhere by a test.

No kernel model: there, a load and its caller share one fate (KERNEL.md section 5). The lease is SQS's visibility
timeout, bounded in number for the same reason.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final

from swaptier_server.tier.slot import Slot


class Leases:
    """Every lease of the tier, next to end first. At most one for each slot."""

    def __init__(self, duration_ns: int, now_ns: Callable[[], int]) -> None:
        """Know no lease; each will last *duration_ns* by the monotonic clock *now_ns*."""
        self.duration_ns: Final = duration_ns
        self._now_ns: Final = now_ns
        self._ends_ns: OrderedDict[Slot, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ends_ns)

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._ends_ns

    def begin(self, slot: Slot) -> None:
        """Let *slot* be leased for the whole duration from now on, whether it was or not."""
        end_ns = self._now_ns() + self.duration_ns
        assert not self._ends_ns or self._ends_ns[next(reversed(self._ends_ns))] <= end_ns, "the clock went back"
        self._ends_ns[slot] = end_ns
        self._ends_ns.move_to_end(slot)

    def end(self, slot: Slot) -> None:
        """Forget the lease of *slot*, which has one."""
        del self._ends_ns[slot]

    def first(self, slots_max: int) -> list[Slot]:
        """Return the slots whose leases end first, so many at most."""
        return list(islice(self._ends_ns, slots_max))

    def next_to_end(self) -> Slot | None:
        """Return the slot whose lease ends first; None without a lease."""
        return next(iter(self._ends_ns), None)

    def overdue(self, now_ns: int | None = None) -> Slot | None:
        """Return the slot whose lease ends first, if it has ended by *now_ns*, or by the clock."""
        slot = self.next_to_end()
        if slot is None or self._ends_ns[slot] > (self._now_ns() if now_ns is None else now_ns):
            return None
        return slot

    def next_end_ns(self) -> int | None:
        """Return when the next lease ends, by the clock; None without a lease."""
        return next(iter(self._ends_ns.values()), None)
