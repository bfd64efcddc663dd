"""Where the swap file stands: whether its path still names it, and whether its owner alone may read it.

Touches the file system, by `stat` and by descriptors that only name a file (O_PATH). Rules of conduct:
  - SQLite writes to the file that it has open, wherever that is by now. What is written to a file that has lost its
    name is not there for the next server, so a look precedes each change: some 5 us.
  - The log beside the file is as good as the file: what is acknowledged is in the log first.
  - A file with SQLite's locks on it is never opened here to read or write: to close it would give the locks up. O_PATH
    does neither.
"""

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from swaptier_server.swapfile.header import (
    HEADER_BYTES,
    header_of,
    why_another_log,
    why_damaged,
    why_no_log,
    why_not_ours,
)
from swaptier_server.swapfile.log import head_of
from swaptier_server.tier.device import DeviceFault

OWNER_ONLY: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps or left beside a file, by the end of its name. They hold pages, or say where pages are."""
_REMOVED: Final = " (deleted)"
"""What the kernel adds to a name that is no more."""


class SwapFileUnusable(Exception):
    """The file cannot be opened as a swap file. Nothing in it was changed. One line, for the server's operator."""


class SwapFileDamaged(SwapFileUnusable):
    """It is one of ours, and no server starts on it."""

    def __init__(self, path: Path, why: str) -> None:
        """Refuse the file at *path*."""
        super().__init__(
            f"the swap file {path} is damaged: {why}; what is in it is kept. swaptier-server check-file says more; "
            "start on another file"
        )
        self.why: Final = why


class Refusal(NamedTuple):
    """Why a change could not be recorded."""

    fault: DeviceFault
    reason: str
    """For the log; holds no byte of a page."""


class HeldFile:
    """One file as it was when it was taken. `close()` it."""

    def __init__(self, path: Path) -> None:
        """Take what is at *path*.

        Raises:
            OSError: there is nothing.
        """
        self.path: Final = path
        self.descriptor: Final = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        found = os.fstat(self.descriptor)
        self._identity: Final = found.st_dev, found.st_ino
        self._size = found.st_size
        """What it had, at least, when our last change was done."""

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)

    def note_size(self) -> None:
        """Remember what it has now, after a change of ours."""
        self._size = os.fstat(self.descriptor).st_size

    def trouble(self) -> Refusal | None:
        """Return why nothing may be recorded in it now; None when nothing speaks against it."""
        try:
            found = os.lstat(self.path)
        except OSError as error:
            return Refusal(DeviceFault.GONE, self._where_it_is(str(error.strerror)))
        if (found.st_dev, found.st_ino) != self._identity:
            return Refusal(DeviceFault.GONE, self._where_it_is("another file is there now"))
        if (why := why_exposed(self.path, found)) is not None:
            return Refusal(DeviceFault.EXPOSED, f"{self.path} {why}")
        if not found.st_mode & stat.S_IWUSR:
            return Refusal(DeviceFault.READ_ONLY, f"{self.path} may not be written (mode {found.st_mode & 0o7777:04o})")
        if found.st_size < self._size:
            return Refusal(DeviceFault.DAMAGED, f"{self.path} was cut from {self._size} bytes to {found.st_size}")
        return None

    def _where_it_is(self, instead: str) -> str:
        """Say what is at the path *instead*, and where the file is."""
        try:
            now = str(Path(f"/proc/self/fd/{self.descriptor}").readlink())
        except OSError:  # no /proc
            its_place = "where that is, is not known"
        else:
            its_place = "it was removed" if now.endswith(_REMOVED) else f"it is at {now}"
        return f"{self.path} is not the file that this server has open: {instead}; {its_place}"


class SwapFilePlace:
    """The file at a path, and the log beside it. `close()` it when SQLite has closed them."""

    def __init__(self, path: Path, new_file: bytes | None = None) -> None:
        """Take the file at *path*, or make it of *new_file*. SQLite is not to have it open yet.

        Raises:
            SwapFileUnusable: it, or what is beside it, may be read by another user, or is not what this program writes.
            OSError: it cannot be had.
        """
        self._log_path: Final = Path(f"{path}-wal")
        self._log: HeldFile | None = None
        self._check_side_files(path)
        if not os.path.lexists(path):
            if new_file is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            check_new(path, "is not there")
            # SQLite would make the file for everyone to read; those beside it get the same mode as this.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, OWNER_ONLY))
        _check_what_is_there(path, new_file)
        self.file: Final = HeldFile(path)

    @property
    def found(self) -> os.stat_result:
        """What the file is now, wherever. It has more than 1 link with hard links, and none when it was removed."""
        return os.fstat(self.file.descriptor)

    @property
    def open_as(self) -> str:
        """A path by which this user reaches the open file while this process lives, whatever became of its name."""
        return f"/proc/{os.getpid()}/fd/{self.file.descriptor}"

    def take_log(self) -> None:
        """Take the log, now that SQLite has made it; what is beside the file is checked once more.

        Raises:
            SwapFileUnusable: another user put something beside the file meanwhile.
            OSError: there is no log.
        """
        self._check_side_files(self.file.path)
        older, self._log = self._log, HeldFile(self._log_path)
        if older is not None:
            older.close()

    def is_there(self) -> bool:
        """Tell whether the path still names the file, whatever else is wrong with it."""
        return os.path.lexists(self.file.path) and os.path.samestat(self.file.path.lstat(), self.found)

    def keep_log_name(self) -> None:
        """Leave an empty log where SQLite has removed it: there is none to be missed."""
        with suppress(OSError):  # the next start then asks for the log, and says how to do without
            os.close(os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, OWNER_ONLY))

    def close(self) -> None:
        """Let go of the files."""
        for held in self._held():
            held.close()

    def trouble(self) -> Refusal | None:
        """Return why nothing may be recorded now; None when nothing speaks against it."""
        for held in self._held():
            if (found := held.trouble()) is not None:
                return found
        return None

    def note_sizes(self) -> None:
        """Remember how long the files are, after a change of ours."""
        for held in self._held():
            held.note_size()

    def has_lost_its_log(self) -> bool:
        """Tell whether all that is wrong is that there is no log any more: then a new one can be begun."""
        return self.file.trouble() is None and not os.path.lexists(self._log_path)

    def _held(self) -> tuple[HeldFile, ...]:
        return (self.file,) if self._log is None else (self.file, self._log)

    @staticmethod
    def _check_side_files(path: Path) -> None:
        for end in _SIDE_FILES:
            side = Path(f"{path}{end}")
            if os.path.lexists(side):
                check_private(side)


