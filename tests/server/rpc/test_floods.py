"""What is a flood, and that it is named once: the counting by itself, and a server that is flooded."""

import asyncio
import logging
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.conftest import Clock, Serve, Served, header_message
from tests.server.pki import write_tokens

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server.line_budget import LINES_MAX, SPAN_SECONDS
from swaptier_server.rpc.callers import Callers
from swaptier_server.rpc.floods import LIMITS, QUIET_SECONDS, Flood, Floods, Kind
from swaptier_server.rpc.metrics import make_registry

SECOND = 10**9


class Second:
    """Looks at *floods* once a second."""

    def __init__(self) -> None:
        self.floods = Floods(0)
        self._now_ns = 0

    def after(self, *did: tuple[Kind, str | None, int]) -> list[Flood]:
        """Return what is said after a second in which that was done."""
        for what in did:
            self.floods.count(*what)
        self._now_ns += SECOND
        return list(self.floods.look(self._now_ns))


def test_a_flood_is_named_when_it_begins_and_when_it_has_been_quiet() -> None:
    """Once each, with who, how much, and how long; a pause of a second does not end it."""
    second, limit = Second(), LIMITS[Kind.HEALTH]
    assert second.after((Kind.HEALTH, None, limit - 1)) == []
    assert second.after((Kind.HEALTH, None, limit)) == [Flood(Kind.HEALTH, None, limit, 0.0, is_over=False)]
    assert second.floods.under_way(Kind.HEALTH) == 1
    assert second.after((Kind.HEALTH, None, 3 * limit)) == []
    assert second.after() == []
    assert second.after((Kind.HEALTH, None, 2 * limit)) == []
    quiet = [flood for _ in range(round(QUIET_SECONDS)) for flood in second.after((Kind.HEALTH, None, limit // 2 - 1))]
    (over,) = quiet
    assert (over.kind, over.caller, over.seconds, over.is_over) == (Kind.HEALTH, None, 4.0, True)
    assert second.floods.under_way(Kind.HEALTH) == 0


def test_floods_are_of_one_caller_and_kind() -> None:
    """What ten callers do together is none, and a tenant called as the anonymous are in the log is not them."""
    second, limit = Second(), LIMITS[Kind.RESETS]
    assert second.after(*((Kind.RESETS, f"tenant-{number}", limit // 10) for number in range(10))) == []
    said = second.after((Kind.RESETS, "anonymous", limit), (Kind.RESETS, None, limit), (Kind.CALLS, "alice", limit))
    assert {(flood.kind, flood.caller) for flood in said} == {(Kind.RESETS, "anonymous"), (Kind.RESETS, None)}


def test_a_look_that_comes_too_early_or_late_takes_no_rate_for_another() -> None:
    """After a stop of ten seconds, ten times as much is the same rate."""
    floods, limit = Floods(0), LIMITS[Kind.CALLS]
    floods.count(Kind.CALLS, "alice", limit - 1)
    assert list(floods.look(SECOND // 10)) == []
    assert list(floods.look(SECOND)) == []
    floods.count(Kind.CALLS, "alice", 9 * limit)
    assert list(floods.look(11 * SECOND)) == []


# A server


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    return [line.msg for line in caplog.records if isinstance(line.msg, dict) and line.msg["event"] == event]


def test_what_callers_do_becomes_floods_by_kind_and_who(caplog: pytest.LogCaptureFixture) -> None:
    """Calls from ever new peers, refused, broken off, of health: each is counted, and the metrics name no caller."""
    clock, registry = Clock(), make_registry()
    callers = Callers(registry, clock)
    for _ in range(3):
        for number in range(max(LIMITS.values())):
            callers.called("ipv4:127.0.0.1:1", "alice", grpc.StatusCode.OK)
            if number < LIMITS[Kind.HEALTH]:
                callers.called("ipv4:127.0.0.1:2", None, grpc.StatusCode.OK, is_health=True)
                callers.called(f"ipv4:127.0.0.1:{clock.ns + number}", "bob", grpc.StatusCode.UNAUTHENTICATED)
                callers.called("ipv4:127.0.0.1:3", "carol", grpc.StatusCode.CANCELLED)
        clock.advance(1)
        callers.look()
    callers.look(handshakes=LIMITS[Kind.CONNECTIONS])
    clock.advance(1)
    callers.look()
    assert {(line["of"], line["caller"]): line["per_second"] for line in said(caplog, "flood")} == {
        ("calls", "alice"): LIMITS[Kind.CALLS],
        ("health", "anonymous"): LIMITS[Kind.HEALTH],
        ("refused", "bob"): LIMITS[Kind.REFUSED],
        ("connections", "bob"): LIMITS[Kind.CONNECTIONS],
        ("resets", "carol"): LIMITS[Kind.RESETS],
        ("connections", "anonymous"): LIMITS[Kind.CONNECTIONS],
    }
    assert registry.get_sample_value("swaptier_floods_total", {"kind": "connections"}) == 2
    assert registry.get_sample_value("swaptier_floods_under_way", {"kind": "connections"}) == 2
    clock.advance(QUIET_SECONDS)
    callers.look()
    assert len(said(caplog, "flood_ended")) == 6
    assert registry.get_sample_value("swaptier_floods_under_way", {"kind": "connections"}) == 0
    labels = {value for family in registry.collect() for sample in family.samples for value in sample.labels.values()}
    assert labels == set(Kind)


def look(served: Served) -> None:
    served.clock.advance(1)
    served.server.housekeeper.keep_house()


@pytest.mark.parametrize("tenant", ["alice", None], ids=["a tenant", "nobody known"])
async def test_refused_calls_are_a_flood_of_who_makes_them(
    serve: Serve, tmp_path: Path, tenant: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """For three seconds: named once, and as few lines as that."""
    served = await serve(tokens=write_tokens(tmp_path / "tokens", "alice"))
    seen = served if tenant is None else served.seen_by(tenant)
    for _ in range(3):
        for _ in range(LIMITS[Kind.REFUSED]):
            with pytest.raises(aio.AioRpcError):
                await seen.stat()
        look(served)
    (line,) = said(caplog, "flood")
    assert (line["of"], line["caller"], line["level"]) == ("refused", tenant or "anonymous", "warning")


async def test_calls_that_are_broken_off_are_a_flood(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """By the client, after an answer. Twice as many: a reset that gRPC has not noted yet looks like an end."""
    served = await serve()
    for _ in range(2 * LIMITS[Kind.RESETS]):
        call = served.stub.Exchange()
        await call.write(pb.ExchangeRequest())
        assert await call.read()
        call.cancel()
    async with asyncio.timeout(10):
        while served.server.traffic.open_streams:
            await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())
    look(served)
    assert ("resets", "anonymous") in {(line["of"], line["caller"]) for line in said(caplog, "flood")}


async def test_messages_that_a_stream_refuses_are_a_flood_too(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """They are no calls of their own, and cost as much."""
    served = await serve()
    stream = served.stub.Exchange()
    for _ in range(LIMITS[Kind.REFUSED]):
        await stream.write(pb.ExchangeRequest())
        assert await stream.read()
    look(served)
    stream.cancel()
    assert [(line["of"], line["caller"]) for line in said(caplog, "flood")] == [("refused", "anonymous")]


async def test_a_call_of_no_method_is_counted_as_refused(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused before the guard sees it."""
    served = await serve()
    unknown = served.channel.unary_unary("/no.such/Method")
    for _ in range(LIMITS[Kind.REFUSED]):
        with pytest.raises(aio.AioRpcError):
            await unknown(b"")
    look(served)
    assert [(line["of"], line["caller"]) for line in said(caplog, "flood")] == [("refused", "anonymous")]


async def test_areas_that_come_and_go_are_some_lines_and_a_number_and_hide_nobody_elses(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line a call would be a disk full of them."""
    served = await serve(tokens=write_tokens(tmp_path / "tokens", "alice", "bob"))
    alice, times = served.seen_by("alice"), LINES_MAX + 10
    for _ in range(times):
        await alice.swapon()
        await alice.stub.Swapoff(pb.SwapoffRequest(header=header_message()), metadata=alice.metadata)
    await served.seen_by("bob").swapon("his")
    opened, closed = said(caplog, "area_opened"), said(caplog, "area_closed")
    assert len(opened) == LINES_MAX + 1 and len(closed) == LINES_MAX
    assert opened[-1]["area"] == "bob|his"
    served.clock.advance(SPAN_SECONDS)
    served.server.housekeeper.keep_house()
    left_out = {(line["of"], line["caller"], line["lines"]) for line in said(caplog, "log_lines_left_out")}
    assert left_out == {("area_opened", "alice", 10), ("area_closed", "alice", 10)}
    assert served.server.registry.get_sample_value("swaptier_log_lines_left_out_total") == 20
    for number in range(LINES_MAX + 1):
        await alice.swapon(str(number % 2), epoch=2 + number)
    caplog.clear()
    await served.server.drain()
    assert [line["lines"] for line in said(caplog, "log_lines_left_out")] == [1], "nor at the end"


async def test_a_defect_that_every_call_meets_is_some_tracebacks_and_a_number(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever finds one cannot fill the log with it."""
    served = await serve()
    await served.swapon()
    served.server.tier.areas["a"].slots = "a defect"  # type: ignore[assignment]  # as would be one
    for _ in range(LINES_MAX + 3):
        with pytest.raises(aio.AioRpcError) as caught:
            await served.stat()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert len(said(caplog, "rpc_failed")) == LINES_MAX
