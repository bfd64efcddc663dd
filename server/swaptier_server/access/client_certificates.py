"""What a client's certificate says, and whether what was good when its connection was made is still good.

Touches nothing: the time is an argument. TLS looks at a certificate once, at the handshake; a connection may then stay
open for weeks. So at every call and every second it is asked anew whether there still is a way from the certificate, by
those that were shown with it, to an authority of the server's. Who issued whom is known by names and key identifiers:
the signatures were checked at the handshake. Authorities of one name without key identifiers cannot be told apart.

Its names are read here, too: gRPC's end at a NUL, and an authority may well issue a name that begins with alice and NUL
to the owner of what stands behind.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

RSA_BITS_MIN: Final = 2048
"""What every guideline asks for; TLS takes 1024."""
CERTIFICATES_REMEMBERED_MAX: Final = 1024
"""Reading one takes some 20 us, at each call."""

SHOWN_MAX: Final = 10
"""Of the certificates that a client shows, so many are looked at: no honest way to an authority is longer."""

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END", re.DOTALL)

# Tags of DER, and object identifiers: 2.5.29.14, 2.5.29.35 and 2.5.29.17.
_SEQUENCE, _OCTETS, _UTC_TIME = 0x30, 0x04, 0x17
_VERSION, _EXTENSIONS, _KEY_ID, _HOST, _URI = 0xA0, 0xA3, 0x80, 0x82, 0x86
_SUBJECT_KEY, _AUTHORITY_KEY, _NAMES = b"\x55\x1d\x0e", b"\x55\x1d\x23", b"\x55\x1d\x11"
_RSA = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"  # 1.2.840.113549.1.1.1
_TEXT = {
    0x0C: "utf-8",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1A: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
"""Encodings of names, by tag."""


class CertificateFacts(NamedTuple):
    """What a certificate says of itself and of its authority."""

    subject: bytes
    key_id: bytes | None
    issuer: bytes
    issuer_key_id: bytes | None
    expires: datetime
    uris: tuple[bytes, ...] = ()
    """Its alternative names of this kind, whole, and whatever is in them."""
    hosts: tuple[bytes, ...] = ()
    """Of these, the DNS names."""
    rsa_bits: int | None = None
    """Of its key, if that is of RSA."""


class ClientAuthorities:
    """The authorities that clients' certificates may be of, and those that once were."""

    def __init__(self, authorities: Iterable[CertificateFacts] = ()) -> None:
        self._present: frozenset[CertificateFacts] = frozenset(authorities)
        self._withdrawn: frozenset[CertificateFacts] = frozenset()

    def replace(self, authorities: Iterable[CertificateFacts]) -> None:
        """Believe these from now on."""
        before, self._present = self._present, frozenset(authorities)
        self._withdrawn = (self._withdrawn | before) - self._present

    def objection(self, shown: Sequence[CertificateFacts], now: datetime) -> str | None:
        """Return what is wrong with a certificate now, as the middle of a sentence; None if nothing is.

        *shown* is the certificate and what its client sent with it.
        """
        certificate = shown[0]
        if certificate.expires <= now:
            return f"the client's certificate expired on {certificate.expires:%Y-%m-%d at %H:%M:%S} UTC"
        known = self._present.union(shown[1:])
        if any(one in self._present for one in _way_up(certificate, [one for one in known if one.expires > now])):
            return None
        if any(one in self._present for one in _way_up(certificate, known)):
            return "the authority of the client's certificate has expired"
        # Before any was withdrawn, that none is found says that TLS knew better.
        return "the authority of the client's certificate was withdrawn" if self._withdrawn else None


def _way_up(certificate: CertificateFacts, known: Iterable[CertificateFacts]) -> set[CertificateFacts]:
    """Return *certificate* and, of *known*, all that lead on from it to who issued it."""
    found, news, left = {certificate}, {certificate}, set(known)
    while news:
        news = {one for one in left if any(_issued(one, other) for other in news)}
        left -= news
        found |= news
    return found


