"""How areas, pages and the server stand in rows of the swap file, and whether a row is what was written.

Pure. SQLite keeps numbers of 64 bits with a sign, and whatever a damaged file makes of a column's type. So what comes
out of a row is believed only if the row's seal says so: a hash over all of it, but of a page's body the length alone.
The body is what the page's own checksum is for, when it is decoded. Rules of conduct:
  - An area's row has an identity, drawn when the area was opened. A page's seal covers the hash of its area's row:
    client, name, identity and number. So a page of another area, or of an earlier opening, is no page of this one,
    whatever number its row has.
  - A file has an identity, too, which the seals of the server's and the areas' rows cover: a page of another swap file
    has none of them.
  - The server's row is the record: which areas are open, by the seals of their rows, and the highest number of any.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import xxhash

from swaptier_server.tier.page import EncodedPage, Lz4, Raw, SameFilled, StoredPage
from swaptier_server.tier.swap_file import Client, SavedArea
from swaptier_wire.types import NO_GENERATION, WORD_BYTES, AreaOptions

SLOT_BITS: Final = 32
"""A page's row is numbered by its area, then by its slot in these bits."""
NUMBER_MAX: Final = (1 << 31) - 1
"""Of an area. What remains of 64 bits, but for the sign."""
FILE_BYTES: Final = 3
"""Of a file's identity."""
CHANCE_BYTES: Final = 13
"""Of an area's identity, besides its file's."""
INCARNATION_BYTES: Final = 8
"""Of an area's identity, the last: what hosts are told of it."""
AREA_COLUMNS: Final = "number, identity, server_epoch, name, client_id, client_epoch, slots, options, seal"
RECORD_COLUMNS: Final = "epoch, last_number, areas, seal"
_SAME_FILLED, _LZ4, _RAW = range(3)
_PAGE_SEAL: Final = struct.Struct("<qqqqq")
_AREA_ON_RECORD: Final = struct.Struct("<qq")


class PageHead(NamedTuple):
    """A page's row without its body."""

    generation: int
    checksum: int
    kind: int
    length: int
    """Bytes of the body."""


class AreaRow(NamedTuple):
    """An area's row."""

    number: int
    """The upper bits of its pages' row numbers."""
    identity: bytes
    """The file's, and CHANCE_BYTES drawn when the area was opened; empty if format 1 had it."""
    server_epoch: int
    """Of the server that opened it."""
    saved: SavedArea

    @property
    def columns(self) -> tuple[int, bytes, int, str, str, int, int, str]:
        """All but the seal."""
        area = self.saved
        options = json.dumps(area.options._asdict(), sort_keys=True)
        client = area.client.id, signed(area.client.epoch)
        return self.number, self.identity, signed(self.server_epoch), area.name, *client, area.slots, options

    @property
    def seal(self) -> int:
        """The seal of the row."""
        return seal_of(self.columns)

    @property
    def incarnation(self) -> int:
        """What hosts are told of the identity; 0 if there is none."""
        return int.from_bytes(self.identity[-INCARNATION_BYTES:], "little")

    @property
    def owner(self) -> bytes:
        """What the seals of its pages begin with. Pages of format 1 are sealed without."""
        return xxhash.xxh3_128_digest(repr(self.columns).encode()) if self.identity else b""


class Record(NamedTuple):
    """The server's row."""

    epoch: int = 0
    """Of the last server."""
    last_number: int = 0
    """The highest number that an area was given."""
    areas: Mapping[int, int] = {}
    """Those that are open: the seal of each one's row, by its number."""


class UnknownOptions(Exception):
    """An area has options that only a later version knows. The message says which."""


def seal_of(columns: Sequence[object]) -> int:
    """Return the seal of a row of an area or the server with these *columns*."""
    return signed(xxhash.xxh3_64_intdigest(repr(tuple(columns)).encode()))


