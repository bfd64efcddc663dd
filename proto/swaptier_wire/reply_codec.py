"""Translates replies to and from the messages of `swaptier.v1`: encoded by the server, decoded by the client.

Touches protobuf and nothing else: no gRPC, no clock, no tier, no host. Requests: `swaptier_wire.request_codec`; errors
and gRPC status: `swaptier_wire.status`. The hot path of both sides, see there.

Rules for this file's editors: what a server sent is never trusted; an answer that breaks the contract is a
ServerDefect, and then the effect of the whole message is unknown. A page that does not match its checksum never comes
out. What our own side passes in is asserted. Messages name columns and numbers, never the content of a page.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeVar, cast

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.batches import ReplyBatches, RequestBatches, split_pages
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import ServerDefect
from swaptier_wire.types import (
    ACKNOWLEDGE_OUTCOMES,
    INVALIDATE_OUTCOMES,
    LOAD_OUTCOMES,
    LOOKUP_OUTCOMES,
    PAGE_BYTES,
    STORE_OUTCOMES,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

T = TypeVar("T")

PAGE_OUTCOMES = frozenset({Outcome.HIT, Outcome.DEVICE})
"""Of a load: the answer carries a page."""

_REASONS = {int(reason): reason for reason in Reason}
_STORE_OUTCOMES = {int(outcome): outcome for outcome in STORE_OUTCOMES}
_LOAD_OUTCOMES = {int(outcome): outcome for outcome in LOAD_OUTCOMES}
_LOOKUP_REPLIES = {int(outcome): SlotReply(outcome) for outcome in LOOKUP_OUTCOMES}
_ACKNOWLEDGE_REPLIES = {int(outcome): SlotReply(outcome) for outcome in ACKNOWLEDGE_OUTCOMES}
_INVALIDATE_REPLIES = {int(outcome): SlotReply(outcome) for outcome in INVALIDATE_OUTCOMES}


class AreaStat(NamedTuple):
    """What Stat answers of an area."""

    slots: int
    stored_pages: int
    same_filled_pages: int
    pool_bytes: int
    device_pages: int
    counters: dict[tuple[str, str], int]
    """Value by (name, cause); the cause is empty for a counter without one."""


def encode_store_replies(replies: Sequence[SlotReply], message: pb.StoreResult) -> None:
    """Write the replies to a store batch into the empty *message*."""
    message.outcomes.extend(_outcome_numbers(replies))
    message.reasons.extend(_reason_numbers(replies))
    message.entry_bytes.extend([reply.entry_bytes for reply in replies])


def decode_store_replies(message: pb.StoreResult, slots: int) -> list[SlotReply]:
    """Return the replies to a batch of *slots* stores.

    Raises:
        ServerDefect: the answer breaks the contract. Indefinite.
    """
    kind = "store result"
    outcomes = _translate(kind, "outcomes", message.outcomes, _STORE_OUTCOMES, slots)
    reasons = _translate(kind, "reasons", message.reasons, _REASONS, slots)
    _check_answer(kind, "entry_bytes", len(message.entry_bytes), slots)
    return list(map(SlotReply, outcomes, reasons, message.entry_bytes))


def encode_load_replies(replies: Sequence[LoadReply], message: pb.LoadResult) -> None:
    """Write the replies to a load batch into the empty *message*, with the bytes of those that carry any."""
    outcomes = [reply.outcome for reply in replies]
    pages = [reply.page for reply in replies if reply.page is not None]
    words = [reply.fill_word for reply in replies if reply.fill_word is not None]
    packed = b"".join(pages)
    assert len(pages) == outcomes.count(Outcome.HIT) + outcomes.count(Outcome.DEVICE), outcomes
    assert len(words) == outcomes.count(Outcome.SAME_FILLED), outcomes
    assert len(packed) == len(pages) * PAGE_BYTES, (len(packed), len(pages))
    message.outcomes.extend(_outcome_numbers(replies))
    message.reasons.extend(_reason_numbers(replies))
    message.generations.extend([reply.generation for reply in replies])
    message.checksums.extend([reply.checksum for reply in replies])
    message.pages = packed
    message.fill_words.extend(words)
    message.entry_bytes.extend([reply.entry_bytes for reply in replies])


def decode_load_replies(message: pb.LoadResult, slots: int) -> list[LoadReply]:
    """Return the replies to a batch of *slots* loads.

    Bytes that do not match their checksum never come out: that slot's reply becomes ERROR with reason CHECKSUM.

    Raises:
        ServerDefect: the answer breaks the contract. Indefinite: exclusive loads in it may have taken their pages.
    """
    kind = "load result"
    outcomes = _translate(kind, "outcomes", message.outcomes, _LOAD_OUTCOMES, slots)
    reasons = _translate(kind, "reasons", message.reasons, _REASONS, slots)
    for column, length in (
        ("generations", len(message.generations)),
        ("checksums", len(message.checksums)),
        ("entry_bytes", len(message.entry_bytes)),
    ):
        _check_answer(kind, column, length, slots)
    generations, checksums, packed = message.generations[:], message.checksums[:], message.pages
    with_page = [slot for slot, outcome in enumerate(outcomes) if outcome in PAGE_OUTCOMES]
    with_word = [slot for slot, outcome in enumerate(outcomes) if outcome is Outcome.SAME_FILLED]
    _check_answer(kind, "bytes of pages", len(packed), len(with_page) * PAGE_BYTES)
    _check_answer(kind, "fill_words", len(message.fill_words), len(with_word))

    pages: list[bytes | None] = [None] * slots
    words: list[int | None] = [None] * slots
    damaged: list[int] = []
    for slot, page in zip(with_page, split_pages(packed), strict=True):
        pages[slot] = page
        if page_checksum(page) != checksums[slot]:
            damaged.append(slot)
    for slot, word in zip(with_word, message.fill_words, strict=True):
        words[slot] = word
        if page_checksum(fill_page(word)) != checksums[slot]:
            damaged.append(slot)
    rows = zip(outcomes, reasons, generations, checksums, pages, words, message.entry_bytes, strict=True)
    replies = list(map(LoadReply._make, rows))
    for slot in damaged:
        replies[slot] = LoadReply(Outcome.ERROR, Reason.CHECKSUM, generations[slot])
    return replies


def encode_outcomes(
    replies: Sequence[SlotReply], message: pb.LookupResult | pb.AcknowledgeResult | pb.InvalidateResult
) -> None:
    """Write the replies to a batch that is answered by outcomes alone into the empty *message*."""
    message.outcomes.extend(_outcome_numbers(replies))


def decode_lookup_replies(message: pb.LookupResult, slots: int) -> list[SlotReply]:
    """Return the replies to a batch of *slots* lookups.

    Raises:
        ServerDefect: the answer breaks the contract. Indefinite.
    """
    return _translate("lookup result", "outcomes", message.outcomes, _LOOKUP_REPLIES, slots)


def decode_acknowledge_replies(message: pb.AcknowledgeResult, slots: int) -> list[SlotReply]:
    """Return the replies to a batch of *slots* acknowledgements.

    Raises:
        ServerDefect: the answer breaks the contract. Indefinite.
    """
    return _translate("acknowledge result", "outcomes", message.outcomes, _ACKNOWLEDGE_REPLIES, slots)


def decode_invalidate_replies(message: pb.InvalidateResult, slots: int) -> list[SlotReply]:
    """Return the replies to a batch of *slots* invalidations.

    Raises:
        ServerDefect: the answer breaks the contract. Indefinite.
    """
    return _translate("invalidate result", "outcomes", message.outcomes, _INVALIDATE_REPLIES, slots)


def encode_exchange_response(server_epoch: int, request_id: int, replies: ReplyBatches) -> pb.ExchangeResponse:
    """Return the answer to the stream's message *request_id*. A refusal: `status.encode_exchange_error`."""
    message = pb.ExchangeResponse(server_epoch=server_epoch, request_id=request_id)
    if replies.store is not None:
        encode_store_replies(replies.store, message.store)
    if replies.load is not None:
        encode_load_replies(replies.load, message.load)
    if replies.lookup is not None:
        encode_outcomes(replies.lookup, message.lookup)
    if replies.acknowledge is not None:
        encode_outcomes(replies.acknowledge, message.acknowledge)
    if replies.invalidate is not None:
        encode_outcomes(replies.invalidate, message.invalidate)
    return message


