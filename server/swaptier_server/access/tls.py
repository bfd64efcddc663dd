"""TLS from files: checked before it is used, and read again when it changes.

Touches files; gRPC asks for the present certificate from threads of its own. Rules of conduct:
  - A certificate is tried out before any client sees it, at the start and at every reload.
  - Connections that are open keep what they were made with; new ones get the present files.
  - No error repeats anything of a key.
"""

import ssl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import grpc

from swaptier_server.access.certificates import CertificateUnusable, expiry, readable, reason, try_out
from swaptier_server.access.client_certificates import CertificateFacts, read_certificates
from swaptier_server.access.reloading import FromFiles
from swaptier_server.errors import ConfigError
from swaptier_server.logs import get_log
from swaptier_wire.process.small_file import SmallFile

EXPIRES_SOON: Final = timedelta(days=14)
"""Before its end a certificate is warned about: time enough to renew it by hand."""


class TlsMaterial(NamedTuple):
    """What the files say, fit for gRPC."""

    configuration: grpc.ServerCertificateConfiguration
    names: tuple[str, ...]
    """The certificate's alternative names."""
    expires: datetime
    client_authorities: int
    """How many authorities clients' certificates may be of; 0 when clients need none."""
    authorities: tuple[CertificateFacts, ...]
    """All of them, also those that have expired."""


class Tls:
    """The server's side of TLS."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        """Read the files.

        Raises:
            ConfigError: they cannot be used.
        """
        files = {"--tls-cert": cert, "--tls-key": key} | ({} if client_ca is None else {"--tls-client-ca": client_ca})
        self._files: Final = FromFiles(files, read_tls)
        self._asks_clients: Final = client_ca is not None
        self._lock: Final = threading.Lock()
        self._news: grpc.ServerCertificateConfiguration | None = None
        """Read and not yet fetched by gRPC. Guarded by the lock."""
        self._handshakes = 0
        """Since they were taken. Guarded by the lock."""
        self._told: tuple[datetime, bool] | None = None
        """Of which certificate's end the log was told, and whether as of one that had come."""

    @property
    def material(self) -> TlsMaterial:
        """What is in use."""
        return self._files.value

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files, as far as they are refreshed."""
        return grpc.dynamic_ssl_server_credentials(
            self.material.configuration,
            self._fetch,  # type: ignore[arg-type]  # documented to return None for no change
            require_client_authentication=self._asks_clients,
        )

    def refresh(self, *, is_forced: bool = False) -> bool:
        """Read the files again if they have changed; return whether new connections get another certificate.

        Raises:
            ConfigError: they cannot be used; the old certificate stays in use.
        """
        if not self._files.refresh(is_forced=is_forced):
            return False
        with self._lock:
            self._news = self.material.configuration
        return True

    def take_handshakes(self) -> int:
        """Return how many handshakes clients began since the last time."""
        with self._lock:
            handshakes, self._handshakes = self._handshakes, 0
        return handshakes

    def say_if_it_ends(self, now: datetime) -> None:
        """Tell the log, once each, that the certificate ends soon and that it has ended."""
        expires = self.material.expires
        told = (expires, expires <= now)
        if expires > now + EXPIRES_SOON or told == self._told:
            return
        self._told = told
        advice = "replace the files of --tls-cert and --tls-key: new ones are used at once, without a restart"
        if expires <= now:
            meaning = "clients refuse new connections; those that are open go on"
            get_log().error("certificate_expired", expired=expires.isoformat(), meaning=meaning, advice=advice)
        else:
            get_log().warning("certificate_expires_soon", expires=expires.isoformat(), advice=advice)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what has changed since the last call; None for nothing. Called by gRPC at each handshake."""
        with self._lock:
            self._handshakes += 1
            news, self._news = self._news, None
        return news


def read_tls(files: Mapping[str, SmallFile]) -> TlsMaterial:
    """Return what is in the files, by their flags.

    Raises:
        ConfigError: names the flag, and says what is wrong with its file.
    """
    cert, key, client_ca = files["--tls-cert"], files["--tls-key"], files.get("--tls-client-ca")
    try:
        certificate = try_out(cert, key)
    except CertificateUnusable as error:
        raise ConfigError(f"--tls-cert: {error}") from error
    count = 0 if client_ca is None else _count_authorities(client_ca)
    authorities = None if client_ca is None else client_ca.content
    return TlsMaterial(
        configuration=grpc.ssl_server_certificate_configuration([(key.content, cert.content)], authorities),
        names=certificate.names,
        expires=certificate.expires,
        client_authorities=count,
        authorities=tuple(_read_authorities(authorities)),
    )


def _read_authorities(content: bytes | None) -> list[CertificateFacts]:
    try:
        return [] if content is None else read_certificates(content)
    except ValueError as error:
        raise ConfigError(f"--tls-client-ca: a certificate cannot be read: {error}") from error


def _count_authorities(file: SmallFile) -> int:
    """Return how many authorities the file holds that are good now."""
    path = file.path
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with readable(file.content) as name:
            context.load_verify_locations(name)
    except ssl.SSLError as error:
        raise ConfigError(f"--tls-client-ca: {path} holds no certificates: {reason(error)}") from error
    authorities = context.get_ca_certs()
    if not authorities:
        raise ConfigError(f"--tls-client-ca: {path} holds no certificate of an authority")
    count = sum(expiry(authority) > datetime.now(UTC) for authority in authorities)
    if not count:
        raise ConfigError(f"--tls-client-ca: every authority in {path} has expired, so no client could connect")
    return count
