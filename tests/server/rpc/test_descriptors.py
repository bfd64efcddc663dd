"""A server with few descriptors: no port takes those that another one needs."""

import resource
import socket
import urllib.request
from collections.abc import Sequence

import pytest
from tests.server.conftest import header_message
from tests.server.rpc.test_bad_clients import open_files
from tests.server.test_main import Running, run, running

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.rpc import descriptors
from swaptier_server.rpc.descriptors import CONNECTIONS_MIN, RESERVE, connections_max
from swaptier_server.rpc.process_metrics import ProcessMetrics
from swaptier_server.rpc.server import CONNECTIONS_MAX
from swaptier_wire.channels import open_channel
from swaptier_wire.descriptors import free_descriptors, raise_limit

PATIENCE_SECONDS = 30
"""Only a failing test waits so long."""

FEW = ("prlimit", "--nofile=256")


def connect(address: str, count: int, sent: bytes = b"") -> list[socket.socket]:
    """Return so many connections to *address*, each of which has *sent* something."""
    host, _, port = address.rpartition(":")
    connections = [socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) for _ in range(count)]
    for connection in connections:
        connection.sendall(sent)
    return connections


def scrape(server: Running) -> str:
    url = f"http://{server.ready['metrics']}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
        return str(response.read().decode())


async def swapon(address: str) -> None:
    async with open_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
        request = pb.SwaponRequest(header=header_message(), slots=1)
        await stub.Swapon(request, wait_for_ready=True, timeout=PATIENCE_SECONDS)


async def test_slow_scrapes_take_no_descriptor_that_grpc_needs() -> None:
    """246 half-sent requests and 256 descriptors: gRPC and a whole scrape are answered, the log has one line of it."""
    with running("--metrics", "127.0.0.1:0", inside=FEW) as server:
        slow = connect(str(server.ready["metrics"]), 246, b"GET /metrics HTTP/1.1\r\nHost:")
        for _ in range(3):
            await swapon(server.listening)
        assert "process_max_fds 256.0" in scrape(server)
        assert open_files(server.process.pid) < 256 - RESERVE
        for connection in slow:
            connection.close()
        status, _, log = server.end()
    assert status == 0
    assert [line["level"] for line in log if "without an answer" in str(line["event"])] == ["warning"]


async def test_idle_connections_of_grpc_leave_the_reserve() -> None:
    """What comes beyond its bound is closed; metrics are scraped, and when others end gRPC takes the next."""
    with running("--metrics", "127.0.0.1:0", inside=FEW) as server:
        idle = connect(server.listening, 300)
        assert "swaptier_tier_ready 1.0" in scrape(server)
        assert open_files(server.process.pid) < 256
        for connection in idle:
            connection.close()
        await swapon(server.listening)
        assert server.end()[0] == 0


def test_a_check_says_how_many_connections_the_limit_allows() -> None:
    """The soft limit counts for nothing where the hard one allows more."""
    done = run("check-config", "--metrics", "off", "--listen", "127.0.0.1:0", inside=("prlimit", "--nofile=64:256"))
    assert f"descriptors: 256, for at most {256 - RESERVE} connections of clients\n" in done.stdout


@pytest.mark.parametrize(
    ("limit", "most"), [(64, 16), (40, CONNECTIONS_MIN), (256, 208), (1 << 20, CONNECTIONS_MAX), (-1, CONNECTIONS_MAX)]
)
def test_connections_are_bounded_below_the_limit(limit: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reserve, as far as the limit has room for one."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert connections_max() == most


def few_descriptors(free: int) -> tuple[int, int]:
    """Leave this process *free* descriptors; return the limits before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - free_descriptors() + free, before[1]))
    return before


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    """And stays where it is the second time."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        assert raise_limit() == raise_limit() == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_numbers_of_the_process_need_no_descriptor() -> None:
    """All six, under the customary names, with none left."""
    metrics = ProcessMetrics()
    before = few_descriptors(0)
    try:
        assert free_descriptors() == 0
        samples = {sample.name: sample.value for family in metrics.collect() for sample in family.samples}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        metrics.close()
    assert set(samples) == {
        f"process_{name}"
        for name in (
            *("cpu_seconds_total", "virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds"),
            *("open_fds", "max_fds"),
        )
    }
    assert all(samples.values())
    assert list(metrics.collect()) == []


def test_a_shortage_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """With how many are left and what to do."""
    now_ns = [0]
    watch = descriptors.DescriptorWatch(lambda: now_ns[0])
    watch.look()
    before = few_descriptors(2)
    try:
        for seconds in (0, 59, 61):
            now_ns[0] = seconds * 10**9
            watch.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    said: Sequence[str] = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("descriptors_scarce" in line for line in said)
