"""Requests cross the wire unchanged, and what a client must not send is refused whole."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.batches import Acknowledges, Header, Invalidates, Loads, Lookups, RequestBatches, Stores
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import InvalidRequest
from swaptier_wire.request_codec import (
    decode_acknowledges,
    decode_exchange_request,
    decode_header,
    decode_invalidates,
    decode_loads,
    decode_lookups,
    decode_options,
    decode_stores,
    encode_exchange_request,
    encode_loads,
    encode_options,
    encode_stores,
)
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES, AreaOptions, LoadMode

HEADER = Header("host-1", 7, 42, "swap0")
U64 = st.integers(0, 2**64 - 1)
GENERATIONS = st.integers(1, 2**64 - 1)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=128).filter(lambda name: len(name.encode()) <= 128)
PAGES = st.binary(min_size=1, max_size=64).map(lambda seed: (seed * PAGE_BYTES)[:PAGE_BYTES])


@st.composite
def requests(draw: st.DrawFn) -> RequestBatches:
    """Any request that a client may send: distinct offsets, dealt out to the five kinds of batch."""
    offsets = draw(st.lists(U64, min_size=1, max_size=24, unique=True))
    kinds = [draw(st.integers(0, 4)) for _ in offsets]
    store, load, lookup, acknowledge, invalidate = (
        [offset for offset, kind in zip(offsets, kinds, strict=True) if kind == wanted] for wanted in range(5)
    )

    def column(strategy: st.SearchStrategy[int], slots: int) -> list[int]:
        return draw(st.lists(strategy, min_size=slots, max_size=slots))

    modes = draw(st.lists(st.sampled_from(LoadMode), min_size=len(load), max_size=len(load)))
    pages = draw(st.lists(PAGES, min_size=len(store), max_size=len(store)))
    return RequestBatches(
        Header(draw(NAMES), draw(U64), draw(U64), draw(NAMES)),
        store=Stores(store, column(GENERATIONS, len(store)), pages, column(U64, len(store))) if store else None,
        load=Loads(
            load,
            column(GENERATIONS, len(load)),
            modes,
            column(U64, len(load)) if LoadMode.CLAIM in modes else [0] * len(load),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        if load
        else None,
        lookup=Lookups(lookup) if lookup else None,
        acknowledge=Acknowledges(acknowledge, column(GENERATIONS, len(acknowledge)), column(U64, len(acknowledge)))
        if acknowledge
        else None,
        invalidate=Invalidates(invalidate, column(GENERATIONS, len(invalidate))) if invalidate else None,
    )


@given(requests())
@settings(max_examples=200)
def test_any_request_arrives_as_it_was_sent(request: RequestBatches) -> None:
    """What the server decodes from the bytes is what the client encoded, batch by batch."""
    wire = encode_exchange_request(request).SerializeToString()
    assert decode_exchange_request(pb.ExchangeRequest.FromString(wire)) == request


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_is_a_valid_request(garbage: bytes) -> None:
    """Bytes that parse as a message at all end in a RequestBatches or in InvalidRequest, never in another error."""
    message = pb.ExchangeRequest(header=pb.RequestHeader(client_id="c", area="a"))
    for batch in (message.store, message.load, message.lookup, message.acknowledge, message.invalidate):
        try:
            batch.MergeFromString(garbage)
        except Exception:  # noqa: BLE001 - protobuf's own refusal, of a class it does not export
            return
    with contextlib.suppress(InvalidRequest):
        assert isinstance(decode_exchange_request(message), RequestBatches)


def test_a_full_batch_is_accepted_and_one_slot_more_is_not() -> None:
    """BATCH_SLOTS_MAX is inclusive."""
    offsets = list(range(BATCH_SLOTS_MAX + 1))
    assert len(decode_lookups(pb.LookupBatch(offsets=offsets[:-1])).offsets) == BATCH_SLOTS_MAX
    with pytest.raises(InvalidRequest, match=f"257 slots, must be 1 to {BATCH_SLOTS_MAX}"):
        decode_lookups(pb.LookupBatch(offsets=offsets))


def store_batch(**changes: object) -> pb.StoreBatch:
    """Return two good slots to store, with *changes*."""
    fields: dict[str, object] = {
        "offsets": [1, 2],
        "generations": [1, 1],
        "checksums": [3, 4],
        "pages": bytes(2 * PAGE_BYTES),
    }
    return pb.StoreBatch(**{**fields, **changes})


def load_batch(**changes: object) -> pb.LoadBatch:
    """Return two good slots to load, with *changes*."""
    fields: dict[str, object] = {"offsets": [1, 2], "generations": [1, 1], "modes": [LoadMode.SHARED, LoadMode.CLAIM]}
    return pb.LoadBatch(**{**fields, "request_ids": [8, 9], **changes})


REFUSALS: list[tuple[Callable[[], object], str]] = [
    (lambda: decode_stores(pb.StoreBatch()), "store batch: 0 slots, must be 1 to 256"),
    (lambda: decode_stores(store_batch(generations=[1])), "1 generations for 2 offsets"),
    (lambda: decode_stores(store_batch(generations=[1, 0])), "generation 0 for offset 2"),
    (lambda: decode_stores(store_batch(checksums=[1, 2, 3])), "3 checksums for 2 offsets"),
    (lambda: decode_stores(store_batch(offsets=[5, 5])), "offset 5 stands twice"),
    (lambda: decode_stores(store_batch(pages=b"")), "0 bytes of pages for 2 offsets, must be 8192"),
    (lambda: decode_stores(store_batch(pages=bytes(8191))), "8191 bytes of pages"),
    (lambda: decode_stores(store_batch(pages=bytes(8193))), "8193 bytes of pages"),
    (lambda: decode_stores(store_batch(pages=bytes(4096))), "4096 bytes of pages"),
    (lambda: decode_loads(pb.LoadBatch()), "load batch: 0 slots"),
    (lambda: decode_loads(load_batch(generations=[])), "0 generations for 2 offsets"),
    (lambda: decode_loads(load_batch(generations=[0, 1])), "generation 0 for offset 1"),
    (lambda: decode_loads(load_batch(modes=[])), "0 modes for 2 offsets"),
    (lambda: decode_loads(load_batch(modes=[1, 0])), r"mode 0 for offset 2, must be one of 1 \(SHARED\)"),
    (lambda: decode_loads(load_batch(modes=[99, 1])), "mode 99 for offset 1"),
    (lambda: decode_loads(load_batch(request_ids=[])), "0 request_ids for 2 offsets"),
    (lambda: decode_loads(load_batch(request_ids=[1], modes=[1, 1])), "1 request_ids for 2 offsets"),
    (lambda: decode_loads(load_batch(offsets=[7, 7])), "offset 7 stands twice"),
    (lambda: decode_lookups(pb.LookupBatch()), "lookup batch: 0 slots"),
    (lambda: decode_lookups(pb.LookupBatch(offsets=[3, 4, 3])), "offset 3 stands twice"),
    (lambda: decode_acknowledges(pb.AcknowledgeBatch(offsets=[1], generations=[1])), "0 request_ids for 1 offsets"),
    (lambda: decode_acknowledges(pb.AcknowledgeBatch(offsets=[1], request_ids=[1])), "0 generations for 1 offsets"),
    (lambda: decode_invalidates(pb.InvalidateBatch(offsets=[1, 2], generations=[1])), "1 generations for 2 offsets"),
    (lambda: decode_invalidates(pb.InvalidateBatch(offsets=[1], generations=[0])), "generation 0 for offset 1"),
    (lambda: decode_header(pb.RequestHeader()), "client_id has 0 bytes"),
    (lambda: decode_header(pb.RequestHeader(client_id="c")), "area has 0 bytes"),
    (lambda: decode_header(pb.RequestHeader(client_id="c" * 129, area="a")), "client_id has 129 bytes"),
    (lambda: decode_header(pb.RequestHeader(client_id="c", area="ä" * 65)), "area has 130 bytes"),
]


@pytest.mark.parametrize(("decode", "message"), REFUSALS)
def test_a_malformed_request_is_refused_with_what_is_wrong_in_numbers(
    decode: Callable[[], object], message: str
) -> None:
    """Each rule of the contract on a batch's form has its own refusal."""
    with pytest.raises(InvalidRequest, match=message) as refusal:
        decode()
    assert refusal.value.definite


