"""The stream: its order, its flow control, and how a drain ends it."""

import asyncio
import time

import pytest
from grpc import aio
from tests.server.conftest import SLOTS, Serve, header_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.rpc.service import REFUSED_SECONDS
from swaptier_wire import request_codec, status
from swaptier_wire.batches import Header, Loads, RequestBatches, Stores
from swaptier_wire.channels import open_channel
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import Draining
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES, LoadMode

Call = aio.StreamStreamCall[pb.ExchangeRequest, pb.ExchangeResponse]

STUCK_SECONDS = 0.5
"""A write that takes so long on loopback waits for flow control."""


def page(number: int) -> bytes:
    return number.to_bytes(8, "little") + bytes(PAGE_BYTES - 8)


def store_message(offset: int, generation: int, *, area: str = "a", client: str = "host") -> pb.ExchangeRequest:
    content = page(generation)
    return request_codec.encode_exchange_request(
        RequestBatches(
            Header(client, 1, generation, area),
            store=Stores([offset], [generation], [content], [page_checksum(content)]),
        )
    )


def load_message(slots: int, request_id: int = 1) -> pb.ExchangeRequest:
    loads = Loads(list(range(slots)), [1] * slots, [LoadMode.SHARED] * slots, [0] * slots)
    return request_codec.encode_exchange_request(RequestBatches(Header("host", 1, request_id, "a"), load=loads))


async def next_answer(call: Call) -> pb.ExchangeResponse:
    answer = await call.read()
    assert isinstance(answer, pb.ExchangeResponse)
    return answer


async def read_to_the_end(call: Call) -> tuple[int, aio.AioRpcError]:
    """Return how many answers still came, and what the stream ended with."""
    answers = 0
    try:
        while True:
            await next_answer(call)
            answers += 1
    except aio.AioRpcError as error:
        return answers, error


async def write_until_stuck(channel: aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> Call:
    """Return a stream whose handler waits in a write, because nobody reads the answers."""
    stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
    await stub.Swapon(pb.SwaponRequest(header=header_message(), slots=BATCH_SLOTS_MAX), metadata=metadata)
    call = stub.Exchange(metadata=metadata)
    while True:
        write = asyncio.ensure_future(call.write(load_message(BATCH_SLOTS_MAX)))
        done, _ = await asyncio.wait([write], timeout=STUCK_SECONDS)
        if not done:  # to cancel it would cancel the call
            write.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            return call


async def test_messages_are_applied_and_answered_in_the_order_they_were_sent(serve: Serve) -> None:
    """A load sent right behind its store never overtakes it, however many are on their way."""
    served = await serve()
    await served.swapon()
    call = served.stub.Exchange()
    for generation in range(1, 51):
        await call.write(store_message(0, generation))
        await call.write(load_message(1, request_id=1000 + generation))
    for generation in range(1, 51):
        assert (await next_answer(call)).request_id == generation
        loaded = await next_answer(call)
        assert loaded.request_id == 1000 + generation
        assert list(loaded.load.generations) == [generation]
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_one_stream_can_speak_for_several_areas(serve: Serve) -> None:
    """Each message names its area and is applied there."""
    served = await serve()
    await served.swapon("a")
    await served.swapon("b")
    call = served.stub.Exchange()
    for area in ("a", "b", "b"):
        await call.write(store_message(0, 1 if area == "a" else 2, area=area))
        assert not (await next_answer(call)).HasField("error")
    assert (await served.stat("a")).counters["tier_stores", "stored"] == 1
    assert (await served.stat("b")).counters["tier_repeated_stores", ""] == 1


async def test_a_drain_ends_idle_streams_at_once_and_tells_them_that_nothing_was_lost(serve: Serve) -> None:
    """UNAVAILABLE with reason DRAINING, definite; the drain does not wait for its time to run out."""
    served = await serve(drain_seconds=60)
    await served.swapon()
    call = served.stub.Exchange()
    await call.write(store_message(0, 1))
    await next_answer(call)
    await asyncio.wait_for(served.server.drain(), 10)
    _, caught = await read_to_the_end(call)
    error = status.from_rpc_error(caught)
    assert isinstance(error, Draining)
    assert error.definite


async def test_a_message_without_an_answer_had_no_effect_when_a_drain_ends_its_stream(serve: Serve) -> None:
    """The tier counts exactly as many stores as were answered, wherever in a run of messages the drain falls."""
    served = await serve()
    await served.swapon()
    call = served.stub.Exchange()
    answered = 0

    # All is sent before the drain begins: grpc.aio reports a write to an ended call as INTERNAL, whatever ended it.
    async def send() -> None:
        for generation in range(1, 201):
            await call.write(store_message(generation % SLOTS, generation))

    sender = asyncio.create_task(send())
    while not sender.done():
        await next_answer(call)
        answered += 1
    await sender
    drained = asyncio.create_task(served.server.drain())
    late_answers, error = await read_to_the_end(call)
    answered += late_answers
    assert isinstance(status.from_rpc_error(error), Draining)
    await drained
    assert sum(served.server.tier.areas["a"].counters.stores.values()) == answered


async def test_a_client_that_does_not_read_its_answers_is_cut_off_when_the_drain_runs_out_of_time(
    serve: Serve,
) -> None:
    """It holds up only its own stream, and the drain for --drain-seconds at most."""
    served = await serve(drain_seconds=0.1)
    call = await write_until_stuck(served.channel)
    assert served.server.traffic.in_flight == 1
    assert (await served.stat()).slots == BATCH_SLOTS_MAX
    await asyncio.wait_for(served.server.drain(), 10)
    assert served.server.traffic.open_streams == 0
    call.cancel()


async def test_a_client_that_breaks_off_leaves_nothing_behind(serve: Serve) -> None:
    """A cancelled stream is no longer in flight, and what it had been answered stays applied."""
    served = await serve()
    await served.swapon()
    call = served.stub.Exchange()
    await call.write(store_message(0, 1))
    await next_answer(call)
    assert served.server.traffic.open_streams == 1
    call.cancel()
    async with asyncio.timeout(10):
        while served.server.traffic.open_streams:
            await served.stat()
    assert (await served.stat()).counters["tier_stores", "stored"] == 1


async def test_a_message_over_the_limit_breaks_the_stream_and_nothing_else(serve: Serve) -> None:
    """RESOURCE_EXHAUSTED by gRPC itself, before any handler sees it."""
    served = await serve()
    await served.swapon()
    before = await served.stat()
    call = served.stub.Exchange()
    batch = pb.StoreBatch(offsets=[0], generations=[1], checksums=[1], pages=bytes(2 << 20))
    async with open_channel(str(served.server.listening)) as channel:
        unlimited = type(served.stub)(channel)
        call = unlimited.Exchange()
        await call.write(pb.ExchangeRequest(header=header_message(), store=batch))
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"
    assert await served.stat() == before


async def test_a_stream_whose_messages_are_refused_is_read_slowly(serve: Serve) -> None:
    """A flood of them keeps the loop busy below our code; what is refused costs its sender time, and nobody else."""
    served = await serve()
    call = served.stub.Exchange()
    began = time.perf_counter()
    for _ in range(4):
        await call.write(pb.ExchangeRequest())
    for _ in range(4):
        assert (await next_answer(call)).HasField("error")
    assert time.perf_counter() - began >= 3 * REFUSED_SECONDS
