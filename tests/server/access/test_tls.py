"""TLS files: what is refused before any client sees it, and what a reload does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.server.pki import Authority, private_pem

from swaptier_server.access.reloading import FILE_BYTES_MAX
from swaptier_server.access.tls import Tls
from swaptier_server.errors import ConfigError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority with a folder of its own."""
    return Authority(tmp_path)


def refusal(cert: Path, key: Path, client_ca: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Tls(cert, key, client_ca)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_files_tell_names_and_end(authority: Authority) -> None:
    """What check-config shows."""
    material = Tls(*authority.issue("tier", "localhost", "127.0.0.1"), authority.path).material
    assert material.names == ("localhost", "127.0.0.1")
    assert material.expires.year == 3000
    assert material.client_authorities == 1


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    """It would be refused by every client, with a message that names nothing of ours."""
    assert "certificate has expired" in refusal(*authority.issue("old", "localhost", is_expired=True))


def test_an_end_is_told_two_weeks_before_and_when_it_has_come(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, though it is looked for every second; a renewed certificate begins anew."""
    end = datetime(2999, 1, 31, tzinfo=UTC)
    cert, key = authority.issue("tier", "localhost", expires=end)
    tls = Tls(cert, key, None)

    def told(*before_the_end: timedelta) -> list[str]:
        caplog.clear()
        for before in before_the_end:
            tls.say_if_it_ends(end - before)
        return [str(record.msg["event"]) for record in caplog.records if isinstance(record.msg, dict)]

    assert told(timedelta(days=15)) == []
    assert told(timedelta(days=13), timedelta(days=12), timedelta(seconds=1)) == ["certificate_expires_soon"]
    assert told(timedelta(0), -timedelta(days=1)) == ["certificate_expired"]
    for path, renewed in zip((cert, key), authority.issue("new", "localhost"), strict=True):
        renewed.replace(path)
    assert tls.refresh()
    assert told(-timedelta(days=1)) == []


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    """The most common mistake of a renewal."""
    cert, _ = authority.issue("one", "localhost")
    _, key = authority.issue("two", "localhost")
    assert "are not a certificate and its key: key values mismatch" in refusal(cert, key)


def test_a_certificate_that_is_not_for_servers_is_refused(authority: Authority) -> None:
    """Clients check that; so do we, before them."""
    names = (x509.DNSName("localhost"),)
    says = refusal(*authority.issue_names("client", *names, usage=ExtendedKeyUsageOID.CLIENT_AUTH))
    assert "no client could accept" in says
    assert "purpose" in says
    Tls(*authority.issue_names("server", *names, usage=ExtendedKeyUsageOID.SERVER_AUTH), None)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(authority: Authority, tmp_path: Path) -> None:
    """A prompt would hang a service."""
    cert, _ = authority.issue("tier", "localhost")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    assert "are not a certificate and its key" in refusal(cert, encrypted)


def test_a_file_that_is_missing_a_folder_far_too_large_or_not_pem_is_named_with_its_flag(
    authority: Authority, tmp_path: Path
) -> None:
    """And what is in it is not repeated."""
    cert, key = authority.issue("tier", "localhost")
    junk = tmp_path / "junk"
    junk.write_text("do not repeat me")
    large = tmp_path / "large"
    large.write_bytes(bytes(FILE_BYTES_MAX + 1))
    assert refusal(tmp_path / "none", key).startswith("--tls-cert: cannot read ")
    assert refusal(cert, tmp_path / "none").startswith("--tls-key: cannot read ")
    assert refusal(tmp_path, key) == f"--tls-cert: {tmp_path} is a folder, not a file"
    assert refusal(large, key).startswith("--tls-cert: ")
    assert "do not repeat me" not in refusal(junk, key) + refusal(cert, junk) + refusal(cert, key, junk)
    assert refusal(cert, key, junk).startswith("--tls-client-ca: ")
    assert refusal(cert, key, tmp_path / "none").startswith("--tls-client-ca: cannot read ")


def test_a_certificate_and_a_key_that_changed_places_are_named(authority: Authority) -> None:
    cert, key = authority.issue("tier", "localhost")
    assert f"{key}, which was given as the certificate, holds none" in refusal(key, cert)
    assert f"{cert}, which was given as the private key, holds none" in refusal(cert, cert)


def test_client_authorities_must_be_authorities(authority: Authority) -> None:
    """A leaf in their place would let nobody in."""
    cert, key = authority.issue("tier", "localhost")
    assert "no certificate of an authority" in refusal(cert, key, cert)


def test_a_reload_takes_a_new_pair_and_keeps_the_old_one_from_a_bad_one(authority: Authority) -> None:
    """Half a renewal, a bad one, then a good one; each change is told once."""
    cert, key = authority.issue("tier", "localhost")
    tls = Tls(cert, key, None)
    assert not tls.refresh()
    new_cert, new_key = authority.issue("new", "tier.example")
    new_cert.replace(cert)
    with pytest.raises(ConfigError, match="are not a certificate and its key"):
        tls.refresh()
    assert not tls.refresh()
    assert tls.material.names == ("localhost",)
    new_key.replace(key)
    assert tls.refresh()
    assert tls.material.names == ("tier.example",)
    cert.unlink()
    with pytest.raises(ConfigError, match="--tls-cert: cannot read"):
        tls.refresh()
    assert tls.material.names == ("tier.example",)
