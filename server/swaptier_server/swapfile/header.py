"""What the first bytes of a file say: whether it is a swap file, or a swap file's log.

Pure. It is asked before SQLite opens the file: SQLite brings a log into the file beside it when it closes the two, also
those of another program, and deletes a log whose file is empty.

Models: https://www.sqlite.org/fileformat2.html, the database header and the WAL header.
"""

import struct
from typing import Final, NamedTuple

PAGE_BYTES: Final = 4096
"""Of SQLite's pages; it is chance that ours are as long."""
HEADER_BYTES: Final = 100
LOG_HEADER_BYTES: Final = 32
APPLICATION_ID: Final = 0x73777074
"""Says in the file's header that it is ours."""
WAL_MODE: Final = bytes([2, 2])
"""The header's two bytes from WAL_MODE_AT on in a file that has a log."""
WAL_MODE_AT: Final = 18
IDENTITY_MAX: Final = (1 << 23) - 1
FORMAT_MAX: Final = 127
_IS_OPEN: Final = 128
_FORMAT_BITS: Final = 8
"""With _IS_OPEN."""
VERSION_AT: Final = 60
VERSION_BYTES: Final = 4
_MAGIC: Final = b"SQLite format 3\x00"
_FIELDS: Final = struct.Struct(">16s H 6B 12I 20x I 4x")
_LOG_FIELDS: Final = struct.Struct(">3I")
_LOG_MAGIC: Final = (0x377F0682, 0x377F0683)
_LOG_VERSION: Final = 3_007_000


class Header(NamedTuple):
    """The fields of a database's header, in their order."""

    magic: bytes
    page_bytes: int
    write_version: int
    read_version: int
    reserved_bytes: int
    payload_max: int
    payload_min: int
    payload_leaf: int
    changes: int
    pages: int
    free_trunk: int
    free_pages: int
    schema_cookie: int
    schema_format: int
    cache_pages: int
    vacuum_root: int
    encoding: int
    version: int
    """SQLite's user_version: see `version_of()`."""
    vacuum_is_incremental: int
    application_id: int
    pages_valid_for: int

    @property
    def identity(self) -> int:
        """By which the file is told from other swap files."""
        return identity_in(self.version)

    @property
    def is_open(self) -> bool:
        """A server has begun on the file and not ended."""
        return is_open_in(self.version)


_WRITTEN: Final = {
    "page_bytes": (PAGE_BYTES,),
    "write_version": (1, 2),
    "read_version": (1, 2),
    "reserved_bytes": (0,),
    "payload_max": (64,),
    "payload_min": (32,),
    "payload_leaf": (32,),
    "schema_format": (4,),
    "encoding": (1,),
}
"""What this program's files have, whatever is in them."""


def version_of(its_format: int, identity: int) -> int:
    """Return the user_version of a file of this format and *identity*, by which it is told from other swap files."""
    assert 0 < its_format <= FORMAT_MAX and 0 <= identity <= IDENTITY_MAX
    return identity << _FORMAT_BITS | its_format


def format_in(version: int) -> int:
    """Return the format of the tables."""
    return version & FORMAT_MAX


def identity_in(version: int) -> int:
    """Return what was drawn when the file was made; 0 if format 1 made it."""
    return version >> _FORMAT_BITS


def is_open_in(version: int) -> bool:
    """Tell whether a server has begun on the file and not ended: its newest pages are in the log beside it."""
    return bool(version & _IS_OPEN)


def with_open(version: int, *, is_open: bool) -> int:
    """Return *version* saying so."""
    return version | _IS_OPEN if is_open else version & ~_IS_OPEN


def header_of(content: bytes) -> Header | None:
    """Return the header at the start of a file's *content*; None when it is no SQLite database's."""
    if len(content) < HEADER_BYTES or not content.startswith(_MAGIC):
        return None
    return Header._make(_FIELDS.unpack_from(content))


def why_not_ours(content: bytes) -> str | None:
    """Return why a file that begins with *content*, HEADER_BYTES if it has so many, is no swap file; None if it is."""
    header = header_of(content)
    if header is None:
        return "is no swap file"
    return None if header.application_id == APPLICATION_ID else "is a database and no swap file"


def why_damaged(header: Header) -> str | None:
    """Return what is in the *header* of one of ours that this program does not write; None when nothing is."""
    for name, written in _WRITTEN.items():
        if (found := getattr(header, name)) not in written:
            return f"its header has {name} {found}, where a swap file has {written[-1]}"
    if header.pages_valid_for != header.changes:
        return "the parts of its header are of different moments"
    return None


def why_no_log(content: bytes) -> str | None:
    """Return why a file that begins with *content*, LOG_HEADER_BYTES if it has so many, is no log; None when it may be.

    One that has only zeros was lost with the power, before anything was in it.
    """
    if not content.strip(b"\0"):
        return None
    if len(content) < LOG_HEADER_BYTES:
        return "is no log of a swap file"
    magic, version, page_bytes = _LOG_FIELDS.unpack_from(content)
    if magic not in _LOG_MAGIC or version != _LOG_VERSION or page_bytes != PAGE_BYTES:
        return "is no log of a swap file"
    return None


def why_another_log(header: Header, first_page: bytes) -> str | None:
    """Return why a log with this newest *first_page* is not of the file with *header*; None when it may be.

    A file that format 1 made gets its identity by its log.
    """
    if not first_page or (why_not_ours(first_page) is None and _is_of_same_file(header, first_page)):
        return None
    return "is the log of another file"


def _is_of_same_file(header: Header, first_page: bytes) -> bool:
    logged = header_of(first_page)
    return logged is not None and (not header.identity or logged.identity == header.identity)
