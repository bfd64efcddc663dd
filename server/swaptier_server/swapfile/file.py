"""The swap file on disk: what a server had on its devices, kept for the next one. SQLite in WAL mode, a row a page.

Touches one file through `swapfile_database`, which opens, locks and bounds it. Rules of conduct:
  - What a call recorded before it returned survives the death of the process, however sudden. It survives the loss of
    power too if that was asked for; else the last moments may be missing, but nothing is half there.
  - An area is forgotten at once, and its pages are deleted some at a time; what a server leaves that ends meanwhile is
    found by the next one. A new area gets a number under which there is nothing, whatever the record says.
  - A row that is not what was written, or not by this opening of its area, is found by its seal or by the page's
    checksum, and is never a page. What contradicts the record is not believed: see `record`.
  - Every call blocks until SQLite is done: some 5 us a page in a batch, some 20 us alone. To bring in the log
    takes as long as the disk takes to sync, so that is for a thread.

Models: swap files, with the header that lets a kernel find its own again. Left out: no kernel reads swapped pages
after a reboot.
"""

import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Self

from swaptier_server.swapfile.backup import BackupFailed, back_up
from swaptier_server.swapfile.database import SwapFileDatabase
from swaptier_server.swapfile.place import Refusal, SwapFileUnusable
from swaptier_server.swapfile.record import Findings
from swaptier_server.swapfile.register import Register, rising
from swaptier_server.swapfile.rows import SLOT_BITS, AreaRow, UnknownOptions, page_head, page_of, page_row, rows_of
from swaptier_server.swapfile.schema import FORMAT
from swaptier_server.tier.device import BackingDevice, DeviceError, DeviceFault
from swaptier_server.tier.page import UNWRITTEN, DecodeError, StoredPage
from swaptier_server.tier.swap_file import SWEEP_PAGES_MAX, SavedArea, SavedPage
from swaptier_wire.types import Reason

__all__ = ["FORMAT", "SqliteDevice", "SqliteSwapFile", "SwapFileUnusable"]

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
        self._database: Final = SwapFileDatabase(path, survives_power_loss=survives_power_loss)
        self._db: Final = self._database.connection
        try:
            self._register: Final = Register(self._database)
            self.findings.torn_log_pages = self._database.torn_log_pages
        except (DeviceError, UnknownOptions) as error:
            self.close()
            raise SwapFileUnusable(f"cannot use the swap file {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    @property
    def findings(self) -> Findings:
        """What is not as an earlier server left it. Pages are looked at when their area is reopened."""
        return self._register.findings

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
            epoch = self._register.begin_life(epoch)
            self._database.begin()
        except DeviceError as error:
            raise SwapFileUnusable(
                f"cannot write to the swap file {self.path}: {error}. What is in it is kept; start again when its file "
                "system has room and can be written"
            ) from error
        return epoch

    # What a tier asks for

    def saved_areas(self) -> Sequence[SavedArea]:
        """Return the areas that are open: after a start, those that an earlier server left."""
        return [area.saved for area in self._register.areas.values()]

    def reopen_area(self, name: str) -> tuple[BackingDevice, Sequence[SavedPage]]:
        """Return the device of a saved area, and which pages it has: whole ones only, of slots inside the area.

        Raises:
            DeviceError: it cannot be read.
        """
        area = self._register.areas[name]
        first, last = rows_of(area.number)
        owner, row_before = area.owner, first - 1
        rows = self._database.rows(
            "SELECT number, generation, checksum, kind, length(body), seal FROM pages WHERE number BETWEEN ? AND ?",
            (first, last),
        )
        pages = []
        for row, *columns, seal in rows:
            row_before = rising(row, row_before)
            head = page_head(row_before, owner, columns, seal)
            if head is not None and row_before - first < area.saved.slots:
                pages.append(SavedPage(row_before - first, head.generation, head.checksum))
        self.findings.damaged_pages += len(rows) - len(pages)
        return SqliteDevice(self, area), pages

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> BackingDevice:
        """Record a new area, forget those it replaces, and any of its own name; return its device, with no page.

        Raises:
            DeviceError: nothing changed.
        """
        if area.slots > 1 << SLOT_BITS:
            raise DeviceError(DeviceFault.FULL, f"a swap file takes {1 << SLOT_BITS} slots an area, not {area.slots}")
        return SqliteDevice(self, self._register.open_area(area, replaced))

    def forget_area(self, name: str) -> None:
        """Forget an area. Nothing finds its pages from now on; its device's `forget()` gives their room back.

        Raises:
            DeviceError: nothing changed.
        """
        self._register.forget_area(name)

    @property
    def has_rest(self) -> bool:
        """There may be pages of areas that were forgotten, now or by a server that ended before it had swept."""
        return bool(self._register.forgotten)

    def sweep(self, pages_max: int = SWEEP_PAGES_MAX) -> None:
        """Delete so many pages of areas that were forgotten: about 4 us a page.

        Raises:
            DeviceError: nothing changed.
        """
        if (number := next(iter(self._register.forgotten), None)) is not None:
            self._register.sweep(number, pages_max)

    def forget_pages(self, number: int, pages_max: int) -> int:
        """Delete so many pages of the area with that number, which was forgotten; return how many there were.

        Raises:
            DeviceError: nothing changed.
        """
        return self._register.sweep(number, pages_max)

    # What its devices ask for

    def read_page(self, number: int, owner: bytes) -> StoredPage:
        """Return the page of *owner* in row *number*, UNWRITTEN when there is none.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: the row is not what *owner* wrote.
        """
        rows = self._database.rows(
            "SELECT generation, checksum, kind, seal, body FROM pages WHERE number = ?", (number,)
        )
        if not rows:
            return UNWRITTEN
        *columns, seal, body = rows[0]
        page = page_of(number, owner, columns, seal, body)
        if page is None:
            raise DecodeError(Reason.CHECKSUM)
        return page

    def replace_pages(self, owner: bytes, pages: Sequence[tuple[int, StoredPage]], deleted: Sequence[int]) -> None:
        """Write each page of *owner* into the row of that number, and delete other rows, in one transaction.

        Raises:
            DeviceError: nothing changed.
        """
        rows = [page_row(number, owner, page) for number, page in pages]
        with self._database.transaction([number for number, _ in pages]) as db:
            if deleted:
                db.executemany("DELETE FROM pages WHERE number = ?", [(number,) for number in deleted])
            db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)", rows)


