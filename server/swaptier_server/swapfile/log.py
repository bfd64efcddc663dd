"""How long the log beside the swap file is. SQLite knows, and says so only when it brings the log into the file.

Touches the log, to read it. Rules of conduct:
  - What is counted is frames of a page each, from the first on, as long as they have the salt of the log's head. When
    the log begins anew SQLite writes a new salt into the head, and leaves the frames of before behind the new ones.
  - The log has none of SQLite's locks, unlike the file: it may be opened and closed here.

Models: the WAL format of SQLite, https://www.sqlite.org/fileformat2.html#walformat.
"""

import os
import struct
from pathlib import Path
from typing import Final

from swaptier_server.swapfile.header import HEADER_BYTES, LOG_HEADER_BYTES, PAGE_BYTES

_HEAD_BYTES: Final = LOG_HEADER_BYTES
_FRAME_HEAD_BYTES: Final = 24
_FRAME_BYTES: Final = _FRAME_HEAD_BYTES + PAGE_BYTES
_FIRST_PAGE: Final = bytes([0, 0, 0, 1])
"""Its number in a frame's head."""
_HEAD_SUMMED: Final = 24
_WORD: Final = (1 << 32) - 1
_SALT_BYTES: Final = 8
_HEAD_SALT: Final = 16
_FRAME_SALT: Final = 8


def head_of(path: Path) -> tuple[bytes, bytes]:
    """Return what the log at *path* begins with, and its newest copy of the beginning of the file, if it has one.

    Raises:
        OSError: it cannot be read.
    """
    log = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for frame in reversed(range(_salt_and_pages(log)[1])):
            first = _HEAD_BYTES + frame * _FRAME_BYTES
            if os.pread(log, len(_FIRST_PAGE), first) == _FIRST_PAGE:
                return os.pread(log, _HEAD_BYTES, 0), os.pread(log, HEADER_BYTES, first + _FRAME_HEAD_BYTES)
        return os.pread(log, _HEAD_BYTES, 0), b""
    finally:
        os.close(log)


def pages_and_torn(path: Path, used: int = 0) -> tuple[int, int]:
    """Return how many pages the log at *path* has since it was begun anew, and how many SQLite does not believe.

    It believes none from the first on whose checksum does not fit: a write that was lost or damaged. One alone at the
    end is a write that a kill broke off, before anything was acknowledged. To look takes some 0.4 ms a page, and is
    done only where SQLite has *used* fewer than there are.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as log:
        head = log.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return 0, 0
        order = ">" if head[3] & 1 else "<"
        sums = _checksum((0, 0), head[:_HEAD_SUMMED], order)
        is_whole = struct.pack(">II", *sums) == head[_HEAD_SUMMED:] and any(head)
        salts = _salts(log.fileno())
        salt = head[_HEAD_SALT : _HEAD_SALT + _SALT_BYTES] if is_whole else next(iter(salts), b"")
        pages = max((page for page, its_salt in enumerate(salts, 1) if its_salt == salt), default=0)
        if not is_whole or used >= pages:
            return pages, 0 if is_whole else pages
        for page in range(pages):
            frame = log.read(_FRAME_BYTES)
            sums = _checksum(sums, frame[:_FRAME_SALT] + frame[_FRAME_HEAD_BYTES:], order)
            if frame[_FRAME_SALT:_FRAME_HEAD_BYTES] != salt + struct.pack(">II", *sums):
                return pages, 0 if page == pages - 1 else pages - page
    return pages, 0


def _salts(log: int) -> list[bytes]:
    """Return the salt of each frame of a log.

    Raises:
        OSError: the disk does not read.
    """
    frames = max(os.fstat(log).st_size - _HEAD_BYTES, 0) // _FRAME_BYTES
    return [os.pread(log, _SALT_BYTES, _HEAD_BYTES + frame * _FRAME_BYTES + _FRAME_SALT) for frame in range(frames)]


def _checksum(sums: tuple[int, int], content: bytes, order: str) -> tuple[int, int]:
    """Return the checksums of a log after *content*, whose words are in the byte *order*."""
    one, two = sums
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for first, second in zip(words, words, strict=True):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return one, two


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

    def torn_pages(self, used: int) -> int:
        """Return how many pages at its end SQLite, which has *used* so many of it, does not believe."""
        try:
            return pages_and_torn(Path(self._path), used)[1]
        except OSError:  # there is no log, or none that can be read
            return 0

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
