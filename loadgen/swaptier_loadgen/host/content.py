"""What the emulated processes write: real page contents, each with its process, address and version in it.

Pure. Three kinds of page, chosen by seed, page and version: a slice of the corpus behind a header, an incompressible
page behind a header, and a same-filled page whose one repeated word is the stamp. A read therefore returns
one of: the expected bytes, zeros (which no process writes), a stamp of another version or page, or bytes that no
process wrote.

Rule for this file's editors: the page of (page id, version) depends on nothing but the seed and the corpus, so that the
oracle can rebuild what it expects and needs to keep only versions.
"""

import random
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, WORD_BYTES, ZERO_PAGE, fill_page

HOSTS_MAX = 64
"""Fits the stamp word's 6 host bits; far more OS processes than a machine has cores."""

PROCESSES_MAX = 1024
"""Emulated processes of one host: the stamp word's 10 process bits."""

PROCESS_PAGES_MAX = 1 << 20
"""Pages of one emulated process, 4 GiB: the stamp word's 20 address bits."""

WORD_VERSIONS_MAX = 1 << 20
"""Versions from here on are not written as same-filled pages: the stamp word has 20 version bits."""

SAME_FILLED_PERCENT = 10
"""Share of same-filled pages; measurements of real swap see 10 to 20 %."""

INCOMPRESSIBLE_PERCENT = 10
"""Share of pages lz4 cannot shrink: encrypted or already compressed memory."""

NOISE_PAGES = 64
"""Random bytes that incompressible pages are cut from, at any offset."""

_HEADER = struct.Struct("<8sIIQQ")  # magic, host, process, address, version
_CHECKSUM_BYTES = 8
"""XXH3-64 of all that stands before it, at the page's end."""
_BODY_BYTES = PAGE_BYTES - _HEADER.size - _CHECKSUM_BYTES
_MAGIC = b"swaptier"
_WORD_TAG = 0xA5
_MASK64 = (1 << 64) - 1


class PageId(NamedTuple):
    """Names one page of one emulated process."""

    host: int
    process: int
    address: int
    """Virtual page number."""


class Stamp(NamedTuple):
    """What a page says of itself."""

    page: PageId
    version: int
    """1 for the first write; 0 is the zero page a process is given before it writes."""


def cut(data: bytes) -> Iterator[bytes]:
    """Yield the pages of *data*, PAGE_BYTES each; a shorter rest is filled up with zeros."""
    for start in range(0, len(data), PAGE_BYTES):
        yield data[start : start + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")


def read_stamp(page: bytes) -> Stamp | None:
    """Return what *page* says of itself, or None for bytes no process wrote whole: zeros, or a damaged page."""
    magic, host, process, address, version = _HEADER.unpack_from(page)
    if magic == _MAGIC:
        if page_checksum(page[:-_CHECKSUM_BYTES]) != int.from_bytes(page[-_CHECKSUM_BYTES:], "little"):
            return None
        return Stamp(PageId(host, process, address), version)
    word = int.from_bytes(page[:WORD_BYTES], "little")
    if word >> 56 != _WORD_TAG or page != fill_page(word):
        return None
    return Stamp(PageId((word >> 50) & 0x3F, (word >> 40) & 0x3FF, (word >> 20) & 0xFFFFF), word & 0xFFFFF)


def _stamp_word(page: PageId, version: int) -> int:
    """Pack a stamp into one word: tag 8, host 6, process 10, address 20, version 20 bits."""
    return _WORD_TAG << 56 | page.host << 50 | page.process << 40 | page.address << 20 | version


def _mix(seed: int, page: PageId, version: int) -> int:
    """Return 64 well-mixed bits of the arguments. Models: the finaliser of SplitMix64."""
    bits = seed
    for part in (page.host, page.process, page.address, version):
        bits = (bits + part + 0x9E3779B97F4A7C15) & _MASK64
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK64
        bits ^= bits >> 31
    return bits


class Contents:
    """Builds the page of any (page id, version). Holds the corpus and nothing that changes."""

    def __init__(self, seed: int, corpus: Sequence[bytes]) -> None:
        assert corpus, "an empty corpus has no pages to write"
        assert all(len(page) == PAGE_BYTES for page in corpus)
        self._seed = seed & _MASK64
        self._bodies = [page[_HEADER.size : -_CHECKSUM_BYTES] for page in corpus]
        self._noise = random.Random(seed).randbytes(NOISE_PAGES * PAGE_BYTES)

    def page(self, page: PageId, version: int) -> bytes:
        """Return the bytes, PAGE_BYTES long, that *page* holds in *version*; zeros for version 0."""
        if version == 0:
            return ZERO_PAGE
        bits = _mix(self._seed, page, version)
        kind, bits = bits % 100, bits >> 8
        if kind < SAME_FILLED_PERCENT and version < WORD_VERSIONS_MAX:
            return fill_page(_stamp_word(page, version))
        if kind < SAME_FILLED_PERCENT + INCOMPRESSIBLE_PERCENT:
            start = bits % (len(self._noise) - PAGE_BYTES)
            body = self._noise[start : start + _BODY_BYTES]
        else:
            body = self._bodies[bits % len(self._bodies)]
        unsummed = _HEADER.pack(_MAGIC, page.host, page.process, page.address, version) + body
        return unsummed + page_checksum(unsummed).to_bytes(_CHECKSUM_BYTES, "little")
