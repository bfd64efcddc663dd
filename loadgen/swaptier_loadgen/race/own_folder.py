"""The folder of a race for swap files of its own servers: gone with the race, or with the next one if it was killed.

Touches the folder for temporary files. Rules of conduct:
  - A folder is locked while its race lives. One that nobody has locked is of a race that was killed, and is removed,
    with the pages in it: they are memory of emulated hosts, and as large as that.
  - Only folders of this user are looked at, by a name that nothing else has.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "swaptier-race-"


@contextmanager
def own_folder() -> Iterator[Path]:
    """Have a folder for the block that only this user can enter.

    Raises:
        OSError: there is no room for temporary files.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Another race may take it for a leftover, and remove it, until it is locked.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                break
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers() -> None:
    """Remove the folders of races that were killed. What cannot be removed stays."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_unless_locked(folder)


def _remove_unless_locked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(lock)