class SqliteDevice:
    """The device of one area, in its swap file."""

    __slots__ = ("_dropped", "_file", "_first", "_number", "_owner", "incarnation")

    def __init__(self, file: SqliteSwapFile, area: AreaRow) -> None:
        """Keep the pages of *area*."""
        self._file: Final = file
        self._number: Final = area.number
        self._first: Final = rows_of(area.number)[0]
        self._owner: Final = area.owner
        self.incarnation: Final = area.incarnation
        self._dropped: set[int] = set()
        """Slots to be forgotten whose rows could not be deleted yet; as many as the area has slots, at most."""

    def read(self, offset: int) -> StoredPage:
        """Return what the slot has; UNWRITTEN until it is written.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: what is there is not a page that was written.
        """
        return UNWRITTEN if offset in self._dropped else self._file.read_page(self._first + offset, self._owner)

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Overwrite the slots, all different, in one transaction.

        Raises:
            DeviceError: every slot has what it had.
        """
        first = self._first
        dropped = list(islice(self._dropped, DROPS_MAX))
        rows = [(first + offset, page) for offset, page in pages]
        self._file.replace_pages(self._owner, rows, [first + one for one in dropped])
        self._dropped.difference_update(dropped, (offset for offset, _ in pages))

    def drop(self, *offsets: int) -> None:
        """Make the slots read as unwritten, in one transaction.

        If their rows cannot be deleted now, they are when something else is written. If the server dies before that,
        the next one finds the rows, under their own generations.
        """
        try:
            self._file.replace_pages(self._owner, (), [self._first + offset for offset in offsets])
        except DeviceError:
            self._dropped.update(offsets)
        else:
            self._dropped.difference_update(offsets)

    def forget(self, pages_max: int) -> int:
        """Delete so many pages of the area, which the swap file has forgotten; return how many there were.

        Raises:
            DeviceError: nothing changed.
        """
        return self._file.forget_pages(self._number, pages_max)
