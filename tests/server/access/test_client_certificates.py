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
    read_certificate,
    read_certificates,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)

PEM = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"


def authority(key_id: bytes | None = b"k", expires: datetime = LATER, subject: bytes = b"ca") -> CertificateFacts:
    return CertificateFacts(subject, key_id, subject, key_id, expires)


def client(key_id: bytes | None = b"k", expires: datetime = LATER) -> CertificateFacts:
    return CertificateFacts(b"client", None, b"ca", key_id, expires)


@pytest.mark.parametrize("expires", [datetime(2049, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)])
def test_a_certificate_is_read_as_others_read_it(tmp_path: Path, expires: datetime) -> None:
    """Both spellings of a date; an authority and what it issued fit each other."""
    ca = Authority(tmp_path)
    cert, _ = ca.issue("client", "c.example", expires=expires)
    for path in (cert, ca.path):
        facts, known = read_certificate(path.read_bytes()), x509.load_pem_x509_certificate(path.read_bytes())
        assert facts.expires == known.not_valid_after_utc
        assert (facts.subject, facts.issuer) == (known.subject.public_bytes(), known.issuer.public_bytes())
    (issuer,) = read_certificates(ca.path.read_bytes())
    assert issuer.key_id == read_certificate(cert.read_bytes()).issuer_key_id is not None
    assert read_certificate(cert.read_bytes()).expires == expires


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
        read_certificate(b"")


@pytest.mark.parametrize(
    ("present", "shown", "says"),
    [
        ([authority()], client(), None),
        ([authority()], client(expires=NOW), "certificate expired on 2026-01-01"),
        ([authority(expires=NOW)], client(), "authority of the client's certificate has expired"),
        ([authority(expires=NOW), authority(b"renewed")], client(None), None),
        ([authority(b"another key, same name")], client(), "was withdrawn"),
        ([authority(None)], client(), None),
        ([], client(), "was withdrawn"),
        ([], client(b"of an intermediate authority"), None),
    ],
)
def test_a_certificate_is_good_as_long_as_itself_and_its_authority_are(
    present: list[CertificateFacts], shown: CertificateFacts, says: str | None
) -> None:
    """After an authority with the key k was replaced by those that are present."""
    authorities = ClientAuthorities([authority()])
    authorities.replace(present)
    objection = authorities.objection(shown, NOW)
    assert objection is None if says is None else objection is not None and says in objection


def test_an_authority_that_comes_back_is_believed_again() -> None:
    """A file that was half written for a moment ends nothing for good."""
    authorities = ClientAuthorities([authority()])
    authorities.replace([])
    authorities.replace([authority()])
    assert authorities.objection(client(), NOW) is None
