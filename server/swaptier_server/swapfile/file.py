"""The swap file on disk: what a server had on its devices, kept for the next one. SQLite in WAL mode, a row a page.

Touches one file through `swapfile_database`, which opens, locks and bounds it. Rules of conduct:
  - What a call recorded before it returned survives the death of the process, however sudden. It survives the loss of
    power too if that was asked for; else the last moments may be missing, but nothing is half there.
  - An area is forgotten at once, and its pages are deleted some at a time. Numbers of areas are never used again, so
    what a server leaves that ends meanwhile is found by the next one, and is never another area's.
  - A row that is not what was written is found by its seal or by the page's checksum, and is never a page.
  - Every call blocks until SQLite is done: some 5 us a page in a batch, some 20 us alone. To bring in the log
    takes as long as the disk takes to sync, so that is for a thread.

Models: swap files, with the header that lets a kernel find its own again. Left out: no kernel reads swapped pages
after a reboot.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Final, Self

from swaptier_server.swapfile.backup import BackupFailed, back_up
from swaptier_server.swapfile.database import FORMAT, SwapFileDatabase
from swaptier_server.swapfile.place import Refusal, SwapFileUnusable
from swaptier_server.swapfile.rows import (
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
from swaptier_server.tier.device import BackingDevice, DeviceError, DeviceFault
from swaptier_server.tier.page import UNWRITTEN, DecodeError, StoredPage
from swaptier_server.tier.swap_file import SWEEP_PAGES_MAX, SavedArea, SavedPage
from swaptier_wire.types import Reason

__all__ = ["FORMAT", "SqliteDevice", "SqliteSwapFile", "SwapFileUnusable"]

SLOT_BITS: Final = 32
"""A page's row is numbered by its area, then by its slot in these bits."""
DROPS_MAX: Final = 256
"""Rows that could not be deleted when they should have been, and are when something else is written."""


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
        self._database: Final = SwapFileDatabase(path, survives_power_loss=survives_power_loss)
        self._db: Final = self._database.connection
        self._forgotten: Final[deque[int]] = deque()
        """Numbers of areas that are on record no more, and may have pages."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    @property
    def refused(self) -> Refusal | None:
        """Why nothing can be recorded now, or the last change could not be; None when it was."""
        return self._database.refused

    def last_refusal(self) -> Refusal | None:
        """Return why a change was refused since this was last asked, whatever was recorded after it."""
        return self._database.last_refusal()

    @property
    def open_as(self) -> str:
        """A path by which this user reaches the open file while this process lives, whatever became of its name."""
        return self._database.place.open_as

    def stat(self) -> os.stat_result:
        """Return what the file is now, wherever. It has more than 1 link with hard links, and none when removed."""
        return self._database.place.found

    def back_up(self, to: Path, go_on: Callable[[int, int], bool]) -> int:
        """Copy the file as it is to *to*; return the copy's bytes. Blocks; see `backup.back_up()`.

        Raises:
            BackupRefused, BackupFailed: there is no copy.
        """
        if (trouble := self._database.place.trouble()) is not None and trouble.fault is DeviceFault.DAMAGED:
            raise BackupFailed(f"there is no copy of what is damaged: {trouble.reason}")
        return back_up(self._db, to, go_on)

    @property
    def is_given_back(self) -> bool:
        """Tell whether the file can get shorter. One that an older version made keeps its length."""
        return self._database.is_given_back

    def give_back(self) -> bool:
        """Give some room back that was not needed between two looks; tell whether to call it again soon."""
        return self._database.give_back()

    @property
    def log_is_long(self) -> bool:
        """The log should be brought in."""
        return self._database.log_is_long

    def bring_in_the_log(self) -> None:
        """Bring the log into the file. Blocks for as long as the disk takes: for a thread, with nothing beside it."""
        self._database.bring_in_the_log()

    def look(self) -> None:
        """See what became of the file since it was last written. Cheap; to be called every second or so."""
        self._database.look()

    def begin_life(self, epoch: int) -> int:
        """Return the epoch of a server that starts now: *epoch*, or more if an earlier server had that or a higher one.

        Raises:
            SwapFileUnusable: it cannot be recorded.
        """
        try:
            with self._database.transaction() as db:
                last = db.execute("SELECT epoch FROM server").fetchone()
                epoch = epoch if last is None else max(epoch, unsigned(last[0]) + 1)
                db.execute("INSERT OR REPLACE INTO server VALUES (1, ?)", (signed(epoch),))
        except DeviceError as error:
            raise SwapFileUnusable(
                f"cannot write to the swap file {self.path}: {error}. What is in it is kept; start again when its file "
                "system has room and can be written"
            ) from error
        return epoch

    # What a tier asks for

    def saved_areas(self) -> Sequence[SavedArea]:
        """Return the areas that an earlier server left.

        Raises:
            DeviceError: they cannot be read.
        """
        rows = self._database.rows("SELECT number, name, client_id, client_epoch, slots, options, seal FROM areas")
        try:
            found = [area_of(number, columns, seal) for number, *columns, seal in rows]
        except UnknownOptions as error:
            raise DeviceError(DeviceFault.DAMAGED, str(error)) from error
        self._find_forgotten({number for number, *_ in rows})
        whole = [area for area in found if area is not None]
        self.damaged_areas += len(found) - len(whole)
        return whole

    def reopen_area(self, name: str) -> tuple[BackingDevice, Sequence[SavedPage]]:
        """Return the device of a saved area, and which pages it has: whole ones only, of slots inside the area.

        Raises:
            DeviceError: it cannot be read.
        """
        number, slots = self._database.rows("SELECT number, slots FROM areas WHERE name = ?", (name,))[0]
        assert isinstance(number, int) and isinstance(slots, int), "saved_areas() did not return it"
        first, _ = _rows_of(number)
        rows = self._database.rows(
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

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> BackingDevice:
        """Record a new area, forget those it replaces, and any of its own name; return its device, with no page.

        Raises:
            DeviceError: nothing changed.
        """
        if area.slots > 1 << SLOT_BITS:
            raise DeviceError(DeviceFault.FULL, f"a swap file takes {1 << SLOT_BITS} slots an area, not {area.slots}")
        columns = area_row(area)
        with self._database.transaction() as db:
            forgotten = [number for name in (*replaced, area.name) for number in _forget(db, name)]
            number = db.execute(
                "INSERT INTO areas (name, client_id, client_epoch, slots, options, seal) VALUES (?, ?, ?, ?, ?, 0)",
                columns,
            ).lastrowid
            assert number is not None
            db.execute("UPDATE areas SET seal = ? WHERE number = ?", (area_seal(number, columns), number))
        self._forgotten.extend(forgotten)
        return SqliteDevice(self, number)

    def forget_area(self, name: str) -> None:
        """Forget an area. Nothing finds its pages from now on; `sweep()` gives their room back.

        Raises:
            DeviceError: nothing changed.
        """
        with self._database.transaction() as db:
            forgotten = _forget(db, name)
        self._forgotten.extend(forgotten)

    @property
    def has_rest(self) -> bool:
        """There may be pages of areas that were forgotten, now or by a server that ended before it had swept."""
        return bool(self._forgotten)

    def sweep(self, pages_max: int = SWEEP_PAGES_MAX) -> None:
        """Delete so many pages of areas that were forgotten: about 4 us a page.

        Raises:
            DeviceError: nothing changed.
        """
        if not self._forgotten:
            return
        with self._database.transaction() as db:
            is_last = _sweep(db, self._forgotten[0], pages_max)
        if is_last:
            self._forgotten.popleft()

    def _find_forgotten(self, on_record: Set[object]) -> None:
        """Look for pages of areas that are not *on_record*, an area at a time.

        Raises:
            DeviceError: they cannot be read.
        """
        last = -(1 << 63)
        look = "SELECT number FROM pages WHERE number > ? ORDER BY number LIMIT 1"
        while found := self._database.rows(look, (last,)):
            row = found[0][0]
            assert isinstance(row, int), "it is the key"
            number = row >> SLOT_BITS
            last = _rows_of(number)[1]
            if number not in on_record and number not in self._forgotten:
                self._forgotten.append(number)

    # What its devices ask for

    def read_page(self, number: int) -> StoredPage:
        """Return the page in row *number*, UNWRITTEN when there is none.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: the row is not what was written.
        """
        rows = self._database.rows(
            "SELECT generation, checksum, kind, seal, body FROM pages WHERE number = ?", (number,)
        )
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
        with self._database.transaction([number for number, _ in pages]) as db:
            if deleted:
                db.executemany("DELETE FROM pages WHERE number = ?", [(number,) for number in deleted])
            db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)", rows)


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
        """Return what the slot has; UNWRITTEN until it is written.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: what is there is not a page that was written.
        """
        return UNWRITTEN if offset in self._dropped else self._file.read_page(self._first + offset)

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
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


def _forget(db: sqlite3.Connection, name: str) -> list[int]:
    """Strike the area called *name* off the record; return its number, if there was one. Its pages stay."""
    return [number for (number,) in db.execute("DELETE FROM areas WHERE name = ? RETURNING number", (name,))]


def _sweep(db: sqlite3.Connection, number: int, pages_max: int) -> bool:
    """Delete so many pages of the area with this number; return whether none is left."""
    swept = db.execute(
        "DELETE FROM pages WHERE number IN (SELECT number FROM pages WHERE number BETWEEN ? AND ? LIMIT ?)",
        (*_rows_of(number), pages_max),
    )
    return swept.rowcount < pages_max


def _rows_of(number: int) -> tuple[int, int]:
    """Return the first and the last row that a page of the area with this number can have."""
    first = number << SLOT_BITS
    return first, first | (1 << SLOT_BITS) - 1
