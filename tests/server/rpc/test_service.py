"""The contract of `swaptier.proto`, asked of a real server: by unary calls and by the stream alike."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import pytest
from grpc import aio
from tests.server.conftest import EPOCH, SLOTS, Ask, Serve, Served, header_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.epochs import epoch_above_known
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.page import StoredPage
from swaptier_wire.batches import Acknowledges, Header, Invalidates, Loads, Lookups, RequestBatches, Stores
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import (
    AreaExists,
    AreaNotOwned,
    ClientReplaced,
    InvalidRequest,
    LimitReached,
    SwapTierError,
    UnknownArea,
)
from swaptier_wire.status import from_rpc_error
from swaptier_wire.types import (
    BATCH_SLOTS_MAX,
    EPOCH_MAX,
    PAGE_BYTES,
    ZERO_PAGE,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

TEXT = (b"A swapped-out page has exactly one owner. " * 100)[:PAGE_BYTES]
HEADER = Header("host", 1, 9, "a")


def stores(*slots: tuple[int, int, bytes], header: Header = HEADER) -> RequestBatches:
    """Store (offset, generation, page), ..."""
    offsets, generations, pages = map(list, zip(*slots, strict=True))
    return RequestBatches(header, store=Stores(offsets, generations, pages, [page_checksum(page) for page in pages]))


def loads(
    *slots: tuple[int, int],
    mode: LoadMode = LoadMode.SHARED,
    require_generation: bool = False,
    pool_only: bool = False,
    header: Header = HEADER,
) -> RequestBatches:
    """Load (offset, generation), ..."""
    offsets, generations = map(list, zip(*slots, strict=True))
    count = len(offsets)
    return RequestBatches(
        header, load=Loads(offsets, generations, [mode] * count, [1] * count, require_generation, pool_only)
    )


def invalidates(offset: int, generation: int) -> RequestBatches:
    return RequestBatches(HEADER, invalidate=Invalidates([offset], [generation]))


async def one_load(ask: Ask, served: Served, request: RequestBatches) -> LoadReply:
    replies = (await ask(served, request)).load
    assert replies is not None
    return replies[0]


async def one_store(ask: Ask, served: Served, request: RequestBatches) -> SlotReply:
    replies = (await ask(served, request)).store
    assert replies is not None
    return replies[0]


async def refusal(call: Awaitable[object]) -> SwapTierError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# Areas


async def test_a_client_that_begins_a_new_life_with_every_call_is_known_once(serve: Serve) -> None:
    """Nothing of a life that is over is kept until the next housekeeping."""
    served = await serve()
    for epoch in range(1, 30):
        await served.swapon(epoch=epoch)
    assert len(served.server.activity) == 1


async def test_swapon_tells_what_the_client_must_know(serve: Serve) -> None:
    """Epoch, page size and batch limit; a repeat keeps the pages."""
    served = await serve()
    answer = await served.swapon()
    assert (answer.server_epoch, answer.page_size_bytes, answer.batch_slots_max) == (EPOCH, PAGE_BYTES, BATCH_SLOTS_MAX)
    assert not answer.reopened
    assert not answer.writes_through
    await served.stub.Store(store_message())
    assert (await served.swapon()).reopened
    assert (await served.stat()).stored_pages == 1


async def test_a_newer_epoch_of_the_host_starts_with_an_empty_area_and_the_old_one_is_refused(
    serve: Serve, ask: Ask
) -> None:
    """A host that was rebooted must never meet its past, nor be overwritten by it."""
    served = await serve()
    await served.swapon()
    await ask(served, stores((0, 1, TEXT)))
    assert not (await served.swapon(epoch=2)).reopened
    assert (await served.stat(epoch=2)).stored_pages == 0
    with pytest.raises(ClientReplaced):
        await ask(served, stores((0, 2, TEXT)))
    with pytest.raises(aio.AioRpcError):
        await served.swapon(epoch=1)
    assert (await served.stat(epoch=2)).stored_pages == 0


async def test_swapon_refuses_what_cannot_be(serve: Serve) -> None:
    """Each refusal has its class, is definite, and opens nothing."""
    served = await serve(areas_max=1, slots_per_area_max=SLOTS)
    await served.swapon()

    async def refused(**how: object) -> type[SwapTierError]:
        with pytest.raises(aio.AioRpcError) as caught:
            await served.swapon(**how)  # type: ignore[arg-type]  # as the caller says
        error = from_rpc_error(caught.value)
        assert error.definite
        return type(error)

    assert await refused(slots=SLOTS - 1) is AreaExists
    assert await refused(free_on_read=True) is AreaExists
    assert await refused(client="other") is AreaNotOwned
    assert await refused(area="b") is LimitReached
    assert await refused(area="", client="x") is InvalidRequest
    assert await refused(area="b", client="") is InvalidRequest
    assert await refused(area="x" * 129) is InvalidRequest
    assert await refused(area="b", slots=0) is InvalidRequest
    assert await refused(area="b", slots=SLOTS + 1) is LimitReached
    assert await refused(area="b", slots=2**64 - 1) is LimitReached
    assert list(served.server.tier.areas) == ["a"]


async def test_swapoff_says_how_many_pages_it_forgot_and_a_repeat_finds_no_area(serve: Serve) -> None:
    """Nothing is forgotten silently."""
    served = await serve()
    await served.swapon()
    await served.stub.Store(store_message())
    answer = await served.stub.Swapoff(pb.SwapoffRequest(header=header_message()))
    assert (answer.server_epoch, answer.dropped_pages) == (EPOCH, 1)
    assert isinstance(await refusal(served.stub.Swapoff(pb.SwapoffRequest(header=header_message()))), UnknownArea)
    assert len(served.server.activity) == 0


async def test_nobody_touches_an_area_that_is_not_theirs(serve: Serve, ask: Ask) -> None:
    """Another client is refused, an unknown area is said to be unknown, and neither changes anything."""
    served = await serve()
    await served.swapon()
    await ask(served, stores((0, 1, TEXT)))
    before = await served.stat()
    for header, error in (
        (Header("other", 1, 9, "a"), AreaNotOwned),
        (Header("host", 1, 9, "b"), UnknownArea),
        (Header("host", 2, 9, "a"), UnknownArea),
        (Header("host", 0, 9, "a"), ClientReplaced),
    ):
        for request in (
            stores((0, 2, ZERO_PAGE), header=header),
            loads((0, 1), mode=LoadMode.EXCLUSIVE, header=header),
        ):
            with pytest.raises(error):
                await ask(served, request)
    assert await served.stat() == before


async def test_stat_names_every_cause_and_changes_nothing(serve: Serve, ask: Ask) -> None:
    """Counters by cause, the page gauges beside them."""
    served = await serve()
    await served.swapon()
    await ask(served, stores((0, 1, TEXT), (1, 1, ZERO_PAGE)))
    await ask(served, loads((0, 1)))
    stat = await served.stat()
    assert (stat.slots, stat.stored_pages, stat.same_filled_pages, stat.device_pages) == (SLOTS, 2, 1, 0)
    assert 0 < stat.pool_bytes < PAGE_BYTES
    assert stat.counters["tier_stores", "stored"] == 2
    assert stat.counters["tier_loads", "shared/hit"] == 1
    assert stat.counters["tier_loads", "exclusive/lost"] == 0
    assert await served.stat() == stat


# Outcomes


async def test_a_stored_page_comes_back_until_an_exclusive_load_takes_it(serve: Serve, ask: Ask) -> None:
    """STORED, HIT, HIT, and then what the device has: zeros nobody wrote."""
    served = await serve()
    await served.swapon()
    stored = await one_store(ask, served, stores((3, 1, TEXT)))
    assert stored.outcome is Outcome.STORED
    assert 0 < stored.entry_bytes < PAGE_BYTES
    shared = await one_load(ask, served, loads((3, 1)))
    assert (shared.outcome, shared.page, shared.generation) == (Outcome.HIT, TEXT, 1)
    assert shared.entry_bytes == stored.entry_bytes
    taken = await one_load(ask, served, loads((3, 1), mode=LoadMode.EXCLUSIVE))
    assert (taken.outcome, taken.page) == (Outcome.HIT, TEXT)
    gone = await one_load(ask, served, loads((3, 1)))
    assert (gone.outcome, gone.page, gone.generation) == (Outcome.DEVICE, ZERO_PAGE, 0)
    assert (await one_load(ask, served, loads((3, 1), pool_only=True))).outcome is Outcome.MISS
    lost = await one_load(ask, served, loads((3, 1), require_generation=True))
    assert (lost.outcome, lost.reason, lost.page) == (Outcome.LOST, Reason.TAKEN, None)


async def test_a_same_filled_page_travels_as_one_word(serve: Serve, ask: Ask) -> None:
    """SAME_FILLED takes no pool bytes and no page on the wire."""
    served = await serve()
    await served.swapon()
    word = 0x0123456789ABCDEF
    assert (await one_store(ask, served, stores((0, 1, fill_page(word))))).entry_bytes == 0
    reply = await one_load(ask, served, loads((0, 1)))
    assert (reply.outcome, reply.fill_word, reply.page) == (Outcome.SAME_FILLED, word, None)
    assert (await served.stat()).pool_bytes == 0


async def test_a_page_the_pool_refuses_is_on_the_device_and_the_answer_says_why(serve: Serve, ask: Ask) -> None:
    """DEVICE is as good as stored; a pool without room keeps only what takes none."""
    served = await serve(pool_limit=0)
    await served.swapon()
    reply = await one_store(ask, served, stores((0, 1, TEXT)))
    assert (reply.outcome, reply.reason) == (Outcome.DEVICE, Reason.POOL_LIMIT)
    loaded = await one_load(ask, served, loads((0, 1), require_generation=True))
    assert (loaded.outcome, loaded.page) == (Outcome.DEVICE, TEXT)
    assert (await served.stat()).device_pages == 1


async def test_incompressible_pages_are_kept_or_not_as_configured(serve: Serve, ask: Ask) -> None:
    """--no-keep-incompressible sends them to the device (zswap: reject_compress_poor)."""
    noise = b"".join(page_checksum(n.to_bytes(4, "little")).to_bytes(8, "little") for n in range(PAGE_BYTES // 8))
    for keeps, outcome, reason in (
        (True, Outcome.STORED, Reason.NONE),
        (False, Outcome.DEVICE, Reason.COMPRESS_POOR),
    ):
        served = await serve(keep_incompressible=keeps)
        await served.swapon()
        reply = await one_store(ask, served, stores((0, 1, noise)))
        assert (reply.outcome, reply.reason) == (outcome, reason)
        assert (await one_load(ask, served, loads((0, 1)))).page == noise


class BrokenDevice(MemoryDevice):
    """A device that refuses every write."""

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Refuse."""
        raise DeviceError


