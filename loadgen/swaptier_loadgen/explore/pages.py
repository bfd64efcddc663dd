"""Page contents that say which page and which version they are, so that what is mapped can be named.

Pure. A page is its version word repeated, with a last word that keeps it from being same-filled; zeros are a page
that was never written.
"""

from functools import lru_cache

from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, WORD_BYTES, ZERO_PAGE

_LAST_WORD = b"\xff" * WORD_BYTES
_VERSION_BITS = 16
_ADDRESS_BITS = 32


@lru_cache(maxsize=1024)
def version_page(owner: int, address: int, version: int) -> bytes:
    """Return the page of *version* at *address* of *owner* (a host's process, as a small number); all from 0."""
    word = (owner + 1) << (_ADDRESS_BITS + _VERSION_BITS) | address << _VERSION_BITS | version
    return word.to_bytes(WORD_BYTES, "little") * (PAGE_BYTES // WORD_BYTES - 1) + _LAST_WORD


def page_token(page: bytes) -> int:
    """Return a number that tells pages of this module apart; 0 for zeros."""
    return int.from_bytes(page[:WORD_BYTES], "little")


def page_name(page: bytes) -> str:
    """Return what a page is called in a table: "v2", "v2 of page 1" (of page 0 is left out), "zeros"."""
    if page == ZERO_PAGE:
        return "zeros"
    token = page_token(page)
    address = token >> _VERSION_BITS & ((1 << _ADDRESS_BITS) - 1)
    return f"v{token_version(token)}" + (f" of page {address}" if address else "")


def token_version(token: int) -> int:
    """Return the version of the page with this token."""
    return token & ((1 << _VERSION_BITS) - 1)


def is_version_of(token: int, other: int) -> bool:
    """Tell whether two tokens name versions of one page."""
    return token >> _VERSION_BITS == other >> _VERSION_BITS


@lru_cache(maxsize=1024)
def checksum_of(page: bytes) -> int:
    """Return the page's checksum, remembered: there are few pages and many states."""
    return page_checksum(page)
