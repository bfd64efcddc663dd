"""How an area and a page stand in a row of the swap file, and whether a row is what was written.

Pure. SQLite keeps numbers of 64 bits with a sign, and whatever a damaged file makes of a column's type. So what comes
out of a row is believed only if the row's seal says so: a hash over all of it, but of a page's body the length alone.
The body is what the page's own checksum is for, when it is decoded.
"""

import json
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import xxhash

from swaptier_server.tier.page import EncodedPage, Lz4, Raw, SameFilled, StoredPage
from swaptier_server.tier.swap_file import Client, SavedArea
from swaptier_wire.types import NO_GENERATION, WORD_BYTES, AreaOptions

_SAME_FILLED, _LZ4, _RAW = range(3)
_PAGE_SEAL: Final = struct.Struct("<qqqqq")


class PageHead(NamedTuple):
    """A page's row without its body."""

    generation: int
    checksum: int
    kind: int
    length: int
    """Bytes of the body."""


class UnknownOptions(Exception):
    """An area has options that only a later version knows. The message says which."""


def area_row(area: SavedArea) -> tuple[str, str, int, int, str]:
    """Return the columns of *area*: name, client id, client epoch, slots, options."""
    options = json.dumps(area.options._asdict(), sort_keys=True)
    return area.name, area.client.id, signed(area.client.epoch), area.slots, options


def area_seal(number: int, columns: Sequence[object]) -> int:
    """Return the seal of an area's row *number* with these *columns*."""
    return signed(xxhash.xxh3_64_intdigest(repr((number, *columns)).encode()))


def area_of(number: object, columns: Sequence[object], seal: object) -> SavedArea | None:
    """Return the area in a row; None when the row is not what was written.

    Raises:
        UnknownOptions: it is, by a later version.
    """
    name, client_id, epoch, slots, options = columns
    if not isinstance(number, int) or seal != area_seal(number, columns):
        return None
    # The seal says that these are what area_row() made.
    assert isinstance(name, str) and isinstance(client_id, str) and isinstance(options, str)
    assert isinstance(epoch, int) and isinstance(slots, int)
    named = json.loads(options)
    unknown = sorted(named.keys() - set(AreaOptions._fields))
    if unknown:
        raise UnknownOptions(f"area {name!r} has options that this version does not know: {', '.join(unknown)}")
    return SavedArea(name, Client(client_id, unsigned(epoch)), slots, AreaOptions(**named))


def page_row(number: int, page: StoredPage) -> tuple[int, int, int, int, int, bytes]:
    """Return row *number* for *page*: number, generation, checksum, kind, seal, body."""
    encoded = page.encoded
    if isinstance(encoded, SameFilled):
        kind, body = _SAME_FILLED, encoded.word.to_bytes(WORD_BYTES, "little")
    else:
        kind, body = (_LZ4 if isinstance(encoded, Lz4) else _RAW), encoded[0]
    generation, checksum = signed(page.generation), signed(page.checksum)
    seal = signed(xxhash.xxh3_64_intdigest(_PAGE_SEAL.pack(number, generation, checksum, kind, len(body))))
    return number, generation, checksum, kind, seal, body


def page_head(number: int, columns: Sequence[object], seal: object) -> PageHead | None:
    """Return what row *number* says in generation, checksum, kind and the body's length; None when it is damaged."""
    generation, checksum, kind, length = columns
    if not isinstance(generation, int) or not isinstance(checksum, int):
        return None
    if not isinstance(kind, int) or not isinstance(length, int):
        return None
    if seal != signed(xxhash.xxh3_64_intdigest(_PAGE_SEAL.pack(number, generation, checksum, kind, length))):
        return None
    head = PageHead(unsigned(generation), unsigned(checksum), kind, length)
    return head if head.generation != NO_GENERATION else None


def page_of(number: int, columns: Sequence[object], seal: object, body: object) -> StoredPage | None:
    """Return the page in row *number*, as yet unchecked; None when the row is not what was written."""
    if not isinstance(body, bytes):
        return None
    head = page_head(number, (*columns, len(body)), seal)
    if head is None:
        return None
    encoded: EncodedPage
    if head.kind == _SAME_FILLED:
        encoded, length = SameFilled(int.from_bytes(body, "little")), 0
    else:
        encoded, length = (Lz4(body) if head.kind == _LZ4 else Raw(body)), head.length
    return StoredPage(encoded, length, head.checksum, head.generation)


def signed(number: int) -> int:
    """Return a number of 64 bits as SQLite keeps it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    """Return a number that SQLite kept."""
    return number + (1 << 64) if number < 0 else number
