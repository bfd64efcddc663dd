"""Who may call, asked of a real server: tokens, client certificates, both, and what a reload takes away."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.server.conftest import Ask, Serve, Served, header_message
from tests.server.pki import Authority, bearer, token_of, write_tokens
from tests.server.rpc.test_exchange import read_to_the_end, write_until_stuck
from tests.server.rpc.test_service import TEXT, loads, stores

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server.access.access import Access, Caller
from swaptier_server.access.tokens import Holder, hash_token
from swaptier_server.errors import ConfigError
from swaptier_wire.channels import open_channel
from swaptier_wire.errors import Unauthenticated, UnknownArea
from swaptier_wire.status import from_rpc_error


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file that lets alice and bob in."""
    return write_tokens(tmp_path / "tokens", "alice", "bob")


async def refused(call: Awaitable[object]) -> Unauthenticated:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    error = from_rpc_error(caught.value)
    assert isinstance(error, Unauthenticated)
    assert error.definite
    assert "\n" not in str(error)
    return error


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Tokens


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ((), "the call has none"),
        ((("authorization", token_of("alice")),), "the call has none"),
        ((("authorization", f"Basic {token_of('alice')}"),), "the call has none"),
        ((("authorization-bin", b"x"),), "the call has none"),
        ((*bearer("alice"), *bearer("alice")), "the call has none"),
        ((("authorization", "Bearer "),), "not one of this server's"),
        ((("authorization", f"Bearer {token_of('alice')[:-1]}"),), "not one of this server's"),
        ((("authorization", f"Bearer {hash_token('alice', token_of('alice'))}"),), "not one of this server's"),
        (bearer("mallory"), "not one of this server's"),
        (bearer("alice", 2), "not one of this server's"),
    ],
)
async def test_a_call_without_a_good_token_is_unauthenticated(
    serve: Serve, tokens: Path, metadata: tuple[tuple[str, str], ...], says: str
) -> None:
    """Missing, of another scheme, doubled, cut, hashed, unknown: by unary call and by stream alike."""
    served = await serve(tokens=tokens)
    alice = served.seen_by("alice")
    await alice.swapon()
    before = await alice.stat()
    error = await refused(served.stub.Stat(pb.StatRequest(header=header_message()), metadata=metadata))
    assert says in str(error)
    assert token_of("alice")[:12] not in str(error)
    assert says in str(await refused(served.stub.Exchange(metadata=metadata).read()))
    assert await alice.stat() == before