def exchange(**batches: object) -> pb.ExchangeRequest:
    """Return a message of the stream with these batches."""
    header = pb.RequestHeader(client_id="c", area="a")
    return pb.ExchangeRequest(header=header, **batches)


def test_an_offset_stands_once_in_a_message_whatever_the_batch() -> None:
    """Two batches may be applied in either order, so an offset in both has no defined outcome."""
    message = exchange(lookup=pb.LookupBatch(offsets=[1, 2]), store=store_batch(offsets=[2, 3]))
    with pytest.raises(InvalidRequest, match="message: offset 2 stands twice"):
        decode_exchange_request(message)


def test_the_batches_of_a_message_share_one_limit() -> None:
    """Two batches below BATCH_SLOTS_MAX may still be too much together."""
    half = BATCH_SLOTS_MAX // 2
    first, second = list(range(half)), list(range(half, BATCH_SLOTS_MAX + 1))
    message = exchange(
        lookup=pb.LookupBatch(offsets=first),
        invalidate=pb.InvalidateBatch(offsets=second, generations=[1] * len(second)),
    )
    with pytest.raises(InvalidRequest, match="message: 257 slots"):
        decode_exchange_request(message)


def test_a_message_without_a_batch_is_refused() -> None:
    """Nothing to do is a client's mistake, not a success."""
    with pytest.raises(InvalidRequest, match="message: 0 slots"):
        decode_exchange_request(exchange())


