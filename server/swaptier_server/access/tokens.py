"""Bearer tokens as a file keeps them: a line `NAME:SHA256` for each, NAME being the tenant.

Pure. Rules of conduct:
  - The file holds no token, only its SHA-256. That is enough for tokens nobody can guess, so short ones are refused
    when they are hashed; there is no salt, which only slows down the guessing of guessable ones.
  - No error repeats a line of the file or a token: somebody may have put the one in the place of the other.
  - A token is compared with all lines, whether or not one matched before.
"""

import hashlib
import hmac
import re
from typing import Final, NamedTuple

TOKENS_MAX: Final = 1024
"""Lines of a file. A call compares with each: about 0.2 us."""
TOKEN_CHARACTERS_MIN: Final = 32
"""Fewer can be guessed by whoever reads the hashes: 32 hexadecimal digits are 128 bits."""
TOKEN_CHARACTERS_MAX: Final = 1024
"""Longer ones are not looked at."""
TENANT_CHARACTERS_MAX: Final = 64
"""Of a tenant's name: it stands before the names of areas and clients, which share the contract's 128 bytes with it."""

_NAME = re.compile(rf"[A-Za-z0-9._@-]{{1,{TENANT_CHARACTERS_MAX}}}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


class TokensUnusable(Exception):
    """A file or a token that cannot be used. One line; repeats nothing of either."""


class Holder(NamedTuple):
    """Who a token belongs to."""

    tenant: str
    digest: bytes
    """SHA-256 of the token: which of the tenant's tokens it was, so that its end can be noticed."""


class Tokens:
    """The tokens of a server. A tenant may have several, as while one is being replaced."""

    def __init__(self, holders: dict[bytes, str]) -> None:
        """Know *holders*: tenants by the SHA-256 of their tokens."""
        self._holders: Final = tuple(Holder(tenant, digest) for digest, tenant in holders.items())

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def tenants(self) -> list[str]:
        """Their names, sorted."""
        return sorted({holder.tenant for holder in self._holders})

    def holder(self, token: str) -> Holder | None:
        """Return whose *token* is, or None; takes the same time whichever it is."""
        digest = hashlib.sha256(token[:TOKEN_CHARACTERS_MAX].encode()).digest()
        found = None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, digest):
                found = holder
        return found

    def knows(self, holder: Holder) -> bool:
        """Tell whether a token that was good is still good, for the same tenant."""
        return holder in self._holders


def parse_tokens(text: str) -> Tokens:
    """Return the tokens of a file with *text*. Empty lines and lines that begin with # say nothing.

    Raises:
        TokensUnusable: which line is wrong, or that there is none.
    """
    holders: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        tenant, _, digest = stripped.partition(":")
        if not _NAME.fullmatch(tenant) or not _SHA256.fullmatch(digest):
            raise TokensUnusable(
                f"line {number} is not NAME:SHA256, a name of up to {TENANT_CHARACTERS_MAX} letters, digits and ._@- "
                "and 64 hexadecimal digits; make one with swaptier-server hash-token NAME"
            )
        if holders.setdefault(bytes.fromhex(digest), tenant) != tenant:
            raise TokensUnusable(f"line {number} gives the token of another line to another tenant")
        if len(holders) > TOKENS_MAX:
            raise TokensUnusable(f"there are more than {TOKENS_MAX} tokens")
    if not holders:
        raise TokensUnusable("there is no token in it; make one with swaptier-server hash-token NAME")
    return Tokens(holders)


def hash_token(tenant: str, token: str) -> str:
    """Return the line of a file that lets *token* in as *tenant*.

    Raises:
        TokensUnusable: the name is not one, or the token is too short or cannot travel.
    """
    if not _NAME.fullmatch(tenant):
        raise TokensUnusable(
            f"{tenant!r} is no tenant's name: up to {TENANT_CHARACTERS_MAX} letters, digits and ._@- are"
        )
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX or not _TOKEN.fullmatch(token):
        raise TokensUnusable(
            f"a token has {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} printable ASCII characters without spaces; "
            "make one with: openssl rand -hex 32"
        )
    return f"{tenant}:{hashlib.sha256(token.encode()).hexdigest()}"