async def test_a_page_that_nobody_takes_is_rejected_and_the_older_one_never_comes_back(serve: Serve, ask: Ask) -> None:
    """REJECTED: the client keeps its folio dirty, and a load says LOST."""
    served = await serve(device_for=lambda _name: BrokenDevice(), pool_limit=0)
    await served.swapon()
    await ask(served, stores((0, 1, ZERO_PAGE)))
    reply = await one_store(ask, served, stores((0, 2, TEXT)))
    assert (reply.outcome, reply.reason) == (Outcome.REJECTED, Reason.DEVICE_ERROR)
    lost = await one_load(ask, served, loads((0, 2), require_generation=True))
    assert (lost.outcome, lost.reason) == (Outcome.LOST, Reason.REFUSED_STORE)


async def test_generations_order_what_arrives_late_or_twice(serve: Serve, ask: Ask) -> None:
    """R1 and R4: a repeat is answered again, the past is refused and changes nothing."""
    served = await serve()
    await served.swapon()
    other = TEXT[::-1]
    assert (await one_store(ask, served, stores((0, 5, TEXT)))).outcome is Outcome.STORED
    assert (await one_store(ask, served, stores((0, 5, TEXT)))).outcome is Outcome.STORED
    assert (await one_store(ask, served, stores((0, 5, other)))).outcome is Outcome.STALE_GENERATION
    assert (await one_store(ask, served, stores((0, 4, other)))).outcome is Outcome.STALE_GENERATION
    stale = await one_load(ask, served, loads((0, 4), require_generation=True))
    assert (stale.outcome, stale.generation, stale.page) == (Outcome.STALE_GENERATION, 5, None)
    assert (await ask(served, invalidates(0, 4))).invalidate == [SlotReply(Outcome.STALE_GENERATION)]
    assert (await ask(served, RequestBatches(HEADER, lookup=Lookups([0, 1])))).lookup == [
        SlotReply(Outcome.HIT),
        SlotReply(Outcome.MISS),
    ]
    assert (await ask(served, invalidates(0, 5))).invalidate == [SlotReply(Outcome.INVALIDATED)]
    assert (await ask(served, invalidates(0, 5))).invalidate == [SlotReply(Outcome.MISS)]
    freed = await one_load(ask, served, loads((0, 5), require_generation=True))
    assert (freed.outcome, freed.reason) == (Outcome.LOST, Reason.FREED)


