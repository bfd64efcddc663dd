"""`swaptier-server backup`: how it asks the server that has the swap file, and how that answers.

Touches a socket of the machine (an abstract one: it is named by the file's device and inode, is no file, and is gone
with its server), and a thread for each copy. Rules of conduct:
  - The server has the file locked for itself, so it makes the copy. It does so for its own user and root alone.
  - One copy at a time, and few who ask: a caller that says nothing is cut off, and one too many is refused.
"""

import asyncio
import json
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from swaptier_server.logs import get_log
from swaptier_server.swapfile.backup import BackupFailed, BackupRefused
from swaptier_server.swapfile.file import SqliteSwapFile, SwapFileUnusable
from swaptier_wire.process.exit_status import ExitStatus

ASK_SECONDS_MAX: Final = 5.0
"""For the one line of a caller."""
NEWS_SECONDS: Final = 1.0
"""The server says so often that it still copies."""
SILENCE_SECONDS_MAX: Final = 30.0
"""A server that says nothing for so long hangs."""
CALLERS_MAX: Final = 4
_LINE_BYTES_MAX: Final = 16 << 10
_CREDENTIALS: Final = struct.Struct("iII")


class Backups:
    """Makes copies of one server's swap file for those who ask. `start()` it on the loop, and `stop()` it."""

    def __init__(self, swap_file: SqliteSwapFile) -> None:
        self._swap_file: Final = swap_file
        self._server: asyncio.Server | None = None
        self._callers = 0
        self._copying: asyncio.Task[int] | None = None
        self._is_ending = False
        self._log: Final = get_log()

    async def start(self) -> None:
        """Listen for callers. Where that cannot be, the log says so, and the server serves without."""
        name = _name_for(self._swap_file.stat())
        try:
            self._server = await asyncio.start_unix_server(self._answer, name, limit=_LINE_BYTES_MAX)
        except OSError as error:
            self._log.warning("backup_not_offered", reason=error.strerror)

    async def stop(self) -> None:
        """Listen no more, and break off a copy that is being made."""
        self._is_ending = True
        if self._server is not None:
            self._server.close()
        if self._copying is not None:
            await asyncio.wait({self._copying})

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers += 1
        try:
            if self._callers <= CALLERS_MAX and _peer(writer.get_extra_info("socket")) in (0, os.geteuid()):
                to = Path(json.loads(await asyncio.wait_for(reader.readline(), ASK_SECONDS_MAX))["to"])
                await _say(writer, await self._copy(to, writer))
        except (TimeoutError, OSError, ValueError, KeyError, TypeError):
            pass  # it asked for nothing, or is gone
        finally:
            self._callers -= 1
            writer.close()

    async def _copy(self, to: Path, writer: asyncio.StreamWriter) -> dict[str, object]:
        """Make a copy, telling the caller every now and then that it is under way; return what to answer."""
        if self._copying is not None or self._is_ending:
            return {"status": ExitStatus.UNREACHABLE, "says": "the server makes another copy, or ends; ask again"}
        news: dict[str, object] = {}

        def go_on(remaining: int, total: int) -> bool:
            news.update(remaining=remaining, total=total)
            return not self._is_ending

        self._log.info("backup_begun", to=str(to))
        self._copying = asyncio.create_task(asyncio.to_thread(self._swap_file.back_up, to, go_on))
        try:
            while not (await asyncio.wait({self._copying}, timeout=NEWS_SECONDS))[0]:
                with suppress(OSError):  # a caller that left has its copy all the same
                    await _say(writer, news)
            copied = self._copying.result()
        except BackupRefused as error:
            return {"status": ExitStatus.USAGE, "says": str(error)}
        except BackupFailed as error:
            self._log.error("backup_failed", to=str(to), reason=str(error))
            return {"status": ExitStatus.UNREACHABLE if self._is_ending else ExitStatus.NOT_WRITTEN, "says": str(error)}
        finally:
            self._copying = None
        self._log.info("backup_made", to=str(to), bytes=copied)
        return {"status": ExitStatus.AS_SPECIFIED, "says": f"{to}: {copied} bytes, as the running server has it"}


def ask_for_backup(path: Path, to: Path) -> tuple[int, str]:
    """Let the swap file at *path* be copied to *to*, by its server if it has one; return the status and a line."""
    to = to.absolute()
    try:
        found = path.stat()
    except OSError as error:
        return ExitStatus.USAGE, f"{path}: {error.strerror}"
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(SILENCE_SECONDS_MAX)
        try:
            server.connect(_name_for(found))
        except ConnectionRefusedError:
            return _copy_at_rest(path, to)
        if _peer(server) not in (0, found.st_uid):
            return ExitStatus.UNREACHABLE, f"what answers for {path} is not its owner's server"
        try:
            server.sendall(json.dumps({"to": str(to)}).encode() + b"\n")
            with server.makefile("rb") as lines:
                for line in lines:
                    news = json.loads(line)
                    if "status" in news:
                        return int(news["status"]), str(news["says"])
        except (OSError, ValueError) as error:
            return ExitStatus.UNREACHABLE, f"the server of {path} does not answer: {error}"
    return (
        ExitStatus.UNREACHABLE,
        f"the server of {path} made no copy: it ended, or is not this user's or root's to ask",
    )


def _copy_at_rest(path: Path, to: Path) -> tuple[int, str]:
    """Copy a file that no server has."""
    try:
        with SqliteSwapFile(path) as swap_file:
            copied = swap_file.back_up(to, lambda _remaining, _total: True)
    except (SwapFileUnusable, BackupRefused) as error:
        return ExitStatus.USAGE, str(error)
    except BackupFailed as error:
        return ExitStatus.NOT_WRITTEN, str(error)
    return ExitStatus.AS_SPECIFIED, f"{to}: {copied} bytes; no server has {path}"


def _name_for(found: os.stat_result) -> str:
    return f"\0swaptier-backup-{found.st_dev:x}-{found.st_ino:x}"


def _peer(connection: socket.socket) -> int:
    """Return the user at the other end, as the kernel knows it."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(found)[1]
    return user


async def _say(writer: asyncio.StreamWriter, what: dict[str, object]) -> None:
    writer.write(json.dumps(what).encode() + b"\n")
    await writer.drain()
