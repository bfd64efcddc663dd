"""What waits to be sent to one area, and which of it goes into the next message.

Pure, but for the futures it carries and never awaits. Nothing waits here on purpose: the stream takes a message
whenever it may send one, so operations coalesce exactly as far as the server is behind, and a lone one leaves at once.

The order rules, which `TierStream` promises to mm:

- First come, first sent, except where a rule below holds an operation back.
- An offset stands at most once in a message, because the server may apply the batches in it in any order. A second
  operation on an offset goes into a later message, and so does everything on that offset behind it.
- `require_generation` is a property of a whole load batch: a load that differs from the message's first one stays back.
- An operation that was cancelled before it was sent is never sent.

Models: the block layer's plug list, without merging.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swaptier_client.mm.effects import Load, Request, RequestReply
from swaptier_wire.errors import SwapTierError

QUEUE_OPS_MAX = 4096
"""Operations that may wait for one area: 16 messages, 16 MiB of pages. More threads than this wait for room."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One request on its way: waiting, then in one message, then answered or failed. Its future ends exactly once."""

    effect: Request
    reply: asyncio.Future[RequestReply]
    deadline: float = math.inf
    """By the stream's clock; its own, whatever else is in the message. Time without a connection moves it."""

    def resolve(self, reply: RequestReply) -> None:
        """End it with *reply*, unless its caller has gone."""
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: SwapTierError) -> None:
        """End it with *error*, unless its caller has gone."""
        if not self.reply.done():
            self.reply.set_exception(error)


class RequestQueue:
    """The operations that wait for one area, oldest first. At most *ops_max* of them."""

    __slots__ = ("_ops", "_ops_max")

    def __init__(self, ops_max: int = QUEUE_OPS_MAX) -> None:
        self._ops: deque[PendingRequest] = deque()
        self._ops_max = ops_max

    def __len__(self) -> int:
        return len(self._ops)

    @property
    def has_room(self) -> bool:
        """Whether one more may be added."""
        return len(self._ops) < self._ops_max

    def add(self, op: PendingRequest) -> None:
        """Append *op*; the caller has asked `has_room`."""
        assert self.has_room
        self._ops.append(op)

    def put_back(self, ops: Sequence[PendingRequest]) -> None:
        """Put *ops*, which were taken and had no effect, before all others: they came first. Room or not."""
        self._ops.extendleft(reversed(ops))

    def require_generations(self) -> None:
        """Have every load that waits answered with its own generation or none.

        For a server that started anew: these loads were made when it still held their pages, and its device may never
        have been given them.
        """
        for op in self._ops:
            if isinstance(op.effect, Load):
                op.effect = op.effect._replace(require_generation=True)

    def extend_deadlines(self, deadline: float) -> None:
        """Let nothing that waits be late before *deadline*: until now there was no server to send it to."""
        for op in self._ops:
            op.deadline = max(op.deadline, deadline)

    def take_late(self, now: float) -> Iterator[PendingRequest]:
        """Remove and yield, from the front, what was not sent before its deadline."""
        while self._ops and self._ops[0].deadline <= now:
            yield self._ops.popleft()

    def take_message(self, slots_max: int) -> list[PendingRequest]:
        """Remove and return the operations of the next message: at most *slots_max*, none only if none are left."""
        taken: list[PendingRequest] = []
        held_back: list[PendingRequest] = []
        offsets: set[int] = set()
        require_generation: bool | None = None
        while self._ops and len(taken) < slots_max:
            op = self._ops.popleft()
            if op.reply.cancelled():
                continue
            effect = op.effect
            offset = effect.entry.offset
            if offset in offsets:
                held_back.append(op)
                continue
            offsets.add(offset)  # also when held back below: what is behind it on this offset must not overtake it
            if isinstance(effect, Load):
                if require_generation is None:
                    require_generation = effect.require_generation
                elif require_generation != effect.require_generation:
                    held_back.append(op)
                    continue
            taken.append(op)
        self._ops.extendleft(reversed(held_back))
        return taken

    def drop_all(self) -> Iterator[PendingRequest]:
        """Remove and yield everything, oldest first."""
        while self._ops:
            yield self._ops.popleft()
