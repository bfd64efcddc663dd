"""Clients that do what they should not, while a tenant next door stores and loads: it must not notice."""

import asyncio
import contextlib
import datetime
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server import http2
from tests.server.conftest import SLOTS, Serve, Served, header_message
from tests.server.pki import Authority, bearer, write_tokens
from tests.server.rpc.test_exchange import load_message, next_answer, page, store_message, write_until_stuck
from tests.server.test_main import Running, running

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.rpc.server import SERVICE, channel_options
from swaptier_wire.addresses import Address
from swaptier_wire.channels import open_channel
from swaptier_wire.types import BATCH_SLOTS_MAX

CONNECTIONS = 10_000
CONNECTING_AT_ONCE = 256
SPARE_FILES = 200
"""For everything else that this process has open."""
IDLE_CONNECTION_BYTES_MAX = 64 * 1024
STREAM_BYTES_MAX = 5 << 20
"""Of a stream whose answers nobody reads: one of 1 MiB, serialized and in gRPC, and a window full of requests."""
SHORT_LIFE = datetime.timedelta(seconds=3)
"""Of a certificate that ends during a test: enough to start a server with it."""
PATIENCE_SECONDS = 30
"""Only a hanging server takes so long."""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file that lets alice, who misbehaves, and bob in."""
    return write_tokens(tmp_path / "tokens", "alice", "bob")


class Bystander:
    """Stores and loads pages on a stream of its own, and checks every one."""

    def __init__(self, channel: aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
        self._metadata = metadata
        self.loads = 0
        self._is_over = False

    async def run(self, begun: asyncio.Event) -> None:
        """Store and load until told."""
        header = store_message(0, 1, client="host").header
        await self._stub.Swapon(pb.SwaponRequest(header=header, slots=SLOTS), metadata=self._metadata)
        stream = self._stub.Exchange(metadata=self._metadata)
        while not self._is_over:
            generation = self.loads + 1
            slot = generation % SLOTS
            await stream.write(store_message(slot, generation))
            assert list((await next_answer(stream)).store.outcomes) == [pb.OUTCOME_STORED]
            load = load_message(1)
            load.load.offsets[:], load.load.generations[:] = [slot], [generation]
            load.load.require_generation = True
            await stream.write(load)
            assert (await next_answer(stream)).load.pages == page(generation)
            self.loads += 1
            begun.set()
        await stream.done_writing()
        assert await stream.read() is aio.EOF

    async def more_than(self, loads: int) -> None:
        """Return once it has loaded more often than *loads* times."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.loads <= loads:  # noqa: ASYNC110 - it works on, and tells nobody
                await asyncio.sleep(0)

    def end(self) -> None:
        """Let `run` return."""
        self._is_over = True


