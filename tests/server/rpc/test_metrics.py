"""What /metrics shows: everything from the start, the truth of one moment, and nothing at all rather than a lie."""

import asyncio
import threading
import urllib.error
import urllib.request

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tests.server.conftest import Serve, Served, header_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server.rpc import snapshot
from swaptier_server.rpc.metrics import AREA_COUNTERS
from swaptier_server.rpc.rpc_metrics import code_label
from swaptier_server.tier.counters import AreaCounters
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

FAMILIES = {
    "swaptier_build_info",
    "swaptier_tier_ready",
    "swaptier_tier_areas",
    "swaptier_tier_pool_bytes",
    "swaptier_tier_pool_limit_bytes",
    "swaptier_tier_pool_accepting",
    "swaptier_tier_pool_limit_hits_total",
    "swaptier_tier_areas_expired_total",
    "swaptier_tier_stored_pages",
    "swaptier_tier_same_filled_pages",
    "swaptier_tier_device_pages",
    "swaptier_tier_stores_total",
    "swaptier_tier_rejects_total",
    "swaptier_tier_loads_total",
    "swaptier_tier_invalidates_total",
    "swaptier_tier_device_reads_total",
    "swaptier_tier_duplicate_entries_total",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "process_resident_memory_bytes",
}
"""The names that dashboards and alerts are written against."""


def fetch(served: Served) -> str:
    with urllib.request.urlopen(f"http://{served.server.metrics_address}/metrics", timeout=10) as response:
        return str(response.read().decode())


async def scrape(served: Served) -> Samples:
    text = await asyncio.to_thread(fetch, served)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_metrics_are_at_their_path_alone(served: Served) -> None:
    """What asks the port for something else is told that it is not there, and not that all is well."""
    address = served.server.metrics_address
    with await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/") as response:
        assert b"swaptier_tier_ready" in response.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/healthz")


async def store(served: Served, offset: int, page: bytes, generation: int = 1) -> pb.StoreResponse:
    batch = pb.StoreBatch(offsets=[offset], generations=[generation], checksums=[page_checksum(page)], pages=page)
    return await served.stub.Store(pb.StoreRequest(header=header_message(), batch=batch))


@pytest.fixture
async def served(serve: Serve) -> Served:
    """A server with metrics."""
    return await serve(metrics="127.0.0.1:0")


async def test_every_family_is_there_from_the_start(served: Served) -> None:
    """HELP and TYPE of each, before any area is open or any request was made; no `_created` series."""
    text = await asyncio.to_thread(fetch, served)
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert shown >= FAMILIES
    assert "_created" not in text
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")} == shown


async def test_a_fresh_area_shows_every_cause_at_0(served: Served) -> None:
    """increase() sees the first event of each."""
    await served.swapon()
    samples = await scrape(served)
    for row in AreaCounters().rows():
        assert value(samples, f"swaptier_{row.name}_total", area="a", **dict(row.labels)) == 0
    assert value(samples, "swaptier_tier_ready") == 1
    assert value(samples, "swaptier_tier_areas") == 1
    assert value(samples, "swaptier_tier_pool_accepting") == 1
    assert value(samples, "swaptier_tier_pool_limit_bytes") == 64 << 20
    assert value(samples, "swaptier_tier_pool_bytes", area="a") == 0


def test_every_counter_of_the_tier_has_a_help_text() -> None:
    """A counter that is added to the tier is described here."""
    assert {row.name for row in AreaCounters().rows()} == set(AREA_COUNTERS)


async def test_the_tier_shows_what_happened_by_cause(served: Served) -> None:
    """Gauges and counters after a few requests."""
    await served.swapon()
    await store(served, 0, b"ab" + bytes(PAGE_BYTES - 2))
    await store(served, 0, bytes(PAGE_BYTES), generation=2)
    samples = await scrape(served)
    assert value(samples, "swaptier_tier_stores_total", area="a", outcome="stored") == 2
    assert value(samples, "swaptier_tier_duplicate_entries_total", area="a") == 1
    assert value(samples, "swaptier_tier_stored_pages", area="a") == 1
    assert value(samples, "swaptier_tier_same_filled_pages", area="a") == 1
    assert value(samples, "swaptier_tier_pool_bytes", area="a") == 0


async def test_the_pool_shows_when_it_is_full(serve: Serve) -> None:
    """0 from the limit down to the accept threshold; every hit is counted."""
    served = await serve(metrics="127.0.0.1:0", pool_limit=10)
    await served.swapon()
    await store(served, 0, b"ab" + bytes(PAGE_BYTES - 2))
    samples = await scrape(served)
    assert value(samples, "swaptier_tier_pool_accepting") == 0
    assert value(samples, "swaptier_tier_pool_limit_hits_total") == 1
    assert value(samples, "swaptier_tier_rejects_total", area="a", reason="pool_limit") == 1
    assert value(samples, "swaptier_tier_device_pages", area="a") == 1


