"""What is in a swap file and what of that is damaged, found without changing anything: `swaptier-server check-file`.

Touches the file to read it, and with a log beside it a folder of its own for the time. Rules of conduct:
  - SQLite brings a log into its file when it closes them. So a file without one is read where it stands, and one with a
    log from a copy of the two; where the file system can, the copy shares the file's blocks.
  - A file that a server has is refused, and one that was changed meanwhile: a reader has no lock.
  - Every page is decoded, one at a time.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

from swaptier_server.swapfile.log import pages_and_torn
from swaptier_server.swapfile.place import SwapFileDamaged, SwapFilePlace, SwapFileUnusable
from swaptier_server.swapfile.record import Findings
from swaptier_server.swapfile.register import read, rising
from swaptier_server.swapfile.rows import AreaRow, UnknownOptions, page_of, rows_of
from swaptier_server.swapfile.whole import distrust, format_of, why_not_whole
from swaptier_server.tier.device import DeviceError, DeviceFault
from swaptier_server.tier.page import DecodeError, decode
from swaptier_server.tier.swap_file import SavedArea

SLOTS_NAMED_MAX: Final = 8
"""Damaged slots of an area that are named; the others are counted."""
_LOCK: Final = struct.Struct("@hhqqi")
"""struct flock of Linux: type, whence, start, length, process."""
_SQLITE_LOCKS: Final = (0x40000000, 512)
"""First byte and length of what SQLite locks."""
_EVERY_PAGE: Final = 1 << 62


class SwapFileInUse(Exception):
    """A server has the file, or it was changed while it was read. One line."""


class NoRoomToCopy(Exception):
    """The file has a log, and there is no room for a copy of the two. One line."""


@dataclass
class AreaInspection:
    """One area that a server would open."""

    area: SavedArea
    pages: int = 0
    """Whole ones."""
    page_bytes: int = 0
    """Of the whole ones, encoded."""
    damaged_pages: int = 0
    damaged_slots: list[int] = field(default_factory=list)
    """The first SLOTS_NAMED_MAX; of a row that has no slot here there is none."""


@dataclass
class Inspection:
    """What was found."""

    file_bytes: int = 0
    log_bytes: int = 0
    log_pages: int = 0
    """Those of SQLite in the log."""
    format: int = 0
    """0 when it could not be read."""
    epoch: int = 0
    """Of the last server."""
    areas: list[AreaInspection] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    """Of the areas as a whole: pages are counted in theirs."""
    refusal: str | None = None
    """Why no server starts on it."""

    @property
    def is_whole(self) -> bool:
        """Nothing is damaged."""
        damaged = any(area.damaged_pages for area in self.areas)
        return not (self.refusal or self.findings or damaged)


def inspect(path: Path) -> Inspection:
    """Return what is in the file at *path*.

    Raises:
        SwapFileUnusable: it is no swap file, or none that this user's server may use.
        SwapFileInUse, NoRoomToCopy: as said.
        OSError: it cannot be read.
    """
    found = Inspection(path.lstat().st_size)
    try:
        with closing(SwapFilePlace(path)):
            before = _moment(path)
            if _is_locked(path):
                raise SwapFileInUse(
                    f"a server has {path} open: make a copy with swaptier-server backup, and check that"
                )
            with _readable(path, found) as db:
                _inspect(db, path, found)
            if _moment(path) != before:
                raise SwapFileInUse(f"{path} was changed while it was read; ask again")
    except SwapFileDamaged as error:
        found.refusal = error.why
    except sqlite3.Error as error:
        found.refusal = str(error)
    return found


@contextmanager
def _readable(path: Path, found: Inspection) -> Iterator[sqlite3.Connection]:
    """Open the file as its log makes it, and note what the log is."""
    log = Path(f"{path}-wal")
    found.log_bytes = log.stat().st_size if log.exists() else 0
    if not found.log_bytes:
        location = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(location, uri=True, isolation_level=None)) as db:
            yield db
        return
    found.log_pages, found.findings.torn_log_pages = pages_and_torn(log)
    with closing(_open_copy(path, log)) as db:
        yield db


def _open_copy(path: Path, log: Path) -> sqlite3.Connection:
    """Open a copy of the file at *path* and its log, which has no name any more: whatever ends this, no page stays.

    Raises:
        NoRoomToCopy, OSError, sqlite3.Error: as said.
    """
    with TemporaryDirectory(prefix="swaptier-check-") as folder:
        copy = Path(folder) / "swap"
        try:
            shutil.copyfile(path, copy)
            shutil.copyfile(log, f"{copy}-wal")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoRoomToCopy(
                    f"{path} has a log, and {folder} has no room for a copy of the two, which is what is read; set "
                    "TMPDIR to a folder that has"
                ) from error
            raise
        db = sqlite3.connect(copy, isolation_level=None)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens both
        except BaseException:
            db.close()
            raise
        return db


def _inspect(db: sqlite3.Connection, path: Path, found: Inspection) -> None:
    """Fill in what is *found*.

    Raises:
        SwapFileUnusable: it is of another format.
        SwapFileDamaged, sqlite3.Error: it cannot be read further.
    """
    distrust(db)
    its_format = found.format = format_of(db, path)
    if (why := why_not_whole(db, its_format, pages_max=_EVERY_PAGE)) is not None:
        found.refusal = why

    def rows(statement: str, arguments: Sequence[object] = ()) -> Sequence[tuple[object, ...]]:
        try:
            return db.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise DeviceError(DeviceFault.DAMAGED, str(error)) from error

    try:
        believed, _ = read(rows)
        torn = found.findings.torn_log_pages
        found.findings, found.epoch = replace(believed.findings, torn_log_pages=torn), believed.record.epoch
        for area in believed.areas.values():
            found.areas.append(inspected := AreaInspection(area.saved))
            _inspect_pages(db, area, inspected)
    except UnknownOptions as error:
        raise SwapFileUnusable(f"the swap file {path} is of a later version: {error}") from error
    except DeviceError as error:
        found.refusal = found.refusal or str(error)


def _inspect_pages(db: sqlite3.Connection, area: AreaRow, inspected: AreaInspection) -> None:
    """Read and decode every page of *area*.

    Raises:
        sqlite3.Error, DeviceError: they cannot be read further.
    """
    first, last = rows_of(area.number)
    before = first - 1
    statement = "SELECT number, generation, checksum, kind, seal, body FROM pages WHERE number BETWEEN ? AND ?"
    for row, *columns, seal, body in db.execute(statement, (first, last)):
        before = rising(row, before)
        page = page_of(before, area.owner, columns, seal, body)
        offset = before - first
        is_whole = page is not None and offset < area.saved.slots
        if page is not None and is_whole:
            try:
                decode(page)
            except DecodeError:
                is_whole = False
        if is_whole:
            inspected.pages += 1
            inspected.page_bytes += len(body)
            continue
        inspected.damaged_pages += 1
        if offset < area.saved.slots and len(inspected.damaged_slots) < SLOTS_NAMED_MAX:
            inspected.damaged_slots.append(offset)


def _moment(path: Path) -> Sequence[tuple[int, int] | None]:
    """Return what changes when the file or its log does."""
    found = (each.stat() if each.exists() else None for each in (path, Path(f"{path}-wal")))
    return [None if one is None else (one.st_size, one.st_mtime_ns) for one in found]


def _is_locked(path: Path) -> bool:
    """Tell whether another process has SQLite's locks on the file."""
    with path.open("rb") as opened:
        asked = _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, *_SQLITE_LOCKS, 0)
        answer = fcntl.fcntl(opened, fcntl.F_GETLK, asked)
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)
