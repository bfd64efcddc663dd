"""What a certificate says, read from its bytes, and when it no longer lets its client in."""

import base64
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from tests.server.pki import Authority

from swaptier_server.access.client_certificates import (
    CertificateFacts,
    ClientAuthorities,
    read_certificates,
    read_shown,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)

KEY = b"k"


def name(text: str, tag: int = 0x0C) -> bytes:
    """Return a name of one part, common name, in DER."""
    value = text.encode("utf-16-be" if tag == 0x1E else "utf-8")
    pair = bytes((0x06, 3, 0x55, 0x04, 0x03, tag, len(value))) + value
    return bytes((0x30, len(pair) + 4, 0x31, len(pair) + 2, 0x30, len(pair))) + pair


PEM = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"


def authority(
    key_id: bytes | None = KEY,
    expires: datetime = LATER,
    subject: bytes = name("ca"),
    by: CertificateFacts | None = None,
) -> CertificateFacts:
    """Return an authority, of *by* or by itself."""
    issuer, issuer_key = (subject, key_id) if by is None else (by.subject, by.key_id)
    return CertificateFacts(subject, key_id, issuer, issuer_key, expires)


def client(key_id: bytes | None = KEY, expires: datetime = LATER, issuer: bytes = name("ca")) -> CertificateFacts:
    return CertificateFacts(name("client"), None, issuer, key_id, expires)


ROOT = authority()
OTHER_ROOT = authority(b"o", subject=name("other"))
BETWEEN = authority(b"b", subject=name("between"), by=ROOT)
CROSSED = authority(b"b", subject=name("between"), by=OTHER_ROOT)
"""The same authority as BETWEEN, by another root."""
OLD_BETWEEN = authority(b"b", expires=NOW, subject=name("between"), by=ROOT)
DEEP = client(b"b", issuer=name("between"))


@pytest.mark.parametrize("expires", [datetime(2049, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)])
def test_a_certificate_is_read_as_others_read_it(tmp_path: Path, expires: datetime) -> None:
    """Both spellings of a date; an authority and what it issued fit each other."""
    ca = Authority(tmp_path)
    cert, _ = ca.issue("client", "c.example", expires=expires)
    for path in (cert, ca.path):
        (facts, *_), known = read_shown(path.read_bytes()), x509.load_pem_x509_certificate(path.read_bytes())
        assert facts.expires == known.not_valid_after_utc
        assert (facts.subject, facts.issuer) == (known.subject.public_bytes(), known.issuer.public_bytes())
    (issuer,) = read_certificates(ca.path.read_bytes())
    assert issuer.key_id == read_shown(cert.read_bytes())[0].issuer_key_id is not None
    (facts, *_) = read_shown(cert.read_bytes())
    assert (facts.expires, facts.hosts, facts.uris) == (expires, (b"c.example",), ())


@pytest.fixture(scope="module")
def der(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A certificate, to be damaged."""
    ca = Authority(tmp_path_factory.mktemp("ca"))
    return x509.load_pem_x509_certificate(ca.path.read_bytes()).public_bytes(Encoding.DER)


@given(cut=st.integers(0, 600), changed=st.integers(0, 600), byte=st.integers(0, 255))
def test_bytes_that_are_no_certificate_are_refused_and_nothing_else(
    cut: int, changed: int, byte: int, der: bytes
) -> None:
    """Cut off or changed anywhere: facts or ValueError."""
    damaged = bytearray(der)
    damaged[changed % len(damaged)] = byte
    with contextlib.suppress(ValueError):
        read_certificates(PEM % base64.b64encode(damaged[: len(damaged) - cut % len(damaged)]))


def test_no_certificate_at_all_is_refused() -> None:
    """As from a caller that showed none."""
    with pytest.raises(ValueError, match="no certificate"):
        read_shown(b"")


EXPIRED = "authority of the client's certificate has expired"
WITHDRAWN = "was withdrawn"


@pytest.mark.parametrize(
    ("present", "shown", "says"),
    [
        ([ROOT], [client()], None),
        ([ROOT], [client(expires=NOW)], "certificate expired on 2026-01-01"),
        ([authority(expires=NOW)], [client()], EXPIRED),
        ([authority(expires=NOW), authority(b"renewed")], [client(None)], None),
        ([authority(b"another key, same name")], [client()], WITHDRAWN),
        ([authority(subject=name("same key, another name"))], [client()], WITHDRAWN),
        ([authority(None)], [client()], None),
        ([], [client()], WITHDRAWN),
        ([ROOT], [DEEP, BETWEEN], None),
        ([BETWEEN], [DEEP], None),
        ([DEEP], [DEEP], None),
        ([ROOT], [DEEP], WITHDRAWN),
        ([ROOT], [DEEP, OLD_BETWEEN], EXPIRED),
        ([ROOT, BETWEEN], [DEEP, OLD_BETWEEN], None),
        ([OTHER_ROOT], [DEEP, BETWEEN], WITHDRAWN),
        ([OTHER_ROOT], [DEEP, CROSSED], None),
        ([OTHER_ROOT], [DEEP, BETWEEN, CROSSED], None),
        ([OTHER_ROOT], [DEEP, BETWEEN, OTHER_ROOT], WITHDRAWN),
        ([OTHER_ROOT], [client(), OTHER_ROOT], WITHDRAWN),
        ([authority(subject=name(" CA"))], [client()], None),
        ([authority(subject=name("ca", tag=0x1E))], [client()], None),
        ([authority(subject=name("ca", tag=0x13))], [client(issuer=name("CA"))], None),
    ],
)
def test_a_certificate_is_good_as_long_as_there_is_a_way_to_an_authority(
    present: list[CertificateFacts], shown: list[CertificateFacts], says: str | None
) -> None:
    """After those that were there before were replaced: by an intermediate, a crossed one, another spelling."""
    authorities = ClientAuthorities([ROOT, authority(b"gone", subject=name("gone"))])
    authorities.replace(present)
    objection = authorities.objection(shown, NOW)
    assert objection is None if says is None else objection is not None and says in objection


def test_two_authorities_that_issued_each_other_are_no_way() -> None:
    """A circle ends."""
    first = authority(b"1", subject=name("one"), by=authority(b"2", subject=name("two")))
    second = authority(b"2", subject=name("two"), by=first)
    authorities = ClientAuthorities([OTHER_ROOT, ROOT])
    authorities.replace([ROOT])
    assert WITHDRAWN in str(authorities.objection([client(b"1", issuer=name("one")), first, second], NOW))


def test_an_authority_that_comes_back_is_believed_again() -> None:
    """A file that was half written for a moment ends nothing for good."""
    authorities = ClientAuthorities([ROOT])
    authorities.replace([])
    authorities.replace([ROOT])
    assert authorities.objection([client()], NOW) is None


def test_before_any_authority_was_withdrawn_tls_is_believed() -> None:
    """It saw the certificate with the authorities that are there now, and may know a way that is not seen here."""
    assert ClientAuthorities([ROOT]).objection([client(b"unknown")], NOW) is None
