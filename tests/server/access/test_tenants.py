"""What one tenant may have and do at once, asked of a real server, and that the others do not notice."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack
from pathlib import Path
from random import randbytes

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.builders import put
from tests.server.conftest import Serve, Served, header_message
from tests.server.pki import bearer, write_tokens
from tests.server.rpc.test_exchange import load_message, next_answer, store_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server import lifecycle
from swaptier_server.access.tenants import HEALTH_WATCHES_MAX, TenantLimits, Tenants
from swaptier_server.config import Device
from swaptier_server.rpc.server import SERVICE
from swaptier_server.rpc.traffic import REQUEST_SECONDS_MAX
from swaptier_server.tier.account import UNBOUNDED
from swaptier_wire.channels import open_channel
from swaptier_wire.errors import InvalidRequest, LimitReached
from swaptier_wire.status import decode_exchange_error, from_rpc_error
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES, Outcome

PATIENCE_SECONDS = 10
"""Only a hanging server takes so long."""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file that lets alice and bob in."""
    return write_tokens(tmp_path / "tokens", "alice", "bob")


async def limited(call: Awaitable[object]) -> LimitReached:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(caught.value)
    assert isinstance(error, LimitReached)
    assert error.definite
    return error


async def eventually(condition: object) -> None:
    """Return when *condition()* is true."""
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what happens in the server sets no event here
            await asyncio.sleep(0)


# What it has


async def test_a_tenant_has_so_many_areas_and_the_others_have_theirs(serve: Serve, tokens: Path) -> None:
    """Waiting alone does not help, so the refusal says not when; closing one does."""
    served = await serve(tokens=tokens, tenant_areas_max=2)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    for area in ("a", "b"):
        await alice.swapon(area)
    error = await limited(alice.swapon("c"))
    assert "2 areas open and may have 2" in str(error)
    assert error.retry_after_seconds is None
    assert (await alice.swapon("a")).reopened
    for area in ("a", "b"):
        await bob.swapon(area)
    await alice.stub.Swapoff(pb.SwapoffRequest(header=header_message("a")), metadata=alice.metadata)
    await alice.swapon("c")


async def test_a_tenants_slots_count_over_all_its_areas(serve: Serve, tokens: Path) -> None:
    """Each slot may cost a page of device."""
    served = await serve(tokens=tokens, tenant_slots_max=100)
    alice = served.seen_by("alice")
    await alice.swapon("a", slots=60)
    assert "areas of 60 slots, asked for 41 more and may have 100" in str(await limited(alice.swapon("b", slots=41)))
    await alice.swapon("b", slots=40)
    await served.seen_by("bob").swapon("b", slots=100)


async def test_a_tenants_quotas_of_the_pool_count_over_all_its_areas(serve: Serve, tokens: Path) -> None:
    """Else one tenant, with an area that may not write back, would keep the pool from all others for good."""
    served = await serve(tokens=tokens, tenant_pool_limit=100_000)
    alice = served.seen_by("alice")
    without = await limited(alice.swapon("a"))
    assert "the new one has no quota" in str(without)
    assert "Ask for a pool_bytes_max of up to 100000" in str(without)
    await alice.swapon("a", pool_bytes_max=60_000, writeback=False)
    assert (await alice.swapon("a", pool_bytes_max=60_000, writeback=False)).reopened
    error = await limited(alice.swapon("b", pool_bytes_max=40_001))
    assert "its open areas may take 60000, and the new one asks for 40001 bytes of it" in str(error)
    assert error.retry_after_seconds is None
    await alice.swapon("b", pool_bytes_max=40_000)
    await served.seen_by("bob").swapon("a", pool_bytes_max=100_000)
    assert sorted(served.server.tier.areas) == ["alice|a", "alice|b", "bob|a"]


async def test_a_host_that_was_started_anew_may_have_as_much_as_before(serve: Serve, tokens: Path) -> None:
    """Its areas of the life before end with this very call, and do not stand in its way."""
    served = await serve(tokens=tokens, tenant_areas_max=1, tenant_slots_max=64)
    alice = served.seen_by("alice")
    await alice.swapon("a", epoch=1)
    await limited(alice.swapon("b", client="another", epoch=2))
    await alice.swapon("b", epoch=2)
    assert list(served.server.tier.areas) == ["alice|b"]


