"""Every way in which a storm damages a swap file, as data: a name, and a function of chance and the files.

Touches the files by writing over their bytes, as a disk does, or by SQL, as a program does that opens the file. What
is done is decided by chance alone. A damage may happen to change nothing.
"""

import os
import random
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.server.swapfile.storm.world import Snapshot

PAGE: Final = 4096
"""Of SQLite's."""
HEAD: Final = 32
FRAME: Final = 24 + PAGE
"""Of its log."""
JOURNAL_MAGIC: Final = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
MOST: Final = (1 << 63) - 1


class Struck(NamedTuple):
    """What a damage is done to."""

    chance: random.Random
    path: Path
    older: Sequence[Snapshot]
    """The file at earlier moments."""
    other: Snapshot
    """Another world's."""
    server: sqlite3.Connection | None
    """Of the server that has the file open; None when it is stopped."""

    @property
    def log(self) -> Path:
        """The log's name."""
        return Path(f"{self.path}-wal")

    @property
    def pages(self) -> int:
        """How many the file has."""
        return max(self.path.stat().st_size // PAGE, 1)

    @contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        """Give the file to SQL: where a server has it, by the server's own connection, which alone has its lock."""
        if self.server is not None:
            yield self.server
            return
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            yield db


# By bytes


def over(path: Path, first: int, new: bytes) -> None:
    """Write *new* over what is at *first*."""
    if not path.exists():
        return
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, new, first)
    finally:
        os.close(descriptor)


def page(content: bytes, number: int) -> bytes:
    """Return a page, numbered from 0."""
    return content[number * PAGE : (number + 1) * PAGE]


def flip(struck: Struck, path: Path, positions: Iterable[int]) -> None:
    """Flip a bit at each of *positions*."""
    content = path.read_bytes() if path.exists() else b""
    for position in positions:
        if position < len(content):
            over(path, position, bytes([content[position] ^ 1 << struck.chance.randrange(8)]))


def flip_some(struck: Struck) -> None:
    size = struck.path.stat().st_size
    flip(struck, struck.path, [struck.chance.randrange(size) for _ in range(struck.chance.choice([1, 1, 8, 50]))])


def flip_heads(struck: Struck) -> None:
    """In what a b-tree page says of itself, and in where its cells are."""
    for _ in range(struck.chance.choice([1, 3])):
        first = struck.chance.randrange(struck.pages) * PAGE
        flip(struck, struck.path, [first + struck.chance.randrange(64)])


def flip_file_head(struck: Struck) -> None:
    flip(struck, struck.path, [struck.chance.randrange(100) for _ in range(struck.chance.choice([1, 4]))])


def set_file_head(struck: Struck) -> None:
    """A field of it to a number that means something."""
    place, width = struck.chance.choice([(16, 2), (18, 1), (19, 1), (28, 4), (32, 4), (36, 4), (40, 4), (44, 4),
                                         (52, 4), (56, 4), (60, 4), (64, 4), (68, 4), (92, 4), (24, 4)])  # fmt: skip
    new = struck.chance.choice([0, 1, 2, 3, struck.pages - 1, struck.pages + 1, (1 << 8 * width) - 1])
    over(struck.path, place, (new % (1 << 8 * width)).to_bytes(width, "big"))


def zero_page(struck: Struck) -> None:
    over(struck.path, struck.chance.randrange(struck.pages) * PAGE, bytes(PAGE))


def copy_page(struck: Struck) -> None:
    """Put a page in the place of another, of the same kind if chance wants it so."""
    content = struck.path.read_bytes()
    source, target = _two_pages(struck, content)
    over(struck.path, target * PAGE, page(content, source))


def swap_pages(struck: Struck) -> None:
    content = struck.path.read_bytes()
    one, two = _two_pages(struck, content)
    over(struck.path, one * PAGE, page(content, two))
    over(struck.path, two * PAGE, page(content, one))


