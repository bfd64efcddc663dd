"""What a fault can wait for: the effects its coroutine yields, and what it is sent back.

Pure. A path through mm is a generator. It yields an effect, the driver performs it and sends the reply; **code between
two yields is atomic, a yield drops the lock**, so after every yield recheck what you read before it. Expected outcomes
(a miss, a refusal) are values sent in. Transport failures are thrown in as `SwapTierError`, which says whether the
request may have taken effect.

Rules for this file's editors: an effect is data, never a callback into mm; a new effect needs all three drivers
(asyncio, seeded, exhaustive).
"""

from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias, TypeVar

from swaptier_wire.types import LoadMode, LoadReply, SlotReply


class SwapEntry(NamedTuple):
    """Where a swapped-out page lives. Models: swp_entry_t."""

    type: int
    """Index of the swap device on this host, as swp_type()."""
    offset: int
    """Slot on that device, as swp_offset()."""


class Load(NamedTuple):
    """Read a slot from the tier. Sent back: LoadReply. Models: swap_read_folio() and zswap_load()."""

    entry: SwapEntry
    generation: int
    mode: LoadMode
    request_id: int
    require_generation: bool = False


class Store(NamedTuple):
    """Write a page, PAGE_BYTES long, to a slot. Sent back: SlotReply. Models: swap_writepage() and zswap_store()."""

    entry: SwapEntry
    generation: int
    page: bytes


class Lookup(NamedTuple):
    """Ask whether the pool holds a slot. Sent back: SlotReply, HIT or MISS. Models: the RFC's zswap lookup."""

    entry: SwapEntry


class Acknowledge(NamedTuple):
    """End a hand-off: the page is safe here. Sent back: None, at once; no path waits for the reply.

    It rides on the stream with whatever goes out next. One that is lost costs the tier memory until the lease ends, and
    never a page. No kernel model: a function's return cannot be lost.
    """

    entry: SwapEntry
    generation: int
    request_id: int


class Invalidate(NamedTuple):
    """Forget a slot: it is free. Sent back: SlotReply. Models: zswap_invalidate() at the last swap_free()."""

    entry: SwapEntry
    generation: int


Request: TypeAlias = Load | Store | Lookup | Acknowledge | Invalidate
"""An effect that crosses the wire."""

RequestReply: TypeAlias = LoadReply | SlotReply


class Batch(NamedTuple):
    """Several requests at once, on different slots. They may be performed in any order.

    Sent back: a list of replies in the order of the requests, an exception in place of a reply where one failed.

    Models: a plug (blk_start_plug) around reclaim's or readahead's reads and writes.
    """

    requests: tuple[Request, ...]


class WaitQueue:
    """Coroutines parked until something changes. Models: wait_queue_head_t, without exclusive waiters.

    No wake-up is lost: the check that decides to wait and the `Wait` it yields are one atomic step, and the driver
    parks the coroutine before anything else runs. A coroutine is parked as the call that makes it runnable, which never
    resumes it at once.
    """

    __slots__ = ("name", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiters: list[Callable[[], None]] = []

    def park(self, wake: Callable[[], None]) -> None:
        """Add a coroutine that *wake* makes runnable; only drivers call this."""
        self.waiters.append(wake)

    def unpark(self, wake: Callable[[], None]) -> None:
        """Forget a coroutine that is gone; no-op when it was woken already. Only drivers call this."""
        if wake in self.waiters:
            self.waiters.remove(wake)

    def wake_all(self) -> None:
        """Wake everything parked here, in the order it came."""
        parked, self.waiters = self.waiters, []
        for wake in parked:
            wake()


class Wait(NamedTuple):
    """Sleep until the queue is woken. Sent back: None. Recheck the condition: a wake-up is a hint."""

    queue: WaitQueue


class Preempt(NamedTuple):
    """Anyone may run here: the kernel holds no lock although nothing is remote. Sent back: None."""

    point: str
    """Where in the path, for traces: "fault.before_ptl"."""


Effect: TypeAlias = Request | Batch | Wait | Preempt

Reply: TypeAlias = LoadReply | SlotReply | list[RequestReply | BaseException] | None
"""What a driver sends back; which of these, each effect's docstring says."""

T = TypeVar("T")
Path: TypeAlias = Generator[Effect, Reply, T]
"""A path through mm: yields effects, is sent replies, returns T."""
