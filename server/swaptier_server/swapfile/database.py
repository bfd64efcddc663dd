"""The swap file as SQLite sees it: open for one server alone, changed in transactions, never in the last of the room.

Touches the file, and the one that SQLite keeps beside it, the log. Rules of conduct:
  - The file is locked while it is open: a second server on it would hand out what the first one overwrites. Only its
    owner may read it: pages are memory of other programs.
  - The file stops growing while its file system still has room for what SQLite needs to change and to delete what is
    there. So a disk that the file itself has filled takes newer pages in the place of older ones, and those of an area
    that is forgotten make room; only who else writes to the disk can make it refuse everything.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from swaptier_server.swapfile.header import is_open_in, with_open
from swaptier_server.swapfile.log import Log
from swaptier_server.swapfile.medium import (
    LAST_ROOM_BYTES,
    LOG_PAGES,
    LOG_PAGES_LAST,
    PRIMARY_CODE,
    ROOM_BYTES,
    device_error,
    has_room,
    is_read_only,
)
from swaptier_server.swapfile.place import Refusal, SwapFileDamaged, SwapFilePlace, SwapFileUnusable
from swaptier_server.swapfile.schema import FORMAT, new_file
from swaptier_server.swapfile.whole import distrust, format_of, why_not_whole
from swaptier_server.tier.device import DeviceError, DeviceFault

GIVE_BACK_PAGES: Final = 32
"""At a time: of 4 KiB each."""
SPARE_PAGES: Final = 256
"""A file keeps so many free pages, for what comes next."""
LOOKS_PER_PROBE: Final = 5
"""One look in so many asks the file system whether it can still be written: that changes the file's time."""