async def test_refused_calls_are_logged_together_and_without_their_tokens(
    serve: Serve, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for all since the last: whoever runs the server sees them, and no caller can fill the log."""
    caplog.set_level(logging.INFO, logger="swaptier.server")
    served = await serve(tokens=tokens)
    for _ in range(3):
        await refused(served.seen_by("mallory").swapon())
    served.server.housekeeper.keep_house()
    served.server.housekeeper.keep_house()
    (line,) = [record.msg for record in caplog.records if "calls_refused" in str(record.msg)]
    assert isinstance(line, dict)
    assert (line["calls"], line["level"]) == (3, "info")
    assert "127.0.0.1:" in str(line["last_peer"]) and "not one of this server's" in str(line["last_reason"])
    assert token_of("mallory")[:12] not in caplog.text


async def test_the_scheme_is_spelt_as_one_likes(serve: Serve, tokens: Path) -> None:
    """As HTTP has it."""
    served = await serve(tokens=tokens)
    served.metadata = (("authorization", f"bearer  {token_of('alice')}"),)
    assert await served.swapon()


async def test_health_asks_for_nothing_and_reflection_for_a_token(serve: Serve, tokens: Path) -> None:
    """Probes have no secrets; what the server can do is for those who may use it."""
    served = await serve(tokens=tokens)
    assert await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())
    reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    await refused(reflection.ServerReflectionInfo(iter([request])).read())
    assert await reflection.ServerReflectionInfo(iter([request]), metadata=bearer("bob")).read()


async def test_without_tokens_and_certificates_everybody_is_let_in(serve: Serve) -> None:
    """As on loopback by default; a token is not looked at."""
    served = await serve()
    await served.seen_by("alice").swapon()
    assert await served.seen_by("bob").stat()


# Reload


@pytest.mark.parametrize("notice", ["told", "by itself"])
async def test_a_changed_token_file_counts_without_a_restart(serve: Serve, tokens: Path, notice: str) -> None:
    """A new tenant is let in, one who was taken out no more; the pages stay."""
    served = await serve(tokens=tokens)
    alice = served.seen_by("alice")
    await alice.swapon()
    write_tokens(tokens, "alice", "carol")
    if notice == "told":
        served.server.reload()
    else:
        served.server.housekeeper.keep_house()
    await served.seen_by("carol").swapon()
    await refused(served.seen_by("bob").swapon())
    assert (await alice.swapon()).reopened


async def test_a_withdrawn_token_ends_the_stream_it_opened_and_no_other(serve: Serve, tokens: Path) -> None:
    """Else whoever had it once would stay for as long as the connection does."""
    served = await serve(tokens=tokens)
    streams = {}
    for tenant in ("alice", "bob"):
        seen = served.seen_by(tenant)
        await seen.swapon()
        streams[tenant] = served.stub.Exchange(metadata=seen.metadata)
        await streams[tenant].write(pb.ExchangeRequest(header=header_message()))
        assert await streams[tenant].read()
    write_tokens(tokens, "bob")
    served.server.reload()
    assert "was withdrawn" in str(await refused(streams["alice"].read()))
    await streams["bob"].write(pb.ExchangeRequest(header=header_message()))
    assert await streams["bob"].read()


async def test_a_withdrawn_token_ends_the_stream_whose_client_reads_no_answers(serve: Serve, tokens: Path) -> None:
    """A second later it holds nothing, and no area; if its client reads again, it is told, and what it had is true."""
    served = await serve(tokens=tokens, tenant_streams_max=1, area_idle_seconds=60)
    stream = await write_until_stuck(served.channel, bearer("alice"))
    write_tokens(tokens, "bob")
    served.server.reload()
    assert served.server.traffic.open_streams == 1, "the answer may be on its way"
    served.server.housekeeper.keep_house()
    assert served.server.traffic.open_streams == 0
    served.clock.advance(61)
    served.server.housekeeper.keep_house()
    assert not served.server.tier.areas
    write_tokens(tokens, "alice")
    served.server.reload()
    another = await open_stream(served.seen_by("alice"))  # it has its place
    answers, error = await read_to_the_end(stream)
    assert answers
    assert "was withdrawn" in str(error.details())
    assert from_rpc_error(error).definite
    another.cancel()


async def test_a_token_file_that_cannot_be_used_changes_nothing(
    serve: Serve, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, without its content, and the old tokens stay good."""
    served = await serve(tokens=tokens)
    await served.seen_by("alice").swapon()
    write(tokens, token_of("alice").encode())
    served.server.reload()
    assert (await served.seen_by("alice").swapon()).reopened
    assert "the old tokens stay in use" in caplog.text
    assert token_of("alice") not in caplog.text


async def test_a_server_does_not_start_with_a_token_file_that_cannot_be_used(serve: Serve, tmp_path: Path) -> None:
    """Nobody could call, or everybody: neither is started."""
    for content in (b"", b"alice", b"\xff"):
        path = write(tmp_path / "tokens", content)
        with pytest.raises(ConfigError, match=r"^--tokens: "):
            await serve(tokens=path)
    with pytest.raises(ConfigError, match=r"^--tokens: cannot read "):
        await serve(tokens=tmp_path / "none")


# Certificates


class Secure:
    """A server with mutual TLS, and its authority."""

    def __init__(self, serve: Serve, authority: Authority, server: tuple[Path, Path]) -> None:
        self.serve = serve
        self.authority = authority
        self.server = server

    async def start(self, **config: object) -> Served:
        """Serve, asking for certificates of our authority."""
        cert, key = self.server
        return await self.serve(tls_cert=cert, tls_key=key, tls_client_ca=self.authority.path, **config)

    def connect(self, served: Served, pair: tuple[Path, Path]) -> Served:
        """Return the server as a client with that certificate sees it; the caller closes the channel."""
        cert, key = pair
        credentials = grpc.ssl_channel_credentials(
            self.authority.path.read_bytes(), key.read_bytes(), cert.read_bytes()
        )
        return Served(served.server, open_channel(served.address, credentials), served.clock)


@pytest.fixture
def secure(serve: Serve, tmp_path: Path) -> Secure:
    """What mutual TLS needs."""
    authority = Authority(tmp_path)
    return Secure(serve, authority, authority.issue("tier", "127.0.0.1"))


@pytest.mark.parametrize(
    ("names", "tenant"),
    [
        ((x509.UniformResourceIdentifier("spiffe://rack-7/host-3"),), "spiffe://rack-7/host-3"),
        ((x509.DNSName("host-3.example"),), "host-3.example"),
        ((x509.DNSName("host-3.example"), x509.UniformResourceIdentifier("spiffe://r/h")), "spiffe://r/h"),
    ],
)
async def test_a_client_certificate_names_the_tenant(
    secure: Secure, names: tuple[x509.GeneralName, ...], tenant: str
) -> None:
    """By its one URI, or without any by its one DNS name."""
    served = await secure.start()
    client = secure.connect(served, secure.authority.issue_names("client", *names))
    async with client.channel:
        await client.swapon("a")
    assert list(served.server.tier.areas) == [f"{tenant}|a"]


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("a.example"), x509.DNSName("b.example")),
        (x509.UniformResourceIdentifier("spiffe://a/1"), x509.UniformResourceIdentifier("spiffe://a/2")),
        (x509.UniformResourceIdentifier(f"spiffe://a/{'x' * 64}"),),
        (x509.UniformResourceIdentifier("spiffe://a|b/1"),),
        (x509.RFC822Name("a@example.org"),),
    ],
    ids=["none", "two hosts", "two uris", "too long", "with a separator", "another kind"],
)
async def test_a_certificate_that_names_no_one_tenant_lets_nobody_in(
    secure: Secure, names: tuple[x509.GeneralName, ...]
) -> None:
    """It is of the right authority, and still says not who it is."""
    served = await secure.start()
    client = secure.connect(served, secure.authority.issue_names("client", *names))
    async with client.channel:
        assert "does not name one tenant" in str(await refused(client.swapon()))


