"""Which areas a swap file has, and what is left of those that it had.

Touches the file, through `database`. Rules of conduct:
  - The server's row changes with the rows of the areas, in one transaction.
  - A new area gets a number under which the file has nothing, whatever the record says.
"""

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from swaptier_server.swapfile.database import SwapFileDatabase
from swaptier_server.swapfile.header import format_in, identity_in
from swaptier_server.swapfile.record import Findings, Reconciled, reconcile
from swaptier_server.swapfile.rows import (
    AREA_COLUMNS,
    CHANCE_BYTES,
    FILE_BYTES,
    NUMBER_MAX,
    RECORD_COLUMNS,
    SLOT_BITS,
    AreaRow,
    Record,
    record_of,
    rows_of,
)
from swaptier_server.swapfile.schema import (
    OLD_FORMAT,
    identity_of,
    insert_area,
    make_tables_anew,
    read_old_format,
    write_record,
)
from swaptier_server.tier.device import DeviceError, DeviceFault
from swaptier_server.tier.swap_file import SavedArea
from swaptier_wire.epochs import epoch_above
from swaptier_wire.types import EPOCH_MAX

_BELOW_ALL: Final = -(1 << 63)


class Register:
    """The areas of one open swap file."""

    def __init__(self, database: SwapFileDatabase) -> None:
        """Read what an earlier server left. Changes nothing.

        Raises:
            DeviceError: it cannot be read.
            UnknownOptions: a later version opened an area.
        """
        self._database: Final = database
        found, forgotten = read(database.rows)
        self.findings: Final[Findings] = found.findings
        """What is not as it was left."""
        self.areas: Final[dict[str, AreaRow]] = found.areas
        """Those that are open, by name."""
        self.forgotten: Final = dict.fromkeys(forgotten)
        """Numbers of areas that are on record no more, and may have pages."""
        self._record = found.record
        self._closed_rows: Final = found.closed

    def begin_life(self, epoch: int) -> int:
        """Record a server that starts now, and what is believed of the earlier ones; return its epoch.

        That is *epoch* if it is above the earlier ones, else one above by chance: if the record is older than the last
        server, it is another than that one's all the same.

        Raises:
            DeviceError: nothing changed.
        """
        if self._record.epoch < EPOCH_MAX:
            epoch = epoch if epoch > self._record.epoch else epoch_above(self._record.epoch)
        else:  # none is above: hosts take any other for a restart
            self.findings.record = f"its epoch is {EPOCH_MAX}, above which there is none: {epoch} is taken"
        record = self._record._replace(epoch=epoch)
        with self._database.transaction() as db:
            if self._database.format == OLD_FORMAT:
                make_tables_anew(db, self.areas.values())
            _delete_areas(db, self._closed_rows)
            write_record(db, record)
        self._record = record
        return epoch

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> AreaRow:
        """Record a new area, forget those it replaces, and any of its own name; return its row.

        Raises:
            DeviceError: nothing changed.
        """
        with self._changed((*replaced, area.name)) as (db, added):
            number = _free_number(db, self._record.last_number + 1)
            opened = AreaRow(number, _new_identity(db), self._record.epoch, area)
            insert_area(db, opened)
            added.append(opened)
        return opened

    def forget_area(self, name: str) -> None:
        """Forget an area, if there is one called *name*.

        Raises:
            DeviceError: nothing changed.
        """
        if name in self.areas:
            with self._changed((name,)):
                pass

    def sweep(self, number: int, pages_max: int) -> int:
        """Delete so many pages of the area with that number, which was forgotten; return how many there were.

        Raises:
            DeviceError: nothing changed.
        """
        if number not in self.forgotten:
            return 0
        with self._database.transaction() as db:
            swept = db.execute(
                "DELETE FROM pages WHERE number IN (SELECT number FROM pages WHERE number BETWEEN ? AND ? LIMIT ?)",
                (*rows_of(number), pages_max),
            )
        if swept.rowcount < pages_max:
            del self.forgotten[number]
        return swept.rowcount

    @contextmanager
    def _changed(self, closed: Sequence[str]) -> Iterator[tuple[sqlite3.Connection, list[AreaRow]]]:
        """Forget the areas called *closed*; record those that the caller adds.

        Raises:
            DeviceError: nothing changed.
        """
        names = [name for name in dict.fromkeys(closed) if name in self.areas]
        forgotten = [self.areas[name].number for name in names]
        added: list[AreaRow] = []
        with self._database.transaction() as db:
            _delete_areas(db, forgotten)
            yield db, added
            epoch, last_number, on_record = self._record
            kept = {number: seal for number, seal in on_record.items() if number not in forgotten}
            record = Record(
                epoch,
                max([last_number, *(area.number for area in added)]),
                kept | {area.number: area.seal for area in added},
            )
            write_record(db, record)
        for name in names:
            del self.areas[name]
        self.areas.update((area.saved.name, area) for area in added)
        self.forgotten.update(dict.fromkeys(forgotten))
        self._record = record


