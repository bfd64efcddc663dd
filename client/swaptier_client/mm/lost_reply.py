"""What a path does when a reply is lost: it asks again, under the same request id, until the outcome is known.

Pure. Rule of conduct: where an outcome is unknown nothing is assumed; see batch().
"""

from swaptier_client.mm.effects import Batch, Invalidate, Load, Lookup, Path, Reply, Request, RequestReply, Store
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import LoadReply, SlotReply

ASKS_MAX = 8
"""How often a request whose outcome is unknown is asked again, with the same request id, before its path gives up."""


def load(effect: Load) -> Path[LoadReply]:
    """Yield *effect* until its outcome is known, and return its reply; see batch() for what is raised and why."""
    reply = yield from _insist(effect)
    assert isinstance(reply, LoadReply), reply
    return reply


def ask(effect: Store | Lookup | Invalidate) -> Path[SlotReply]:
    """Yield *effect* until its outcome is known, and return its reply; see batch() for what is raised and why."""
    reply = yield from _insist(effect)
    assert isinstance(reply, SlotReply), reply
    return reply


def batch(requests: tuple[Request, ...]) -> Path[list[RequestReply | BaseException]]:
    """Yield *requests* as one Batch until every outcome is known; return replies, or in place of one its error.

    Where an outcome is unknown nothing is assumed: the caller keeps its pins and locks while the same request is asked
    again, and never reads the device instead. An error that comes back is definite, or the first indefinite one.
    The repeat of a load requires its generation: if an exclusive load was applied the first time, the page is gone, and
    the answer must say so instead of bringing the device's bytes. Not losing it is what CLAIM is for.
    """
    replies = yield Batch(requests)
    assert isinstance(replies, list), replies
    for _ in range(ASKS_MAX - 1):
        unknown = [index for index, reply in enumerate(replies) if is_unknown(reply)]
        if not unknown:
            break
        again = yield Batch(tuple(_repeat(requests[index]) for index in unknown))
        assert isinstance(again, list), again
        progress = False
        for index, reply in zip(unknown, again, strict=True):
            if not isinstance(reply, BaseException):
                replies[index] = reply
            progress |= not isinstance(reply, BaseException) or is_unknown(reply)
        if not progress:
            break
    return replies


def _insist(effect: Request) -> Path[Reply]:
    """Do for one request what batch() does for several."""
    unknown: SwapTierError | None = None
    for _ in range(ASKS_MAX):
        try:
            return (yield effect if unknown is None else _repeat(effect))
        except SwapTierError as error:
            if error.definite:
                # A repeat that was definitely not applied says nothing about the first time.
                raise unknown or error from None
            unknown = unknown or error
    assert unknown is not None
    raise unknown


def _repeat(request: Request) -> Request:
    return request._replace(require_generation=True) if isinstance(request, Load) else request


def is_unknown(reply: RequestReply | BaseException | None) -> bool:
    """Tell whether *reply* is an error that leaves open whether the request took effect."""
    return isinstance(reply, SwapTierError) and not reply.definite
