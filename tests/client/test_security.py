"""TLS, client certificates and tokens from the host's side: refused before they are sent, or told in a line why not."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
from tests.server.configuration import load_config
from tests.server.pki import Authority, token_of, write_tokens

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.mm.effects import Load, Store, SwapEntry
from swaptier_client.security import Security, SecurityUnusable
from swaptier_client.transport import TierStream
from swaptier_server.lifecycle import TierServer
from swaptier_wire.errors import SwapTierError, TierUnreachable, Unauthenticated
from swaptier_wire.types import PAGE_BYTES, LoadMode, Outcome

AREA = HostArea("host", 1, "area", slots=16)
PAGE = b"whose page is it? ".ljust(PAGE_BYTES, b".")
ENTRY = SwapEntry(0, 3)


class Start(Protocol):
    """Starts a server with flags."""

    async def __call__(self, *flags: str, host: str = "127.0.0.1") -> TierServer:
        """Return it, serving."""


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start servers; they end with the test."""
    async with AsyncExitStack() as stack:

        async def starter(*flags: str, host: str = "127.0.0.1") -> TierServer:
            server = await TierServer.start(load_config(["--listen", f"{host}:0", "--metrics", "off", *flags]))
            stack.push_async_callback(server.drain)
            return server

        yield starter


class Files:
    """Everything that a server and its clients need, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        self.server = self.ours.issue("tier", "127.0.0.1")
        self.client = self.ours.issue("client", "host-1.example")
        self.foreign = self.theirs.issue("foreign", "host-1.example")
        self.old = self.ours.issue("old", "127.0.0.1", is_expired=True)
        self.tokens = write_tokens(folder / "tokens", "alice")
        self.token = folder / "token"
        self.token.write_text(f"{token_of('alice')}\n")

    def tls(self) -> list[str]:
        """The server's flags for TLS."""
        return ["--tls-cert", str(self.server[0]), "--tls-key", str(self.server[1])]

    def mutual(self) -> list[str]:
        """The server's flags for mutual TLS."""
        return [*self.tls(), "--tls-client-ca", str(self.ours.path)]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A folder full of them."""
    return Files(tmp_path)


async def swap(server: TierServer, security: Security) -> None:
    """Store a page and load it again."""
    settings = StreamSettings(give_up_seconds=0, security=security)
    async with TierStream(str(server.listening), AREA, settings) as stream:
        assert (await stream.submit(Store(ENTRY, 1, PAGE))).outcome is Outcome.STORED
        reply = await stream.submit(Load(ENTRY, 1, LoadMode.SHARED, 0))
        assert getattr(reply, "page", None) == PAGE
        await stream.swapoff()


async def refusal(server: TierServer, security: Security) -> SwapTierError:
    with pytest.raises(SwapTierError) as caught:
        await swap(server, security)
    assert caught.value.definite
    assert "\n" not in str(caught.value)
    return caught.value


async def test_pages_travel_over_tls_with_a_token(start: Start, files: Files) -> None:
    """Both sides from files."""
    server = await start(*files.tls(), "--tokens", str(files.tokens))
    await swap(server, Security(tls_ca=files.ours.path, token_file=files.token))


async def test_pages_travel_over_mutual_tls(start: Start, files: Files) -> None:
    """The certificate says who the host is."""
    server = await start(*files.mutual())
    cert, key = files.client
    await swap(server, Security(tls_ca=files.ours.path, tls_cert=cert, tls_key=key))


async def test_a_token_alone_will_do_on_this_machine(start: Start, files: Files) -> None:
    """Loopback is not on anybody's way."""
    await swap(await start("--tokens", str(files.tokens)), Security(token_file=files.token))


async def test_a_host_without_a_token_or_with_a_wrong_one_is_told_so(start: Start, files: Files) -> None:
    """Unauthenticated, which no further attempt changes."""
    server = await start("--tokens", str(files.tokens))
    assert "the call has none" in str(await refusal(server, Security()))
    files.token.write_text(token_of("mallory"))
    error = await refusal(server, Security(token_file=files.token))
    assert isinstance(error, Unauthenticated)
    assert "not one of this server's" in str(error)


