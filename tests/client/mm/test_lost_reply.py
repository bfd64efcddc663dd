"""Asking again: what a path does while it cannot know whether a request was applied."""

import pytest

from swaptier_client.mm.effects import Batch, Invalidate, Path, SwapEntry
from swaptier_client.mm.lost_reply import ASKS_MAX, ask, batch
from swaptier_wire.errors import InvalidRequest, SwapTierError, TierUnreachable
from swaptier_wire.types import Outcome, SlotReply

REQUEST = Invalidate(SwapEntry(0, 1), 7)
OTHER = Invalidate(SwapEntry(0, 2), 7)
DONE = SlotReply(Outcome.INVALIDATED)


def lost() -> TierUnreachable:
    return TierUnreachable("reply lost", definite=False)


def refused() -> TierUnreachable:
    return TierUnreachable("not connected", definite=True)


def perform(path: Path[SlotReply], answers: list[SlotReply | SwapTierError]) -> tuple[SlotReply, int]:
    """Answer one request after the other; return the path's result and how many were asked."""
    assert next(path) == REQUEST
    for asked, answer in enumerate(answers, start=1):
        try:
            again = path.throw(answer) if isinstance(answer, SwapTierError) else path.send(answer)
        except StopIteration as stop:
            result: SlotReply = stop.value
            return result, asked
        assert again == REQUEST, "the very same request is asked again"
    raise AssertionError("the path did not end")


def test_a_request_whose_reply_was_lost_is_asked_again_as_it_was() -> None:
    """The outcome is unknown, so nothing is assumed: the same request goes out until an answer comes."""
    assert perform(ask(REQUEST), [lost(), lost(), DONE]) == (DONE, 3)


def test_a_definite_failure_is_raised_at_once() -> None:
    """It did not and never will take effect: there is nothing to find out."""
    error = InvalidRequest("no")
    with pytest.raises(InvalidRequest) as caught:
        perform(ask(REQUEST), [error])
    assert caught.value is error


def test_a_definite_repeat_does_not_make_the_first_attempt_definite() -> None:
    """The repeat was not sent; whether the first one was applied is still unknown, and the caller is told so."""
    first = lost()
    with pytest.raises(TierUnreachable) as caught:
        perform(ask(REQUEST), [first, refused()])
    assert caught.value is first


def test_asking_again_is_bounded() -> None:
    """A tier that never answers is asked ASKS_MAX times."""
    first = lost()
    with pytest.raises(TierUnreachable) as caught:
        perform(ask(REQUEST), [first, *(lost() for _ in range(ASKS_MAX - 1))])
    assert caught.value is first


def test_only_the_unknown_requests_of_a_batch_are_asked_again() -> None:
    """What was answered is not repeated, what failed definitely neither."""
    definite = refused()
    path = batch((REQUEST, OTHER, REQUEST))
    assert next(path) == Batch((REQUEST, OTHER, REQUEST))
    assert path.send([DONE, lost(), definite]) == Batch((OTHER,))
    with pytest.raises(StopIteration) as stop:
        path.send([DONE])
    assert stop.value.value == [DONE, DONE, definite]
