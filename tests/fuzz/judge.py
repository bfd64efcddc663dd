"""What a server may answer, and what no answer may hold.

Touches nothing. Rule: whatever was asked, a page in an answer to the attacker is one that it stored itself, or zeros.
"""

import grpc
from google.protobuf.message import DecodeError, Message
from tests.fuzz.inputs import BATCHES, PALETTE, UNARY, Input, Kind

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES

_CODE = grpc.StatusCode
ALLOWED = {
    _CODE.OK,
    _CODE.INVALID_ARGUMENT,
    _CODE.NOT_FOUND,
    _CODE.ALREADY_EXISTS,
    _CODE.PERMISSION_DENIED,
    _CODE.FAILED_PRECONDITION,
    _CODE.RESOURCE_EXHAUSTED,
    _CODE.UNIMPLEMENTED,
}
"""Statuses by which a server says that a request is not to its liking. All others say that it is not well."""

PAGES = frozenset(PALETTE)
WORDS = frozenset(int.from_bytes(page[:8], "little") for page in PALETTE)


class Wrong(Exception):
    """The server did what it must not do."""


def parse(kind: type[Message], content: bytes) -> Message | None:
    """Return the message in *content*, or None if there is none."""
    try:
        return kind.FromString(content)
    except DecodeError:
        return None


def check_status(thrown: Input, code: grpc.StatusCode) -> None:
    """Refuse a status that *thrown* cannot have.

    Raises:
        Wrong: the server is not well, or let somebody in, or parsed what is no message.
    """
    if not thrown.has_token:
        if code is not _CODE.UNAUTHENTICATED:
            raise Wrong(f"a call without a token got {code.name}")
        return
    if code not in ALLOWED:
        raise Wrong(f"status {code.name}")
    is_unary = thrown.kind in {Kind.MESSAGE, Kind.REQUEST}
    may_be_parsed = code not in {_CODE.INVALID_ARGUMENT, _CODE.RESOURCE_EXHAUSTED}
    if is_unary and may_be_parsed and parse(UNARY[thrown.method], thrown.content) is None:
        raise Wrong(f"bytes that are no message got {code.name}")


def check_answer(answer: Message, secret: bytes) -> int:
    """Return how many pages *answer* holds, all of them the attacker's own.

    Raises:
        Wrong: one is not.
    """
    if secret in answer.SerializeToString():
        raise Wrong("an answer holds what the victim stored")
    pages = 0
    for result in (getattr(answer, name) for name in ("result", "load") if hasattr(answer, name)):
        if isinstance(result, pb.LoadResult):
            pages += _check_pages(result)
    return pages


def outcomes_of(answer: Message) -> list[str]:
    """Return the outcome of every slot in *answer*, with its reason if it has one."""
    found = []
    for name in ("result", *BATCHES):
        result = getattr(answer, name, None)
        reasons = list(getattr(result, "reasons", ()))
        for place, number in enumerate(getattr(result, "outcomes", ())):
            outcome = pb.Outcome.Name(number).removeprefix("OUTCOME_")
            reason = pb.Reason.Name(reasons[place]).removeprefix("REASON_") if place < len(reasons) else "UNSPECIFIED"
            found.append(outcome if reason == "UNSPECIFIED" else f"{outcome}/{reason}")
    return found


def _check_pages(result: pb.LoadResult) -> int:
    bytes_left = result.pages
    for outcome, checksum in zip(result.outcomes, result.checksums, strict=True):
        if outcome in {pb.OUTCOME_HIT, pb.OUTCOME_DEVICE}:
            page, bytes_left = bytes_left[:PAGE_BYTES], bytes_left[PAGE_BYTES:]
            if page not in PAGES:
                raise Wrong("a page came back that the attacker never stored")
            if page_checksum(page) != checksum:
                raise Wrong("a page came back with the checksum of another")
    if bytes_left:
        raise Wrong("more pages came back than slots")
    if not WORDS.issuperset(result.fill_words):
        raise Wrong("a word came back that the attacker never stored")
    return len(result.pages) // PAGE_BYTES + len(result.fill_words)
