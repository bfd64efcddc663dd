"""A tier link that remembers how loads ended: what a host knows of a page that is lost later.

Touches the event loop, through the futures it watches. It changes nothing that passes through. What a
faulty link saw of the answer itself comes first (`hazards.py`).
"""

import asyncio
from collections.abc import Callable
from functools import partial

from swaptier_client.connection import AnswerLost
from swaptier_client.driver import TierLink
from swaptier_client.mm.effects import Load, Request, RequestReply
from swaptier_loadgen.faults.hazards import UnknownOutcome
from swaptier_wire.errors import DeadlinePassed, SwapTierError
from swaptier_wire.types import LoadMode, LoadReply


class ObservedLink:
    """A tier as the driver sees it, and the first outcome of each slot's last exclusive load that stayed unknown.

    It remembers one generation a slot, so the area's size bounds its memory.
    """

    def __init__(self, tier: TierLink, on_stale: Callable[[Load], None] = lambda _load: None) -> None:
        """Pass everything on to *tier*; call *on_stale* for each exclusive load that brings another generation's bytes.

        It is called before the fault that asked goes on.
        """
        self._tier = tier
        self._on_stale = on_stale
        self._unknown: dict[int, tuple[int, UnknownOutcome]] = {}

    @property
    def has_room(self) -> bool:
        """Whether submit() may be called now."""
        return self._tier.has_room

    @property
    def epoch_changes(self) -> int:
        """How often the server started anew."""
        return self._tier.epoch_changes

    async def room(self) -> None:
        """Wait until there may be room."""
        await self._tier.room()

    def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
        """Start *effect*, and look at how a load that takes its page ends."""
        reply = self._tier.submit(effect)
        if isinstance(effect, Load) and effect.mode is LoadMode.EXCLUSIVE:
            reply.add_done_callback(partial(self._look, effect))
        return reply

    def unknown(self, offset: int, generation: int) -> UnknownOutcome:
        """Return how the first outcome of the load that took this page came to be unknown."""
        of_generation, unknown = self._unknown.get(offset, (0, UnknownOutcome.NO))
        return unknown if of_generation == generation else UnknownOutcome.NO

    def _look(self, effect: Load, reply: asyncio.Future[RequestReply]) -> None:
        if reply.cancelled():
            return
        if (error := reply.exception()) is None:
            answer = reply.result()
            if isinstance(answer, LoadReply) and answer.generation != effect.generation:
                self._on_stale(effect)
            return
        is_first = self.unknown(effect.entry.offset, effect.generation) is UnknownOutcome.NO
        if is_first and isinstance(error, SwapTierError) and not error.definite:
            self._unknown[effect.entry.offset] = (effect.generation, _why(error))


def _why(error: SwapTierError) -> UnknownOutcome:
    match error:
        case AnswerLost():
            return UnknownOutcome.OVERTAKEN
        case DeadlinePassed():
            return UnknownOutcome.LATE
        case _:
            return UnknownOutcome.BROKEN
