"""Client certificates that an attacker, or a careless authority, would try: shown to a real server, over real TLS."""

import asyncio
import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc import aio
from tests.server import http2
from tests.server.access.test_access import open_stream
from tests.server.conftest import Serve, Served, header_message
from tests.server.pki import LAST_YEAR, Issuer, Shown, bearer, write_tokens

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server.rpc.server import SERVICE
from swaptier_wire.channels import open_channel

PATIENCE_SECONDS = 30
HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
OK, UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


def host(name: str) -> x509.DNSName:
    return x509.DNSName._init_without_validation(name)


def uri(name: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier._init_without_validation(name)


class Trial:
    """A server that asks for certificates of the authorities in a file, and clients of it."""

    def __init__(self, served: Served, authority: Issuer, file: Path) -> None:
        self.served = served
        self.authority = authority
        self.file = file

    def believe(self, *authorities: Issuer) -> None:
        """Have the server believe these from now on."""
        self.file.write_bytes(b"".join(one.pem for one in authorities))
        self.served.server.reload()

    def connect(self, shown: Shown) -> Served:
        """Return the server as a client that shows this sees it, on a connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem, shown.key, shown.chain)
        channel = open_channel(self.served.address, credentials, [("grpc.use_local_subchannel_pool", 1)])
        return Served(self.served.server, channel, self.served.clock)

    async def tenant(self, shown: Shown, metadata: tuple[tuple[str, str], ...] = ()) -> tuple[grpc.StatusCode, str]:
        """Return how a call of that client ends, and as whom it was let in."""
        client, before = self.connect(shown), set(self.served.server.tier.areas)
        client.metadata = metadata
        async with client.channel:
            try:
                await client.swapon("a")
            except aio.AioRpcError as error:
                return error.code(), ""
            (name,) = set(self.served.server.tier.areas) - before
            await client.stub.Swapoff(pb.SwapoffRequest(header=header_message("a")), metadata=metadata)
        return OK, name.removesuffix("|a")


@pytest.fixture(scope="module")
def authority() -> Issuer:
    """What the server believes at first."""
    return Issuer()


@pytest.fixture(scope="module")
def own(authority: Issuer) -> Shown:
    """What the server shows."""
    return authority.issue(HERE, usage=ExtendedKeyUsageOID.SERVER_AUTH)


async def begin(serve: Serve, folder: Path, authority: Issuer, own: Shown, **config: object) -> Trial:
    paths = {name: folder / name for name in ("tls_cert", "tls_key", "tls_client_ca")}
    for path, content in zip(paths.values(), (own.chain, own.key, authority.pem), strict=True):
        path.write_bytes(content)
    return Trial(await serve(**paths, **config), authority, paths["tls_client_ca"])


@pytest.fixture
async def trial(serve: Serve, tmp_path: Path, authority: Issuer, own: Shown) -> Trial:
    """A server without tokens."""
    return await begin(serve, tmp_path, authority, own)


# Names

TENANTS = {
    "a path": (uri("spiffe://x/a"),),
    "a longer path": (uri("spiffe://x/a/b"),),
    "a short name": (host("a"),),
    "one that begins with it": (host("a-b"),),
    "one that ends with it": (host("b-a"),),
    "an encoded name": (host("xn--bcher-kva.example"),),
    "64 characters": (host("a" * 64),),
    "capitals": (host("ALICE"),),
    "a dot behind": (host("alice."),),
    "of another kind besides": (host("alice"), HERE, x509.RFC822Name("bob@example.org")),
}
"""Of each, the name is the tenant's to the letter."""

NOBODY = {
    "no name": (),
    "no name of these kinds": (HERE, x509.RFC822Name("a@example.org")),
    "an empty host": (host(""),),
    "an empty URI": (uri(""),),
    "an empty URI before a host": (uri(""), host("alice")),
    "a wildcard": (host("*.example"),),
    "a wildcard inside": (host("a.*.example"),),
    "a wildcard in a URI": (uri("spiffe://x/*"),),
    "two hosts": (host("alice"), host("bob")),
    "one host twice": (host("alice"), host("alice")),
    "two URIs and a host": (uri("spiffe://x/a"), uri("spiffe://x/b"), host("alice")),
    "a separator": (host("alice|a"),),
    "a separator behind": (uri("alice|"),),
    "65 characters": (host("a" * 65),),
    "a host that ends at NUL": (host("alice\0.attacker.example"),),
    "a URI that ends at NUL": (uri("spiffe://x/a\0b"),),
    "a host before NUL and one behind": (host("alice\0"), host("bob")),
    "a line's end": (uri("spiffe://x/a\nb"),),
    "a space": (host("alice "),),
    "a tab": (host("alice\t"),),
    "an escape": (host("\x1b[31malice"),),
    "100 hosts": tuple(host(f"h{number}") for number in range(100)),
}


async def test_a_certificate_is_the_tenant_of_its_one_name_to_the_letter_or_nobodys(trial: Trial) -> None:
    """No name is another's by its beginning, its end, its capitals, or what it hides behind NUL."""
    for what, names in TENANTS.items():
        wanted = names[0].value
        assert await trial.tenant(trial.authority.issue(*names)) == (OK, wanted), what
    for what, names in NOBODY.items():
        assert await trial.tenant(trial.authority.issue(*names)) == (UNAUTHENTICATED, ""), what


UNICODE = ("bücher.example", "\u0430lice", "\uff41lice", "alice\u202e", "alice\u200b", "ALİCE", "\U0001f600")
"""Also a Cyrillic a, a wide one, and what cannot be seen."""


async def test_a_name_beyond_ascii_is_nobodys_however_much_it_looks_like_a_tenants(trial: Trial) -> None:
    """In UTF-8, which no DNS name has, or in Latin-1: it is not decoded in one way here and in another there."""
    for name in (*(text.encode() for text in UNICODE), "bücher".encode("latin-1"), b"alice\x80", b"\xff\xfe"):
        assert await trial.tenant(trial.authority.issue(raw_host=name)) == (UNAUTHENTICATED, ""), name
    assert await trial.tenant(trial.authority.issue(raw_host=b"alice")) == (OK, "alice")


async def test_a_name_that_begins_like_anothers_finds_none_of_its_areas(trial: Trial) -> None:
    """Not by its own area's name either: what a tenant is called ends where no name goes on."""
    areas = ("x", "/b|x", "b|x", "|x")
    async with trial.connect(trial.authority.issue(uri("spiffe://x/a/b"))).channel as channel:
        await Served(trial.served.server, channel, trial.served.clock).swapon("x")
        for names in ((uri("spiffe://x/a"),), (uri("spiffe://x/a/"),), (host("b"),), (uri("SPIFFE://X/A/B"),)):
            client = trial.connect(trial.authority.issue(*names))
            async with client.channel:
                for area in areas:
                    with pytest.raises(aio.AioRpcError) as caught:
                        await client.stat(area)
                    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# Who may have issued it, when, and for what


class Refused(NamedTuple):
    """A certificate that TLS does not take."""

    what: str
    shown: Shown


def refused(authority: Issuer) -> list[Refused]:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    namesake, between = Issuer(), Issuer("between", parent=authority)
    alice = host("alice")
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = Issuer("leaf", parent=authority, key=leaf_key, is_authority=False)
    return [
        Refused("it has expired", authority.issue(alice, expires=LAST_YEAR)),
        Refused("it is not valid yet", authority.issue(alice, begins=tomorrow)),
        Refused("an authority of the same name and another key", namesake.issue(alice)),
        Refused("by itself", Issuer("alice").issue(alice)),
        Refused("of an intermediate that is not shown", between.issue(alice)),
        Refused("of an intermediate that has expired", _of_an_old_intermediate(authority)),
        Refused("of a certificate that is no authority", leaf.issue(alice, chain=[leaf])),
        Refused("for servers", authority.issue(alice, usage=ExtendedKeyUsageOID.SERVER_AUTH)),
        Refused("for mail", authority.issue(alice, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION)),
        Refused("a name of 10,000 characters", authority.issue(uri("spiffe://x/" + "a" * 10_000))),
    ]


def _of_an_old_intermediate(authority: Issuer) -> Shown:
    old = Issuer("old", parent=authority, expires=LAST_YEAR)
    return old.issue(host("alice"), chain=[old])


async def test_what_tls_does_not_take_gets_no_connection(trial: Trial) -> None:
    """The next client does."""
    for what, shown in refused(trial.authority):
        assert await trial.tenant(shown) == (UNAVAILABLE, ""), what
    assert await trial.tenant(trial.authority.issue(host("alice"))) == (OK, "alice")


async def test_what_tls_takes_is_let_in(trial: Trial) -> None:
    """Of a shown intermediate, of one that another root has signed as well, without a purpose, of an authority."""
    elsewhere, key = Issuer("elsewhere"), ec.generate_private_key(ec.SECP256R1())
    between = Issuer("between", parent=trial.authority, key=key)
    crossed = Issuer("between", parent=elsewhere, key=key)
    alice = host("alice")
    for shown in (
        between.issue(alice, chain=[between]),
        between.issue(alice, chain=[between, crossed]),
        trial.authority.issue(alice, usage=None),
        trial.authority.issue(alice, is_authority=True),
        trial.authority.issue(alice, key=rsa.generate_private_key(65537, 2048)),
    ):
        assert await trial.tenant(shown) == (OK, "alice")


async def test_a_key_that_can_be_found_is_nobodys(trial: Trial) -> None:
    """TLS takes 1024 bits of RSA."""
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is tried
    shown = trial.authority.issue(host("alice"), key=weak)
    assert await trial.tenant(shown) == (UNAUTHENTICATED, "")


# Authorities that change


async def test_an_authority_of_the_same_name_takes_over_and_the_old_ones_streams_end(trial: Trial) -> None:
    """As after its key was stolen: the name is the same, and nothing that the thief has is good."""
    new = Issuer()
    stolen = trial.connect(trial.authority.issue(host("alice")))
    async with stolen.channel:
        stream = await open_stream(stolen)
        trial.believe(new)
        for call in (stream.read(), stolen.stat()):
            with pytest.raises(aio.AioRpcError, match="was withdrawn") as caught:
                await call
            assert caught.value.code() is UNAUTHENTICATED
    assert (await trial.tenant(trial.authority.issue(host("alice"))))[0] is UNAVAILABLE
    assert await trial.tenant(new.issue(host("bob"))) == (OK, "bob")


async def test_a_root_that_is_withdrawn_takes_the_clients_of_its_intermediates_along(trial: Trial) -> None:
    """Unless another root has signed the intermediate, and that was shown."""
    elsewhere, key = Issuer("elsewhere"), ec.generate_private_key(ec.SECP256R1())
    between = Issuer("between", parent=trial.authority, key=key)
    crossed = Issuer("between", parent=elsewhere, key=key)
    one = trial.connect(between.issue(host("one"), chain=[between]))
    both = trial.connect(between.issue(host("both"), chain=[between, crossed]))
    async with one.channel, both.channel:
        stream, other = await open_stream(one), await open_stream(both)
        trial.believe(elsewhere)
        with pytest.raises(aio.AioRpcError, match="was withdrawn"):
            await stream.read()
        await other.write(pb.ExchangeRequest(header=header_message()))
        assert await other.read()


async def test_an_intermediate_that_leaves_the_file_ends_nobody_whose_root_stays(trial: Trial) -> None:
    """TLS lets such a client in; to call its authority withdrawn was wrong."""
    between = Issuer("between", parent=trial.authority)
    trial.believe(trial.authority, between)
    trial.believe(trial.authority)
    assert await trial.tenant(between.issue(host("alice"), chain=[between])) == (OK, "alice")


async def test_an_authority_that_expires_ends_the_streams_of_its_clients(trial: Trial) -> None:
    """Though their own certificates go on, and another authority does; new connections are refused by TLS."""
    ending = Issuer("ending", expires=datetime(2998, 1, 1, tzinfo=UTC))
    trial.believe(trial.authority, ending)
    theirs, ours = trial.connect(ending.issue(host("theirs"))), trial.connect(trial.authority.issue(host("ours")))
    async with theirs.channel, ours.channel:
        stream, other = await open_stream(theirs), await open_stream(ours)
        trial.served.server.access.now = lambda: datetime(2998, 1, 1, tzinfo=UTC)
        trial.served.server.housekeeper.keep_house()
        with pytest.raises(aio.AioRpcError, match="authority of the client's certificate has expired"):
            await stream.read()
        await other.write(pb.ExchangeRequest(header=header_message()))
        assert await other.read()
    trial.believe(trial.authority, Issuer("over", expires=LAST_YEAR))
    assert await trial.tenant(Issuer("over", expires=LAST_YEAR).issue(host("alice"))) == (UNAVAILABLE, "")


# Resumption


def call_by_tls(
    trial: Trial, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool, bool, ssl.SSLSession | None]:
    """Make a call; return whether it was OK, whether TLS resumed *session*, and the new one."""
    where, _, port = trial.served.address.rpartition(":")
    received, is_ok = b"", False
    with (
        socket.create_connection((where, int(port)), timeout=PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=where, session=session) as secure,
    ):
        message = pb.SwaponRequest(header=header_message(), slots=1).SerializeToString()
        secure.sendall(http2.hello() + http2.request(1, f"/{SERVICE}/Swapon".encode(), message))
        while not any(one.flags & http2.END_STREAM for one in http2.frames(received) if one.type == http2.Type.HEADERS):
            more = secure.recv(65536)
            if not more:
                return False, bool(secure.session_reused), None
            received += more
        is_ok = b"grpc-status\x010" in received
        return is_ok, bool(secure.session_reused), secure.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
async def test_a_resumed_session_is_worth_no_more_than_its_certificate(
    trial: Trial, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A ticket skips the check of the certificate, so it must not outlive it or its authority."""
    shown = trial.authority.issue(host("alice"))
    for name, content in (("cert", shown.chain), ("key", shown.key)):
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(cadata=trial.authority.pem.decode())
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])

    async def call(session: ssl.SSLSession | None) -> tuple[bool, bool, ssl.SSLSession | None]:
        try:
            return await asyncio.to_thread(call_by_tls, trial, context, session)
        except (ssl.SSLError, ConnectionError):
            return False, False, None

    is_ok, is_resumed, ticket = await call(None)
    assert (is_ok, is_resumed) == (True, False) and ticket is not None
    assert (await call(ticket))[:2] == (True, True), "else there is nothing to be tried"
    trial.served.server.access.now = lambda: datetime(2999, 1, 1, tzinfo=UTC)
    assert (await call(ticket))[:2] == (False, True), "the certificate has expired meanwhile"
    trial.served.server.access.now = lambda: datetime.now(UTC)
    trial.believe(Issuer("new"))
    assert (await call(ticket))[:2] == (False, False), "its authority was withdrawn"
    trial.believe(Issuer("new"), trial.authority)
    assert (await call(ticket))[:2] == (True, False), "the authority is back, the ticket is not"


# Certificate and token


async def test_a_token_of_one_tenant_with_a_certificate_of_another_is_refused(
    serve: Serve, tmp_path: Path, authority: Issuer, own: Shown
) -> None:
    """Who stole a token is still who it is. A machine's certificate, which names no tenant, goes with any token."""
    trial = await begin(serve, tmp_path, authority, own, tokens=write_tokens(tmp_path / "tokens", "alice", "bob"))
    for names, tenant, outcome in (
        ((host("machine.example"),), "alice", (OK, "alice")),
        ((host("alice"),), "alice", (OK, "alice")),
        ((host("alice"), host("bob")), "alice", (OK, "alice")),
        ((), "alice", (OK, "alice")),
        ((host("*.example"),), "alice", (OK, "alice")),
        ((host("bob"),), "alice", (UNAUTHENTICATED, "")),
        ((uri("bob"), host("machine.example")), "alice", (UNAUTHENTICATED, "")),
        ((host("machine.example"), host("bob")), "alice", (UNAUTHENTICATED, "")),
        ((host("bob\0"),), "alice", (OK, "alice")),
        ((host("alice"),), "mallory", (UNAUTHENTICATED, "")),
    ):
        assert await trial.tenant(authority.issue(*names), bearer(tenant)) == outcome, (names, tenant)
    assert await trial.tenant(authority.issue(host("alice"))) == (UNAUTHENTICATED, "")
    assert await trial.tenant(Issuer().issue(host("alice")), bearer("alice")) == (UNAVAILABLE, "")


async def test_a_tenant_that_is_added_ends_the_stream_whose_certificate_names_it(
    serve: Serve, tmp_path: Path, authority: Issuer, own: Shown
) -> None:
    """What was a machine's name is another tenant's now."""
    tokens = write_tokens(tmp_path / "tokens", "alice")
    trial = await begin(serve, tmp_path, authority, own, tokens=tokens)
    client = trial.connect(authority.issue(host("bob")))
    client.metadata = bearer("alice")
    async with client.channel:
        stream = await open_stream(client)
        write_tokens(tokens, "alice", "bob")
        trial.served.server.reload()
        with pytest.raises(aio.AioRpcError, match="certificate names another"):
            await stream.read()
