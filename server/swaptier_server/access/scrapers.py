"""Who may ask the metrics port: whoever shows a token of --metrics-token, over TLS where --metrics-tls-* say so.

Touches files. Called from the port's thread; what it reads there is replaced whole. Rules of conduct:
  - The file holds no token, only its hash, as that of --tokens does, and tokens are compared in the same time.
  - Files that change count at once; what cannot be used does not replace what can.
"""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from swaptier_server.access.access import tokens_from
from swaptier_server.access.certificates import CertificateUnusable, readable, reason, try_out
from swaptier_server.access.reloading import FromFiles
from swaptier_server.access.tokens import Tokens
from swaptier_server.errors import ConfigError
from swaptier_wire.metrics_port import bearer_token
from swaptier_wire.process.small_file import SmallFile

_TOKEN, _CERT, _KEY, _CLIENT_CA = (
    "--metrics-token",
    "--metrics-tls-cert",
    "--metrics-tls-key",
    "--metrics-tls-client-ca",
)


class MetricsScrapers:
    """What the port asks of those who ask it; a `swaptier_wire.metrics_port.Scrapers`."""

    def __init__(self, token: Path | None, tls: tuple[Path, Path, Path | None] | None) -> None:
        """Ask for a token of the file *token*, or for none, over TLS of certificate, key and clients' authorities.

        Raises:
            ConfigError: a file cannot be used.
        """
        self._tokens: Final = tokens_from(token, _TOKEN)
        named = {} if tls is None else dict(zip((_CERT, _KEY, _CLIENT_CA), tls, strict=True))
        files = {flag: path for flag, path in named.items() if path is not None}
        self._tls: Final = FromFiles(files, read_context) if files else None

    @property
    def security(self) -> ssl.SSLContext | None:
        """What TLS needs; None for plain HTTP."""
        return None if self._tls is None else self._tls.value

    @property
    def tokens(self) -> Tokens | None:
        """The tokens in use; None where none is asked for."""
        return None if self._tokens is None else self._tokens.value

    def may_ask(self, authorization: Sequence[str]) -> bool:
        """Tell whether a request with these headers `Authorization` is answered."""
        tokens = self.tokens
        if tokens is None:
            return True
        token = bearer_token(authorization)
        return token is not None and tokens.holder(token) is not None

    def refresh(self, *, is_forced: bool = False) -> bool:
        """Read the files again that have changed; return whether there is anything new.

        Raises:
            ConfigError: they cannot be used; the old ones stay in use.
        """
        has_tokens = self._tokens is not None and self._tokens.refresh(is_forced=is_forced)
        has_tls = self._tls is not None and self._tls.refresh(is_forced=is_forced)
        return has_tokens or has_tls


def read_context(files: Mapping[str, SmallFile]) -> ssl.SSLContext:
    """Return what TLS needs, from the files by their flags.

    Raises:
        ConfigError: names the flag, and says what is wrong with its file.
    """
    cert, key, client_ca = files[_CERT], files[_KEY], files.get(_CLIENT_CA)
    try:
        try_out(cert, key)
    except CertificateUnusable as error:
        raise ConfigError(f"{_CERT}: {error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with readable(cert.content) as cert_path, readable(key.content) as key_path:
        context.load_cert_chain(cert_path, key_path)
    if client_ca is not None:
        try:
            with readable(client_ca.content) as name:
                context.load_verify_locations(name)
        except ssl.SSLError as error:
            raise ConfigError(f"{_CLIENT_CA}: {client_ca.path} holds no certificates: {reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