def _two_pages(struck: Struck, content: bytes) -> tuple[int, int]:
    by_kind: dict[int, list[int]] = {}
    for number in range(1, struck.pages):
        by_kind.setdefault(content[number * PAGE], []).append(number)
    alike = [numbers for numbers in by_kind.values() if len(numbers) > 1]
    if not alike or struck.chance.random() < 0.3:
        return struck.chance.randrange(struck.pages), struck.chance.randrange(struck.pages)
    one, two = struck.chance.sample(struck.chance.choice(alike), 2)
    return one, two


def stale_pages(struck: Struck) -> None:
    """Put pages back as they were: writes that never reached the disk."""
    then = struck.chance.choice(struck.older)[""]
    now = struck.path.read_bytes()
    differ = [one for one in range(min(len(then), len(now)) // PAGE) if page(then, one) != page(now, one)]
    many = struck.chance.choice([1, 1, 2, len(differ)])
    for number in struck.chance.sample(differ, min(many, len(differ))):
        over(struck.path, number * PAGE, page(then, number))


def torn_page(struck: Struck) -> None:
    """Half a page as it was."""
    then = struck.chance.choice(struck.older)[""]
    number = struck.chance.randrange(min(struck.pages, len(then) // PAGE))
    half = struck.chance.choice([512, PAGE // 2])
    over(struck.path, number * PAGE, page(then, number)[:half])


def foreign_page(struck: Struck) -> None:
    """A page of another swap file."""
    there = struck.other[""]
    number = struck.chance.randrange(min(struck.pages, len(there) // PAGE))
    over(struck.path, number * PAGE, page(there, number))


def whole_older_file(struck: Struck) -> None:
    """Every page as it was, and the log as it is."""
    then = struck.chance.choice(struck.older)[""]
    os.truncate(struck.path, len(then))
    over(struck.path, 0, then)


def truncate(struck: Struck) -> None:
    size = struck.path.stat().st_size
    os.truncate(struck.path, struck.chance.choice([0, 50, size // 2, size - PAGE, struck.chance.randrange(size)]))


def extend(struck: Struck) -> None:
    new = struck.chance.choice([bytes(PAGE), struck.chance.randbytes(PAGE * 2), b"x"])
    over(struck.path, struck.path.stat().st_size, new)


# The log


def tear_log(struck: Struck) -> None:
    if struck.log.exists() and (size := struck.log.stat().st_size):
        os.truncate(struck.log, struck.chance.choice([0, HEAD, size // 2, max(size - FRAME, 0), size - 1]))


def flip_log(struck: Struck) -> None:
    if struck.log.exists() and (size := struck.log.stat().st_size):
        place = struck.chance.choice([struck.chance.randrange(size), struck.chance.randrange(min(size, HEAD + 24))])
        flip(struck, struck.log, [place])


def zero_log(struck: Struck) -> None:
    """What a loss of power can leave of a file that had got longer."""
    if struck.log.exists():
        over(struck.log, 0, bytes(struck.log.stat().st_size))


def foreign_journal(struck: Struck) -> None:
    """A journal of another program, or of SQLite's own for another file."""
    journal = Path(f"{struck.path}-journal")
    journal.write_bytes(struck.chance.choice([b"diary", JOURNAL_MAGIC + bytes(504), b""]))
    journal.chmod(0o600)


def remove_log(struck: Struck) -> None:
    struck.log.unlink(missing_ok=True)


def foreign_log(struck: Struck) -> None:
    """The log of another file, which SQLite takes for this one's: nothing in it says whose it is."""
    _replace_log(struck, struck.other["-wal"])


def older_log(struck: Struck) -> None:
    """Frames of before, in the place of those that came since."""
    logs = [files["-wal"] for files in struck.older if "-wal" in files]
    _replace_log(struck, struck.chance.choice(logs) if logs else struck.other["-wal"][: HEAD + FRAME])


def _replace_log(struck: Struck, content: bytes) -> None:
    if struck.server is None:
        struck.log.write_bytes(content)
        struck.log.chmod(0o600)
    else:
        over(struck.log, 0, content)


def swap_frames(struck: Struck) -> None:
    """Two frames of the log in each other's place."""
    content = struck.log.read_bytes() if struck.log.exists() else b""
    frames = (len(content) - HEAD) // FRAME
    if frames > 1:
        one, two = (HEAD + FRAME * frame for frame in struck.chance.sample(range(frames), 2))
        over(struck.log, one, content[two : two + FRAME])
        over(struck.log, two, content[one : one + FRAME])


def swap_frame_pages(struck: Struck) -> None:
    """Two frames with each other's page number, and the log's checksums made to fit: a write to the wrong place."""
    content = bytearray(struck.log.read_bytes() if struck.log.exists() else b"")
    frames = (len(content) - HEAD) // FRAME
    if frames > 1:
        one, two = (HEAD + FRAME * frame for frame in struck.chance.sample(range(frames), 2))
        content[one : one + 4], content[two : two + 4] = content[two : two + 4], content[one : one + 4]
        over(struck.log, 0, _with_checksums(content, frames))


def _with_checksums(log: bytearray, frames: int) -> bytes:
    """Return a log with the checksums that its frames need."""
    order = ">" if log[3] & 1 else "<"
    sums = _checksum((0, 0), log[:24], order)
    for frame in range(frames):
        first = HEAD + FRAME * frame
        if log[first + 8 : first + 16] != log[16:24]:
            break
        sums = _checksum(_checksum(sums, log[first : first + 8], order), log[first + 24 : first + FRAME], order)
        log[first + 16 : first + 24] = struct.pack(">II", *sums)
    return bytes(log)


def _checksum(sums: tuple[int, int], content: bytes | bytearray, order: str) -> tuple[int, int]:
    one, two = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


BY_BYTES: Final = (
    *(flip_some, flip_heads, flip_file_head, set_file_head, zero_page, copy_page, swap_pages, stale_pages, torn_page),
    *(foreign_page, whole_older_file, truncate, extend, tear_log, flip_log, remove_log, foreign_log, older_log),
    *(swap_frames, swap_frame_pages, zero_log, foreign_journal),
)

# By SQL. {area} and {other} are numbers of areas, {row} and {other_row} of pages, {number} is some number.

BY_SQL: Final[Mapping[str, str]] = {
    "counter_set": "UPDATE sqlite_sequence SET seq = {number}",
    "counter_back": "UPDATE sqlite_sequence SET seq = seq - 1 - abs({number} % 4)",
    "counter_gone": "DELETE FROM sqlite_sequence",
    "counter_text": "UPDATE sqlite_sequence SET seq = 'x'",
    "counter_twice": "INSERT INTO sqlite_sequence SELECT * FROM sqlite_sequence",
    "epoch_set": "UPDATE server SET epoch = {number}",
    "epoch_text": "UPDATE server SET epoch = 'x'",
    "epoch_float": "UPDATE server SET epoch = 1e300",
    "epoch_gone": "DELETE FROM server",
    "area_gone": "DELETE FROM areas WHERE number = {area}",
    "areas_gone": "DELETE FROM areas",
    "area_number": "UPDATE areas SET number = {number} WHERE number = {area}",
    "area_renumbered": "UPDATE areas SET number = {other} + 1 WHERE number = {area}",
    "area_name": "UPDATE areas SET name = 'mallory' WHERE number = {area}",
    "area_name_blob": "UPDATE areas SET name = x'ff00ff' WHERE number = {area}",
    "area_client": "UPDATE areas SET client_id = (SELECT client_id FROM areas WHERE number = {other}) "
    "WHERE number = {area}",
    "area_slots": "UPDATE areas SET slots = {number} WHERE number = {area}",
    "area_slots_few": "UPDATE areas SET slots = 3 WHERE number = {area}",
    "area_twice": "INSERT INTO areas SELECT number + 1000, name || 'x', client_id, client_epoch, slots, options, seal "
    "FROM areas WHERE number = {area}",
    "area_options": "UPDATE areas SET options = '[]' WHERE number = {area}",
    "page_gone": "DELETE FROM pages WHERE number = {row}",
    "pages_gone": "DELETE FROM pages WHERE number >> 32 = {area}",
    "page_moved": "UPDATE OR REPLACE pages SET number = {other_row} WHERE number = {row}",
    "page_out_of_area": "UPDATE OR REPLACE pages SET number = {number} WHERE number = {row}",
    "page_twice": "INSERT OR REPLACE INTO pages SELECT {other_row}, generation, checksum, kind, seal, body "
    "FROM pages WHERE number = {row}",
    "pages_to_other_area": "UPDATE OR REPLACE pages SET number = (number & 4294967295) | ({other} << 32) "
    "WHERE number >> 32 = {area}",
    "page_generation": "UPDATE pages SET generation = generation + 1 WHERE number = {row}",
    "page_generation_0": "UPDATE pages SET generation = 0 WHERE number = {row}",
    "page_checksum": "UPDATE pages SET checksum = {number} WHERE number = {row}",
    "page_kind": "UPDATE pages SET kind = abs({number} % 5) WHERE number = {row}",
    "page_body_of_other": "UPDATE pages SET body = (SELECT body FROM pages WHERE number = {other_row}) "
    "WHERE number = {row}",
    "page_all_of_other": "UPDATE pages SET (generation, checksum, kind, seal, body) = "
    "(SELECT generation, checksum, kind, seal, body FROM pages WHERE number = {other_row}) WHERE number = {row}",
    "page_long": "UPDATE pages SET body = zeroblob(1000000) WHERE number = {row}",
    "page_text": "UPDATE pages SET body = 'text' WHERE number = {row}",
    "trigger": "CREATE TRIGGER evil AFTER INSERT ON pages BEGIN "
    "UPDATE pages SET body = x'00' WHERE number = new.number; END",
    "trigger_area": "CREATE TRIGGER evil AFTER INSERT ON areas BEGIN DELETE FROM pages; END",
    "view": "CREATE VIEW evil AS SELECT * FROM pages",
    "index": "CREATE INDEX evil ON pages (checksum)",
    "table": "CREATE TABLE evil (one)",
    "column": "ALTER TABLE pages ADD COLUMN evil DEFAULT 1",
    "column_area": "ALTER TABLE areas ADD COLUMN evil DEFAULT 1",
    "table_gone": "DROP TABLE server",
    "table_renamed": "ALTER TABLE pages RENAME TO evil",
    "format_newer": "PRAGMA user_version = 77",
    "format_0": "PRAGMA user_version = 0",
    "id_gone": "PRAGMA application_id = 0",
    "vacuumed": "VACUUM",
    "page_size": "PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM",
    "journal_delete": "PRAGMA journal_mode = DELETE",
    "utf16_schema": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'pages', 'PAGES') "
    "WHERE name = 'pages'",
    "roots_swapped": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = "
    "(SELECT max(rootpage) + min(rootpage) FROM sqlite_master WHERE type = 'table') - rootpage WHERE type = 'table'",
    "root_shared": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = "
    "(SELECT rootpage FROM sqlite_master WHERE name = 'pages') WHERE name = 'areas'",
    "root_of_counter": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = "
    "(SELECT rootpage FROM sqlite_master WHERE name = 'server') WHERE name = 'sqlite_sequence'",
    "index_dropped": "PRAGMA writable_schema = ON; DELETE FROM sqlite_master WHERE type = 'index'",
}


def by_sql(statements: str) -> Callable[[Struck], None]:
    """Return the damage that runs *statements*."""

    def strike(struck: Struck) -> None:
        chance = struck.chance
        with struck.sql() as db, suppress(sqlite3.Error):
            areas = [number for (number,) in db.execute("SELECT number FROM areas")] or [1]
            rows = [number for (number,) in db.execute("SELECT number FROM pages")] or [1]
            words = {
                "area": chance.choice(areas),
                "other": chance.choice(areas),
                "row": chance.choice(rows),
                "other_row": chance.choice(rows),
                "number": chance.choice([0, 1, 2, -1, MOST, -MOST - 1, MOST - 1, 1 << 32, chance.getrandbits(40)]),
            }
            for statement in statements.format(**words).split("; "):
                db.execute(statement)

    return strike


DAMAGES: Final[Mapping[str, Callable[[Struck], None]]] = {
    **{strike.__name__: strike for strike in BY_BYTES},
    **{name: by_sql(statements) for name, statements in BY_SQL.items()},
}
"""All of them, by name."""
