"""The tables of a swap file, and how one of the older format gets them.

Touches a connection. A file of the older format stays as it is until a server begins on it. Then its small tables are
made anew, in the transaction with which that server begins. The table of pages is the same: it would take as long to
write as the file is large. So the areas of the older format keep their pages' seals, which do not say whose a page is,
until they are closed.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Final

from swaptier_server.swapfile.header import APPLICATION_ID, IDENTITY_MAX, WAL_MODE, WAL_MODE_AT, identity_in, version_of
from swaptier_server.swapfile.rows import (
    AREA_COLUMNS,
    NUMBER_MAX,
    SLOT_BITS,
    AreaRow,
    Record,
    record_row,
    seal_of,
    unsigned,
)
from swaptier_server.tier.device import DeviceError, DeviceFault

FORMAT: Final = 2
"""Rises when an older server could not read the file."""
OLD_FORMAT: Final = 1
"""It had no identities, and its server's row had an epoch and no seal."""

_SMALL_TABLES: Final = """
    CREATE TABLE server (
        one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, last_number INTEGER NOT NULL,
        areas BLOB NOT NULL, seal INTEGER NOT NULL
    );
    CREATE TABLE areas (
        number INTEGER PRIMARY KEY, identity BLOB NOT NULL, server_epoch INTEGER NOT NULL, name TEXT NOT NULL,
        client_id TEXT NOT NULL, client_epoch INTEGER NOT NULL, slots INTEGER NOT NULL, options TEXT NOT NULL,
        seal INTEGER NOT NULL
    );
"""
_PAGES_TABLE: Final = """
    CREATE TABLE pages (
        number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, checksum INTEGER NOT NULL, kind INTEGER NOT NULL,
        seal INTEGER NOT NULL, body BLOB NOT NULL
    );
"""
_OLD_SMALL_TABLES: Final = """
    CREATE TABLE server (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
    CREATE TABLE areas (
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, client_id TEXT NOT NULL,
        client_epoch INTEGER NOT NULL, slots INTEGER NOT NULL, options TEXT NOT NULL, seal INTEGER NOT NULL
    );
"""
_SCHEMA: Final = "SELECT type, name, tbl_name, sql, rootpage FROM sqlite_master"
_LEFT_BY_OLD_FORMAT: Final = ("table", "sqlite_sequence", "sqlite_sequence")
"""SQLite's own, which cannot be dropped."""


def new_file() -> bytes:
    """Return the content of a swap file that no server has had yet."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(_PAGES_TABLE)
        _make_small_tables(db)
        write_record(db, Record())
        content = bytearray(db.serialize())
    content[WAL_MODE_AT : WAL_MODE_AT + len(WAL_MODE)] = WAL_MODE
    return bytes(content)


def why_other_tables(db: sqlite3.Connection, its_format: int) -> str | None:
    """Return in what the schema is not the one of *its_format*; None when it is.

    A trigger, a view, a column or a default would run or show what this program did not write.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    roots = [root for *_, root in db.execute(_SCHEMA) if root]
    if len(set(roots)) != len(roots):
        return "two of its tables have the same pages"
    found = {tuple(one): _words(sql) for *one, sql, _ in db.execute(_SCHEMA)}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as ours:
        for statements in (_PAGES_TABLE, _SMALL_TABLES if its_format == FORMAT else _OLD_SMALL_TABLES):
            ours.executescript(statements)
        expected = {tuple(one): _words(sql) for *one, sql, _ in ours.execute(_SCHEMA)}
    if its_format == FORMAT:
        found.pop(_LEFT_BY_OLD_FORMAT, None)
    if missing := expected.keys() - found.keys():
        return f"it has no {' '.join(min(missing)[:2])}"
    if more := found.keys() - expected.keys():
        return f"it has a {' '.join(map(str, min(more)[:2]))!r}"
    other = [name for (kind, name, table), sql in found.items() if sql != expected[kind, name, table]]
    return f"its {min(other)!r} is another" if other else None


def _words(sql: object) -> list[str]:
    """Return the words of a statement, however it is laid out."""
    return str(sql).split()


def make_tables_anew(db: sqlite3.Connection, areas: Iterable[AreaRow]) -> None:
    """Replace the small tables of OLD_FORMAT; the new ones have *areas*, and no record yet."""
    db.execute("DROP TABLE areas")
    db.execute("DROP TABLE server")
    _make_small_tables(db)
    for area in areas:
        insert_area(db, area)


def read_old_format(
    rows: Callable[[str], Sequence[tuple[object, ...]]],
) -> tuple[Record | None, Sequence[tuple[object, ...]]]:
    """Return what the tables of OLD_FORMAT would be as a record and rows of areas; *rows* finds what a statement says.

    Raises:
        DeviceError: they cannot be read, or are not of that format.
    """
    if rows("SELECT 1 FROM pragma_table_info('areas') WHERE name = 'identity'"):
        raise DeviceError(DeviceFault.DAMAGED, f"it says format {OLD_FORMAT}, and has the tables of format {FORMAT}")
    epochs = rows("SELECT epoch FROM server")
    epoch = epochs[0][0] if len(epochs) == 1 else None
    areas: list[tuple[object, ...]] = []
    on_record: dict[int, int] = {}
    for row in rows("SELECT number, name, client_id, client_epoch, slots, options, seal FROM areas ORDER BY number"):
        number, *others, seal = row
        columns = (number, b"", 0, *others)
        is_whole = seal == seal_of((number, *others))
        areas.append((*columns, seal_of(columns) if is_whole else None))
        if is_whole and isinstance(number, int):
            on_record[number] = seal_of(columns)
    # What is left of areas that were closed has no other record than its own numbers.
    numbers = [row >> SLOT_BITS for (row,) in rows("SELECT max(number) FROM pages") if isinstance(row, int)]
    last_number = max([0, *on_record, *(number for number in numbers if number <= NUMBER_MAX)])
    return Record(unsigned(epoch), last_number, on_record) if isinstance(epoch, int) else None, areas


def identity_of(db: sqlite3.Connection) -> int:
    """Return the file's."""
    return identity_in(db.execute("PRAGMA user_version").fetchone()[0])


def insert_area(db: sqlite3.Connection, area: AreaRow) -> None:
    """Write the row of *area*."""
    marks = ", ".join("?" * len(AREA_COLUMNS.split()))
    db.execute(f"INSERT INTO areas ({AREA_COLUMNS}) VALUES ({marks})", (*area.columns, area.seal))  # noqa: S608 - constants


def write_record(db: sqlite3.Connection, record: Record) -> None:
    """Replace the server's row."""
    db.execute("DELETE FROM server")
    db.execute("INSERT INTO server VALUES (1, ?, ?, ?, ?)", record_row(record, identity_of(db)))


def _make_small_tables(db: sqlite3.Connection) -> None:
    for statement in _SMALL_TABLES.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {version_of(FORMAT, 1 + secrets.randbelow(IDENTITY_MAX))}")
