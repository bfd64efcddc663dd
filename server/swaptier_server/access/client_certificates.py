"""Whether a client certificate that was good when its connection was made is still good.

Touches nothing: the time is an argument. TLS looks at a certificate once, at the handshake; a connection may then stay
open for weeks. So at every call and every second it is asked anew whether the certificate has ended, or its authority
has, or is no longer one of the server's. Which authority issued it is known by name and key identifier: the signature
was checked at the handshake. A certificate of an intermediate authority, which the server's file does not name, only
ends.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

CERTIFICATES_REMEMBERED_MAX: Final = 1024
"""Reading one takes some 20 us, at each call."""

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END", re.DOTALL)

# Tags of DER, and two object identifiers: 2.5.29.14 and 2.5.29.35.
_SEQUENCE, _OCTETS, _UTC_TIME = 0x30, 0x04, 0x17
_VERSION, _EXTENSIONS, _KEY_ID = 0xA0, 0xA3, 0x80
_SUBJECT_KEY, _AUTHORITY_KEY = b"\x55\x1d\x0e", b"\x55\x1d\x23"


class CertificateFacts(NamedTuple):
    """What a certificate says of itself and of its authority."""

    subject: bytes
    key_id: bytes | None
    issuer: bytes
    issuer_key_id: bytes | None
    expires: datetime


class ClientAuthorities:
    """The authorities that clients' certificates may be of, and those that once were."""

    def __init__(self, authorities: Iterable[CertificateFacts] = ()) -> None:
        self._present: frozenset[CertificateFacts] = frozenset(authorities)
        self._withdrawn: frozenset[CertificateFacts] = frozenset()

    def replace(self, authorities: Iterable[CertificateFacts]) -> None:
        """Believe these from now on."""
        before, self._present = self._present, frozenset(authorities)
        self._withdrawn = (self._withdrawn | before) - self._present

    def objection(self, certificate: CertificateFacts, now: datetime) -> str | None:
        """Return what is wrong with *certificate* now, as the middle of a sentence; None if nothing is."""
        if certificate.expires <= now:
            return f"the client's certificate expired on {certificate.expires:%Y-%m-%d at %H:%M:%S} UTC"
        ours = [authority for authority in self._present if _issued(authority, certificate)]
        if any(authority.expires > now for authority in ours):
            return None
        if ours:
            return "the authority of the client's certificate has expired"
        if any(_issued(authority, certificate) for authority in self._withdrawn):
            return "the authority of the client's certificate was withdrawn"
        return None


def _issued(authority: CertificateFacts, certificate: CertificateFacts) -> bool:
    """Tell whether *authority* issued *certificate*; a key identifier that either lacks says nothing."""
    ids = (authority.key_id, certificate.issuer_key_id)
    return authority.subject == certificate.issuer and (None in ids or ids[0] == ids[1])


def read_certificates(pem: bytes) -> list[CertificateFacts]:
    """Return what the certificates in *pem* say.

    Raises:
        ValueError: one is none.
    """
    return [_read_certificate(base64.b64decode(found)) for found in _PEM.findall(pem)]


@lru_cache(maxsize=CERTIFICATES_REMEMBERED_MAX)
def read_certificate(pem: bytes) -> CertificateFacts:
    """Return what the first certificate in *pem* says.

    Raises:
        ValueError: there is none.
    """
    found = read_certificates(pem)
    if not found:
        raise ValueError("there is no certificate in it")
    return found[0]


class _Element(NamedTuple):
    """One element of DER."""

    tag: int
    content: bytes
    whole: bytes


def _read_certificate(der: bytes) -> CertificateFacts:
    try:
        certificate = next(_elements(der))
        fields = list(_elements(next(_elements(certificate.content)).content))
        if fields[0].tag == _VERSION:
            del fields[0]
        _serial, _algorithm, issuer, validity, subject, *more = fields
        _, ends = _elements(validity.content)
        key_ids = dict(_key_ids(more))
        return CertificateFacts(
            subject.whole, key_ids.get(_SUBJECT_KEY), issuer.whole, key_ids.get(_AUTHORITY_KEY), _time(ends)
        )
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("it is no certificate") from error


def _elements(der: bytes) -> Iterator[_Element]:
    """Yield the elements that follow each other in *der*."""
    at = 0
    while at < len(der):
        tag, size, start = der[at], der[at + 1], at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(der[at + 2 : start], "big")
        if start + size > len(der):
            raise IndexError("it ends too early")
        yield _Element(tag, der[start : start + size], der[at : start + size])
        at = start + size


def _key_ids(fields: Iterable[_Element]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the identifiers of the certificate's own key and of its authority's, as far as there are any."""
    for field in fields:
        if field.tag != _EXTENSIONS:
            continue
        for extension in _elements(next(_elements(field.content)).content):
            name, *_, value = _elements(extension.content)
            inner = next(_elements(value.content), None)
            if inner is None:
                continue
            if name.content == _SUBJECT_KEY and inner.tag == _OCTETS:
                yield _SUBJECT_KEY, inner.content
            if name.content == _AUTHORITY_KEY and inner.tag == _SEQUENCE:
                yield from ((_AUTHORITY_KEY, one.content) for one in _elements(inner.content) if one.tag == _KEY_ID)


def _time(element: _Element) -> datetime:
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:  # RFC 5280: 50 to 99 are of the last century
        text = ("19" if text >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
