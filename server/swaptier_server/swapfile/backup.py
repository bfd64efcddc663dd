"""A copy of a swap file that is in use: whole, of one moment, its owner's alone, under its name only when it is done.

Touches the source by SQLite's own backup, and writes one file. Rules of conduct:
  - The copy grows under a name by chance, so that two copies to one name never share a file. It gets its own name when
    it is on disk. What has that name already is never replaced, and no file is removed that this copy did not make.
    One that was killed stays under the other name: whether its server lives, on whatever machine, cannot be known.
  - SQLite copies some pages at a time and holds the connection meanwhile, some 0.2 ms. What is written between is in
    the copy, too, as the same connection writes it: a copy is of the moment of its end, and is never begun anew.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from swaptier_server.swapfile.header import VERSION_AT, VERSION_BYTES, with_open
from swaptier_server.swapfile.place import OWNER_ONLY
from swaptier_server.swapfile.whole import format_of, why_not_whole

STEP_PAGES: Final = 64
"""Of SQLite, 4 KiB each, between two looks at whether the copy shall go on."""
BUSY_SECONDS: Final = 0.001
"""Pause while the connection is amid a change."""


class BackupFailed(Exception):
    """There is no copy. One line."""


class BackupRefused(Exception):
    """The name cannot be used for a copy; nothing was written. One line."""


def back_up(source: sqlite3.Connection, to: Path, go_on: Callable[[int, int], bool]) -> int:
    """Copy *source* to a new file at *to*, and return its bytes. Blocks; not for the thread that uses *source*.

    *go_on* hears now and then how many pages are left, of how many, and says whether to go on.

    Raises:
        BackupRefused: there is something at *to*, or no such folder.
        BackupFailed: the copy could not be written, or was to end.
    """
    if os.path.lexists(to):
        raise BackupRefused(f"{to} exists and is not overwritten; name another file")
    part = to.with_name(f"{to.name}.{secrets.token_hex(4)}.part")
    try:
        made = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, OWNER_ONLY)
    except OSError as error:
        raise BackupRefused(f"cannot make {part}: {error.strerror}") from error
    try:
        _copy(source, part, go_on)
        _note_end(made)
        _sync(part)
        if not _is_still(part, made):
            raise BackupFailed(f"there is no copy: another program put its own file at {part}")
        # Unlike a rename, it does not replace what came to have the name meanwhile.
        to.hardlink_to(part)
        part.unlink()
        _sync(to.parent)
    except FileExistsError as error:
        raise BackupRefused(f"{to} exists by now and is not overwritten; name another file") from error
    except (OSError, sqlite3.Error) as error:
        raise BackupFailed(f"cannot write {to}: {error}") from error
    finally:
        with suppress(OSError):  # what cannot be removed stays, and why there is no copy is said already
            if _is_still(part, made):
                part.unlink()
        os.close(made)
    return to.stat().st_size


def _copy(source: sqlite3.Connection, part: Path, go_on: Callable[[int, int], bool]) -> None:
    def step(_status: int, remaining: int, total: int) -> None:
        if not go_on(remaining, total):
            raise BackupFailed("the server ends, and there is no copy; ask the next one")

    with closing(sqlite3.connect(part, check_same_thread=False, isolation_level=None)) as copy:
        # It has no name yet, so nothing needs to be undone; it is synced once, at the end.
        copy.execute("PRAGMA journal_mode = OFF").fetchone()
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, pages=STEP_PAGES, progress=step, sleep=BUSY_SECONDS)
        try:
            why = why_not_whole(copy, format_of(copy, part))
        except sqlite3.Error as error:
            why = str(error)
        if why is not None:
            raise BackupFailed(f"there is no copy of what is damaged: {why}")
        if copy.execute("PRAGMA auto_vacuum").fetchone() == (
            0,
        ):  # made by an older version, which never gave room back
            copy.execute("PRAGMA auto_vacuum = INCREMENTAL")
            copy.execute("VACUUM")


def _note_end(copy: int) -> None:
    """Let the *copy* say that no server has it: it has no log."""
    version = int.from_bytes(os.pread(copy, VERSION_BYTES, VERSION_AT), "big")
    os.pwrite(copy, with_open(version, is_open=False).to_bytes(VERSION_BYTES, "big"), VERSION_AT)


def _is_still(path: Path, descriptor: int) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.lstat())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
