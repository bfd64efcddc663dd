"""The file of --json: refused before anything is started, and written whole or not at all.

Touches files. A regular file is replaced by one that was written beside it; a device, a pipe and a descriptor of this
process are written into. "-" is standard output.
"""

import errno
import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from swaptier_loadgen.cli.output import OUTPUT_DESCRIPTOR, descriptor_of, say
from swaptier_loadgen.cli.statuses import Refusal
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.process.standard_streams import ForgivingWriter

READER_SECONDS_MAX = 5.0
"""How long a FIFO may have no reader, and a reader may read nothing."""

READER_POLL_SECONDS = 0.05

NOT_REPLACEABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY})
"""The folder is not ours to write, or the file is a mount of its own: it is written in place."""


def check_writable(path: Path | None, given: str = "--json") -> None:
    """Refuse a result file that could not be written at the end.

    Raises:
        Refusal: why not.
    """
    if path is None:
        return
    target = Path(os.path.realpath(path))
    try:
        if (descriptor := descriptor_of(path)) is not None:
            os.fstat(descriptor)
            return
        mode = _mode(target)
        if stat.S_ISDIR(mode):
            raise Refusal(f"{given} {path} is a folder, not a file")
        if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
            raise Refusal(f"{given} {path} is a {'device' if stat.S_ISBLK(mode) else 'socket'}, not a file")
        if mode and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not mode:
            beside = _beside(target)
            os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            beside.unlink()
    except OSError as error:
        why = "no such folder, or no permission" if error.errno in (errno.ENOENT, errno.EACCES) else error.strerror
        raise Refusal(f"{given} {path} cannot be written: {why}") from None


def write_json(path: Path | None, document: Mapping[str, object]) -> int:
    """Write *document* to the result file, if one was asked for; or say why not; return the status."""
    if path is None:
        return ExitStatus.AS_SPECIFIED
    content = json.dumps(document, indent=2) + "\n"
    if descriptor_of(path) == OUTPUT_DESCRIPTOR:  # of which is known at the end what arrived
        sys.stdout.write(content)
        sys.stdout.flush()
        return ExitStatus.AS_SPECIFIED
    try:
        write_whole(path, content.encode())
    except OSError as error:
        say(f"--json {path} could not be written: {error.strerror}")
        return ExitStatus.NOT_WRITTEN
    return ExitStatus.AS_SPECIFIED


def write_whole(path: Path, content: bytes) -> None:
    """Write *content* to *path*: a file is replaced, with its mode, or left as it was.

    Raises:
        OSError: it could not be written.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    if (descriptor := descriptor_of(path)) is not None:
        _write_into(os.dup(descriptor), content)
    elif mode and not stat.S_ISREG(mode):
        _write_into(_open_for_a_reader(path), content)
    else:
        try:
            _replace(target, content, stat.S_IMODE(mode) if mode else None)
        except OSError as error:
            if not mode or error.errno not in NOT_REPLACEABLE:
                raise
            _write_into(_open_for_a_reader(target), content)


def _replace(target: Path, content: bytes, mode: int | None) -> None:
    beside = _beside(target)
    SIGNALS.on_end_at_once = lambda: beside.unlink(missing_ok=True)
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:  # noqa: PTH123
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _write_into(descriptor: int, content: bytes) -> None:
    """Write to *descriptor* and close it."""
    try:
        writer = ForgivingWriter(descriptor, READER_SECONDS_MAX)
        writer.write(content)
        if writer.failure is not None:
            raise writer.failure
    finally:
        os.close(descriptor)


def _open_for_a_reader(path: Path) -> int:
    """Open *path*, a FIFO only once it has a reader."""
    latest = time.monotonic() + READER_SECONDS_MAX
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > latest:
                raise OSError(errno.ENXIO, f"it has had no reader for {READER_SECONDS_MAX:g} s") from None
        time.sleep(READER_POLL_SECONDS)


def _beside(target: Path) -> Path:
    return target.with_name(f".swaptier-loadgen-{os.getpid()}-{time.monotonic_ns()}")


def _mode(path: Path) -> int:
    """Return the mode of the file; 0 where there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0