async def test_what_is_wrong_with_a_connection_is_said_with_what_to_do(start: Start, files: Files) -> None:
    """One side speaks TLS and the other not; an authority, a name, a certificate that does not fit."""
    plain, secure, mutual = await start(), await start(*files.tls()), await start(*files.mutual())
    named = await start(*files.tls(), host="localhost")
    ours, theirs = Security(tls_ca=files.ours.path), Security(tls_ca=files.theirs.path)
    foreign = Security(tls_ca=files.ours.path, tls_cert=files.foreign[0], tls_key=files.foreign[1])
    for server, security, says in (
        (plain, ours, "It speaks no TLS"),
        (secure, Security(), "It may speak TLS only: name its authority with --tls-ca"),
        (secure, theirs, "Its certificate has expired or is not of an authority in"),
        (named, ours, "Its certificate is for another name"),
        (mutual, ours, "It may ask for a client certificate"),
        (mutual, foreign, "It may not accept the certificate in"),
    ):
        error = await refusal(server, security)
        assert isinstance(error, TierUnreachable)
        assert says in str(error), str(error)


async def test_what_is_replaced_counts_at_the_next_connection(start: Start, files: Files) -> None:
    """A token is changed on both sides while the host runs; its stream comes back by itself."""
    server = await start("--tokens", str(files.tokens))
    settings = StreamSettings(security=Security(token_file=files.token))
    async with TierStream(str(server.listening), AREA, settings) as stream:
        await stream.submit(Store(ENTRY, 1, PAGE))
        write_tokens(files.tokens, "alice", number=2)
        files.token.write_text(token_of("alice", 2))
        server.reload()
        reply = await stream.submit(Load(ENTRY, 1, LoadMode.SHARED, 0, require_generation=True))
        assert getattr(reply, "page", None) == PAGE
        assert stream.counters.reconnects == 1


async def test_a_file_that_is_gone_ends_nothing_but_the_attempt(start: Start, files: Files) -> None:
    """While it is being replaced there may be none; the stream tries again as if nobody had answered."""
    files.token.unlink()
    error = await refusal(await start(), Security(token_file=files.token))
    assert isinstance(error, TierUnreachable)
    assert str(error).startswith("--token-file: cannot read")


@pytest.mark.parametrize("content", [b"", b"\n", b"two words of a token", b"one\ntwo", b"\xff" * 40])
def test_a_file_without_a_token_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    """Before anything is sent."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(SecurityUnusable, match="does not hold one token and nothing else") as caught:
        Security(token_file=path).check("127.0.0.1:1")
    assert "two" not in str(caught.value)


def test_files_that_cannot_be_used_are_named_with_their_flag(files: Files, tmp_path: Path) -> None:
    """Missing, not PEM, a key for a certificate; half a pair; a certificate for a server that nobody made sure of."""
    missing, junk = tmp_path / "none", tmp_path / "junk"
    junk.write_text("do not repeat me")
    cert, key = files.client
    for security, says in (
        (Security(tls_ca=missing), "--tls-ca: cannot read"),
        (Security(tls_ca=junk), "--tls-ca: .* is not in PEM format"),
        (Security(tls_ca=key), "--tls-ca: .* holds no certificate, but a .*private key"),
        (Security(tls_ca=files.ours.path, tls_cert=cert, tls_key=cert), "--tls-key: .* holds no private key"),
        (Security(tls_ca=files.ours.path, tls_cert=cert, tls_key=missing), "--tls-key: cannot read"),
        (Security(token_file=missing), "--token-file: cannot read"),
        (Security(token_file=tmp_path), "--token-file: .* is a folder"),
        (Security(token_file=Path("/dev/stdin")), "--token-file: /dev/stdin can be read by one process, once"),
    ):
        with pytest.raises(SecurityUnusable, match=says) as caught:
            security.check("127.0.0.1:1")
        assert "do not repeat me" not in str(caught.value)
    with pytest.raises(SecurityUnusable, match="go together"):
        Security(tls_ca=files.ours.path, tls_cert=cert)
    with pytest.raises(SecurityUnusable, match="needs --tls-ca"):
        Security(tls_cert=cert, tls_key=key)


@pytest.mark.parametrize(
    ("address", "is_fine"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/tier", True),
        ("10.0.0.1:1", False),
        ("tier.example:1", False),
        ("[2001:db8::1]:1", False),
        ("localhost.example:1", False),
    ],
)
def test_a_token_does_not_leave_the_machine_in_plain_text(files: Files, address: str, is_fine: bool) -> None:
    """Whoever hears it once has it."""
    Security(tls_ca=files.ours.path, token_file=files.token).check(address)
    plain = Security(token_file=files.token)
    if is_fine:
        plain.check(address)
    else:
        with pytest.raises(SecurityUnusable, match="in plain text"):
            plain.check(address)