async def test_rpcs_are_counted_under_the_customary_names(served: Served) -> None:
    """Started, handled by code, seconds and messages, of unary calls and streams; all codes stand at 0 first."""
    labels = {"grpc_service": "swaptier.v1.SwapTierService"}
    stat = labels | {"grpc_type": "unary", "grpc_method": "Stat"}
    exchange = labels | {"grpc_type": "bidi_stream", "grpc_method": "Exchange"}
    before = await scrape(served)
    for code in StatusCode:
        assert value(before, "grpc_server_handled_total", **stat, grpc_code=code_label(code)) == 0
    await served.swapon()
    await served.stat()
    with pytest.raises(aio.AioRpcError):
        await served.stat("b")
    call = served.stub.Exchange()
    for _ in range(3):
        await call.write(pb.ExchangeRequest(header=header_message(), lookup=pb.LookupBatch(offsets=[0])))
        await call.read()
    await call.done_writing()
    assert await call.code() is StatusCode.OK
    await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())
    after = await scrape(served)
    assert value(after, "grpc_server_started_total", **stat) == 2
    assert value(after, "grpc_server_handled_total", **stat, grpc_code="OK") == 1
    assert value(after, "grpc_server_handled_total", **stat, grpc_code="NotFound") == 1
    assert value(after, "grpc_server_handling_seconds_count", **stat) == 2
    assert value(after, "grpc_server_handled_total", **exchange, grpc_code="OK") == 1
    assert value(after, "grpc_server_msg_received_total", **exchange) == 3
    assert value(after, "grpc_server_msg_sent_total", **exchange) == 3
    check = {"grpc_service": "grpc.health.v1.Health", "grpc_type": "unary", "grpc_method": "Check"}
    assert value(after, "grpc_server_handled_total", **check, grpc_code="OK") == 1


async def test_unknown_methods_make_no_series(served: Served) -> None:
    """A caller cannot fill Prometheus with names."""
    nonsense: aio.UnaryUnaryMultiCallable[bytes, bytes] = served.channel.unary_unary("/no.such.Service/Nonsense")
    before = await scrape(served)
    with pytest.raises(aio.AioRpcError):
        await nonsense(b"")
    assert (await scrape(served)).keys() == before.keys()


async def test_scrapes_during_a_load_see_sums_that_agree(served: Served) -> None:
    """Each snapshot lies between two requests: the stores of every scrape are whole batches."""
    await served.swapon()
    call = served.stub.Exchange()
    pages = [number.to_bytes(8, "little") * (PAGE_BYTES // 8) for number in range(32)]
    checksums = [page_checksum(page) for page in pages]

    async def load() -> None:
        for generation in range(1, 201):
            batch = pb.StoreBatch(
                offsets=range(32), generations=[generation] * 32, checksums=checksums, pages=b"".join(pages)
            )
            await call.write(pb.ExchangeRequest(header=header_message(), store=batch))
            await call.read()

    loading = asyncio.create_task(load())
    scrapes = 0
    while not loading.done():
        samples = await scrape(served)
        stored = value(samples, "swaptier_tier_stores_total", area="a", outcome="stored")
        replaced = value(samples, "swaptier_tier_duplicate_entries_total", area="a")
        assert stored % 32 == 0
        assert stored - replaced == value(samples, "swaptier_tier_stored_pages", area="a")
        scrapes += 1
    await loading
    assert scrapes > 1


async def test_a_hanging_loop_is_not_ready_and_shows_no_old_numbers(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scrape gives up waiting, leaves the tier's families out, and still shows what is true."""
    monkeypatch.setattr(snapshot, "SNAPSHOT_SECONDS_MAX", 0.05)
    texts: list[str] = []
    scraper = threading.Thread(target=lambda: texts.append(fetch(served)))
    scraper.start()
    scraper.join()  # this blocks the event loop, which is the point
    assert "swaptier_tier_ready 0.0" in texts[0]
    assert "swaptier_tier_areas" not in texts[0]
    assert "grpc_server_started_total" in texts[0]
    assert value(await scrape(served), "swaptier_tier_ready") == 1


async def test_a_draining_server_is_not_ready(served: Served) -> None:
    """And still tells what it holds."""
    served.server.traffic.is_draining = True
    samples = await scrape(served)
    assert value(samples, "swaptier_tier_ready") == 0
    assert value(samples, "swaptier_tier_areas") == 0
