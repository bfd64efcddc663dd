"""Who may ask the load generator for its metrics, where not everybody may.

Touches one file.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from swaptier_wire.metrics_port import bearer_token
from swaptier_wire.process.small_file import FileUnusable, read_small_file

TOKEN: Final = re.compile(rb"[\x21-\x7e]{32,}")
"""As `swaptier-server hash-token` takes it: shorter ones can be guessed."""
TOKEN_CHARACTERS_MAX: Final = 1024


class WhoHasTheToken:
    """Scrapers that show one token; a `swaptier_wire.metrics_port.Scrapers`."""

    security = None

    def __init__(self, file: Path) -> None:
        """Ask for the token in *file*, which holds nothing else.

        Raises:
            FileUnusable: it cannot be used.
        """
        token = read_small_file(file, TOKEN_CHARACTERS_MAX).content.strip()
        if not TOKEN.fullmatch(token):
            raise FileUnusable(
                f"{file} does not hold one token of 32 or more printable ASCII characters; make one "
                "with: openssl rand -hex 32"
            )
        self._digest: Final = hashlib.sha256(token).digest()

    def may_ask(self, authorization: Sequence[str]) -> bool:
        """Tell whether a request with these headers `Authorization` is answered."""
        shown = bearer_token(authorization)
        return shown is not None and hmac.compare_digest(hashlib.sha256(shown.encode()).digest(), self._digest)
