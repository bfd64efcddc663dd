"""What a host's stream to one tier counts: how far operations coalesce, and how long a message takes.

Pure. Plain integers, like `mm/counters.py`, so that a host process can send them as they are; the holder of
the registry (the load generator) exports `rows()`.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate

from swaptier_wire.batches import ReplyBatches, RequestBatches
from swaptier_wire.types import PAGE_BYTES, WORD_BYTES, Outcome

SLOTS_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Slots in a message, up to BATCH_SLOTS_MAX."""

ROUND_TRIP_BOUNDS_US = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 10**6)
"""From below one idle round trip on loopback to well into trouble; the deadline is beyond it."""


@dataclass(slots=True)
class Buckets:
    """A histogram of integers. `counts` has one element more than `bounds`: what is above the last one."""

    bounds: Sequence[int]
    """Inclusive upper bounds, rising."""
    sum: int = 0
    """Of everything observed."""
    counts: list[int] = field(init=False)
    """Observations per bucket, not cumulative."""

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: int) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Yield (upper bound, observations up to it), as Prometheus wants them; the last bound is "+Inf"."""
        yield from zip([*map(str, self.bounds), "+Inf"], accumulate(self.counts), strict=True)


@dataclass(slots=True)
class StreamCounters:
    """Counters of one stream since it was opened. Integers only grow; `rows()` flattens them for export."""

    page_bytes_sent: int = 0
    """Bytes of pages in stores sent; headers and columns are not counted."""
    page_bytes_received: int = 0
    """Bytes of pages in load replies; a same-filled page counts as its word."""
    messages_refused: int = 0
    """Messages the server answered with an error. They changed nothing, unless the error is indefinite."""
    damaged_loads: int = 0
    """Loads answered ERROR: what the tier holds or what arrived is not what was stored. Never handed on as a page."""
    epoch_changes: int = 0
    """The server started anew: pages it held in memory are lost."""
    streams_broken: int = 0
    """Streams that ended before they were closed."""
    reconnects: int = 0
    """Connections made after one had broken."""
    answers_lost: int = 0
    """Messages that had no answer although later ones had; whether they took effect is unknown."""
    answers_unexpected: int = 0
    """Answers to messages that were not waited for any more: too late, or the second of two. Not looked at."""
    message_slots: Buckets = field(default_factory=lambda: Buckets(SLOTS_BOUNDS))
    """Slots in each message sent: what coalescing gains."""
    round_trip_us: Buckets = field(default_factory=lambda: Buckets(ROUND_TRIP_BOUNDS_US))
    """Microseconds from taking a message out of the queue to its answer."""

    def count_sent(self, request: RequestBatches) -> None:
        """Count a message that is about to be sent."""
        batches = (request.store, request.load, request.lookup, request.acknowledge, request.invalidate)
        self.message_slots.observe(sum(len(batch.offsets) for batch in batches if batch is not None))
        if request.store is not None:
            self.page_bytes_sent += PAGE_BYTES * len(request.store.offsets)

    def count_received(self, replies: ReplyBatches) -> None:
        """Count the replies of one message."""
        for reply in replies.load or ():
            if reply.page is not None:
                self.page_bytes_received += PAGE_BYTES
            elif reply.fill_word is not None:
                self.page_bytes_received += WORD_BYTES
            elif reply.outcome is Outcome.ERROR:
                self.damaged_loads += 1

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (name, cause, value); for a histogram its `_sum` and, with the upper bound as cause, each `_bucket`."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, Buckets):
                yield f"{spec.name}_sum", "", value.sum
                for bound, count in value.cumulative():
                    yield f"{spec.name}_bucket", bound, count
            else:
                yield spec.name, "", value
