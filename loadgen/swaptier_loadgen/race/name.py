"""What a load generator is called on a tier that others use too: a name that no other one has meanwhile.

Touches a folder of the user's and locks a file in it. Rules of conduct:

- A name is a lock: the first that nobody holds. The kernel lets go of it with the process, however that ends, so the
  next one takes the name of one that was killed, and with it, by its higher epoch, the areas that were left behind.
- Names are few: as many as ran at once. So series in Prometheus and areas of a tier stay few.
- Names of two machines, containers or users differ: the machine's name and identity, its start and the file's identity
  are in them. Clones of one machine differ by their start alone.
"""

import fcntl
import hashlib
import os
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

NAMES_MAX: Final = 256
"""Load generators of one user at once; one more gets a name by chance."""
MACHINE_FILES: Final = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))
"""Say which machine this is, and which start of it. Either may be missing or unreadable."""


def claim_name(folder: Path | None = None) -> str:
    """Return a name that is nobody else's until this process ends; *folder* is for the locks."""
    folder = folder or Path(tempfile.gettempdir()) / f"swaptier-loadgen-{os.getuid()}"
    try:
        name = _first_free(folder)
    except OSError:  # no such folder can be had: what is left behind then waits for its server to forget it
        name = None
    return name or f"race-{secrets.token_hex(4)}"


def _first_free(folder: Path) -> str | None:
    """Return the first name that nobody holds, now held by a descriptor that stays open; None if all are."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        return None
    for number in range(NAMES_MAX):
        lock = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        file = os.fstat(lock)
        identity = f"{socket.gethostname()}/{file.st_dev}/{file.st_ino}/{_machine()}"
        return f"race-{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return None


def _machine() -> str:
    said = ""
    for file in MACHINE_FILES:
        with suppress(OSError):  # then the others say which machine it is
            said += file.read_bytes().hex() + "/"
    return said