async def test_names_are_short_enough_to_stand_behind_the_tenants(serve: Serve, tokens: Path) -> None:
    """The refusal says how long they may be."""
    served = await serve(tokens=tokens)
    alice = served.seen_by("alice")
    await alice.swapon("x" * 122, client="y" * 122)
    for area, client in (("x" * 123, "y"), ("x", "y" * 123)):
        with pytest.raises(aio.AioRpcError, match="it may have 127") as caught:
            await alice.swapon(area, client=client)
        assert isinstance(from_rpc_error(caught.value), InvalidRequest)


# What it does


async def test_a_tenant_has_so_many_streams_and_the_others_have_theirs(serve: Serve, tokens: Path) -> None:
    """One more is refused at once, with the time to wait; when one ends, the next is let in."""
    served = await serve(tokens=tokens, tenant_streams_max=2)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    await alice.swapon()
    streams = [served.stub.Exchange(metadata=alice.metadata) for _ in range(2)]
    for stream in streams:
        await stream.write(load_message(1))
        await next_answer(stream)
    error = await limited(served.stub.Exchange(metadata=alice.metadata).read())
    assert error.retry_after_seconds == 1.0
    assert await alice.stat(), "requests are counted apart"
    await bob.swapon()
    other = served.stub.Exchange(metadata=bob.metadata)
    await other.write(load_message(1))
    assert await next_answer(other)
    await streams[0].done_writing()
    assert await streams[0].read() is aio.EOF
    again = served.stub.Exchange(metadata=alice.metadata)
    await again.write(load_message(1))
    assert await next_answer(again)


class Silent:
    """Calls of a unary method whose message does not come."""

    def __init__(self, served: Served, tenant: str, count: int) -> None:
        call = served.channel.stream_stream(f"/{SERVICE}/Stat")
        self.calls: list[aio.StreamStreamCall[bytes, bytes]] = [call(metadata=bearer(tenant)) for _ in range(count)]

    async def begin(self) -> None:
        """Send their heads."""
        for call in self.calls:
            await call.wait_for_connection()


async def test_requests_count_from_their_first_byte_and_not_from_their_message(serve: Serve, tokens: Path) -> None:
    """Else a tenant that sends heads without messages would hold the places of everybody."""
    served = await serve(tokens=tokens, tenant_requests_max=3)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    await alice.swapon()
    silent = Silent(served, "alice", 3)
    await silent.begin()
    await eventually(lambda: served.server.traffic.in_flight == 3)
    error = await limited(alice.stat())
    assert "3 requests in flight are the most" in str(error)
    assert error.retry_after_seconds == 0.1
    await bob.swapon()
    silent.calls[0].cancel()
    await eventually(lambda: served.server.traffic.in_flight == 2)
    assert await alice.stat()


async def test_a_request_whose_message_does_not_come_is_ended(serve: Serve, tokens: Path) -> None:
    """Definitely without effect; a stream may be silent for as long as it likes."""
    served = await serve(tokens=tokens)
    alice = served.seen_by("alice")
    await alice.swapon()
    stream = served.stub.Exchange(metadata=alice.metadata)
    await stream.wait_for_connection()
    silent = Silent(served, "alice", 1)
    await silent.begin()
    await eventually(lambda: served.server.traffic.in_flight == 2)
    served.clock.advance(REQUEST_SECONDS_MAX)
    served.server.housekeeper.keep_house()
    assert served.server.traffic.in_flight == 2
    served.clock.advance(0.001)
    served.server.housekeeper.keep_house()
    assert "did not arrive within 30 s" in str(await limited(silent.calls[0].read()))
    await stream.write(load_message(1))
    assert await next_answer(stream)


async def test_a_request_that_ends_before_its_message_is_refused(serve: Serve) -> None:
    """It used to get no answer at all from grpc.aio."""
    served = await serve()
    call: aio.StreamStreamCall[bytes, bytes] = served.channel.stream_stream(f"/{SERVICE}/Stat")()
    await call.done_writing()
    with pytest.raises(aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), PATIENCE_SECONDS)
    assert isinstance(from_rpc_error(caught.value), InvalidRequest)


async def test_a_drain_does_not_wait_for_a_message_that_does_not_come(serve: Serve) -> None:
    """The request had no effect, and is told so."""
    served = await serve(drain_seconds=60)
    call: aio.StreamStreamCall[bytes, bytes] = served.channel.stream_stream(f"/{SERVICE}/Stat")()
    await call.wait_for_connection()
    await eventually(lambda: served.server.traffic.in_flight == 1)
    await asyncio.wait_for(served.server.drain(), PATIENCE_SECONDS)
    with pytest.raises(aio.AioRpcError, match="shutting down"):
        await call.read()