class Rows(Protocol):
    """Finds rows in a swap file."""

    def __call__(self, statement: str, arguments: Sequence[object] = (), /) -> Sequence[tuple[object, ...]]:
        """Return what *statement* finds.

        Raises:
            DeviceError: it cannot be read.
        """


def read(rows: Rows) -> tuple[Reconciled, Sequence[int]]:
    """Return what is to be believed of a file, and the numbers of the areas that are not on record and have pages.

    Raises:
        DeviceError: it cannot be read.
        UnknownOptions: a later version opened an area.
    """
    ((version,),) = rows("PRAGMA user_version")
    assert isinstance(version, int), "it is a number of the header"
    file = identity_in(version)
    if format_in(version) == OLD_FORMAT:
        found = reconcile(*read_old_format(rows), file)
    else:
        records = rows(f"SELECT {RECORD_COLUMNS} FROM server")  # noqa: S608 - of a constant
        areas = rows(f"SELECT {AREA_COLUMNS} FROM areas")  # noqa: S608 - of a constant
        before = _BELOW_ALL
        for number, *_ in areas:
            before = rising(number, before)
        found = reconcile(record_of(records[0], file) if len(records) == 1 else None, areas, file)
    return found, list(_find_forgotten(rows, found))


def _find_forgotten(rows: Rows, found: Reconciled) -> Iterator[int]:
    """Yield the number of each area that is not on record and has pages.

    Raises:
        DeviceError: they cannot be read.
    """
    before = _BELOW_ALL
    look = "SELECT number FROM pages WHERE number > ? ORDER BY number LIMIT 1"
    while next_row := rows(look, (before,)):
        number = rising(next_row[0][0], before) >> SLOT_BITS
        before = rows_of(number)[1]
        if number in found.kept:
            continue
        yield number
        if not found.is_closed(number):
            count = "SELECT count(*) FROM pages WHERE number BETWEEN ? AND ?"
            ((pages,),) = rows(count, rows_of(number))
            assert isinstance(pages, int), "it is a count"
            found.findings.stray_pages += pages


def rising(number: object, before: int) -> int:
    """Return *number*, a key that was found after *before*.

    Raises:
        DeviceError: it is no number above. A part of the file stands where another should.
    """
    if not isinstance(number, int) or number <= before:
        raise DeviceError(DeviceFault.DAMAGED, "its rows are out of order; start on another file")
    return number


def _delete_areas(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    db.executemany("DELETE FROM areas WHERE number = ?", [(number,) for number in numbers])


def _new_identity(db: sqlite3.Connection) -> bytes:
    """Draw the identity of an area."""
    return identity_of(db).to_bytes(FILE_BYTES, "big") + secrets.token_bytes(CHANCE_BYTES)


def _free_number(db: sqlite3.Connection, number: int) -> int:
    """Return the lowest number, from *number* on, under which there is neither an area nor a page.

    Raises:
        DeviceError: there is none.
    """
    look = """SELECT EXISTS (SELECT 1 FROM areas WHERE number = ?)
        OR EXISTS (SELECT 1 FROM pages WHERE number BETWEEN ? AND ?)"""
    while number <= NUMBER_MAX:
        if not db.execute(look, (number, *rows_of(number))).fetchone()[0]:
            return number
        number += 1
    raise DeviceError(DeviceFault.FULL, f"a swap file numbers {NUMBER_MAX} areas; start on another file")
