"""Certificates and tokens of tests, as files."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swaptier_server.access.tokens import hash_token

LONG_AGO = datetime.datetime(2019, 1, 1, tzinfo=datetime.UTC)
LAST_YEAR = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
FAR_AWAY = datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC)


class Authority:
    """A certificate authority that writes what it issues into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        """Write the authority's own certificate, too."""
        self._ca = trustme.CA()
        self._folder = folder
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(
        self, name: str, *identities: str, is_expired: bool = False, expires: datetime.datetime | None = None
    ) -> tuple[Path, Path]:
        """Write a certificate of *identities*, host names or addresses, and its key; return their paths."""
        leaf = self._ca.issue_cert(
            *identities, not_before=LONG_AGO if is_expired else None, not_after=LAST_YEAR if is_expired else expires
        )
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key)
        return cert, key

    def issue_names(
        self, name: str, *names: x509.GeneralName, usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH
    ) -> tuple[Path, Path]:
        """Write a certificate with just these alternative *names*, which trustme does not make, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        signer = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody believes this")]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(LONG_AGO)
            .not_valid_after(datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert_path, key_path = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_path.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(private_pem(key))
        return cert_path, key_path


class Issuer:
    """An authority in memory that issues what no ordinary one would."""

    def __init__(
        self,
        name: str = "authority",
        *,
        parent: "Issuer | None" = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        is_authority: bool = True,
        expires: datetime.datetime = FAR_AWAY,
    ) -> None:
        """Be an authority called *name*, of *parent* or by itself; *key* is for one that is signed more than once.

        With *is_authority* false it only behaves like one.
        """
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        signer = self if parent is None else parent
        builder = self._builder(self.name, signer, self.key.public_key(), LONG_AGO, expires)
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        self.pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: x509.GeneralName,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        begins: datetime.datetime = LONG_AGO,
        expires: datetime.datetime = FAR_AWAY,
        is_authority: bool = False,
        chain: Sequence["Issuer"] = (),
        raw_host: bytes = b"",
        key: "ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None" = None,
    ) -> "Shown":
        """Return a certificate of *names* with *chain* behind it, and its key.

        *raw_host* is a DNS name of up to 100 bytes, whatever they are, instead of *names*.
        """
        own = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody believes this")])
        builder = self._builder(subject, self, own.public_key(), begins, expires)
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if raw_host:
            der = bytes((0x30, len(raw_host) + 2, 0x82, len(raw_host))) + raw_host
            kind = x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME
            builder = builder.add_extension(x509.UnrecognizedExtension(kind, der), critical=False)
        pem = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return Shown(b"".join((pem, *(one.pem for one in chain))), private_pem(own))

    def _builder(
        self,
        subject: x509.Name,
        signer: "Issuer",
        key: "ec.EllipticCurvePublicKey | rsa.RSAPublicKey",
        begins: datetime.datetime,
        expires: datetime.datetime,
    ) -> x509.CertificateBuilder:
        own, theirs = (x509.SubjectKeyIdentifier.from_public_key(one) for one in (key, signer.key.public_key()))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(expires)
            .add_extension(own, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(theirs), critical=False)
        )


class Shown(NamedTuple):
    """What one side of a connection shows, in PEM."""

    chain: bytes
    key: bytes


def private_pem(key: "ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey", password: bytes | None = None) -> bytes:
    """Return *key* in PEM, encrypted if there is a *password*."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password),
    )


def token_of(tenant: str, number: int = 1) -> str:
    """Return a token of *tenant*; one can have several."""
    return f"token-{number}-of-{tenant}-".ljust(40, "x")


def write_tokens(path: Path, *tenants: str, number: int = 1) -> Path:
    """Write a file that lets the *tenants* in by `token_of`; return its path."""
    path.write_text("# made by a test\n\n" + "".join(f"{hash_token(t, token_of(t, number))}\n" for t in tenants))
    return path


def bearer(tenant: str, number: int = 1) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call by *tenant*."""
    return (("authorization", f"Bearer {token_of(tenant, number)}"),)
