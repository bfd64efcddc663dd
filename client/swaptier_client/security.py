"""How a host shows a tier server who it is, and makes sure of the server: TLS, a client certificate, a token.

Touches files, at each connection anew: what was replaced meanwhile counts. Nothing of a key or token ever stands in an
error, and a token does not leave the machine unencrypted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc import aio

from swaptier_wire.addresses import Address
from swaptier_wire.channels import open_channel
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.process.small_file import FileUnusable, read_small_file

TOKEN_BYTES_MAX = 4096
"""Metadata has room for 8 KiB."""

FILE_BYTES_MAX = 1 << 20
"""Of a file with certificates: some hundred authorities."""


CERTIFICATE, PRIVATE_KEY = "CERTIFICATE", "PRIVATE KEY"
"""How the label of a PEM block ends, as in RSA PRIVATE KEY."""

_PEM_KIND = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


class SecurityUnusable(TierUnreachable):
    """The files or their combination cannot be used; nothing was sent. One line. Definite."""

    def __init__(self, message: str) -> None:
        super().__init__(message, definite=True)


@dataclass(frozen=True, slots=True)
class Security:
    """What a host uses. Without arguments: plain text, and no identity.

    Raises:
        SecurityUnusable: a combination that makes no sense.
    """

    tls_ca: Path | None = None
    """Authorities, PEM; one of them must have issued the server's certificate. Turns TLS on."""
    tls_cert: Path | None = None
    """This host's own certificate, PEM, for servers that ask for one."""
    tls_key: Path | None = None
    """Its key, PEM, not encrypted."""
    token_file: Path | None = None
    """Holds this host's token and nothing else."""

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SecurityUnusable("--tls-cert and --tls-key go together: a certificate and its key")
        if self.tls_cert is not None and self.tls_ca is None:
            raise SecurityUnusable("--tls-cert needs --tls-ca: a certificate is shown only to a server that is known")

    def check(self, address: str) -> None:
        """Make sure that the server at *address* can be asked with this.

        Raises:
            SecurityUnusable: a file cannot be read, or a token would travel in plain text.
        """
        self.metadata()
        self.credentials()
        if self.token_file is not None and self.tls_ca is None and not Address(address).is_local:
            raise SecurityUnusable(
                f"--token-file: the token would go to {address} in plain text, for everybody on the way to read: give "
                "--tls-ca"
            )

    def channel(self, address: str, options: Sequence[tuple[str, int]]) -> aio.Channel:
        """Return a channel to *address*; it connects when it is used.

        Raises:
            SecurityUnusable: see `check`.
        """
        self.check(address)
        return open_channel(address, self.credentials(), options)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what TLS needs, or None for plain text.

        Raises:
            SecurityUnusable: a file cannot be read, is not PEM or holds something else.
        """
        if self.tls_ca is None:
            return None
        authorities = _pem("--tls-ca", self.tls_ca, CERTIFICATE)
        if self.tls_cert is None or self.tls_key is None:
            return grpc.ssl_channel_credentials(authorities)
        return grpc.ssl_channel_credentials(
            authorities,
            _pem("--tls-key", self.tls_key, PRIVATE_KEY),
            _pem("--tls-cert", self.tls_cert, CERTIFICATE),
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call carries.

        Raises:
            SecurityUnusable: the token file cannot be read or holds no token.
        """
        if self.token_file is None:
            return ()
        token = _read("--token-file", self.token_file).strip()
        if (
            len(token) > TOKEN_BYTES_MAX
            or not token.isascii()
            or not token.decode("ascii").isprintable()
            or not token
            or b" " in token
        ):
            raise SecurityUnusable(f"--token-file: {self.token_file} does not hold one token and nothing else")
        return (("authorization", f"Bearer {token.decode('ascii')}"),)

    def hint(self, failure: str) -> str | None:
        """Return what to do about a connection that failed with gRPC's words *failure*, if they say."""
        is_cut = "Socket closed" in failure or "Connection reset" in failure
        if self.tls_ca is None:
            return "It may speak TLS only: name its authority with --tls-ca" if is_cut else None
        if "WRONG_VERSION_NUMBER" in failure:
            return "It speaks no TLS: leave --tls-ca out, if what is between here and there can be trusted"
        if "CERTIFICATE_VERIFY_FAILED" in failure:
            return f"Its certificate has expired or is not of an authority in {self.tls_ca}"
        if "Hostname Verification" in failure:
            return "Its certificate is for another name: use the one that stands in it, or have one issued for this"
        if is_cut and self.tls_cert is None:
            return "It may ask for a client certificate: give --tls-cert and --tls-key"
        return f"It may not accept the certificate in {self.tls_cert}" if is_cut else None


PLAIN = Security()
"""For a server of this machine."""


def _read(flag: str, path: Path) -> bytes:
    """Return the content of *path*, which each connection reads anew: not of a pipe, nor of what is this process's."""
    if path.parts[:2] in (("/", "dev"), ("/", "proc")):
        raise SecurityUnusable(
            f"{flag}: {path} can be read by one process, once, and each connection reads it: give a file"
        )
    try:
        found = read_small_file(path, FILE_BYTES_MAX)
    except FileUnusable as problem:
        raise SecurityUnusable(f"{flag}: {problem}") from None
    if found.is_gone:
        raise SecurityUnusable(
            f"{flag}: {path} is a pipe, which can be read once, and each connection reads it: give a file"
        )
    return found.content


def _pem(flag: str, path: Path, kind: str) -> bytes:
    """Return the content of *path*, which holds something of *kind*; what else it holds does not matter."""
    content = _read(flag, path)
    kinds = [found.decode("ascii") for found in _PEM_KIND.findall(content)]
    if not kinds:
        raise SecurityUnusable(f"{flag}: {path} is not in PEM format")
    if not any(found.endswith(kind) for found in kinds):
        raise SecurityUnusable(f"{flag}: {path} holds no {kind.lower()}, but a {kinds[0].lower()}")
    return content
