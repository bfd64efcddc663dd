"""Domain types of the contract: pages, load modes, outcomes, replies.

Pure. No protobuf here: `request_codec` and `reply_codec` translate, and `tests/proto/test_gencode.py` holds the numbers
below to those of `swaptier/v1/swaptier.proto`. Both the tier and the emulated host speak in these words and never in
each other's.
"""

from enum import IntEnum
from typing import NamedTuple

PAGE_BYTES = 4096
"""One page. The emulator is order-0 only: no large folios."""

WORD_BYTES = 8
"""The unit in which a page can be same-filled: the kernel's unsigned long on 64-bit."""

BATCH_SLOTS_MAX = 256
"""Slots in one message: 1 MiB of pages, well inside gRPC's 4 MiB default and about 1 ms of lz4."""

EPOCH_MAX = (1 << 64) - 1
"""What the contract's fixed64 can say."""

NAME_BYTES_MAX = 128
"""Client ids and area names in UTF-8: they become metric labels and log fields."""

NO_GENERATION = 0
"""Generation of bytes that were never stored. Real generations start at 1."""

ZERO_PAGE = bytes(PAGE_BYTES)


class LoadMode(IntEnum):
    """What a load leaves behind in the tier."""

    SHARED = 1
    """The tier keeps its copy and stays the owner; the host holds a copy."""
    EXCLUSIVE = 2
    """The kernel's exclusive load: the entry is gone when the reply leaves."""
    CLAIM = 3
    """Exclusive, but kept as handed off until acknowledged or the lease ends."""


class Outcome(IntEnum):
    """What happened to one slot; see each RPC in the proto for which of these it answers with."""

    HIT = 1
    SAME_FILLED = 2
    DEVICE = 3
    MISS = 4
    LOST = 5
    STALE_GENERATION = 6
    CLAIMED = 7
    REJECTED = 8
    ERROR = 9
    STORED = 10
    INVALIDATED = 11
    ACKNOWLEDGED = 12
    LEASE_ENDED = 13


STORE_OUTCOMES = (Outcome.STORED, Outcome.DEVICE, Outcome.REJECTED, Outcome.STALE_GENERATION, Outcome.ERROR)
LOAD_OUTCOMES = (
    *(Outcome.HIT, Outcome.SAME_FILLED, Outcome.DEVICE, Outcome.MISS, Outcome.LOST, Outcome.STALE_GENERATION),
    *(Outcome.CLAIMED, Outcome.ERROR),
)
LOOKUP_OUTCOMES = (Outcome.HIT, Outcome.MISS)
ACKNOWLEDGE_OUTCOMES = (Outcome.ACKNOWLEDGED, Outcome.STALE_GENERATION, Outcome.LEASE_ENDED)
INVALIDATE_OUTCOMES = (Outcome.INVALIDATED, Outcome.MISS, Outcome.STALE_GENERATION)
"""What each request may be answered with."""


class Reason(IntEnum):
    """Why a slot got its outcome."""

    NONE = 0
    POOL_LIMIT = 1
    COMPRESS_POOR = 2
    AREA_LIMIT = 3
    CHECKSUM = 4
    DECOMPRESS = 5
    NEVER_STORED = 6
    TAKEN = 7
    FREED = 8
    RESTARTED = 9
    DEVICE_ERROR = 10
    REFUSED_STORE = 11
    DEVICE_LIMIT = 12


class AreaOptions(NamedTuple):
    """How an area behaves; fixed while it is open."""

    device_free_on_read: bool = False
    """The device drops what it has when read, as zram did from 2013 to 2022 (commit b430e9d1c6d4)."""
    pool_bytes_max: int | None = None
    """What its entries may take of the pool; None for no limit of its own (memory.zswap.max)."""
    writeback: bool = True
    """Pages may go to the device (memory.zswap.writeback); without, one that the pool refuses is rejected."""


class SlotReply(NamedTuple):
    """The reply to a store, lookup, acknowledge or invalidate of one slot."""

    outcome: Outcome
    reason: Reason = Reason.NONE
    entry_bytes: int = 0
    """After a store: bytes the entry takes in the pool; 0 for none and for same-filled pages."""


class LoadReply(NamedTuple):
    """The reply to the load of one slot.

    Bytes are present exactly when `outcome` is HIT or DEVICE (`page`) or SAME_FILLED (`fill_word`).
    """

    outcome: Outcome
    reason: Reason = Reason.NONE
    generation: int = NO_GENERATION
    """Of the bytes; NO_GENERATION for a device slot that was never written."""
    checksum: int = 0
    """XXH3-64 of the page as it was stored; 0 without bytes."""
    page: bytes | None = None
    """Exactly PAGE_BYTES."""
    fill_word: int | None = None
    """The 64-bit word, little-endian, that the whole page repeats."""
    entry_bytes: int = 0
    """Bytes the entry took in the pool when it was read; 0 for none and for same-filled pages."""

    def content(self) -> bytes | None:
        """Return the page, exactly PAGE_BYTES long, or None when the reply carries no bytes."""
        if self.fill_word is not None:
            return fill_page(self.fill_word)
        return self.page


def fill_page(word: int) -> bytes:
    """Return the page, PAGE_BYTES long, that repeats the 64-bit *word*."""
    return word.to_bytes(WORD_BYTES, "little") * (PAGE_BYTES // WORD_BYTES)
