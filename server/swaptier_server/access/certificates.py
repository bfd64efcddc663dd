"""What clients will make of a certificate and its key, found out by a handshake in memory.

Touches files; imports nothing outside the standard library. A handshake finds what reading does not: a key that does
not fit, a certificate that has expired, is not valid yet, or is not for servers.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

_TURNS = 8
"""Three are enough."""


class Certificate(NamedTuple):
    """What a client sees of a server's certificate."""

    names: tuple[str, ...]
    """Its alternative names, of whatever kind."""
    hosts: tuple[str, ...]
    """Of these, the DNS names and addresses."""
    expires: datetime


class CertificateUnusable(Exception):
    """No client could accept it. One line; repeats nothing of a key."""


def try_out(cert: Path, key: Path) -> Certificate:
    """Return what clients see after a handshake with ourselves.

    Raises:
        CertificateUnusable: why there would be none.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        server.load_cert_chain(cert, key, password=lambda: b"")  # gRPC cannot ask for one either
    except ssl.SSLError as error:
        raise CertificateUnusable(f"{cert} and {key} are not a certificate and its key: {reason(error)}") from error
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate vouches for itself here
    client.load_verify_locations(cert)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = client.wrap_bio(incoming, outgoing), server.wrap_bio(outgoing, incoming, server_side=True)
    try:
        for side in (ours, theirs) * _TURNS:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLError as error:
        raise CertificateUnusable(f"no client could accept {cert}: {reason(error)}") from error
    seen = cast("dict[str, tuple[tuple[str, str], ...]] | None", ours.getpeercert())
    assert seen is not None, "the handshake is over"
    alternatives = seen.get("subjectAltName", ())
    return Certificate(
        names=tuple(name for _, name in alternatives),
        hosts=tuple(name for kind, name in alternatives if kind in {"DNS", "IP Address"}),
        expires=expiry(seen),
    )


def expiry(certificate: object) -> datetime:
    """Return when a certificate, as the ssl module describes it, ends."""
    assert isinstance(certificate, dict)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)


def reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    return (error.reason or "not in PEM format").lower().replace("_", " ")