def decode_exchange_response(message: pb.ExchangeResponse, request: RequestBatches) -> ReplyBatches:
    """Return the replies to *request*, the one that `message.request_id` names.

    The caller looks at `message.error` first, see `status.decode_exchange_error`.

    Raises:
        ServerDefect: the answer breaks the contract. Indefinite.
    """
    store, load, lookup = request.store, request.load, request.lookup
    acknowledge, invalidate = request.acknowledge, request.invalidate
    if message.request_id != request.header.request_id:
        _broken(f"the answer names request {message.request_id}, not {request.header.request_id}")
    for kind, asked, answered in (
        ("store", store is not None, message.HasField("store")),
        ("load", load is not None, message.HasField("load")),
        ("lookup", lookup is not None, message.HasField("lookup")),
        ("acknowledge", acknowledge is not None, message.HasField("acknowledge")),
        ("invalidate", invalidate is not None, message.HasField("invalidate")),
    ):
        if asked != answered:
            _broken(f"{kind} was {'' if asked else 'not '}asked and {'' if answered else 'not '}answered")
    return ReplyBatches(
        None if store is None else decode_store_replies(message.store, len(store.offsets)),
        None if load is None else decode_load_replies(message.load, len(load.offsets)),
        None if lookup is None else decode_lookup_replies(message.lookup, len(lookup.offsets)),
        None if acknowledge is None else decode_acknowledge_replies(message.acknowledge, len(acknowledge.offsets)),
        None if invalidate is None else decode_invalidate_replies(message.invalidate, len(invalidate.offsets)),
    )