def test_a_message_with_an_empty_batch_is_refused() -> None:
    """An absent batch means none; a batch that is there has slots."""
    with pytest.raises(InvalidRequest, match="load batch: 0 slots"):
        decode_exchange_request(exchange(lookup=pb.LookupBatch(offsets=[1]), load=pb.LoadBatch()))


def test_a_refusal_never_shows_a_page() -> None:
    """Pages are other programs' memory."""
    with pytest.raises(InvalidRequest) as refusal:
        decode_stores(store_batch(pages=b"secret" * 1000))
    assert "secret" not in str(refusal.value)


def test_request_ids_travel_only_for_claims() -> None:
    """Eight bytes a slot are saved where nobody reads them."""
    shared, claim = pb.LoadBatch(), pb.LoadBatch()
    encode_loads(Loads([1], [1], [LoadMode.SHARED], [5]), shared)
    encode_loads(Loads([1], [1], [LoadMode.CLAIM], [5]), claim)
    assert (list(shared.request_ids), list(claim.request_ids)) == ([], [5])
    assert decode_loads(shared).request_ids == [0]


def test_a_page_of_wrong_length_never_leaves_the_client() -> None:
    """It is the client's own bug, so it is asserted and not sent."""
    page = bytes(PAGE_BYTES - 1)
    with pytest.raises(AssertionError):
        encode_stores(Stores([1], [1], [page], [page_checksum(page)]), pb.StoreBatch())


@pytest.mark.parametrize(
    "options",
    [
        AreaOptions(),
        AreaOptions(device_free_on_read=True),
        AreaOptions(pool_bytes_max=0),
        AreaOptions(pool_bytes_max=1 << 40, writeback=False),
    ],
)
def test_options_of_an_area_arrive_as_they_were_sent(options: AreaOptions) -> None:
    """Unset is all defaults."""
    assert decode_options(encode_options(options)) == options
    assert decode_options(pb.AreaOptions()) == AreaOptions()
