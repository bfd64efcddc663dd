"""How long the log beside the swap file is. SQLite knows, and says so only when it brings the log into the file.

Touches the log, to read it. Rules of conduct:
  - What is counted is frames of a page each, from the first on, as long as they have the salt of the log's head. When
    the log begins anew SQLite writes a new salt into the head, and leaves the frames of before behind the new ones.
  - The log has none of SQLite's locks, unlike the file: it may be opened and closed here.

Models: the WAL format of SQLite, https://www.sqlite.org/fileformat2.html#walformat.
"""

import os
from pathlib import Path
from typing import Final

_HEAD_BYTES: Final = 32
_FRAME_BYTES: Final = 24 + 4096
_SALT_BYTES: Final = 8
_HEAD_SALT: Final = 16
_FRAME_SALT: Final = 8


class Log:
    """The log of one swap file."""

    def __init__(self, path: Path) -> None:
        """Look at the log of the swap file at *path*."""
        self._path: Final = f"{path}-wal"
        self._brought_in = (b"", 0)

    def new_pages(self) -> int:
        """Return how many pages came since the log was last brought in: some 20 us."""
        salt, pages = self._read()
        return pages - self._brought_in[1] if salt == self._brought_in[0] else pages

    def note_brought_in(self) -> None:
        """Remember that all that is there now was brought in, or could not be."""
        self._brought_in = self._read()

    def _read(self) -> tuple[bytes, int]:
        """Return the log's salt and its pages; none when it cannot be read.

        It may be removed, no descriptor may be left, the disk may fail: SQLite itself sees to a log that gets too long.
        """
        try:
            log = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b"", 0
        try:
            return _salt_and_pages(log)
        except OSError:
            return b"", 0
        finally:
            os.close(log)


def _salt_and_pages(log: int) -> tuple[bytes, int]:
    """Read both from the descriptor of a log.

    Raises:
        OSError: the disk does not read.
    """
    salt = os.pread(log, _SALT_BYTES, _HEAD_SALT)
    first, last = 0, max(os.fstat(log).st_size - _HEAD_BYTES, 0) // _FRAME_BYTES
    while first < last:
        middle = (first + last) // 2
        is_new = os.pread(log, _SALT_BYTES, _HEAD_BYTES + middle * _FRAME_BYTES + _FRAME_SALT) == salt
        first, last = (middle + 1, last) if is_new else (first, middle)
    return salt, first