_HINTS: Final = {
    sqlite3.SQLITE_BUSY: " (another server has it)",
    sqlite3.SQLITE_FULL: "; make room on its file system",
}
"""What to make of an SQLite error when the file is opened."""
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""The file is; SQLITE_ERROR is of a schema that makes no sense."""
_PAGES_MAX: Final = 1 << 30
"""SQLite's own limit of a file's pages: 4 TiB. 1 means what the file has now."""


class SwapFileDatabase:
    """One open swap file. Made open; `close()` it, or let the process die."""

    def __init__(self, path: Path, *, survives_power_loss: bool) -> None:
        """Open the swap file at *path*, or make one.

        Raises:
            SwapFileUnusable: it cannot be had.
        """
        self.path: Final = path
        self._refused: Refusal | None = None
        self._trouble: Refusal | None = None
        self._unsaid: Refusal | None = None
        self._looks = 0
        self._free_pages = 0
        self._spare_pages = 0
        """Of the file's, those that nothing needed between the last two looks."""
        self._may_grow = True
        self._log: Final = Log(path)
        self._changes_seen = 0
        self._is_with_a_thread = False
        self.torn_log_pages = 0
        """Of the log that was found; see `record.Findings`."""
        self._is_usable = False
        self._is_left_open = False
        """The file says that a server has it, and its log is needed."""
        self._is_shorter = False
        """The file is to give room back, when the log is brought in."""
        self.format = FORMAT
        """Of the file, as long as no server has begun on it."""
        try:
            self._place: Final = SwapFilePlace(path, new_file())
            self.connection: Final = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            distrust(self.connection)
        except (OSError, sqlite3.Error) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SwapFileUnusable(f"cannot open the swap file {path}: {why}") from error
        try:
            self._prepare(survives_power_loss=survives_power_loss)
            self._place.take_log()
            self._place.note_sizes()
        except OSError as error:
            self.close()
            raise SwapFileUnusable(f"cannot use the swap file {path}: {error}") from error
        except sqlite3.Error as error:
            self.close()
            if error.sqlite_errorcode & PRIMARY_CODE in _DAMAGED:
                raise SwapFileDamaged(path, str(error)) from error
            hint = _HINTS.get(error.sqlite_errorcode, "")
            raise SwapFileUnusable(f"cannot use the swap file {path}: {error}{hint}") from error
        except SwapFileUnusable:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file. Its log is in it then, and the file says so; where it cannot, an empty log does."""
        if self._is_usable and self._is_left_open:
            with suppress(sqlite3.Error):
                self._note_open(is_open=False)
        self.connection.close()
        if self._is_left_open and self._place.is_there():
            self._place.keep_log_name()
        self._place.close()

    def begin(self) -> None:
        """Let the file itself say that it has a log from now on, which a start must find beside it.

        Raises:
            DeviceError: it cannot be recorded.
        """
        self._require_place()
        try:
            self._note_open(is_open=True)
        except sqlite3.Error as error:
            raise device_error(error, self.path) from error
        self._bring_in_the_log()

    @property
    def refused(self) -> Refusal | None:
        """Why nothing can be recorded now, or the last change could not be; None when it was."""
        return self._trouble or self._refused

    def last_refusal(self) -> Refusal | None:
        """Return why a change was refused since this was last asked, whatever was recorded after it."""
        last, self._unsaid = self._unsaid, None
        return last

    @property
    def place(self) -> SwapFilePlace:
        """Where the file stands."""
        return self._place

    def look(self) -> None:
        """See what became of the file since it was last written. Cheap; to be called every second or so."""
        before, self._trouble = self._trouble, self._place.trouble()
        self._looks += 1
        free = self._number("freelist_count")
        self._spare_pages, self._free_pages = min(free, self._free_pages), free
        if self._trouble is None:
            is_due = self._looks % LOOKS_PER_PROBE == 0 or (
                before is not None and before.fault is DeviceFault.READ_ONLY
            )
            if not os.access(self.path, os.W_OK, effective_ids=True) or (is_due and is_read_only(self.path)):
                self._trouble = Refusal(DeviceFault.READ_ONLY, f"{self.path} cannot be written any more")
        elif self._place.has_lost_its_log():
            self._begin_log_anew()

    def rows(self, statement: str, arguments: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return what *statement* finds.

        Raises:
            DeviceError: it cannot be read.
        """
        try:
            return self.connection.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise device_error(error, self.path) from error

    @property
    def is_given_back(self) -> bool:
        """Tell whether the file can get shorter. One that an older version made keeps its length."""
        return bool(self._number("auto_vacuum"))

    def give_back(self) -> bool:
        """Give some pages back to the file system that were free for two looks; tell whether to call it again.

        Takes some milliseconds. What is written meanwhile uses the pages that are still free.
        """
        if self._is_with_a_thread:
            return True
        pages = min(GIVE_BACK_PAGES, self._spare_pages - SPARE_PAGES)
        if pages <= 0 or not self.is_given_back:
            return False
        try:
            with self.transaction() as db:
                for _ in range(pages):  # sqlite3 takes one step of a statement that returns no columns
                    db.execute("PRAGMA incremental_vacuum(1)")
        except DeviceError:
            return False
        self._spare_pages = min(self._spare_pages - pages, self._number("freelist_count"))
        is_more = self._spare_pages > SPARE_PAGES
        if not is_more:  # the file itself gets shorter when the log is brought in
            self._is_shorter = True
        return is_more

    @property
    def log_is_long(self) -> bool:
        """The log should be brought in. Cheap while nothing is changed."""
        if self._changes_seen == self.connection.total_changes:
            return self._is_shorter
        self._changes_seen = self.connection.total_changes
        return self._is_shorter or self._log.new_pages() >= LOG_PAGES

    def bring_in_the_log(self) -> None:
        """Bring the log into the file and wait for the disk. Blocks; not for the loop, which does nothing here then."""
        self._is_with_a_thread = True
        try:
            self._bring_in_the_log()
            self._log.note_brought_in()
        finally:
            self._is_shorter = self._is_with_a_thread = False

    @contextmanager
    def transaction(self, pages: Sequence[int] = ()) -> Iterator[sqlite3.Connection]:
        """Let what is done within be recorded together, or not at all; *pages* are the rows that it will write.

        Raises:
            DeviceError: nothing changed; or the file lost its place meanwhile, and nothing may be counted on.
        """
        db = self.connection
        before = db.total_changes
        self._require_place()
        try:
            self._keep_room(pages)
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
            self._place.note_sizes()  # a commit may bring the log in, which makes the file shorter
            self._require_place()
            if db.total_changes > before:  # else nothing was to be written, which any disk can do
                self._refused = None
        except sqlite3.Error as error:
            failed = device_error(error, self.path)
            self._refused = self._unsaid = Refusal(failed.fault, str(failed))
            raise failed from error
        finally:
            if db.in_transaction:
                # SQLite may have rolled back by itself. If it cannot, the next BEGIN fails, and says so.
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            self._place.note_sizes()

    # How

    def _note_open(self, *, is_open: bool) -> None:
        """Write whether a server has the file.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        self.connection.execute(f"PRAGMA user_version = {with_open(version, is_open=is_open)}")
        self._is_left_open = is_open

    def _require_place(self) -> None:
        """Look whether what is written now is where the next server looks for it.

        Raises:
            DeviceError: it is not.
        """
        self._trouble = self._place.trouble()
        if self._trouble is not None:
            self._unsaid = self._trouble
            raise DeviceError(*self._trouble)

    def _prepare(self, *, survives_power_loss: bool) -> None:
        """Lock the file; check that it is a swap file, or make it one.

        Raises:
            SwapFileUnusable, sqlite3.Error: it cannot be.
        """
        db = self.connection
        # Exclusive from the first look on, and before WAL is, so that no file of shared memory is needed.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.format = format_of(db, self.path)
        self._is_left_open = is_open_in(db.execute("PRAGMA user_version").fetchone()[0])
        if (why := why_not_whole(db, self.format)) is not None:
            raise SwapFileDamaged(self.path, why)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if survives_power_loss else 'NORMAL'}")
        db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_LAST}")
        # Whoever may read the file can read it all anyway. To blank what is deleted would write all pages of an area
        # that is forgotten: 170 MB of log and 2 s for 40,000 pages.
        db.execute("PRAGMA secure_delete = FAST")
        # Nobody reads or writes meanwhile, so that the lock is taken now and not with the first page.
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
        # What a server left that was killed; on a full disk it can be in the way of all that is to be written.
        used = self._bring_in_the_log()
        self.torn_log_pages = self._log.torn_pages(used)
        self._is_usable = True

    def _number(self, name: str) -> int:
        """Return what the file says of itself, 0 when it cannot be read."""
        with suppress(sqlite3.Error):
            return int(self.connection.execute(f"PRAGMA {name}").fetchone()[0])
        return 0

    def _keep_room(self, pages: Sequence[int]) -> None:
        """Let the file grow for *pages* if its file system has the room that this needs, else not.

        Raises:
            sqlite3.Error: the file is not to be had. Nothing changed.
        """
        may_grow = has_room(self.path, ROOM_BYTES) or (has_room(self.path, LAST_ROOM_BYTES) and self._are_there(pages))
        if may_grow == self._may_grow:
            return
        if not may_grow:
            # Now there is room to bring the log into the file. Then the log begins anew, in the room that it has.
            self._bring_in_the_log()
        self.connection.execute(f"PRAGMA max_page_count = {_PAGES_MAX if may_grow else 1}")
        self._may_grow = may_grow

    def _are_there(self, pages: Sequence[int]) -> bool:
        """Tell whether the file has all these *pages*, so that each would only be replaced."""
        marks = ",".join("?" * len(pages))
        statement = f"SELECT count(*) FROM pages WHERE number IN ({marks})"  # noqa: S608 - of question marks
        return bool(self.connection.execute(statement, pages).fetchone()[0] == len(pages))

    def _bring_in_the_log(self) -> int:
        """Bring what is in the log into the file, if it can be; what is not stays in the log and is as good there.

        Return how many pages of the log are believed, 0 when it cannot be told.
        """
        used = 0
        with suppress(sqlite3.Error):
            used = max(self.connection.execute("PRAGMA wal_checkpoint").fetchone()[1], 0)
        self._place.note_sizes()
        return used

    def _begin_log_anew(self) -> None:
        """Bring all that is in a log that was removed into the file, and begin another."""
        try:
            self.connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            self.connection.execute("PRAGMA journal_mode = WAL").fetchone()
            self.rows("SELECT count(*) FROM server")  # makes the log
            self._place.take_log()
            self._place.note_sizes()
        except (OSError, sqlite3.Error, DeviceError, SwapFileUnusable) as error:
            self._trouble = Refusal(
                DeviceFault.GONE, f"{self.path}-wal was removed, and no other can be begun: {error}"
            )
        else:
            self._trouble = None