def area_of(row: Sequence[object], file: int) -> AreaRow | None:
    """Return the area in a row of AREA_COLUMNS; None when the row is not what was written, in the file *file*.

    Raises:
        UnknownOptions: it is, by a later version.
    """
    *columns, seal = row
    if seal != seal_of(columns):
        return None
    number, identity, server_epoch, name, client_id, client_epoch, slots, options = columns
    # The seal says that these are what AreaRow.columns made.
    assert isinstance(name, str) and isinstance(client_id, str) and isinstance(options, str)
    assert isinstance(server_epoch, int) and isinstance(client_epoch, int) and isinstance(slots, int)
    assert isinstance(number, int) and isinstance(identity, bytes)
    if identity and not identity.startswith(file.to_bytes(FILE_BYTES, "big")):
        return None
    named = json.loads(options)
    unknown = sorted(named.keys() - set(AreaOptions._fields))
    if unknown:
        raise UnknownOptions(f"area {name!r} has options that this version does not know: {', '.join(unknown)}")
    saved = SavedArea(name, Client(client_id, unsigned(client_epoch)), slots, AreaOptions(**named))
    return AreaRow(number, identity, unsigned(server_epoch), saved)


def record_row(record: Record, file: int) -> tuple[int, int, bytes, int]:
    """Return the RECORD_COLUMNS of *record* in the file *file*."""
    areas = b"".join(_AREA_ON_RECORD.pack(*one) for one in sorted(record.areas.items()))
    columns = signed(record.epoch), record.last_number, areas
    return *columns, seal_of((file, *columns))


def record_of(row: Sequence[object], file: int) -> Record | None:
    """Return the record in a row of RECORD_COLUMNS; None when the row is not what was written, in the file *file*."""
    *columns, seal = row
    if seal != seal_of((file, *columns)):
        return None
    epoch, last_number, areas = columns
    # The seal says that these are what record_row() made.
    assert isinstance(epoch, int) and isinstance(last_number, int) and isinstance(areas, bytes)
    return Record(unsigned(epoch), last_number, dict(_AREA_ON_RECORD.iter_unpack(areas)))


def page_row(number: int, owner: bytes, page: StoredPage) -> tuple[int, int, int, int, int, bytes]:
    """Return row *number* for *page* of the area *owner*: number, generation, checksum, kind, seal, body."""
    encoded = page.encoded
    if isinstance(encoded, SameFilled):
        kind, body = _SAME_FILLED, encoded.word.to_bytes(WORD_BYTES, "little")
    else:
        kind, body = (_LZ4 if isinstance(encoded, Lz4) else _RAW), encoded[0]
    generation, checksum = signed(page.generation), signed(page.checksum)
    seal = _page_seal(owner, number, generation, checksum, kind, len(body))
    return number, generation, checksum, kind, seal, body


def page_head(number: int, owner: bytes, columns: Sequence[object], seal: object) -> PageHead | None:
    """Return what row *number* says in generation, checksum, kind and the body's length.

    None when it is damaged, or of another area than *owner*.
    """
    generation, checksum, kind, length = columns
    if not isinstance(generation, int) or not isinstance(checksum, int):
        return None
    if not isinstance(kind, int) or not isinstance(length, int):
        return None
    if seal != _page_seal(owner, number, generation, checksum, kind, length):
        return None
    head = PageHead(unsigned(generation), unsigned(checksum), kind, length)
    return head if head.generation != NO_GENERATION else None


def page_of(number: int, owner: bytes, columns: Sequence[object], seal: object, body: object) -> StoredPage | None:
    """Return the page in row *number*, as yet unchecked; None when *owner* did not write the row as it is."""
    if not isinstance(body, bytes):
        return None
    head = page_head(number, owner, (*columns, len(body)), seal)
    if head is None:
        return None
    encoded: EncodedPage
    if head.kind == _SAME_FILLED:
        encoded, length = SameFilled(int.from_bytes(body, "little")), 0
    else:
        encoded, length = (Lz4(body) if head.kind == _LZ4 else Raw(body)), head.length
    return StoredPage(encoded, length, head.checksum, head.generation)


def _page_seal(owner: bytes, *columns: int) -> int:
    return signed(xxhash.xxh3_64_intdigest(owner + _PAGE_SEAL.pack(*columns)))


def signed(number: int) -> int:
    """Return a number of 64 bits as SQLite keeps it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    """Return a number that SQLite kept."""
    return number + (1 << 64) if number < 0 else number


def rows_of(number: int) -> tuple[int, int]:
    """Return the first and the last row that a page of the area with this number can have."""
    first = number << SLOT_BITS
    return first, first | (1 << SLOT_BITS) - 1