def _check_what_is_there(path: Path, new_file: bytes | None) -> None:
    """Refuse what is no swap file, and what `check_private()` refuses; make an empty file *new_file*, and ours alone.

    Raises:
        SwapFileUnusable, OSError: it cannot be used.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.is_symlink() or not path.is_file():
        check_private(path)
    descriptor = os.open(path, (os.O_RDONLY if new_file is None else os.O_RDWR) | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_size == 0:
            check_new(path, "is empty")
            if new_file is None:
                raise SwapFileUnusable(f"cannot use the swap file: {path} is empty: a server has never begun on it")
            _make_ours(path, descriptor, new_file)
        _check_content(path, os.pread(descriptor, HEADER_BYTES, 0))
    finally:
        os.close(descriptor)


def _make_ours(path: Path, descriptor: int, new_file: bytes) -> None:
    """Make an empty file a new swap file, once: another server may just be doing so."""
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, OWNER_ONLY)
    check_private(path)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.fstat(descriptor).st_size:
        return
    written = 0
    try:
        while written < len(new_file):
            written += os.pwrite(descriptor, new_file[written:], written)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, 0)  # a part of it would be refused as damaged
        raise


def check_new(path: Path, what: str) -> None:
    """Refuse to begin anew at *path*, where *what* is the case, beside a log that has pages: SQLite would delete it.

    Raises:
        SwapFileUnusable: as said.
    """
    for end in ("-wal", "-journal"):
        side = Path(f"{path}{end}")
        if side.exists() and side.stat().st_size:
            raise SwapFileUnusable(
                f"cannot use the swap file: {path} {what}, and {side} has pages of a file that was there; nothing was "
                "changed. Put that file back, or remove its log"
            )


def _check_content(path: Path, content: bytes) -> None:
    """Refuse what begins with *content* and is no swap file, or is not as long as it says, or has other files' logs.

    Raises:
        SwapFileUnusable: as said.
        OSError: what is beside it cannot be read.
    """
    if (why := why_not_ours(content)) is not None:
        raise SwapFileUnusable(f"cannot use the swap file {path}: it {why}; it was not changed. Name another file")
    check_private(path)
    log, journal = (Path(f"{path}{end}") for end in ("-wal", "-journal"))
    if journal.exists() and journal.stat().st_size:
        raise SwapFileUnusable(
            f"cannot use the swap file: {journal} is of another program, as a swap file has no such journal; SQLite "
            "would write it into the file. Nothing was changed. Move it away"
        )
    header, size = header_of(content), path.stat().st_size
    assert header is not None, "it is one of ours"
    if (why := why_damaged(header)) is not None:
        raise SwapFileDamaged(path, why)
    if log.exists() and log.stat().st_size:
        head, first_page = head_of(log)
        if (why := why_no_log(head) or why_another_log(header, first_page)) is not None:
            raise SwapFileUnusable(f"cannot use the swap file: {log} {why}; nothing was changed. Move it away")
    elif header.is_open and not log.exists():
        raise SwapFileUnusable(
            f"cannot use the swap file: the server of {path} did not end, and its log, which has the newest pages, is "
            f"not beside it as {log}; nothing was changed. Start on the file by the name that the log has, or put the "
            "log back; if it is lost, make an empty one"
        )
    elif size != header.pages * header.page_bytes:
        raise SwapFileDamaged(
            path, f"it has {size} bytes, and its header says {header.pages} pages of {header.page_bytes}"
        )


def check_private(path: Path) -> None:
    """Refuse a file that another user may read, or may have put there, and what is no file of one name.

    Raises:
        SwapFileUnusable: it is such a one; says how to mend it.
        OSError: it cannot be looked at.
    """
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        why: str | None = f"is a symbolic link: name the file itself, {os.path.realpath(path)}"
    elif not stat.S_ISREG(found.st_mode):
        why = "is no regular file: name another one"
    elif (why := why_exposed(path, found)) is None and found.st_nlink > 1:
        why = f"has {found.st_nlink} names (hard links), and its log is found by one of them only: remove the others"
    if why is not None:
        raise SwapFileUnusable(f"cannot use the swap file: {path} {why}")


def is_folder_open(folder: Path) -> bool:
    """Tell whether every user may rename and remove what is in *folder*; in /tmp, which is sticky, only owners may."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def why_exposed(path: Path, found: os.stat_result) -> str | None:
    """Return in what the file at *path* is not ours alone, and how to mend it; None when it is."""
    user = os.geteuid()
    if found.st_uid != user:
        return f"belongs to user {found.st_uid}, and this is user {user}: run as its owner, or chown {user} {path}"
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        return f"holds memory of other programs and may be opened by others (mode {mode:04o}): chmod 600 {path}"
    return None
