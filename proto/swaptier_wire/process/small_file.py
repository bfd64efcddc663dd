"""A file that a flag names, read whole: also one that can be read once, such as <(...), or never.

Touches the file. Nothing is opened that is not a file, a pipe or a FIFO: opening a device may do something, reading
one may never end. A pipe is waited for, for a bounded time.
"""

import os
import select
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from swaptier_wire.process.endings import NO_RESOURCES

PIPE_SECONDS_MAX: Final = 5.0
"""How long what is behind <(...) may take."""
CHUNK_BYTES: Final = 1 << 16

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class FileUnusable(Exception):
    """A file that cannot be read as a whole. One line, with its name, without the flag; repeats nothing of it."""


class SmallFile(NamedTuple):
    """What was read."""

    path: Path
    content: bytes
    is_gone: bool
    """It was a pipe, which has nothing left: to be kept rather than read again."""


def read_small_file(path: Path, bytes_max: int, pipe_seconds_max: float = PIPE_SECONDS_MAX) -> SmallFile:
    """Return the content of *path*, at most *bytes_max* long; wait for a pipe for at most *pipe_seconds_max*.

    Raises:
        FileUnusable: it cannot be read, is no file, is larger, or nothing comes.
        OSError: no descriptor is left.
    """
    try:
        _refuse_what_is_no_file(path, path.stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            _refuse_what_is_no_file(path, mode)
            if stat.S_ISFIFO(mode):
                content = _read_pipe(path, descriptor, bytes_max, pipe_seconds_max)
            else:
                with open(descriptor, "rb", closefd=False) as file:
                    content = file.read(bytes_max + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in NO_RESOURCES:  # which says nothing of the file
            raise
        raise FileUnusable(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise FileUnusable(f"cannot read {str(path)!r}: {error}") from error
    if len(content) > bytes_max:
        raise FileUnusable(f"{path} has more than {bytes_max} bytes")
    return SmallFile(path, content, stat.S_ISFIFO(mode))


def _refuse_what_is_no_file(path: Path, mode: int) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise FileUnusable(f"{path} is {kind}, not a file")


def _read_pipe(path: Path, descriptor: int, bytes_max: int, seconds_max: float) -> bytes:
    content = bytearray()
    latest = time.monotonic() + seconds_max
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while len(content) <= bytes_max:
        # A FIFO that has not had a writer is not at its end: it is waited for, as a pipe with a slow one is.
        if not waiting.poll(max(0.0, latest - time.monotonic()) * 1000):
            raise FileUnusable(f"{path} is a pipe that did not come to an end within {seconds_max:g} seconds")
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            break
        content += chunk
    return bytes(content)
