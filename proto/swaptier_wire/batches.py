"""Batches in columns: what one message asks for many slots, and what makes a batch acceptable.

Pure. The client builds these from its requests, `request_codec` and `reply_codec` carry them over the wire, the server
walks their columns. Columns are parallel: element i of each belongs to element i of `offsets`. A field of
`RequestBatches` and `ReplyBatches` is named as in `ExchangeRequest` and `ExchangeResponse`; None: the message has no
such batch.

The checks here refuse a message whole, before any of it is applied. They name columns and numbers, never content.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from swaptier_wire.errors import InvalidRequest
from swaptier_wire.types import (
    BATCH_SLOTS_MAX,
    NAME_BYTES_MAX,
    NO_GENERATION,
    PAGE_BYTES,
    LoadMode,
    LoadReply,
    SlotReply,
)

NOTHING_APPLIED = "Nothing was applied; correct the request."


class Header(NamedTuple):
    """Who asks, and for which area."""

    client_id: str
    """1 to NAME_BYTES_MAX bytes in UTF-8."""
    client_epoch: int
    """Rises each time the host starts anew."""
    request_id: int
    """Unique among the unanswered messages of one stream."""
    area: str
    """1 to NAME_BYTES_MAX bytes in UTF-8."""


class Stores(NamedTuple):
    """Slots to store. The columns stand in the order of the tier's store()."""

    offsets: list[int]
    generations: list[int]
    pages: list[bytes]
    """Each exactly PAGE_BYTES."""
    checksums: list[int]
    """`page_checksum` of each page, taken where the page was last known good."""


class Loads(NamedTuple):
    """Slots to load; the two flags hold for all of them."""

    offsets: list[int]
    generations: list[int]
    modes: list[LoadMode]
    request_ids: list[int]
    """Names each CLAIM; of other loads it is not sent, and arrives as 0 when no load of the batch is a CLAIM."""
    require_generation: bool = False
    pool_only: bool = False


class Lookups(NamedTuple):
    """Slots to look up."""

    offsets: list[int]


class Acknowledges(NamedTuple):
    """Hand-offs to end."""

    offsets: list[int]
    generations: list[int]
    request_ids: list[int]


class Invalidates(NamedTuple):
    """Slots that became free."""

    offsets: list[int]
    generations: list[int]


class RequestBatches(NamedTuple):
    """One message: at most one batch of each kind, at most BATCH_SLOTS_MAX slots in all, no offset twice."""

    header: Header
    store: Stores | None = None
    load: Loads | None = None
    lookup: Lookups | None = None
    acknowledge: Acknowledges | None = None
    invalidate: Invalidates | None = None


class ReplyBatches(NamedTuple):
    """The answer to one RequestBatches: for each batch in it one reply per slot, in the batch's order."""

    store: list[SlotReply] | None = None
    load: list[LoadReply] | None = None
    lookup: list[SlotReply] | None = None
    acknowledge: list[SlotReply] | None = None
    invalidate: list[SlotReply] | None = None


def split_pages(packed: bytes) -> list[bytes]:
    """Return the pages that stand one after the other in *packed*, each exactly PAGE_BYTES."""
    assert len(packed) % PAGE_BYTES == 0, len(packed)
    return [packed[start : start + PAGE_BYTES] for start in range(0, len(packed), PAGE_BYTES)]


def check_name(what: str, name: str) -> None:
    """Refuse a client id or area name that is empty or too long.

    Raises:
        InvalidRequest: definite.
    """
    size = len(name.encode("utf-8", "replace"))
    if not 1 <= size <= NAME_BYTES_MAX:
        raise InvalidRequest(
            f"header: {what} has {size} bytes and must have 1 to {NAME_BYTES_MAX} (is the header set?). "
            f"{NOTHING_APPLIED}"
        )


def check_size(kind: str, slots: int) -> None:
    """Refuse a batch, or a whole message, of no slots or of more than BATCH_SLOTS_MAX.

    Raises:
        InvalidRequest: definite.
    """
    if not 1 <= slots <= BATCH_SLOTS_MAX:
        raise InvalidRequest(f"{kind}: {slots} slots, must be 1 to {BATCH_SLOTS_MAX}. {NOTHING_APPLIED}")


def check_column(kind: str, column: str, length: int, slots: int) -> None:
    """Refuse a column that is not parallel to `offsets`.

    Raises:
        InvalidRequest: definite.
    """
    if length != slots:
        raise InvalidRequest(f"{kind}: {length} {column} for {slots} offsets, must be as many. {NOTHING_APPLIED}")


def check_offsets(kind: str, *columns: Sequence[int]) -> None:
    """Refuse an offset that stands twice in *columns* together: the slot's order would be undefined.

    Raises:
        InvalidRequest: definite.
    """
    offsets = list(chain.from_iterable(columns))
    if len(set(offsets)) == len(offsets):
        return
    seen: set[int] = set()
    for offset in offsets:
        if offset in seen:
            raise InvalidRequest(
                f"{kind}: offset {offset} stands twice, and once is the most in one message. {NOTHING_APPLIED}"
            )
        seen.add(offset)


def check_generations(kind: str, offsets: Sequence[int], generations: Sequence[int]) -> None:
    """Refuse NO_GENERATION, which names bytes that were never stored.

    Raises:
        InvalidRequest: definite.
    """
    if NO_GENERATION in generations:
        offset = offsets[generations.index(NO_GENERATION)]
        raise InvalidRequest(
            f"{kind}: generation {NO_GENERATION} for offset {offset}, and generations start at 1. {NOTHING_APPLIED}"
        )
