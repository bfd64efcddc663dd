"""Whose message is worked on next: round robin by tenant, by what the work costs, some of it in each turn of the loop.

Pure: the event loop comes in as what calls a function in its next turn. Work is a generator that yields after each
slice what that cost, in pages; a page takes some 10 us. Rules of conduct:
  - Work is queued by flow: a tenant, or a connection of a server without tenants. A flow whose turn it is may spend
    QUANTUM, less what it overspent before (deficit round robin, charged when a slice is done). So while one flow waits
    every other one spends QUANTUM and a slice at most, however many messages wait there.
  - A flow that did not wait for a round comes first, with a QUANTUM, even when the turn of the loop is spent: who asks
    for little now and then waits for nobody. It is of the round until that has come to it, so it is new once a round.
  - Within a flow, what came first is done first. A call has one message here at a time, so its streams take turns, too.
  - A turn of the loop spends TURN, a QUANTUM for those that are new, and a slice at most. Then come sockets, clocks,
    health and metrics.
  - Work that has not begun can be withdrawn. What has begun is run to its end, whoever waits for it.
  - While it is on hold nothing is begun or gone on with.

Models: deficit round robin (Shreedhar and Varghese, 1995), as fq_codel serves its flows.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from swaptier_server.tier.slices import SLICE_SLOTS, Slices

_T = TypeVar("_T")

QUANTUM: Final = SLICE_SLOTS
"""What a flow may spend before it is the next one's turn."""
TURN: Final = SLICE_SLOTS
"""What one turn of the loop may spend: about 0.3 ms."""
MESSAGE: Final = 8
"""What a message costs besides its slices, so that small ones are not for nothing."""
BLOCKED: Final = 0
"""What a generator yields instead of a cost when it can only go on after another flow's work."""


class Work(Generic[_T]):
    """What is to be done, or was."""

    def __init__(self, steps: Slices[_T]) -> None:
        """Let *steps* be run."""
        self.on_end: Callable[[], None] = lambda: None
        """Called when they are at their end, or failed."""
        self.has_begun = False
        self.is_over = False
        self._steps: Final = steps
        self._results: Final[list[_T]] = []
        self._error: Exception | None = None

    def go_on(self) -> int:
        """Run a slice; return what it cost."""
        self.has_begun = True
        try:
            return next(self._steps)
        except StopIteration as end:
            self._results.append(end.value)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the call that waits for it
            self._error = error
        self.is_over = True
        self.on_end()
        return MESSAGE

    def result(self) -> _T:
        """Return what came of it, once.

        Raises:
            Exception: what it failed with.
        """
        assert self.is_over, "it is not at its end"
        error, self._error = self._error, None
        if error is None:
            return self._results.pop()
        try:
            raise error
        finally:
            del error  # else its traceback would hold this frame, and this frame the error


class _Flow:
    """What one tenant waits for."""

    __slots__ = ("credit", "works")

    def __init__(self) -> None:
        self.credit = 0
        self.works: deque[Work[object]] = deque()


class Turns:
    """All work that waits, and its order."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Let *call_soon* call what works in the next turn of the loop."""
        self._call_soon: Final = call_soon
        self._flows: Final[OrderedDict[Hashable, _Flow]] = OrderedDict()
        """Those with work or served in this round, the next to be served first."""
        self._left = TURN
        """Of this turn of the loop."""
        self._is_called = False
        self._is_on_hold = False
        self.submitted = 0
        """Work that was ever submitted."""

    def submit(self, flow: Hashable, work: Work[_T]) -> None:
        """Queue *work*. Where nothing else waits it is begun at once, and may be over when this returns."""
        self.submitted += 1
        waiting = self._flows.get(flow)
        is_new = waiting is None
        if waiting is None:
            waiting = self._flows[flow] = _Flow()
            self._flows.move_to_end(flow, last=False)
        waiting.works.append(work)  # type: ignore[arg-type]  # what comes of it is its caller's business
        self._spend(-QUANTUM if is_new else 0)

    def withdraw(self, flow: Hashable, work: Work[_T]) -> bool:
        """Let *work*, which was submitted, not be done; False when it has begun."""
        if work.has_begun:
            return False
        self._flows[flow].works.remove(work)  # type: ignore[arg-type]  # likewise
        return True

    def hold(self) -> None:
        """Do nothing more until `let_go()`."""
        self._is_on_hold = True

    def let_go(self) -> None:
        """Go on."""
        self._is_on_hold = False
        self._spend()

    def finish(self) -> None:
        """Run to its end what has begun, at once."""
        assert not self._is_on_hold, "something else has what it needs"
        while begun := [flow for flow in self._flows.values() if flow.works and flow.works[0].has_begun]:
            for flow in begun:
                work = flow.works[0]
                while not work.is_over and work.go_on() != BLOCKED:
                    continue
                if work.is_over:
                    flow.works.popleft()

    def _spend(self, down_to: int = 0) -> None:
        """Work for what this turn of the loop has left, down to 0; the first flow may have it go down to that."""
        idle = 0
        while self._left > down_to and idle < len(self._flows) and not self._is_on_hold:
            name, flow = next(iter(self._flows.items()))
            if not flow.works:
                del self._flows[name]
                continue
            if flow.credit <= 0:
                flow.credit += QUANTUM
            spent = self._serve(flow, down_to)
            idle = 0 if spent or flow.credit <= 0 else idle + 1
            if flow.credit <= 0 or not spent or not flow.works:
                self._flows.move_to_end(name)
            down_to = 0
        if (self._left < TURN or self._flows) and not self._is_called and not self._is_on_hold:
            self._is_called = True
            self._call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_called = False
        self._left = TURN
        self._spend()

    def _serve(self, flow: _Flow, down_to: int) -> int:
        """Spend what *flow* may; return how much that was."""
        spent = 0
        while flow.works and flow.credit > 0 and self._left > down_to and not self._is_on_hold:
            work = flow.works[0]
            cost = work.go_on()
            if work.is_over:
                flow.works.popleft()
            elif cost == BLOCKED:
                break
            spent += cost
            flow.credit -= cost
            self._left -= cost
        return spent