async def test_with_both_the_token_names_the_tenant_and_both_are_needed(secure: Secure, tokens: Path) -> None:
    """The certificate is the machine's, the token the tenant's."""
    served = await secure.start(tokens=tokens)
    client = secure.connect(served, secure.authority.issue_names("client", x509.DNSName("machine.example")))
    async with client.channel:
        await refused(client.swapon("a"))
        await client.seen_by("bob").swapon("a")
    assert list(served.server.tier.areas) == ["bob|a"]


async def open_stream(served: Served) -> "aio.StreamStreamCall[pb.ExchangeRequest, pb.ExchangeResponse]":
    """Return a stream that was answered once."""
    await served.swapon()
    stream = served.stub.Exchange(metadata=served.metadata)
    await stream.write(pb.ExchangeRequest(header=header_message()))
    assert await stream.read()
    return stream


@pytest.mark.parametrize("has_tokens", [False, True], ids=["certificate", "certificate and token"])
async def test_a_certificate_that_ends_ends_what_it_let_in(secure: Secure, tokens: Path, has_tokens: bool) -> None:
    """The stream within a second, and every later call on the connection, which TLS does not look at again."""
    served = await secure.start(**{"tokens": tokens} if has_tokens else {})
    client = secure.connect(served, secure.authority.issue_names("client", x509.DNSName("alice")))
    client.metadata = bearer("alice") if has_tokens else ()
    async with client.channel:
        stream = await open_stream(client)
        served.server.housekeeper.keep_house()
        served.server.access.now = lambda: datetime(2999, 1, 1, tzinfo=UTC)
        served.server.housekeeper.keep_house()
        for call in (stream.read(), client.stat()):
            assert "the client's certificate expired on 2999-01-01 at 00:00:00 UTC" in str(await refused(call))


async def test_an_authority_that_is_withdrawn_takes_its_clients_along(secure: Secure, tmp_path: Path) -> None:
    """Those of another authority stay, also those who come after."""
    other = Authority(tmp_path, "other")
    both = write(tmp_path / "both.pem", secure.authority.path.read_bytes() + other.path.read_bytes())
    cert, key = secure.server
    served = await secure.serve(tls_cert=cert, tls_key=key, tls_client_ca=both)
    ours = secure.connect(served, secure.authority.issue_names("ours", x509.DNSName("ours")))
    theirs = secure.connect(served, other.issue_names("theirs", x509.DNSName("theirs")))
    async with ours.channel, theirs.channel:
        streams = [await open_stream(client) for client in (ours, theirs)]
        write(both, secure.authority.path.read_bytes())
        served.server.housekeeper.keep_house()
        for call in (streams[1].read(), theirs.stat()):
            assert "the authority of the client's certificate was withdrawn" in str(await refused(call))
        await streams[0].write(pb.ExchangeRequest(header=header_message()))
        assert await streams[0].read()
        write(both, secure.authority.path.read_bytes() + other.path.read_bytes())
        served.server.housekeeper.keep_house()
        assert await theirs.stat()


