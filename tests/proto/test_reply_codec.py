"""ReplyBatches cross the wire unchanged, and an answer that breaks the contract is never taken for one."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.batches import (
    Acknowledges,
    Header,
    Invalidates,
    Loads,
    Lookups,
    ReplyBatches,
    RequestBatches,
    Stores,
)
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import ServerDefect
from swaptier_wire.reply_codec import (
    AreaStat,
    decode_exchange_response,
    decode_load_replies,
    decode_lookup_replies,
    decode_stat,
    decode_store_replies,
    encode_exchange_response,
    encode_load_replies,
    encode_stat,
)
from swaptier_wire.types import (
    ACKNOWLEDGE_OUTCOMES,
    INVALIDATE_OUTCOMES,
    LOAD_OUTCOMES,
    LOOKUP_OUTCOMES,
    PAGE_BYTES,
    STORE_OUTCOMES,
    ZERO_PAGE,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

HEADER = Header("host-1", 7, 42, "swap0")
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
PAGES = st.binary(min_size=1, max_size=64).map(lambda seed: (seed * PAGE_BYTES)[:PAGE_BYTES])
REASONS = st.sampled_from(Reason)
STORE_REPLIES = st.builds(SlotReply, st.sampled_from(STORE_OUTCOMES), REASONS, U32)


def bare(outcomes: tuple[Outcome, ...]) -> st.SearchStrategy[list[SlotReply]]:
    """Return lists of replies that carry an outcome and nothing else."""
    return st.lists(st.sampled_from(outcomes).map(SlotReply), min_size=1, max_size=8)


@st.composite
def load_replies(draw: st.DrawFn) -> LoadReply:
    """Any reply to a load: bytes where the outcome has them, with their checksum."""
    outcome = draw(st.sampled_from(LOAD_OUTCOMES))
    reply = LoadReply(outcome, draw(REASONS), draw(U64), entry_bytes=draw(U32))
    if outcome in (Outcome.HIT, Outcome.DEVICE):
        page = draw(PAGES)
        return reply._replace(page=page, checksum=page_checksum(page))
    if outcome is Outcome.SAME_FILLED:
        word = draw(U64)
        return reply._replace(fill_word=word, checksum=page_checksum(fill_page(word)))
    return reply


def asked_for(replies: ReplyBatches) -> RequestBatches:
    """Return a request that *replies* could answer."""

    def offsets(answered: list[SlotReply] | list[LoadReply]) -> list[int]:
        return list(range(len(answered)))

    return RequestBatches(
        HEADER,
        store=None if replies.store is None else Stores(offsets(replies.store), [], [], []),
        load=None if replies.load is None else Loads(offsets(replies.load), [], [], []),
        lookup=None if replies.lookup is None else Lookups(offsets(replies.lookup)),
        acknowledge=None if replies.acknowledge is None else Acknowledges(offsets(replies.acknowledge), [], []),
        invalidate=None if replies.invalidate is None else Invalidates(offsets(replies.invalidate), []),
    )


@given(
    st.builds(
        ReplyBatches,
        st.none() | st.lists(STORE_REPLIES, min_size=1, max_size=8),
        st.none() | st.lists(load_replies(), min_size=1, max_size=8),
        st.none() | bare(LOOKUP_OUTCOMES),
        st.none() | bare(ACKNOWLEDGE_OUTCOMES),
        st.none() | bare(INVALIDATE_OUTCOMES),
    )
)
@settings(max_examples=200)
def test_any_answer_arrives_as_it_was_sent(replies: ReplyBatches) -> None:
    """What the client decodes from the bytes is what the server encoded, slot by slot."""
    wire = encode_exchange_response(3, HEADER.request_id, replies).SerializeToString()
    assert decode_exchange_response(pb.ExchangeResponse.FromString(wire), asked_for(replies)) == replies


def load_result(*replies: LoadReply) -> pb.LoadResult:
    """Return *replies* as a message."""
    message = pb.LoadResult()
    encode_load_replies(replies, message)
    return message


def page_reply(fill: int, outcome: Outcome = Outcome.HIT, generation: int = 1) -> LoadReply:
    """Return a reply with a page of *fill* bytes."""
    page = bytes([fill]) * PAGE_BYTES
    return LoadReply(outcome, generation=generation, checksum=page_checksum(page), page=page, entry_bytes=40)


def test_bytes_find_their_slots_between_slots_without_bytes() -> None:
    """Pages and words stand in slot order, with nothing in between for a slot that has none."""
    word = LoadReply(Outcome.SAME_FILLED, checksum=page_checksum(fill_page(9)), fill_word=9)
    replies = [LoadReply(Outcome.MISS), page_reply(1), word, LoadReply(Outcome.LOST), page_reply(2, Outcome.DEVICE)]
    assert decode_load_replies(load_result(*replies), 5) == replies


def test_a_page_damaged_on_the_way_comes_out_as_an_error_and_its_neighbours_unharmed() -> None:
    """One flipped bit costs its own slot and nothing else."""
    message = load_result(page_reply(1), page_reply(2, generation=5), page_reply(3))
    damaged = bytearray(message.pages)
    damaged[PAGE_BYTES + 100] ^= 4
    message.pages = bytes(damaged)
    assert decode_load_replies(message, 3) == [
        page_reply(1),
        LoadReply(Outcome.ERROR, Reason.CHECKSUM, 5),
        page_reply(3),
    ]


def test_a_damaged_word_comes_out_as_an_error() -> None:
    """A same-filled page is held to its checksum like any other."""
    message = load_result(LoadReply(Outcome.SAME_FILLED, checksum=page_checksum(ZERO_PAGE), fill_word=0))
    message.fill_words[0] = 1
    assert decode_load_replies(message, 1) == [LoadReply(Outcome.ERROR, Reason.CHECKSUM)]


def changed(message: pb.LoadResult, **changes: object) -> pb.LoadResult:
    """Return *message* with whole columns replaced."""
    copy = pb.LoadResult()
    copy.CopyFrom(message)
    for column in changes:
        copy.ClearField(column)
    copy.MergeFrom(pb.LoadResult(**changes))
    return copy


ONE_PAGE = load_result(page_reply(1))
DEFECTS: list[tuple[Callable[[], object], str]] = [
    (lambda: decode_load_replies(ONE_PAGE, 2), "1 outcomes, expected 2"),
    (lambda: decode_load_replies(changed(ONE_PAGE, pages=bytes(4095)), 1), "4095 bytes of pages, expected 4096"),
    (lambda: decode_load_replies(changed(ONE_PAGE, pages=b""), 1), "0 bytes of pages, expected 4096"),
    (lambda: decode_load_replies(changed(ONE_PAGE, outcomes=[Outcome.MISS]), 1), "4096 bytes of pages, expected 0"),
    (lambda: decode_load_replies(changed(ONE_PAGE, outcomes=[0]), 1), "0 among its outcomes"),
    (lambda: decode_load_replies(changed(ONE_PAGE, outcomes=[Outcome.STORED]), 1), "10 among its outcomes"),
    (lambda: decode_load_replies(changed(ONE_PAGE, outcomes=[77]), 1), "77 among its outcomes"),
    (lambda: decode_load_replies(changed(ONE_PAGE, reasons=[77]), 1), "77 among its reasons"),
    (lambda: decode_load_replies(changed(ONE_PAGE, reasons=[]), 1), "0 reasons, expected 1"),
    (lambda: decode_load_replies(changed(ONE_PAGE, generations=[1, 2]), 1), "2 generations, expected 1"),
    (lambda: decode_load_replies(changed(ONE_PAGE, checksums=[]), 1), "0 checksums, expected 1"),
    (lambda: decode_load_replies(changed(ONE_PAGE, entry_bytes=[]), 1), "0 entry_bytes, expected 1"),
    (lambda: decode_load_replies(changed(ONE_PAGE, fill_words=[3]), 1), "1 fill_words, expected 0"),
    (lambda: decode_store_replies(pb.StoreResult(outcomes=[Outcome.HIT], reasons=[0], entry_bytes=[0]), 1), "1 among"),
    (lambda: decode_store_replies(pb.StoreResult(outcomes=[Outcome.STORED], reasons=[0]), 1), "0 entry_bytes"),
    (lambda: decode_lookup_replies(pb.LookupResult(outcomes=[Outcome.HIT] * 3), 2), "3 outcomes, expected 2"),
    (lambda: decode_lookup_replies(pb.LookupResult(outcomes=[Outcome.DEVICE]), 1), "3 among its outcomes"),
]


@pytest.mark.parametrize(("decode", "message"), DEFECTS)
def test_an_answer_that_breaks_the_contract_leaves_the_effect_unknown(
    decode: Callable[[], object], message: str
) -> None:
    """The client assumes nothing, for the request behind such an answer may have been applied."""
    with pytest.raises(ServerDefect, match=message) as defect:
        decode()
    assert not defect.value.definite


LOOKED_UP = RequestBatches(HEADER, lookup=Lookups([1]))


def test_an_answer_to_another_request_is_refused() -> None:
    """A reply is never given to whoever happens to wait."""
    message = encode_exchange_response(3, 41, ReplyBatches(lookup=[SlotReply(Outcome.HIT)]))
    with pytest.raises(ServerDefect, match="names request 41, not 42"):
        decode_exchange_response(message, LOOKED_UP)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        (ReplyBatches(), "lookup was asked and not answered"),
        (ReplyBatches(lookup=[SlotReply(Outcome.HIT)], load=[page_reply(1)]), "load was not asked and answered"),
    ],
)
def test_an_answer_has_a_result_for_each_batch_asked_and_no_other(replies: ReplyBatches, message: str) -> None:
    """Silence about a batch is not a success of it."""
    with pytest.raises(ServerDefect, match=message):
        decode_exchange_response(encode_exchange_response(3, 42, replies), LOOKED_UP)


@pytest.mark.parametrize(
    "reply",
    [
        LoadReply(Outcome.HIT),
        LoadReply(Outcome.MISS, page=ZERO_PAGE),
        LoadReply(Outcome.HIT, page=bytes(100)),
        LoadReply(Outcome.SAME_FILLED),
    ],
)
def test_a_server_never_sends_an_outcome_and_bytes_that_disagree(reply: LoadReply) -> None:
    """That would be the server's own bug, so it is asserted before it is sent."""
    with pytest.raises(AssertionError):
        load_result(reply)


def test_a_stat_arrives_as_it_was_sent() -> None:
    """Counters keep their cause."""
    stat = AreaStat(1000, 5, 2, 1234, 7, {("loads", "hit"): 3, ("duplicate_entries", ""): 1})
    assert decode_stat(encode_stat(9, stat)) == stat


def test_the_outcomes_of_a_load_are_those_of_the_contract() -> None:
    """Every mode gets an outcome that a load may have; a store's are not among them."""
    assert set(LOAD_OUTCOMES) == set(Outcome) - {
        Outcome.REJECTED,
        Outcome.STORED,
        Outcome.INVALIDATED,
        Outcome.ACKNOWLEDGED,
        Outcome.LEASE_ENDED,
    }
    assert len(LoadMode) == 3
