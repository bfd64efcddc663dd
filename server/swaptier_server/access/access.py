"""Who calls: nobody in particular, a tenant by its token, or a tenant by its client certificate.

Touches gRPC's contexts and the token file. Rules of conduct:
  - What the server asks for, every call must show; there is no second best.
  - With both tokens and client certificates, both are needed, and the token says which tenant it is. A certificate that
    names another tenant of the token file is refused: who stole a token has not become its tenant.
  - Nothing of a token stands in an error or a log.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from grpc import aio

from swaptier_server.access.client_certificates import RSA_BITS_MIN, CertificateFacts, ClientAuthorities, read_shown
from swaptier_server.access.reloading import FromFiles
from swaptier_server.access.tokens import TENANT_CHARACTERS_MAX, Holder, Tokens, TokensUnusable, parse_tokens
from swaptier_server.errors import ConfigError
from swaptier_wire.errors import Unauthenticated

TOKEN_METADATA: Final = "authorization"  # noqa: S105 - where a token stands, not one
_FLAG: Final = "--tokens"
_SCHEME: Final = "bearer "
_CERTIFICATES: Final = ("x509_pem_cert", "x509_pem_cert_chain")
"""Where gRPC puts a client's certificate, and the others that were shown with it."""

_Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"


class Caller(NamedTuple):
    """Who makes a call."""

    tenant: str | None = None
    """None on a server that does not ask."""
    holder: Holder | None = None
    """The token that let it in, if one did."""
    certificates: tuple[CertificateFacts, ...] = ()
    """What it showed at its handshake, its own first; none if it was not asked."""


WITHDRAWN: Final = (
    "the token that let this call in was withdrawn; every message without an answer had no effect. Ask for another one"
)

CONTRADICTION: Final = (
    "the token is of one tenant and the client's certificate names another; a message without an answer had no effect. "
    "Use a certificate of the same tenant, or one that names none of this server's tenants"
)

NOBODY_IN_PARTICULAR: Final = Caller()


class Refusals(NamedTuple):
    """Calls that were not let in, since the last time somebody asked."""

    calls: int
    last_peer: str
    """Where the last of them came from, as gRPC names it."""
    last_reason: str


class Access:
    """What a server asks of its callers."""

    def __init__(
        self,
        tokens: Path | None,
        *,
        asks_certificates: bool,
    ) -> None:
        """Ask for a token of the file *tokens*, or for none.

        Raises:
            ConfigError: the file cannot be used.
        """
        self._tokens: Final = tokens_from(tokens, _FLAG)
        self._asks_certificates: Final = asks_certificates
        self.authorities: Final = ClientAuthorities()
        """Of clients' certificates."""
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        """When certificates are looked at."""
        self._refusals: Refusals | None = None

    @property
    def tokens(self) -> Tokens | None:
        """The tokens in use."""
        return None if self._tokens is None else self._tokens.value

    @property
    def is_asking(self) -> bool:
        """Callers have to say who they are."""
        return self._tokens is not None or self._asks_certificates

    def refresh(self, *, is_forced: bool = False) -> bool:
        """Read the token file again if it has changed; return whether there is a new list.

        Raises:
            ConfigError: it cannot be used; the old list stays in use.
        """
        return self._tokens is not None and self._tokens.refresh(is_forced=is_forced)

    def identify(self, context: _Context) -> Caller:
        """Return who makes the call of *context*.

        Raises:
            Unauthenticated: it does not show what this server asks for. Definite.
        """
        try:
            return self._identify(context)
        except Unauthenticated as refusal:
            calls = 1 if self._refusals is None else self._refusals.calls + 1
            self._refusals = Refusals(calls, context.peer(), str(refusal))
            raise

    def take_refusals(self) -> Refusals | None:
        """Return what was refused since the last time, or None: for a log that callers cannot fill a line per call."""
        refusals, self._refusals = self._refusals, None
        return refusals

    def _identify(self, context: _Context) -> Caller:
        shown = _certificates(context) if self._asks_certificates else ()
        tokens = self.tokens
        if tokens is not None:
            token = _bearer_token(context.invocation_metadata() or ())
            holder = tokens.holder(token)
            if holder is None:
                raise Unauthenticated(
                    "the token is not one of this server's; nothing was applied. It may have been withdrawn: ask for "
                    "one whose hash stands in the server's --tokens file"
                )
            caller = Caller(holder.tenant, holder, shown)
        elif shown:
            caller = Caller(_tenant_named_by(shown[0]), None, shown)
        else:
            return NOBODY_IN_PARTICULAR
        if (objection := self.objection(caller)) is not None:
            raise objection
        return caller

    def objection(self, caller: Caller) -> Unauthenticated | None:
        """Return why what once let *caller* in no longer does, if so. Definite."""
        tokens = self.tokens
        if caller.holder is not None and tokens is not None and not tokens.knows(caller.holder):
            return Unauthenticated(WITHDRAWN)
        if not caller.certificates:
            return None
        if caller.holder is not None and tokens is not None and _contradicts(caller, tokens):
            return Unauthenticated(CONTRADICTION)
        objection = self.authorities.objection(caller.certificates, self.now())
        if objection is None:
            return None
        return Unauthenticated(
            f"{objection}; a message without an answer had no effect. Connect again with a certificate that is good"
        )


