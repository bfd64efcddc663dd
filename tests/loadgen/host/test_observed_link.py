"""What a host remembers of how its loads began."""

import asyncio

import pytest

from swaptier_client.connection import AnswerLost
from swaptier_client.mm.effects import Load, Request, RequestReply, SwapEntry
from swaptier_loadgen.faults.hazards import UnknownOutcome
from swaptier_loadgen.host.observed_link import ObservedLink
from swaptier_wire.errors import DeadlinePassed, ServerDefect, SwapTierError, TierUnreachable
from swaptier_wire.types import LoadMode, LoadReply, Outcome

HIT = LoadReply(Outcome.HIT)


class Link:
    """Ends each request as it is told."""

    has_room = True
    epoch_changes = 0

    def __init__(self, *ends: SwapTierError | LoadReply) -> None:
        self._ends = list(ends)

    async def room(self) -> None:
        """There always is."""

    def submit(self, _effect: Request) -> asyncio.Future[RequestReply]:
        """End it in the next turn of the loop, as a stream does."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[RequestReply] = loop.create_future()
        end = self._ends.pop(0)
        if isinstance(end, SwapTierError):
            loop.call_soon(reply.set_exception, end)
        else:
            loop.call_soon(reply.set_result, end)
        return reply


async def ask(link: ObservedLink, generation: int, mode: LoadMode = LoadMode.EXCLUSIVE) -> None:
    """Load slot 5 and let the link look."""
    await asyncio.gather(link.submit(Load(SwapEntry(0, 5), generation, mode, 1)), return_exceptions=True)


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (AnswerLost("later ones came"), UnknownOutcome.OVERTAKEN),
        (DeadlinePassed("too late"), UnknownOutcome.LATE),
        (TierUnreachable("reset"), UnknownOutcome.BROKEN),
        (ServerDefect("crashed"), UnknownOutcome.BROKEN),
        (TierUnreachable("never sent", definite=True), UnknownOutcome.NO),
    ],
)
async def test_the_first_outcome_that_stayed_unknown_is_remembered(
    error: SwapTierError, unknown: UnknownOutcome
) -> None:
    """Repeats of the load and their ends do not change it; what was never sent had no outcome."""
    link = ObservedLink(
        Link(error, TierUnreachable("again"), HIT) if unknown is not UnknownOutcome.NO else Link(error, HIT)
    )
    await ask(link, 3)
    assert link.unknown(5, 3) is unknown
    await ask(link, 3)
    assert link.unknown(5, 3) is unknown
    assert link.unknown(5, 2) is link.unknown(6, 3) is UnknownOutcome.NO


async def test_only_loads_that_take_their_page_are_watched_and_one_generation_a_slot() -> None:
    """A shared load takes nothing, so nothing is lost with its answer; a newer page's load replaces an older one's."""
    link = ObservedLink(Link(DeadlinePassed("late"), DeadlinePassed("late"), AnswerLost("lost")))
    await ask(link, 3, LoadMode.SHARED)
    assert link.unknown(5, 3) is UnknownOutcome.NO
    await ask(link, 3)
    await ask(link, 4)
    assert link.unknown(5, 3) is UnknownOutcome.NO
    assert link.unknown(5, 4) is UnknownOutcome.OVERTAKEN


async def test_a_load_that_brings_another_generation_is_told_before_its_path_goes_on() -> None:
    """Then the page was lost, whenever a program reads it; a load of the right one, or a shared one, says nothing."""
    told: list[int] = []
    right = LoadReply(Outcome.HIT, generation=3)
    link = ObservedLink(Link(HIT, right, HIT), lambda load: told.append(load.generation))
    asked = link.submit(Load(SwapEntry(0, 5), 3, LoadMode.EXCLUSIVE, 1))
    assert told == []
    await asked
    assert told == [3]
    await ask(link, 3)
    await ask(link, 4, LoadMode.SHARED)
    assert told == [3]