async def test_a_new_certificate_counts_for_new_connections_without_a_restart(serve: Serve, tmp_path: Path) -> None:
    """A client that trusts only the new authority connects after the reload; who is connected stays."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    cert, key = old.issue("tier", "127.0.0.1")
    served = await serve(tls_cert=cert, tls_key=key)

    def connect(authority: Authority) -> Served:
        credentials = grpc.ssl_channel_credentials(authority.path.read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1)]
        return Served(served.server, open_channel(served.address, credentials, options), served.clock)

    first, second = connect(old), connect(new)
    async with first.channel, second.channel:
        await first.swapon()
        new_cert, new_key = new.issue("new-tier", "127.0.0.1")
        new_cert.replace(cert)
        served.server.reload()  # half a renewal
        new_key.replace(key)
        served.server.housekeeper.keep_house()
        assert (await second.swapon()).reopened
        assert await first.stat()
        third = connect(old)
        async with third.channel:
            with pytest.raises(aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
                await third.stat()


# Other tenants


Act = Callable[[Served], Awaitable[object]]


async def test_two_tenants_have_areas_of_the_same_name_and_never_meet(serve: Serve, tokens: Path, ask: Ask) -> None:
    """The same client id, epoch, area, slot and generation: two hosts, two pages."""
    served = await serve(tokens=tokens)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    for tenant in (alice, bob):
        await tenant.swapon()
    await ask(alice, stores((0, 1, TEXT)))
    found = await ask(bob, loads((0, 1), require_generation=True))
    assert found.load is not None and found.load[0].content() is None
    await ask(bob, stores((0, 1, bytes(4096))))
    found = await ask(alice, loads((0, 1), require_generation=True))
    assert found.load is not None and found.load[0].content() == TEXT
    assert (await alice.stat()).counters["tier_stores", "stored"] == 1
    assert (await bob.stat()).same_filled_pages == 1


@pytest.mark.parametrize("area", ["a", "alice|a", "|a", "bob|alice|a"])
async def test_another_tenants_area_is_not_found_by_any_name(serve: Serve, tokens: Path, ask: Ask, area: str) -> None:
    """Not read, not freed, not counted, and not even known to be there: the answer is that of no area."""
    served = await serve(tokens=tokens)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    await alice.swapon("a")
    await ask(alice, stores((0, 1, TEXT)))
    before = await alice.stat()
    header = loads((0, 1)).header._replace(area=area)
    for client in ("host", "alice|host", "|host"):
        for request in (loads((0, 1)), stores((0, 2, TEXT))):
            with pytest.raises(UnknownArea) as caught:
                await ask(bob, request._replace(header=header._replace(client_id=client)))
            assert "alice" not in str(caught.value).replace(area, "").replace(client, "")
        for call in (
            bob.stub.Stat(pb.StatRequest(header=header_message(area, client)), metadata=bob.metadata),
            bob.stub.Swapoff(pb.SwapoffRequest(header=header_message(area, client)), metadata=bob.metadata),
        ):
            with pytest.raises(aio.AioRpcError) as refusal:
                await call
            assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert await alice.stat() == before


async def test_a_higher_epoch_of_another_tenant_replaces_nobody(serve: Serve, tokens: Path) -> None:
    """Else whoever guesses a client id could end its areas."""
    served = await serve(tokens=tokens)
    alice, bob = served.seen_by("alice"), served.seen_by("bob")
    await alice.swapon(epoch=5)
    await bob.swapon(epoch=9)
    await bob.swapon("b", client="host", epoch=10)
    assert (await alice.swapon(epoch=5)).reopened


def test_an_objection_is_made_anew_for_each_call(tokens: Path) -> None:
    """One object for all, raised for each, kept the frames of every call that was refused."""
    access = Access(tokens, asks_certificates=False)
    withdrawn = Caller("alice", Holder("alice", b"of a token that is gone"))
    assert access.objection(withdrawn) is not access.objection(withdrawn)