def tokens_from(path: Path | None, flag: str) -> FromFiles[Tokens] | None:
    """Return the tokens of the file that *flag* names, kept as it is now; None where it names none.

    Raises:
        ConfigError: it cannot be used.
    """
    return None if path is None else FromFiles({flag: path}, lambda files: read_tokens(files[flag].content, flag))


def read_tokens(content: bytes, flag: str) -> Tokens:
    """Return the tokens of a file with *content*, which *flag* names.

    Raises:
        ConfigError: why they cannot be used, and nothing of the content.
    """
    try:
        return parse_tokens(content.decode("ascii"))
    except UnicodeDecodeError:
        raise ConfigError(f"{flag}: the file is not plain text") from None
    except TokensUnusable as error:
        raise ConfigError(f"{flag}: {error}") from error


def _bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the token among *metadata*.

    Raises:
        Unauthenticated: there is none, or more than one. Definite.
    """
    found = [value for name, value in metadata if name == TOKEN_METADATA]
    if len(found) == 1 and isinstance(found[0], str) and found[0].lower().startswith(_SCHEME):
        return found[0][len(_SCHEME) :].strip()
    raise Unauthenticated(
        "this server asks for a token and the call has none; nothing was applied. Send one in the metadata "
        f"{TOKEN_METADATA!r} as 'Bearer TOKEN' (the load generator: --token-file)"
    )


def _certificates(context: _Context) -> tuple[CertificateFacts, ...]:
    """Return what the client's certificate says, and what those say that it was shown with.

    Raises:
        Unauthenticated: one cannot be read, or its key is too weak, though TLS took it. Definite.
    """
    facts = context.auth_context()
    try:
        shown = read_shown(b"".join(pem for kind in _CERTIFICATES for pem in facts.get(kind, ())))
    except ValueError as error:
        raise Unauthenticated(f"the client's certificate cannot be read: {error}; nothing was applied") from None
    bits = shown[0].rsa_bits
    if bits is not None and bits < RSA_BITS_MIN:
        raise Unauthenticated(
            f"the client's certificate has an RSA key of {bits} bits, which can be found; nothing was applied. "
            f"{RSA_BITS_MIN} are the least"
        )
    return shown


def _contradicts(caller: Caller, tokens: Tokens) -> bool:
    """Tell whether the certificate of *caller* names tenants of this server, and not the one that its token does."""
    certificate = caller.certificates[0]
    named = {name.decode("ascii", "replace") for name in (*certificate.uris, *certificate.hosts)}
    return caller.tenant not in named and not named.isdisjoint(tokens.tenants)


def _tenant_named_by(certificate: CertificateFacts) -> str:
    """Return the one name of *certificate*, of the first kind that it has.

    Raises:
        Unauthenticated: it has none, or several, or one that cannot name a tenant. Definite.
    """
    names = certificate.uris or certificate.hosts
    name = names[0].decode("ascii", "replace") if len(names) == 1 else ""
    if _can_name_a_tenant(name):
        return name
    raise Unauthenticated(
        "the client's certificate does not name one tenant; nothing was applied. It needs exactly one URI, or without "
        f"any exactly one DNS name, of up to {TENANT_CHARACTERS_MAX} characters and without a wildcard"
    )


def _can_name_a_tenant(name: str) -> bool:
    """Tell whether *name* can stand before the names of areas: what no URI may contain, separates it from them.

    A wildcard names many.
    """
    return (
        0 < len(name) <= TENANT_CHARACTERS_MAX and name.isascii() and name.isprintable() and not set(name) & set(" |*")
    )
