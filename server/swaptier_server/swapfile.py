"""The swap file on disk: what a server had on its devices, kept for the next one. SQLite in WAL mode, a row a page.

Touches one file, and the one that SQLite keeps beside it. Rules of conduct:
  - What a call recorded before it returned survives the death of the process, however sudden. It survives the loss of
    power too if that was asked for; else the last moments may be missing, but nothing is half there.
  - A row that is not what was written is found by its seal or by the page's checksum, and is never a page.
  - The file is locked while it is open: a second server on it would hand out what the first one overwrites. Only its
    owner may read it: pages are memory of other programs.
  - Every call blocks until SQLite is done: some 5 us a page in a batch, some 20 us alone, and now and then a
    checkpoint, for as long as the disk takes to sync.

Models: swap files, with the header that lets a kernel find its own again. Left out: no kernel reads swapped pages
after a reboot.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, Self

from swaptier_server.swapfile_rows import (
    UnknownOptions,
    area_of,
    area_row,
    area_seal,
    page_head,
    page_of,
    page_row,
    signed,
    unsigned,
)
from swaptier_server.tier.device import DeviceError, DeviceFault, SwapDevice
from swaptier_server.tier.page import UNWRITTEN, DecodeError, StoredPage
from swaptier_server.tier.swap_file import SavedArea, SavedPage
from swaptier_wire.types import Reason

APPLICATION_ID: Final = 0x73777074
"""Says in the file's header that it is ours."""
FORMAT: Final = 1
"""Rises when an older server could not read the file."""
SLOT_BITS: Final = 32
"""A page's row is numbered by its area, then by its slot in these bits."""
DROPS_MAX: Final = 256
"""Rows that could not be deleted when they should have been, and are when something else is written."""
OWNER_ONLY: Final = 0o600

_SCHEMA: Final = """
    CREATE TABLE server (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
    -- Numbers are never used again, so that no area can ever find the pages of another.
    CREATE TABLE areas (
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, client_id TEXT NOT NULL,
        client_epoch INTEGER NOT NULL, slots INTEGER NOT NULL, options TEXT NOT NULL, seal INTEGER NOT NULL
    );
    CREATE TABLE pages (
        number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, checksum INTEGER NOT NULL, kind INTEGER NOT NULL,
        seal INTEGER NOT NULL, body BLOB NOT NULL
    );
"""
_FAULTS: Final = {
    sqlite3.SQLITE_FULL: DeviceFault.FULL,
    sqlite3.SQLITE_READONLY: DeviceFault.READ_ONLY,
    sqlite3.SQLITE_PERM: DeviceFault.READ_ONLY,
    sqlite3.SQLITE_CORRUPT: DeviceFault.DAMAGED,
    sqlite3.SQLITE_NOTADB: DeviceFault.DAMAGED,
}
_PRIMARY_CODE: Final = 0xFF
"""The bits of an SQLite error that say what it is; the others say where."""


class SwapFileUnusable(Exception):
    """The file cannot be opened as a swap file. Nothing in it was changed. One line, for whoever starts the server."""


