"""What stands under the swap file: how much room its file system has left, and why it refused something.

Touches the file system: it asks, and sets a file's time to see whether it may write. Rules of conduct:
  - SQLite says "I/O error" for whatever is not a lack of room. Only the file system knows that it is read-only now, and
    `statvfs` does not say so when it became that by itself, after an error of its medium (ext4 since Linux 6.13).
  - A file with SQLite's locks on it is never opened here: to close it would give the locks up.
"""

import errno
import os
import sqlite3
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from swaptier_server.tier.device import DeviceError, DeviceFault

LOG_PAGES: Final = 1000
"""The log is brought into the file once it has so many pages, in a thread. A batch of 256 adds 500 or so."""
LOG_PAGES_LAST: Final = 1500
"""By then SQLite does it itself, with the change that comes to it."""
LAST_ROOM_BYTES: Final = 20 << 20
"""Below this the file does not grow at all: it is for twice LOG_PAGES in the log, and for the same again when they are
brought into the file."""
ROOM_BYTES: Final = 32 << 20
"""Below this the file does not grow for pages that replace none. A page that replaces another may need some room too,
until that of the older one is used again."""

_FAULTS: Final = {
    sqlite3.SQLITE_FULL: DeviceFault.FULL,
    sqlite3.SQLITE_READONLY: DeviceFault.READ_ONLY,
    sqlite3.SQLITE_PERM: DeviceFault.READ_ONLY,
    sqlite3.SQLITE_CORRUPT: DeviceFault.DAMAGED,
    sqlite3.SQLITE_NOTADB: DeviceFault.DAMAGED,
}
PRIMARY_CODE: Final = 0xFF
"""The bits of an SQLite error that say what it is; the others say where."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROBE_BYTES: Final = 64 << 10
"""Written at the start of a file and behind the longest one, to see whether a batch would find room there."""
_NOT_WRITABLE: Final = (errno.EROFS, errno.EPERM, errno.EACCES)


def free_bytes(path: Path) -> int | None:
    """Return how much is free beside the file at *path*; None when its file system does not say."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def has_room(path: Path, room_bytes: int) -> bool:
    """Tell whether *room_bytes* are free beside the file at *path*, as far as its file system says."""
    free = free_bytes(path)
    return free is None or free >= room_bytes


def device_error(error: sqlite3.Error, path: Path) -> DeviceError:
    """Return what *error*, of the file at *path*, means to a tier."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & PRIMARY_CODE
    fault = _FAULTS.get(code, DeviceFault.IO)
    if fault is DeviceFault.IO and is_read_only(path):
        fault = DeviceFault.READ_ONLY
    elif code == sqlite3.SQLITE_IOERR and (why := why_no_room(path)) is not None:
        return DeviceError(DeviceFault.FULL, why)
    return DeviceError(fault, str(error))


def why_no_room(path: Path) -> str | None:
    """Return which bound a file beside the one at *path* meets when it grows as that would; None when it can.

    SQLite takes a quota (EDQUOT) and a limit of the process (EFBIG) for a failing medium: only ENOSPC is "full" to it.
    The file has no name, and is gone before this returns.
    """
    try:
        longest = max(each.stat().st_size for each in (path, Path(f"{path}-wal")))
        with TemporaryFile(dir=path.parent, buffering=0) as probe:
            for first in (0, longest):
                os.pwrite(probe.fileno(), bytes(PROBE_BYTES), first)
    except OSError as error:
        return f"no room for its files to grow: {error.strerror}" if error.errno in _NO_ROOM else None
    return None


def is_read_only(path: Path) -> bool:
    """Tell whether the file may not be written now, whoever asks."""
    try:
        os.utime(path)
    except OSError as error:
        return error.errno in _NOT_WRITABLE
    return False
