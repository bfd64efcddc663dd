"""The tables of a swap file, and how one of the older format gets them.

Touches a connection. A file of the older format stays as it is until a server begins on it. Then its small tables are
made anew, in the transaction with which that server begins. The table of pages is the same: it would take as long to
write as the file is large. So the areas of the older format keep their pages' seals, which do not say whose a page is,
until they are closed.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

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


def make_tables(db: sqlite3.Connection) -> None:
    """Make an empty database a swap file that no server has had yet."""
    db.execute(_PAGES_TABLE)
    _make_small_tables(db)
    write_record(db, Record())


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


def insert_area(db: sqlite3.Connection, area: AreaRow) -> None:
    """Write the row of *area*."""
    marks = ", ".join("?" * len(AREA_COLUMNS.split()))
    db.execute(f"INSERT INTO areas ({AREA_COLUMNS}) VALUES ({marks})", (*area.columns, area.seal))  # noqa: S608 - constants


def write_record(db: sqlite3.Connection, record: Record) -> None:
    """Replace the server's row."""
    db.execute("DELETE FROM server")
    db.execute("INSERT INTO server VALUES (1, ?, ?, ?, ?)", record_row(record))


def _make_small_tables(db: sqlite3.Connection) -> None:
    for statement in _SMALL_TABLES.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {FORMAT}")