async def test_a_page_damaged_on_its_way_is_refused_and_the_stored_one_stays(serve: Serve, ask: Ask) -> None:
    """ERROR with reason CHECKSUM: send it again."""
    served = await serve()
    await served.swapon()
    await ask(served, stores((0, 1, TEXT)))
    damaged = RequestBatches(HEADER, store=Stores([0], [2], [ZERO_PAGE], [page_checksum(TEXT)]))
    assert await one_store(ask, served, damaged) == SlotReply(Outcome.ERROR, Reason.CHECKSUM)
    assert (await one_load(ask, served, loads((0, 1), require_generation=True))).page == TEXT


async def test_a_page_damaged_in_the_pool_is_an_error_and_never_other_bytes(serve: Serve, ask: Ask) -> None:
    """ERROR, the entry stays, no bytes, and the device behind it is not asked."""
    served = await serve()
    await served.swapon()
    await ask(served, stores((0, 1, TEXT)))
    slot = served.server.tier.areas["a"].known_slots[0]
    assert slot.entry is not None
    slot.entry = slot.entry._replace(checksum=slot.entry.checksum ^ 1)
    reply = await one_load(ask, served, loads((0, 1), mode=LoadMode.EXCLUSIVE))
    assert (reply.outcome, reply.reason, reply.page) == (Outcome.ERROR, Reason.CHECKSUM, None)
    assert (await served.stat()).stored_pages == 1