async def test_health_calls_are_bounded_although_nobody_has_to_say_who_calls(serve: Serve, tokens: Path) -> None:
    """Watches of strangers do not hold the places of tenants, nor of each other for ever."""
    served = await serve(tokens=tokens)
    health = health_pb2_grpc.HealthStub(served.channel)
    watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(HEALTH_WATCHES_MAX // 2)]
    for watch in watches:
        assert await watch.read()
    error = await limited(health.Watch(health_pb2.HealthCheckRequest()).read())
    assert "32 health watches from one address are the most" in str(error)
    assert await health.Check(health_pb2.HealthCheckRequest()), "probes have places of their own"
    assert await served.seen_by("alice").swapon()
    for watch in watches:
        watch.cancel()
    await eventually(lambda: not served.server.tenants._watches)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert await watch.read()
    watch.cancel()


def test_health_calls_of_one_address_leave_places_for_another() -> None:
    """Nobody says who calls, so where a call comes from is all that they can be told apart by."""
    tenants = Tenants(TenantLimits(1, 1, 1, 1), calls_max=3)
    with ExitStack() as held:
        for port in range(32):
            held.enter_context(tenants.health_call(f"ipv4:192.0.2.1:{port}", is_watch=False))
        with pytest.raises(LimitReached, match="one address"), tenants.health_call("ipv4:192.0.2.1:99", is_watch=False):
            pass
        for port in range(32):
            held.enter_context(tenants.health_call(f"ipv6:%5B2001:db8::1%5D:{port}", is_watch=False))
        with pytest.raises(LimitReached, match="64 health checks are"), tenants.health_call("unix:", is_watch=False):
            pass
        with tenants.health_call("ipv4:192.0.2.1:99", is_watch=True):
            pass
    assert not tenants._checks and not tenants._watches


def test_calls_of_a_tenant_leave_the_others_their_share() -> None:
    """Ten thousand calls of one tenant hold 384 places of 512; on a server of four, 64 are kept for each other one."""
    tenants = Tenants(TenantLimits(1, 1, requests_max=400, streams_max=400), calls_max=512)
    tenants.divide(4)
    with ExitStack() as held:
        for _ in range(300):
            held.enter_context(tenants.request("greedy"))
        for _ in range(20):
            held.enter_context(tenants.stream("greedy"))
        with pytest.raises(LimitReached, match=r"320 calls .* takes 512, 320 by this .* 64 are reserved") as caught:
            held.enter_context(tenants.request("greedy"))
        assert caught.value.retry_after_seconds is not None
        for tenant in ("a", "b", "c"):
            for _ in range(64):
                held.enter_context(tenants.request(tenant))
            with pytest.raises(LimitReached, match="64 by this tenant"), tenants.request(tenant):
                pass


async def test_a_server_without_tenants_says_which_bound_its_calls_met(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPC says of its own bound neither what it is nor that nothing was applied."""
    monkeypatch.setattr(lifecycle, "CALLS_MAX", 1)
    served = await serve()
    await served.swapon()
    stream = served.stub.Exchange()
    await stream.write(load_message(1))
    assert await stream.read()
    assert "1 calls are under way on this server, which takes 1;" in str(await limited(served.swapon()))
    await stream.done_writing()


def test_what_has_ended_leaves_nothing_behind() -> None:
    """As many tenants as there are tokens may come and go."""
    tenants = Tenants(TenantLimits(1, 1, 1, 1), calls_max=3)
    for tenant in ("alice", "bob"):
        with tenants.request(tenant), tenants.stream(tenant), tenants.health_call("unix:", is_watch=True):
            pass
        with pytest.raises(ZeroDivisionError), tenants.request(tenant):
            1 / 0  # noqa: B018 - raises
    assert not tenants._requests and not tenants._streams and not tenants._calls_of and not tenants._calls.parts


# What it shares with the others


async def test_what_one_tenant_takes_leaves_the_other_its_share_without_a_flag(
    serve: Serve, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With tokens alone: half of the pool, the devices, areas and slots is reserved for those whom the file names."""
    served = await serve(tokens=tokens, pool_limit=64 * PAGE_BYTES, device_limit=64 * PAGE_BYTES)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    await alice.swapon(slots=BATCH_SLOTS_MAX, writeback=False)
    await bob.swapon(slots=BATCH_SLOTS_MAX)
    for area, share, everything in (("alice|a", 48, 48), ("bob|a", 16, 32)):
        stores = [put(served.server.tier.areas[area], offset, 1, randbytes(PAGE_BYTES)) for offset in range(80)]
        assert [reply.outcome for reply in stores[:share]] == [Outcome.STORED] * share
        assert sum(reply.outcome is not Outcome.REJECTED for reply in stores) >= everything
    assert served.server.tier.areas["bob|a"].stored_pages == 16
    assert served.server.tier.accounts.bounds.areas.reserved == 16
    served.server.reload()
    [line] = [record.msg for record in caplog.records if "device_limit_reached" in str(record.msg)]
    assert isinstance(line, dict)
    assert (line["tenant"], line["pages"], line["reserved_pages"], line["limit_pages"]) == ("bob", 48, 16, 64)


async def test_of_a_swap_file_there_is_what_its_file_system_has(serve: Serve, tokens: Path, tmp_path: Path) -> None:
    """One tenant cannot fill the disk for the others; a server that asks nobody may, as a program alone."""
    served = await serve(tokens=tokens, device=Device(f"sqlite:{tmp_path / 'swap'}"))
    pages = served.server.tier.accounts.bounds.device_pages
    free = shutil.disk_usage(tmp_path).free // PAGE_BYTES
    assert 0 < pages.most <= free and pages.reserved == pages.most // 4
    alone = await serve(device=Device(f"sqlite:{tmp_path / 'other'}"))
    assert alone.server.tier.accounts.bounds.device_pages.most == UNBOUNDED


async def test_tenants_that_a_token_file_gains_get_a_share_and_those_it_loses_leave_theirs(
    serve: Serve, tokens: Path
) -> None:
    served = await serve(tokens=tokens)
    areas = served.server.tier.accounts.bounds.areas
    await served.seen_by("alice").swapon()
    assert (areas.tenants, areas.reserved) == (2, 16)
    write_tokens(tokens, "alice", "bob", "carol", "dave")
    served.server.reload()
    assert (areas.tenants, areas.reserved) == (4, 8)
    write_tokens(tokens, "erin")
    served.server.reload()
    assert areas.tenants == 1
    served.server.tier.drop_area("alice|a")
    await served.seen_by("erin").swapon()


# How large its messages are


async def test_a_server_says_how_many_slots_a_message_may_have_and_holds_to_it(serve: Serve, tokens: Path) -> None:
    """By its columns, so a message that is too large only by its pages breaks off earlier, by gRPC itself."""
    served = await serve(tokens=tokens, batch_slots_max=4)
    alice = served.seen_by("alice")
    assert (await alice.swapon(slots=BATCH_SLOTS_MAX)).batch_slots_max == 4
    stream = served.stub.Exchange(metadata=alice.metadata)
    await stream.write(load_message(5))
    error = decode_exchange_error((await next_answer(stream)).error)
    assert isinstance(error, LimitReached)
    assert "names 5 slots, this server takes 4" in str(error)
    await stream.write(load_message(4))
    assert len((await next_answer(stream)).load.outcomes) == 4
    request = pb.LookupRequest(header=header_message(), batch=pb.LookupBatch(offsets=range(5)))
    await limited(served.stub.Lookup(request, metadata=alice.metadata))


async def test_a_message_over_the_limit_ends_its_own_call_only(serve: Serve, tokens: Path) -> None:
    """RESOURCE_EXHAUSTED by gRPC itself, for a unary call and a stream; the tenant next door reads on."""
    served = await serve(tokens=tokens, batch_slots_max=4)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    for tenant in (alice, bob):
        await tenant.swapon()
    stream = served.stub.Exchange(metadata=bob.metadata)
    batch = pb.StoreBatch(offsets=[0], generations=[1], checksums=[1], pages=bytes(100_000))
    async with open_channel(served.address) as channel:
        unlimited = type(served.stub)(channel)

        async def requests() -> AsyncIterator[pb.ExchangeRequest]:
            yield pb.ExchangeRequest(header=header_message(), store=batch)

        for call in (
            unlimited.Store(pb.StoreRequest(header=header_message(), batch=batch), metadata=alice.metadata),
            unlimited.Exchange(requests(), metadata=alice.metadata).read(),
        ):
            with pytest.raises(aio.AioRpcError, match="larger than max") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await stream.write(store_message(0, 1))
    assert not (await next_answer(stream)).HasField("error")
    assert (await alice.stat()).device_pages == (await alice.stat()).stored_pages == 0