class SqliteSwapFile:
    """A SwapFile on disk. Made open; `close()` it, or let the process die."""

    def __init__(self, path: Path, *, survives_power_loss: bool = False) -> None:
        """Open the swap file at *path*, or make one.

        Raises:
            SwapFileUnusable: it cannot be had.
        """
        self.path: Final = path
        self.damaged_areas = 0
        """Areas found that are not what was recorded. Their pages are not served."""
        self.damaged_pages = 0
        """Pages found, when their area was reopened, that are not what was written. They are not served either."""
        try:
            # SQLite would make the file for everyone to read; the one beside it gets the same mode as this.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ONLY))
            self._db: Final = sqlite3.connect(path, timeout=0, isolation_level=None)
            # What is no text where text should be is a damaged row, not an error: its seal does not fit.
            self._db.text_factory = lambda text: text.decode(errors="replace")
        except (OSError, sqlite3.Error) as error:
            raise SwapFileUnusable(f"cannot open the swap file {path}: {error}") from error
        try:
            self._prepare(survives_power_loss=survives_power_loss)
        except sqlite3.Error as error:
            self._db.close()
            in_use = " (another server has it)" if error.sqlite_errorcode == sqlite3.SQLITE_BUSY else ""
            raise SwapFileUnusable(f"cannot use the swap file {path}: {error}{in_use}") from error
        except SwapFileUnusable:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def begin_life(self, epoch: int) -> int:
        """Return the epoch of a server that starts now: *epoch*, or more if an earlier server had that or a higher one.

        Raises:
            SwapFileUnusable: it cannot be recorded.
        """
        try:
            with self._transaction() as db:
                last = db.execute("SELECT epoch FROM server").fetchone()
                epoch = epoch if last is None else max(epoch, unsigned(last[0]) + 1)
                db.execute("INSERT OR REPLACE INTO server VALUES (1, ?)", (signed(epoch),))
        except DeviceError as error:
            raise SwapFileUnusable(f"cannot write to the swap file {self.path}: {error}") from error
        return epoch

    # What a tier asks for

    def saved_areas(self) -> Sequence[SavedArea]:
        """Return the areas that an earlier server left.

        Raises:
            DeviceError: they cannot be read.
        """
        rows = self._rows("SELECT number, name, client_id, client_epoch, slots, options, seal FROM areas", ())
        try:
            found = [area_of(number, columns, seal) for number, *columns, seal in rows]
        except UnknownOptions as error:
            raise DeviceError(DeviceFault.DAMAGED, str(error)) from error
        whole = [area for area in found if area is not None]
        self.damaged_areas += len(found) - len(whole)
        return whole

    def reopen_area(self, name: str) -> tuple[SwapDevice, Sequence[SavedPage]]:
        """Return the device of a saved area, and which pages it has: whole ones only, of slots inside the area.

        Raises:
            DeviceError: it cannot be read.
        """
        number, slots = self._rows("SELECT number, slots FROM areas WHERE name = ?", (name,))[0]
        assert isinstance(number, int) and isinstance(slots, int), "saved_areas() did not return it"
        first = number << SLOT_BITS
        rows = self._rows(
            "SELECT number, generation, checksum, kind, length(body), seal FROM pages WHERE number BETWEEN ? AND ?",
            (first, first + slots - 1),
        )
        pages = []
        for row, *columns, seal in rows:
            assert isinstance(row, int), "it is the key"
            head = page_head(row, columns, seal)
            if head is not None:
                pages.append(SavedPage(row - first, head.generation, head.checksum))
        self.damaged_pages += len(rows) - len(pages)
        return SqliteDevice(self, number), pages

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> SwapDevice:
        """Record a new area, forget those it replaces, and any of its own name; return its device, with no page.

        Raises:
            DeviceError: nothing changed.
        """
        if area.slots > 1 << SLOT_BITS:
            raise DeviceError(DeviceFault.FULL, f"a swap file takes {1 << SLOT_BITS} slots an area, not {area.slots}")
        columns = area_row(area)
        with self._transaction() as db:
            for name in (*replaced, area.name):
                _forget(db, name)
            number = db.execute(
                "INSERT INTO areas (name, client_id, client_epoch, slots, options, seal) VALUES (?, ?, ?, ?, ?, 0)",
                columns,
            ).lastrowid
            assert number is not None
            db.execute("UPDATE areas SET seal = ? WHERE number = ?", (area_seal(number, columns), number))
        return SqliteDevice(self, number)

    def forget_area(self, name: str) -> None:
        """Forget an area and its pages: about 1 us a page.

        Raises:
            DeviceError: nothing changed.
        """
        with self._transaction() as db:
            _forget(db, name)

    # What its devices ask for

    def read_page(self, number: int) -> StoredPage:
        """Return the page in row *number*, UNWRITTEN when there is none.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: the row is not what was written.
        """
        rows = self._rows("SELECT generation, checksum, kind, seal, body FROM pages WHERE number = ?", (number,))
        if not rows:
            return UNWRITTEN
        *columns, seal, body = rows[0]
        page = page_of(number, columns, seal, body)
        if page is None:
            raise DecodeError(Reason.CHECKSUM)
        return page

    def replace_pages(self, pages: Sequence[tuple[int, StoredPage]], deleted: Sequence[int]) -> None:
        """Write each page into the row of that number, and delete other rows, in one transaction.

        Raises:
            DeviceError: nothing changed.
        """
        rows = [page_row(number, page) for number, page in pages]
        with self._transaction() as db:
            if deleted:
                db.executemany("DELETE FROM pages WHERE number = ?", [(number,) for number in deleted])
            db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)", rows)

    # How

    def _prepare(self, *, survives_power_loss: bool) -> None:
        """Lock the file; check that it is a swap file, or make it one.

        Raises:
            SwapFileUnusable, sqlite3.Error: it cannot be.
        """
        db = self._db
        # Exclusive from the first look on, and before WAL is, so that no file of shared memory is needed.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        is_empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not is_empty and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise SwapFileUnusable(f"{self.path} is a database and no swap file; it was not changed. Name another file")
        its_format = db.execute("PRAGMA user_version").fetchone()[0]
        if not is_empty and its_format != FORMAT:
            raise SwapFileUnusable(
                f"the swap file {self.path} has format {its_format}, and this server reads {FORMAT}; it was not "
                "changed. Use the version that made it, or name another file"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if survives_power_loss else 'NORMAL'}")
        # Nobody reads or writes meanwhile, so that the lock is taken now and not with the first page.
        db.execute("BEGIN EXCLUSIVE")
        if is_empty:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Let what is done within be recorded together, or not at all.

        Raises:
            DeviceError: nothing changed.
        """
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise _device_error(error) from error
        finally:
            if db.in_transaction:
                # SQLite may have rolled back by itself. If it cannot, the next BEGIN fails, and says so.
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")

    def _rows(self, statement: str, arguments: tuple[object, ...]) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise _device_error(error) from error


class SqliteDevice:
    """The device of one area, in its swap file."""

    __slots__ = ("_dropped", "_file", "_first")

    def __init__(self, file: SqliteSwapFile, area: int) -> None:
        """Keep the pages of the area with this number."""
        self._file: Final = file
        self._first: Final = area << SLOT_BITS
        self._dropped: set[int] = set()
        """Slots to be forgotten whose rows could not be deleted yet; as many as the area has slots, at most."""

    def read(self, offset: int) -> StoredPage:
        """Return what the slot has; UNWRITTEN when nobody wrote it.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: what is there is not a page that was written.
        """
        return UNWRITTEN if offset in self._dropped else self._file.read_page(self._first + offset)

    def write(self, offset: int, page: StoredPage) -> None:
        """Overwrite the slot.

        Raises:
            DeviceError: the slot has what it had.
        """
        self.write_many(((offset, page),))

    def write_many(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Overwrite the slots, all different, in one transaction.

        Raises:
            DeviceError: every slot has what it had.
        """
        first = self._first
        dropped = list(islice(self._dropped, DROPS_MAX))
        self._file.replace_pages([(first + offset, page) for offset, page in pages], [first + one for one in dropped])
        self._dropped.difference_update(dropped, (offset for offset, _ in pages))

    def drop(self, offset: int) -> None:
        """Make the slot read as unwritten. If its row cannot be deleted now, it is when something else is written.

        If the server dies before that, the next one finds the row, under its own generation.
        """
        try:
            self._file.replace_pages((), (self._first + offset,))
        except DeviceError:
            self._dropped.add(offset)
        else:
            self._dropped.discard(offset)


def _forget(db: sqlite3.Connection, name: str) -> None:
    """Delete the area called *name* and its pages, if there is one."""
    for (number,) in db.execute("SELECT number FROM areas WHERE name = ?", (name,)).fetchall():
        first = number << SLOT_BITS
        db.execute("DELETE FROM pages WHERE number BETWEEN ? AND ?", (first, first | (1 << SLOT_BITS) - 1))
        db.execute("DELETE FROM areas WHERE number = ?", (number,))


def _device_error(error: sqlite3.Error) -> DeviceError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & _PRIMARY_CODE
    return DeviceError(_FAULTS.get(code, DeviceFault.IO), str(error))