@asynccontextmanager
async def bystander(channel: aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> AsyncIterator[Bystander]:
    """Have somebody work for the length of the block, and make sure that it could."""
    one, begun = Bystander(channel, metadata), asyncio.Event()
    work = asyncio.create_task(one.run(begun))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait([work, asyncio.create_task(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
        yield one
    finally:
        one.end()
        await asyncio.wait_for(work, PATIENCE_SECONDS)
    assert one.loads


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# Transport security: what a client of the other kind is told


def channel_by_tls(address: str, authority: Authority, pair: tuple[Path, Path] | None = None) -> aio.Channel:
    blobs = [authority.path.read_bytes()]
    if pair is not None:
        cert, key = pair
        blobs += [key.read_bytes(), cert.read_bytes()]
    return open_channel(address, grpc.ssl_channel_credentials(*blobs))


async def refusal(call: Awaitable[object]) -> grpc.StatusCode:
    """Return the status that *call* ends with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def failure(channel: aio.Channel) -> str:
    """Return what a call on *channel* is told, which is one line."""
    async with channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Stat")(b"", timeout=PATIENCE_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    details = caught.value.details() or ""
    assert "\n" not in details
    return details


async def test_clients_with_wrong_security_are_turned_away_and_the_others_served(serve: Serve, tmp_path: Path) -> None:
    """No certificate, one of another authority, an expired one, distrust of ours, plain text: each is UNAVAILABLE."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = ours.issue("tier", "127.0.0.1")
    served = await serve(tls_cert=cert, tls_key=key, tls_client_ca=ours.path)
    address = served.address
    good = ours.issue("good", "bob.example")
    async with (
        channel_by_tls(address, ours, good) as channel,
        bystander(channel) as bob,
    ):
        before = bob.loads
        assert await failure(open_channel(address))
        assert await failure(channel_by_tls(address, ours))
        assert await failure(channel_by_tls(address, ours, theirs.issue("other", "bob.example")))
        assert await failure(channel_by_tls(address, ours, ours.issue("old", "bob.example", is_expired=True)))
        assert "CERTIFICATE_VERIFY_FAILED" in await failure(channel_by_tls(address, theirs, good))
        for noise in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", http2.hello(), bytes(5000)):
            await throw(served, noise)
    assert bob.loads > before


async def test_a_certificate_of_another_name_is_not_believed(serve: Serve, tmp_path: Path) -> None:
    """It is of the right authority, and of another server."""
    ours = Authority(tmp_path)
    cert, key = ours.issue("tier", "tier.example")
    served = await serve(tls_cert=cert, tls_key=key)
    right_name = [("grpc.ssl_target_name_override", "tier.example")]
    trust = grpc.ssl_channel_credentials(ours.path.read_bytes())
    async with open_channel(served.address, trust, right_name) as channel, bystander(channel) as bob:
        before = bob.loads
        assert "Hostname Verification Check failed" in await failure(channel_by_tls(served.address, ours))
    assert bob.loads > before


async def test_a_certificate_that_names_no_tenant_is_unauthenticated_and_the_others_are_served(
    serve: Serve, tmp_path: Path
) -> None:
    """It is of our authority, so its connection is taken; each of its calls is refused, definitely."""
    ours = Authority(tmp_path)
    cert, key = ours.issue("tier", "127.0.0.1")
    served = await serve(tls_cert=cert, tls_key=key, tls_client_ca=ours.path)
    async with (
        channel_by_tls(served.address, ours, ours.issue("good", "bob.example")) as channel,
        bystander(channel) as bob,
        channel_by_tls(served.address, ours, ours.issue("two", "a.example", "b.example")) as nobody,
    ):
        before = bob.loads
        stub = swaptier_pb2_grpc.SwapTierServiceStub(nobody)
        for call in (stub.Stat(pb.StatRequest(header=load_message(1).header)), stub.Exchange().read()):
            assert await refusal(call) is grpc.StatusCode.UNAUTHENTICATED
    assert bob.loads > before


@pytest.mark.parametrize("whose", ["the server's", "the client's"])
async def test_a_certificate_that_ends_is_refused_from_then_on_and_cuts_off_nobody(
    serve: Serve, tmp_path: Path, whose: str
) -> None:
    """New connections are refused; one that is open goes on if its own is good, and a renewed one needs no restart."""
    ours = Authority(tmp_path)
    end = (datetime.datetime.now(datetime.UTC) + SHORT_LIFE).replace(microsecond=0)
    is_servers = whose == "the server's"
    files = ours.issue("tier", "127.0.0.1", expires=end if is_servers else None)
    pair = ours.issue("bob", "bob.example", expires=None if is_servers else end)
    served = await serve(tls_cert=files[0], tls_key=files[1], tls_client_ca=ours.path)
    carols = ours.issue("carol", "carol.example")
    async with channel_by_tls(served.address, ours, carols) as channel, bystander(channel) as bob:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await takes_connections(channel_by_tls(served.address, ours, pair)):
                pass
        assert datetime.datetime.now(datetime.UTC) >= end
        before = bob.loads
        told = await failure(channel_by_tls(served.address, ours, pair))
        assert "CERTIFICATE_VERIFY_FAILED: certificate has expired" in told or not is_servers
        assert await failure(channel_by_tls(served.address, ours, pair))
        renewed = ours.issue("new", "127.0.0.1" if is_servers else "bob.example")
        for path, fresh in zip(files if is_servers else pair, renewed, strict=True):
            fresh.replace(path)
        served.server.housekeeper.keep_house()
        assert await takes_connections(channel_by_tls(served.address, ours, pair))
    assert bob.loads > before


async def takes_connections(channel: aio.Channel) -> bool:
    """Tell whether a call on *channel* reaches the server, which refuses it for its content."""
    async with channel:
        code = await refusal(channel.unary_unary(f"/{SERVICE}/Stat")(b"", timeout=PATIENCE_SECONDS))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
    return code is grpc.StatusCode.INVALID_ARGUMENT


async def test_tls_to_a_server_without_is_told_so(serve: Serve, tmp_path: Path) -> None:
    """And the server goes on in plain text."""
    served = await serve()
    async with bystander(served.channel):
        assert "WRONG_VERSION_NUMBER" in await failure(channel_by_tls(served.address, Authority(tmp_path)))


# Calls: what a tenant is told, and what the one next door sees of it


Attempt = Callable[[aio.Channel], Awaitable[object]]
_BIG = pb.StoreBatch(offsets=[0], generations=[1], checksums=[1], pages=bytes(2 << 20))


def unary_with(metadata: tuple[tuple[str, str], ...], area: str = "a") -> Attempt:
    request = pb.StatRequest(header=header_message(area))
    return lambda channel: swaptier_pb2_grpc.SwapTierServiceStub(channel).Stat(request, metadata=metadata)


def stream_with(metadata: tuple[tuple[str, str], ...]) -> Attempt:
    # Without a message: grpc.aio reports a write to a call that has ended as INTERNAL, whatever ended it.
    return lambda channel: swaptier_pb2_grpc.SwapTierServiceStub(channel).Exchange(metadata=metadata).read()


def oversized(channel: aio.Channel) -> Awaitable[object]:
    request = pb.StoreRequest(header=header_message(), batch=_BIG)
    return swaptier_pb2_grpc.SwapTierServiceStub(channel).Store(request, metadata=bearer("alice"))


def oversized_on_a_stream(channel: aio.Channel) -> Awaitable[object]:
    async def requests() -> AsyncIterator[pb.ExchangeRequest]:
        yield pb.ExchangeRequest(header=header_message(), store=_BIG)

    return swaptier_pb2_grpc.SwapTierServiceStub(channel).Exchange(requests(), metadata=bearer("alice")).read()


def long_metadata(channel: aio.Channel) -> Awaitable[object]:
    return unary_with((*bearer("alice"), ("x", "y" * 20_000)))(channel)


_CODE = grpc.StatusCode
ATTEMPTS = {
    "no token": (unary_with(()), _CODE.UNAUTHENTICATED),
    "no token on a stream": (stream_with(()), _CODE.UNAUTHENTICATED),
    "a wrong token": (unary_with(bearer("mallory")), _CODE.UNAUTHENTICATED),
    "a wrong token on a stream": (stream_with(bearer("mallory")), _CODE.UNAUTHENTICATED),
    "another tenant's area": (unary_with(bearer("alice")), _CODE.NOT_FOUND),
    "another tenant's area by the server's own name": (unary_with(bearer("alice"), "bob|a"), _CODE.NOT_FOUND),
    "a message over the limit": (oversized, _CODE.RESOURCE_EXHAUSTED),
    "a message over the limit on a stream": (oversized_on_a_stream, _CODE.RESOURCE_EXHAUSTED),
    "metadata over the limit": (long_metadata, _CODE.RESOURCE_EXHAUSTED),
}


async def test_whatever_a_tenant_is_refused_the_one_next_door_works_on(tokens: Path) -> None:
    """Each refusal has its status, each time; between any two of them the other tenant gets its pages."""
    with running("--tokens", str(tokens)) as server:
        async with (
            open_channel(server.listening, options=channel_options(BATCH_SLOTS_MAX)) as channel,
            bystander(channel, bearer("bob")) as bob,
            open_channel(server.listening, options=[("grpc.use_local_subchannel_pool", 1)]) as other,
        ):
            for what, (attempt, code) in ATTEMPTS.items():
                loads = bob.loads
                for _ in range(3):
                    assert await refusal(attempt(other)) is code, what
                await bob.more_than(loads)
        status, _, log = await asyncio.to_thread(server.end)
    assert status == 0
    assert levels_that_callers_caused(log) == {"info"}, "a client cannot fill the log with errors"


OF_THE_MACHINE = ("memory_may_not_suffice", "was_stopped")
"""Lines that say what this machine has, or was too busy for."""


def levels_that_callers_caused(log: list[dict[str, object]]) -> set[object]:
    return {line["level"] for line in log if line["event"] not in OF_THE_MACHINE}


# Bytes


async def throw(served: Served, content: bytes) -> bytes:
    """Send *content* over a connection of its own and end it; return what came back."""
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(content)
    received = b""
    with contextlib.suppress(ConnectionError):
        writer.write_eof()
        received = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return received


async def call_unknown(address: str, path: bytes, security: ssl.SSLContext | None = None) -> bytes:
    """Call the method *path* on a connection of its own; return what comes back, up to the head of an answer."""
    where = Address.parse(address)
    if where.is_unix:
        reader, writer = await asyncio.open_unix_connection(where.path)
    else:
        reader, writer = await asyncio.open_connection(where.host, where.port, ssl=security)
    writer.write(http2.hello() + http2.request(1, path, b""))
    received = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(one.type == http2.Type.HEADERS for one in http2.frames(received)):
            more = await reader.read(65536)
            if not more:
                break
            received += more
    writer.transport.abort()  # in order, TLS would wait for the peer
    return received


@pytest.mark.parametrize("path", [b"/\xff\xfe/x", b"/a/\xc3\x28", b"\xff", b"", b"/", b"nonsense", b"/a/b"])
async def test_a_method_whose_name_is_no_text_is_unimplemented_like_any_other(serve: Serve, path: bytes) -> None:
    """grpc.aio shuts the whole server down over such a name (grpcio 1.85.1); ours refuses it and serves on."""
    served = await serve()
    async with bystander(served.channel) as bob:
        before = bob.loads
        assert b"grpc-status\x0212" in await call_unknown(served.address, path)
    assert bob.loads > before


@pytest.mark.parametrize("where", ["port", "unix", "TLS"])
async def test_method_names_that_are_no_text_end_the_service_for_nobody(
    tmp_path_factory: pytest.TempPathFactory, where: str
) -> None:
    """Each with a call that stays open, which needs no token: streams and new calls go on, and the log says nothing."""
    folder = tmp_path_factory.mktemp("s")
    flags, authority, security = [], None, None
    if where == "unix":
        flags = ["--listen", f"unix:{folder}/tier"]
    if where == "TLS":
        authority = Authority(folder)
        cert, key = authority.issue("tier", "127.0.0.1")
        flags = ["--tls-cert", str(cert), "--tls-key", str(key)]
        security = ssl.create_default_context(cafile=authority.path)
        security.set_alpn_protocols(["h2"])
    with running(*flags) as server:

        def channel() -> aio.Channel:
            options = [("grpc.use_local_subchannel_pool", 1)]
            if authority is None:
                return open_channel(server.listening, options=options)
            trust = grpc.ssl_channel_credentials(authority.path.read_bytes())
            return open_channel(server.listening, trust, options=options)

        async with contextlib.AsyncExitStack() as stack:
            bob = await stack.enter_async_context(bystander(await stack.enter_async_context(channel())))
            for path in (b"/\xff\xfe/x", b"/a/\xc3\x28", *[b"\xff"] * 8):
                another = await stack.enter_async_context(channel())
                watch = health_pb2_grpc.HealthStub(another).Watch(health_pb2.HealthCheckRequest())
                stack.callback(watch.cancel)
                await call_unknown(server.listening, path, security)
                loads = bob.loads
                stub = swaptier_pb2_grpc.SwapTierServiceStub(another)
                assert await stub.Stat(pb.StatRequest(header=header_message()), timeout=PATIENCE_SECONDS)
                await bob.more_than(loads)
        status, _, log = await asyncio.to_thread(server.end)
    assert status == 0
    assert levels_that_callers_caused(log) == {"info"}


# Resources


async def test_a_tenant_that_reads_no_answers_holds_up_only_itself(tokens: Path) -> None:
    """As many streams as it may have, each stuck in a full batch of answers: the server's memory stays bounded."""
    streams = 16
    with running("--tokens", str(tokens), "--tenant-streams-max", str(streams)) as server:
        async with (
            open_channel(server.listening, options=channel_options(BATCH_SLOTS_MAX)) as channel,
            bystander(channel, bearer("bob")) as bob,
        ):
            before, loads = resident_bytes(server.process.pid), bob.loads
            alice = await reading_nothing(server, streams)
            grown = resident_bytes(server.process.pid) - before
            assert grown < streams * STREAM_BYTES_MAX
            assert bob.loads > loads
            for one in alice:
                await one.close()


async def reading_nothing(server: Running, streams: int) -> list[aio.Channel]:
    """Return the channels of that many streams, each of which is stuck."""
    channels = []
    for _ in range(streams):
        options = [*channel_options(BATCH_SLOTS_MAX), ("grpc.use_local_subchannel_pool", 1)]
        channel = open_channel(server.listening, options=options)
        channels.append(channel)
    calls = await asyncio.gather(*(write_until_stuck(channel, bearer("alice")) for channel in channels))
    assert len(calls) == streams
    return channels


def connections_possible() -> int:
    """Return how many connections this process may open, 10,000 at most; raises its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(CONNECTIONS + SPARE_FILES, hard if hard != resource.RLIM_INFINITY else CONNECTIONS + SPARE_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return min(CONNECTIONS, max(soft, wanted) - SPARE_FILES)


async def test_idle_connections_are_cheap_and_in_nobodys_way(
    tokens: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """As many as this machine lets one process open, up to 10,000: a bounded piece of memory each, given back after."""
    count = connections_possible()
    record_testsuite_property("idle_connections", count)  # of the suite: the default format has none for a test
    with running("--tokens", str(tokens)) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
        host, _, port = server.listening.rpartition(":")
        async with (
            open_channel(server.listening, options=channel_options(BATCH_SLOTS_MAX)) as channel,
            bystander(channel, bearer("bob")) as bob,
        ):
            before, loads = resident_bytes(server.process.pid), bob.loads
            gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

            async def connect() -> asyncio.StreamWriter:
                async with gate:
                    reader, writer = await asyncio.open_connection(host, int(port))
                    writer.write(http2.hello())
                    await reader.readexactly(http2.HEAD_BYTES)  # the server has taken it
                    return writer

            writers = await asyncio.gather(*(connect() for _ in range(count)))
            assert len(writers) == count
            grown = resident_bytes(server.process.pid) - before
            sys.stdout.write(f"{count} idle connections took {grown // count} bytes each\n")  # shown with -rA
            assert grown < count * IDLE_CONNECTION_BYTES_MAX
            assert bob.loads > loads
            for writer in writers:
                writer.transport.abort()
            loads = bob.loads
            async with open_channel(server.listening) as another:
                stub = swaptier_pb2_grpc.SwapTierServiceStub(another)
                header = store_message(0, 1, area="b").header
                assert await stub.Swapon(pb.SwaponRequest(header=header, slots=1), metadata=bearer("bob"))
        assert server.end()[0] == 0


async def test_a_server_without_a_file_to_spare_serves_whom_it_has_and_recovers() -> None:
    """Connections beyond its limit wait; when others end, it takes them."""
    with running() as server:
        async with (
            open_channel(server.listening, options=channel_options(BATCH_SLOTS_MAX)) as channel,
            bystander(channel) as bob,
        ):
            present = open_files(server.process.pid)
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (present + 5, present + 5))
            host, _, port = server.listening.rpartition(":")
            loads = bob.loads
            sockets = [socket.create_connection((host, int(port))) for _ in range(12)]
            await bob.more_than(loads + 50)
            for one in sockets:
                one.close()
            async with open_channel(server.listening) as another:
                stub = swaptier_pb2_grpc.SwapTierServiceStub(another)
                header = store_message(0, 1, area="b").header
                request = pb.SwaponRequest(header=header, slots=1)
                assert await stub.Swapon(request, wait_for_ready=True, timeout=PATIENCE_SECONDS)