async def test_a_device_that_frees_on_read_gives_zeros_the_second_time(serve: Serve, ask: Ask) -> None:
    """AreaOptions.device_free_on_read, as zram from 2013 to 2022."""
    served = await serve(pool_limit=0)
    await served.swapon(free_on_read=True)
    await ask(served, stores((0, 1, TEXT)))
    assert (await one_load(ask, served, loads((0, 1)))).page == TEXT
    assert (await one_load(ask, served, loads((0, 1)))).page == ZERO_PAGE


async def test_a_full_batch_of_incompressible_pages_fits_into_one_message_both_ways(serve: Serve, ask: Ask) -> None:
    """The message limit leaves room for the largest batch the contract allows."""
    served = await serve()
    await served.swapon(slots=BATCH_SLOTS_MAX)
    noise = b"".join(
        page_checksum(n.to_bytes(4, "little")).to_bytes(8, "little") for n in range(BATCH_SLOTS_MAX * PAGE_BYTES // 8)
    )
    pages = [noise[start : start + PAGE_BYTES] for start in range(0, len(noise), PAGE_BYTES)]
    highest = 2**64 - 1
    await ask(served, stores(*((offset, highest, page) for offset, page in enumerate(pages))))
    replies = (await ask(served, loads(*((offset, highest) for offset in range(BATCH_SLOTS_MAX))))).load
    assert replies is not None
    assert [reply.page for reply in replies] == pages


async def test_a_claim_is_answered_again_until_it_is_acknowledged(serve: Serve, ask: Ask) -> None:
    """The same request id gets the same bytes, another one CLAIMED; acknowledged, the page is gone and known to be."""
    served = await serve()
    await served.swapon()
    await ask(served, stores((0, 1, TEXT)))

    async def claim(request_id: int, *, must_match: bool = False) -> LoadReply:
        batch = Loads([0], [1], [LoadMode.CLAIM], [request_id], must_match, False)
        (reply,) = (await ask(served, RequestBatches(HEADER, load=batch))).load or []
        return reply

    first, again, other = await claim(7), await claim(7), await claim(8)
    assert (first.outcome, first.content()) == (again.outcome, again.content()) == (Outcome.HIT, TEXT)
    assert other.outcome is Outcome.CLAIMED
    for _ in range(2):
        replies = await ask(served, RequestBatches(HEADER, acknowledge=Acknowledges([0], [1], [7])))
        assert replies.acknowledge == [SlotReply(Outcome.ACKNOWLEDGED)]
    gone = await claim(9, must_match=True)
    assert (gone.outcome, gone.reason, gone.content()) == (Outcome.LOST, Reason.TAKEN, None)


# Bad input


def store_message(**columns: object) -> pb.StoreRequest:
    batch = {"offsets": [0], "generations": [1], "checksums": [page_checksum(TEXT)], "pages": TEXT} | columns
    return pb.StoreRequest(header=header_message(), batch=pb.StoreBatch(**batch))  # type: ignore[arg-type]  # as named


def load_message(**columns: object) -> pb.LoadRequest:
    batch = {"offsets": [0], "generations": [1], "modes": [pb.LOAD_MODE_EXCLUSIVE]} | columns
    return pb.LoadRequest(header=header_message(), batch=pb.LoadBatch(**batch))  # type: ignore[arg-type]  # as named


def many(count: int) -> dict[str, object]:
    return {
        "offsets": range(count),
        "generations": [1] * count,
        "checksums": [page_checksum(TEXT)] * count,
        "pages": TEXT * count,
    }


@dataclass(frozen=True)
class Bad:
    """A message that can never succeed."""

    says: str
    message: pb.StoreRequest | pb.LoadRequest | pb.LookupRequest | pb.InvalidateRequest | pb.AcknowledgeRequest


BAD = [
    Bad("no header", pb.StoreRequest(batch=store_message().batch)),
    Bad("no client id", pb.StoreRequest(header=header_message(client=""), batch=store_message().batch)),
    Bad("no area", pb.StoreRequest(header=header_message(area=""), batch=store_message().batch)),
    Bad("a long area", pb.StoreRequest(header=header_message(area="ä" * 65), batch=store_message().batch)),
    Bad("no batch", pb.StoreRequest(header=header_message())),
    Bad("an empty page", store_message(pages=b"")),
    Bad("a page of 1 byte", store_message(pages=b"x")),
    Bad("a page short of a byte", store_message(pages=TEXT[:-1])),
    Bad("a page and a byte", store_message(pages=TEXT + b"x")),
    Bad("two pages for one slot", store_message(pages=TEXT * 2)),
    Bad("no generation", store_message(generations=[])),
    Bad("a generation too many", store_message(generations=[1, 2])),
    Bad("generation 0", store_message(generations=[0])),
    Bad("no checksum", store_message(checksums=[])),
    Bad("an offset outside", store_message(offsets=[SLOTS])),
    Bad("the highest offset there is", store_message(offsets=[2**64 - 1])),
    Bad("an offset twice", store_message(**many(2) | {"offsets": [1, 1]})),
    Bad("a batch over the limit", store_message(**many(BATCH_SLOTS_MAX + 1))),
    Bad("an empty load", load_message(offsets=[], generations=[], modes=[])),
    Bad("an unspecified mode", load_message(modes=[pb.LOAD_MODE_UNSPECIFIED])),
    Bad("an unknown mode", load_message(modes=[77])),
    Bad("no mode", load_message(modes=[])),
    Bad("a claim without a request id", load_message(modes=[pb.LOAD_MODE_CLAIM])),
    Bad("a load outside", load_message(offsets=[SLOTS])),
    Bad("a load of generation 0", load_message(generations=[0])),
    Bad(
        "a load with one slot outside",
        load_message(offsets=[0, SLOTS], generations=[1, 1], modes=[pb.LOAD_MODE_EXCLUSIVE] * 2),
    ),
    Bad("a lookup outside", pb.LookupRequest(header=header_message(), batch=pb.LookupBatch(offsets=[SLOTS]))),
    Bad("an empty lookup", pb.LookupRequest(header=header_message())),
    Bad(
        "an invalidation outside",
        pb.InvalidateRequest(header=header_message(), batch=pb.InvalidateBatch(offsets=[SLOTS], generations=[1])),
    ),
    Bad(
        "an invalidation without generations",
        pb.InvalidateRequest(header=header_message(), batch=pb.InvalidateBatch(offsets=[0])),
    ),
    Bad("an acknowledgement of nothing", pb.AcknowledgeRequest(header=header_message())),
]


def as_stream_message(message: object) -> pb.ExchangeRequest:
    """Return the unary *message* as one of the stream."""
    kind = type(message).__name__.removesuffix("Request").lower()
    exchange = pb.ExchangeRequest(header=message.header)  # type: ignore[attr-defined]  # every request has one
    getattr(exchange, kind).SetInParent()
    getattr(exchange, kind).CopyFrom(message.batch)  # type: ignore[attr-defined]  # and a batch
    return exchange


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.says)
async def test_a_bad_message_is_refused_whole_by_every_way_and_changes_nothing(serve: Serve, bad: Bad) -> None:
    """INVALID_ARGUMENT, definite; on a stream an `error` under its request id, and the stream goes on."""
    served = await serve()
    await served.swapon()
    await served.stub.Store(store_message())
    before = await served.stat()

    rpc = getattr(served.stub, type(bad.message).__name__.removesuffix("Request"))
    error = await refusal(rpc(bad.message))
    assert isinstance(error, InvalidRequest)
    assert error.definite

    call = served.stub.Exchange()
    exchange = as_stream_message(bad.message)
    exchange.header.request_id = 77
    await call.write(exchange)
    answer = await call.read()
    assert isinstance(answer, pb.ExchangeResponse)
    assert answer.request_id == 77
    assert answer.error.reason == "INVALID_REQUEST"
    assert not any(answer.HasField(kind) for kind in ("store", "load", "lookup", "acknowledge", "invalidate"))
    await call.write(as_stream_message(load_message(modes=[pb.LOAD_MODE_SHARED])))
    answer = await call.read()
    assert isinstance(answer, pb.ExchangeResponse)
    assert not answer.HasField("error")
    await call.done_writing()

    after = await served.stat()
    assert after.counters.pop(("tier_loads", "shared/hit")) == before.counters.pop(("tier_loads", "shared/hit")) + 1
    assert after == before


