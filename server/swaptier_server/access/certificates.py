"""What clients will make of a certificate and its key, found out by a handshake in memory.

Touches memory that looks like a file, since OpenSSL reads nothing else. A handshake finds what reading does not: a key
that does not fit, a certificate that has expired, is not valid yet, or is not for servers.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple, cast

from swaptier_wire.process.small_file import SmallFile

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


def try_out(cert: SmallFile, key: SmallFile) -> Certificate:
    """Return what clients see after a handshake with ourselves.

    Raises:
        CertificateUnusable: why there would be none.
    """
    for file, what in ((cert, "certificate"), (key, "private key")):
        if f"{what.upper()}-----".encode() not in file.content:
            raise CertificateUnusable(f"{file.path}, which was given as the {what}, holds none in PEM form")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with readable(cert.content) as cert_path, readable(key.content) as key_path:
            # gRPC cannot ask for a password either.
            server.load_cert_chain(cert_path, key_path, password=lambda: b"")
            client.load_verify_locations(cert_path)
    except ssl.SSLError as error:
        raise CertificateUnusable(
            f"{cert.path} and {key.path} are not a certificate and its key: {reason(error)}"
        ) from error
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate vouches for itself here
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = client.wrap_bio(incoming, outgoing), server.wrap_bio(outgoing, incoming, server_side=True)
    try:
        for side in (ours, theirs) * _TURNS:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLError as error:
        raise CertificateUnusable(f"no client could accept {cert.path}: {reason(error)}") from error
    seen = cast("dict[str, tuple[tuple[str, str], ...]] | None", ours.getpeercert())
    assert seen is not None, "the handshake is over"
    alternatives = seen.get("subjectAltName", ())
    return Certificate(
        names=tuple(name for _, name in alternatives),
        hosts=tuple(name for kind, name in alternatives if kind in {"DNS", "IP Address"}),
        expires=expiry(seen),
    )


@contextmanager
def readable(content: bytes) -> Iterator[str]:
    """Give a name under which *content* can be read: a file may change before it is read again, or be gone."""
    descriptor = os.memfd_create("swaptier", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def expiry(certificate: object) -> datetime:
    """Return when a certificate, as the ssl module describes it, ends."""
    assert isinstance(certificate, dict)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)


def reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    return (error.reason or "not in PEM format").lower().replace("_", " ")
