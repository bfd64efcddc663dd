"""One message of the fast path: operations packed into batches, and the replies dealt out again.

Pure, but for the futures it ends. Checksums are taken here, as late as the columns are built and before the bytes
leave this process; `swaptier_wire.reply_codec` checks them on the way back, so that other bytes than those of the store
become Outcome.ERROR with Reason.CHECKSUM and never a page.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from swaptier_client.coalesce import PendingRequest
from swaptier_client.mm.effects import Acknowledge, Invalidate, Load, Lookup, RequestReply, Store
from swaptier_wire import batches
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import SwapTierError

E = TypeVar("E", Load, Store, Lookup, Acknowledge, Invalidate)


class Message:
    """Operations that travel together, by kind. Lives from the queue to its answer; then all its operations end."""

    __slots__ = ("_by_kind", "deadline", "ops", "overtaken", "request", "sent_at")

    def __init__(self, header: batches.Header, ops: Sequence[PendingRequest], *, sent_at: float) -> None:
        """Pack *ops*, which are of different slots and agree on require_generation. *sent_at* is the loop's time."""
        self.sent_at = sent_at
        self.ops = ops
        self.deadline = min(op.deadline for op in ops)
        """The earliest of those of its operations that are not late yet; infinite when all are."""
        self.overtaken = 0
        """Later messages that were answered before this one."""
        self._by_kind: dict[type, list[PendingRequest]] = {}
        for op in ops:
            self._by_kind.setdefault(type(op.effect), []).append(op)
        self.request = batches.RequestBatches(
            header,
            store=_stores(self._effects(Store)),
            load=_loads(self._effects(Load)),
            lookup=_lookups(self._effects(Lookup)),
            acknowledge=_acknowledges(self._effects(Acknowledge)),
            invalidate=_invalidates(self._effects(Invalidate)),
        )

    def resolve(self, replies: batches.ReplyBatches) -> None:
        """End every operation with its reply; *replies* were decoded against `request`, so they fit."""
        answers: tuple[tuple[type, Sequence[RequestReply] | None], ...] = (
            (Store, replies.store),
            (Load, replies.load),
            (Lookup, replies.lookup),
            (Acknowledge, replies.acknowledge),
            (Invalidate, replies.invalidate),
        )
        for kind, answered in answers:
            for op, reply in zip(self._by_kind.get(kind, ()), answered or (), strict=True):
                op.resolve(reply)

    def fail(self, error: Callable[[], SwapTierError]) -> None:
        """End every operation with an error of its own, since each is raised in another task."""
        for op in self.ops:
            op.fail(error())

    def fail_late(self, now: float, error: Callable[[], SwapTierError]) -> None:
        """End with an error the operations whose own deadline has passed."""
        for op in self.ops:
            if op.deadline <= now:
                op.fail(error())
        self.deadline = min((op.deadline for op in self.ops if op.deadline > now), default=math.inf)

    def _effects(self, kind: type[E]) -> list[E]:
        return [op.effect for op in self._by_kind.get(kind, ()) if isinstance(op.effect, kind)]


def _stores(effects: list[Store]) -> batches.Stores | None:
    pages = [effect.page for effect in effects]
    return batches.Stores(*_slots(effects), pages, list(map(page_checksum, pages))) if effects else None


def _loads(effects: list[Load]) -> batches.Loads | None:
    if not effects:
        return None
    return batches.Loads(
        *_slots(effects),
        modes=[effect.mode for effect in effects],
        request_ids=[effect.request_id for effect in effects],
        require_generation=effects[0].require_generation,
    )


def _lookups(effects: list[Lookup]) -> batches.Lookups | None:
    return batches.Lookups([effect.entry.offset for effect in effects]) if effects else None


def _acknowledges(effects: list[Acknowledge]) -> batches.Acknowledges | None:
    return batches.Acknowledges(*_slots(effects), [effect.request_id for effect in effects]) if effects else None


def _invalidates(effects: list[Invalidate]) -> batches.Invalidates | None:
    return batches.Invalidates(*_slots(effects)) if effects else None


def _slots(effects: Iterable[Store | Load | Acknowledge | Invalidate]) -> tuple[list[int], list[int]]:
    """Return the columns offsets and generations."""
    return [effect.entry.offset for effect in effects], [effect.generation for effect in effects]