@pytest.mark.parametrize(
    "exchange",
    [
        pb.ExchangeRequest(header=header_message()),
        pb.ExchangeRequest(
            header=header_message(),
            load=load_message().batch,
            lookup=pb.LookupBatch(offsets=[0]),
        ),
        pb.ExchangeRequest(
            header=header_message(),
            store=store_message(generations=[2]).batch,
            lookup=pb.LookupBatch(offsets=range(1, BATCH_SLOTS_MAX + 1)),
        ),
        pb.ExchangeRequest(
            header=header_message(),
            store=store_message(generations=[2]).batch,
            lookup=pb.LookupBatch(offsets=[SLOTS]),
        ),
    ],
    ids=["no batch", "a slot in two batches", "too many slots together", "a slot outside beside"],
)
async def test_batches_that_cannot_be_applied_together_are_all_refused(
    serve: Serve, exchange: pb.ExchangeRequest
) -> None:
    """What is refused changes nothing, also where one of its batches alone would do."""
    served = await serve()
    await served.swapon()
    await served.stub.Store(store_message())
    before = await served.stat()
    call = served.stub.Exchange()
    await call.write(exchange)
    answer = await call.read()
    assert isinstance(answer, pb.ExchangeResponse)
    assert answer.HasField("error")
    await call.done_writing()
    assert await served.stat() == before