def _issued(authority: CertificateFacts, certificate: CertificateFacts) -> bool:
    """Tell whether *authority* issued *certificate*; a key identifier that either lacks says nothing."""
    ids = (authority.key_id, certificate.issuer_key_id)
    return (None in ids or ids[0] == ids[1]) and _comparable(authority.subject) == _comparable(certificate.issuer)


@lru_cache(maxsize=CERTIFICATES_REMEMBERED_MAX)
def _comparable(name: bytes) -> frozenset[tuple[int, bytes, bytes]]:
    """Return the parts of *name* as TLS compares them: whatever their encoding, their spaces, and the case of ASCII."""
    parts = set()
    for number, part in enumerate(_elements(next(_elements(name)).content)):
        for pair in _elements(part.content):
            kind, value = _elements(pair.content)
            text = value.content
            if value.tag in _TEXT:
                text = b" ".join(text.decode(_TEXT[value.tag], "replace").encode().lower().split())
            parts.add((number, kind.content, text))
    return frozenset(parts)


def read_certificates(pem: bytes) -> list[CertificateFacts]:
    """Return what the certificates in *pem* say.

    Raises:
        ValueError: one is none.
    """
    return [_read_certificate(base64.b64decode(found)) for found in _PEM.findall(pem)]


@lru_cache(maxsize=CERTIFICATES_REMEMBERED_MAX)
def read_shown(pem: bytes) -> tuple[CertificateFacts, ...]:
    """Return what the certificates in *pem* say, of which there is at least one.

    Raises:
        ValueError: there is none.
    """
    found = read_certificates(pem)
    if not found:
        raise ValueError("there is no certificate in it")
    return tuple(found[:SHOWN_MAX])


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
        _serial, _algorithm, issuer, validity, subject, key, *more = fields
        _, ends = _elements(validity.content)
        said = list(_extensions(more))
        key_ids = {kind: one.content for kind, one in said}
        facts = CertificateFacts(
            subject.whole,
            key_ids.get(_SUBJECT_KEY),
            issuer.whole,
            key_ids.get(_AUTHORITY_KEY),
            _time(ends),
            uris=tuple(one.content for kind, one in said if kind == _NAMES and one.tag == _URI),
            hosts=tuple(one.content for kind, one in said if kind == _NAMES and one.tag == _HOST),
            rsa_bits=_rsa_bits(key),
        )
        _comparable(facts.subject), _comparable(facts.issuer)
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("it is no certificate") from error
    return facts


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


def _rsa_bits(key: _Element) -> int | None:
    """Return the length of an RSA key; None of another."""
    algorithm, bits = _elements(key.content)
    if next(_elements(algorithm.content)).content != _RSA:
        return None
    modulus = next(_elements(next(_elements(bits.content[1:])).content))
    return int.from_bytes(modulus.content, "big").bit_length()


def _extensions(fields: Iterable[_Element]) -> Iterator[tuple[bytes, _Element]]:
    """Yield the key identifiers, the certificate's own and its authority's, and the names, as far as there are any."""
    for field in fields:
        if field.tag != _EXTENSIONS:
            continue
        for extension in _elements(next(_elements(field.content)).content):
            kind, *_, value = _elements(extension.content)
            inner = next(_elements(value.content), None)
            if inner is None:
                continue
            if kind.content == _SUBJECT_KEY and inner.tag == _OCTETS:
                yield _SUBJECT_KEY, inner
            if kind.content == _AUTHORITY_KEY and inner.tag == _SEQUENCE:
                yield from ((_AUTHORITY_KEY, one) for one in _elements(inner.content) if one.tag == _KEY_ID)
            if kind.content == _NAMES and inner.tag == _SEQUENCE:
                yield from ((_NAMES, one) for one in _elements(inner.content))


def _time(element: _Element) -> datetime:
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:  # RFC 5280: 50 to 99 are of the last century
        text = ("19" if text >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
