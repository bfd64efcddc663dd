"""How a page is kept: as one repeated word, as an lz4 block, or as it is.

Pure; lz4 and the checksum are functions. Rules of conduct:
  - A page is exactly PAGE_BYTES long, going in and coming out.
  - An lz4 block says neither how long its page was nor whether it is intact (98 % of single bit flips decompress
    to a wrong page without an error), so nothing is decoded without its length and its checksum being verified.

Models: zswap_is_page_same_filled(), zswap_compress() and zswap_decompress() in mm/zswap.c, with the raw pages of later
kernels (stored_incompressible_pages). Left out: large folios, and compressors other than lz4.
"""

from typing import NamedTuple, TypeAlias

import lz4.block

from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import (
    NO_GENERATION,
    PAGE_BYTES,
    WORD_BYTES,
    ZERO_PAGE,
    Reason,
    fill_page,
)

_WORDS_PER_PAGE = PAGE_BYTES // WORD_BYTES


class SameFilled(NamedTuple):
    """A page that repeats one 64-bit word, little-endian. Takes no bytes."""

    word: int


class Lz4(NamedTuple):
    """A page as an lz4 block without a size header, shorter than PAGE_BYTES."""

    block: bytes


class Raw(NamedTuple):
    """A page that lz4 does not make shorter. Models: an entry with length == PAGE_SIZE."""

    page: bytes


EncodedPage: TypeAlias = SameFilled | Lz4 | Raw


class StoredPage(NamedTuple):
    """One page as the pool or a device keeps it. Its identity is the entry's: two stores make two of them.

    Models: struct zswap_entry, without the LRU link (see `pool`) and the memcg.
    """

    encoded: EncodedPage
    length: int
    """Bytes it takes: 0 for same-filled."""
    checksum: int
    """XXH3-64 of the page."""
    generation: int


class DecodeError(Exception):
    """What is kept is not the page that was stored. There are no bytes to hand out."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"a stored page is damaged ({reason.name.lower()}); its content is unknown, the entry is kept")
        self.reason = reason
        """DECOMPRESS or CHECKSUM."""


def encode(page: bytes) -> EncodedPage:
    """Return the shortest way to keep *page*, exactly PAGE_BYTES long."""
    assert len(page) == PAGE_BYTES, f"a page is {PAGE_BYTES} bytes, not {len(page)}: the caller validates"
    word = page[:WORD_BYTES]
    # Build and compare: 0.1 us whatever the page. Comparing two words first saves 0.04 us on pages that are not
    # same-filled and costs 0.08 us on those that are.
    if page == word * _WORDS_PER_PAGE:
        return SameFilled(int.from_bytes(word, "little"))
    block: bytes = lz4.block.compress(page, store_size=False)
    return Lz4(block) if len(block) < PAGE_BYTES else Raw(page)


def stored_page(page: bytes, checksum: int, generation: int) -> StoredPage:
    """Return *page*, exactly PAGE_BYTES long and of this *checksum*, ready to be kept."""
    encoded = encode(page)
    length = 0 if isinstance(encoded, SameFilled) else len(encoded[0])
    return StoredPage(encoded, length, checksum, generation)


def decode(stored: StoredPage) -> bytes:
    """Return the page that was stored, exactly PAGE_BYTES long.

    Raises:
        DecodeError: it cannot be had; whatever is there is not that page.
    """
    encoded = stored.encoded
    if isinstance(encoded, Lz4):
        try:
            page: bytes = lz4.block.decompress(encoded.block, uncompressed_size=PAGE_BYTES)
        except lz4.block.LZ4BlockError as error:
            raise DecodeError(Reason.DECOMPRESS) from error
    elif isinstance(encoded, SameFilled):
        page = fill_page(encoded.word)
    else:
        page = encoded.page
    # A block of a shorter page decompresses without an error.
    if len(page) != PAGE_BYTES:
        raise DecodeError(Reason.DECOMPRESS)
    if page_checksum(page) != stored.checksum:
        raise DecodeError(Reason.CHECKSUM)
    return page


UNWRITTEN = StoredPage(SameFilled(0), 0, page_checksum(ZERO_PAGE), NO_GENERATION)
"""What a device slot reads as until it is written: zeros that were never stored."""