async def test_fields_of_a_later_version_are_ignored(serve: Serve) -> None:
    """An unknown field does not reach the tier and does not hurt."""
    served = await serve()
    await served.swapon()
    unknown = b"\xfa\x3f\x03abc"  # field 1023, three bytes
    message = pb.StoreRequest.FromString(store_message().SerializeToString() + unknown)
    answer = await served.stub.Store(message)
    assert list(answer.result.outcomes) == [pb.OUTCOME_STORED]
    assert b"abc" not in answer.SerializeToString()


async def test_a_host_that_saw_a_server_in_a_higher_epoch_sees_this_one_in_one_that_is_higher_still(
    serve: Serve,
) -> None:
    """The clock was ahead before: to every other host, and to this one from now on, the epoch stays what it was."""
    served = await serve()
    ahead = EPOCH + 1000
    request = pb.SwaponRequest(header=header_message(), slots=SLOTS, seen_server_epoch=ahead)
    for seen in (ahead, ahead, ahead + 1):
        request.seen_server_epoch = seen
        assert (await served.stub.Swapon(request)).server_epoch == ahead + 1
    assert (await served.stub.Stat(pb.StatRequest(header=header_message()))).server_epoch == ahead + 1
    call = served.stub.Exchange()
    await call.write(pb.ExchangeRequest(header=header_message(), lookup=pb.LookupBatch(offsets=[0])))
    answer = await call.read()
    assert isinstance(answer, pb.ExchangeResponse)
    assert answer.server_epoch == ahead + 1
    assert (await served.swapon("b", client="other")).server_epoch == EPOCH


async def test_a_host_whose_clock_was_set_back_learns_which_epoch_to_start_in(serve: Serve) -> None:
    """It came from 2030 once: its name is not locked out, whatever the clock says now."""
    served = await serve()
    from_2030 = 1_893_456_000_000_000_000
    await served.swapon(epoch=from_2030)
    assert served.server.listening is not None
    area = HostArea("host", 7, "a", SLOTS)
    unused = HostArea("unused", 7, "b", SLOTS)
    epoch = await epoch_above_known(served.server.listening, [unused, area], StreamSettings())
    assert from_2030 < epoch < EPOCH_MAX
    await served.swapon(epoch=epoch)
    same = await epoch_above_known(served.server.listening, [area._replace(client_epoch=epoch)], StreamSettings())
    assert epoch < same < EPOCH_MAX