def encode_stat(server_epoch: int, stat: AreaStat) -> pb.StatResponse:
    """Return *stat* as the answer to a StatRequest."""
    return pb.StatResponse(
        server_epoch=server_epoch,
        slots=stat.slots,
        stored_pages=stat.stored_pages,
        same_filled_pages=stat.same_filled_pages,
        pool_bytes=stat.pool_bytes,
        device_pages=stat.device_pages,
        counters=[pb.Counter(name=name, cause=cause, value=n) for (name, cause), n in stat.counters.items()],
    )


def decode_stat(message: pb.StatResponse) -> AreaStat:
    """Return what an area's Stat answers."""
    return AreaStat(
        slots=message.slots,
        stored_pages=message.stored_pages,
        same_filled_pages=message.same_filled_pages,
        pool_bytes=message.pool_bytes,
        device_pages=message.device_pages,
        counters={(counter.name, counter.cause): counter.value for counter in message.counters},
    )


def _outcome_numbers(replies: Sequence[SlotReply] | Sequence[LoadReply]) -> "list[pb.Outcome.ValueType]":
    return cast("list[pb.Outcome.ValueType]", [reply.outcome for reply in replies])


def _reason_numbers(replies: Sequence[SlotReply] | Sequence[LoadReply]) -> "list[pb.Reason.ValueType]":
    return cast("list[pb.Reason.ValueType]", [reply.reason for reply in replies])


def _translate(kind: str, column: str, numbers: Sequence[int], words: Mapping[int, T], slots: int) -> list[T]:
    """Return the word for each of *slots* numbers an answer carries."""
    _check_answer(kind, column, len(numbers), slots)
    try:
        return list(map(words.__getitem__, numbers))
    except KeyError as unknown:
        _broken(f"{kind}: {unknown.args[0]} among its {column} is not one this request can get")


def _check_answer(kind: str, column: str, count: int, expected: int) -> None:
    if count != expected:
        _broken(f"{kind}: {count} {column}, expected {expected}")


def _broken(what: str) -> NoReturn:
    raise ServerDefect(
        f"{what}: the answer breaks the contract, so the effect of this message is unknown. Assume nothing of its "
        "slots, and compare the versions of client and server."
    )
