"""What stands behind the tier's pool, and the work that keeps the two apart: leases that end, pages written back.

Touches the swap file's path, and the event loop between bounded pieces of work. Rules of conduct:
  - What waits for the disk by nature, to bring the swap file's log in, is done by a thread. Messages wait for it, the
    loop does not: health, metrics, connections and clocks go on.
  - A pool that met its limit is shrunk in pieces of some milliseconds, with every request that came meanwhile in
    between; the kernel leaves that to a worker, too.
  - A device that refuses is said once, and once again when it takes pages: each page that it refuses is counted.
  - What a lease holds is the tier's again at the next housekeeping after its end: nothing waits for that but another
    claimant.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from swaptier_server.backup import Backups
from swaptier_server.config import ServerConfig
from swaptier_server.errors import ConfigError
from swaptier_server.logs import CallerLog, get_log
from swaptier_server.rpc.turns import Turns
from swaptier_server.swapfile.file import SqliteSwapFile, SwapFileUnusable
from swaptier_server.swapfile.medium import ROOM_BYTES, has_room
from swaptier_server.swapfile.place import is_folder_open
from swaptier_server.tier.device import DeviceError, DeviceFault
from swaptier_server.tier.shrinker import DrainProgress
from swaptier_server.tier.tier import LEASES_ENDED_MAX, Tier

_GONE: Final = DeviceFault.GONE
GIVE_BACK_PAUSE_SECONDS: Final = 0.01
"""Between pieces of some milliseconds, so that requests have most of the time."""
HANGS_SECONDS: Final = 5.0
"""What takes the disk longer than this is said, since all messages wait for it."""
ADVICE: Final = {
    DeviceFault.FULL: f"make room on its file system: the swap file grows again with {ROOM_BYTES >> 20} MiB free; "
    "df, quota and ulimit -f say what bounds it",
    DeviceFault.READ_ONLY: "its file system may have become read-only after an error: the kernel's log says why",
    DeviceFault.IO: "the kernel's log says what the medium has",
    DeviceFault.DAMAGED: "stop this server and start it on another file: this one cannot be relied on",
    DeviceFault.GONE: "put it back under its name, with its log beside it, and it is used again; without this server, "
    "what is in it can be found no more",
    DeviceFault.EXPOSED: "chmod 600 it, and see who read it meanwhile: it holds memory of other programs",
}


def open_swap_file(config: ServerConfig) -> SqliteSwapFile | None:
    """Return the swap file that --device names; None when devices are in memory.

    Raises:
        ConfigError: it cannot be used.
    """
    if config.device.path is None:
        return None
    try:
        return SqliteSwapFile(Path(config.device.path), survives_power_loss=config.survive_power_loss)
    except SwapFileUnusable as error:
        raise ConfigError(f"--device: {error}") from error


class SwapFileWatch:
    """Says in the log what an operator should know of the swap file."""

    def __init__(
        self,
        swap_file: SqliteSwapFile,
        after_change: Callable[[], None] = lambda: None,
        log: CallerLog | None = None,
    ) -> None:
        """Take *swap_file* for one that works; call *after_change* when it was changed from here; say it in *log*."""
        self._swap_file: Final = swap_file
        self._after_change: Final = after_change
        self._next_piece: asyncio.TimerHandle | None = None
        """The next that will be given back."""
        self._backups: Final = Backups(swap_file)
        self._told: DeviceFault | None = None
        self._names = 1
        self._is_closed = False
        self._log: Final = get_log()
        self._caller_log: Final = CallerLog(time.monotonic_ns) if log is None else log
        """For what callers can cause: who fills a disk and frees it again makes the file refuse each second."""

    @property
    def fault(self) -> DeviceFault | None:
        """Why the file takes no pages now; None while it does."""
        return None if self._swap_file.refused is None else self._swap_file.refused.fault

    async def start(self, areas: int, pages: int) -> None:
        """Say what was found, and offer backups."""
        self.say_what_was_found(areas, pages)
        await self._backups.start()

    async def close(self) -> None:
        """Let go of the file, when no copy of it is being made any more."""
        await self._backups.stop()
        self._is_closed = True
        self._swap_file.close()

    def say_what_was_found(self, areas: int, pages: int) -> None:
        """Tell what an earlier server left: *areas* with *pages*, and what is wrong with it."""
        found = self._swap_file
        self._log.info("swap_file_opened", path=str(found.path), areas=areas, pages=pages)
        if found.findings:
            self._log.error(
                "swap_file_damaged",
                path=str(found.path),
                **asdict(found.findings),
                meaning="what is damaged, or contradicts the rest, is not served: loads that ask for its generation "
                "answer LOST",
            )
        if is_folder_open(folder := found.path.absolute().parent):
            self._log.warning(
                "swap_file_in_open_folder",
                folder=str(folder),
                meaning="every user of this machine may replace the swap file; that is found out, and refused",
                advice=f"chmod o-w {folder}, or name a file elsewhere",
            )
        if not found.is_given_back:
            self._log.info(
                "swap_file_keeps_its_length",
                path=str(found.path),
                meaning="an older version made it; what is deleted makes room in it, not on its file system",
                advice="make a copy with swaptier-server backup, and start on that",
            )
        if not has_room(found.path, ROOM_BYTES):
            self._log.warning(
                "swap_file_has_no_room",
                path=str(found.path),
                meaning="its file system is nearly full, so it does not grow: it takes pages only in place of others",
                advice=ADVICE[DeviceFault.FULL],
            )

    def look(self) -> None:
        """Tell it when the file has refused changes since the last look, be it one, or takes them again."""
        self._swap_file.look()
        if self._next_piece is None:
            self._give_back()
        self._say_if_it_has_other_names()
        last = self._swap_file.last_refusal()
        refused = self._swap_file.refused or last
        fault = None if refused is None else refused.fault
        if fault is self._told:
            return
        self._told = fault
        if refused is None:
            log = self._caller_log.of(None, "swap_file_takes_pages_again")
            log.info("swap_file_takes_pages_again", path=str(self._swap_file.path))
            return
        self._caller_log.of(None, "swap_file_refuses").error(
            "swap_file_refuses",
            path=str(self._swap_file.path),
            fault=refused.fault.value,
            reason=refused.reason,
            meaning="stores that need the device are REJECTED; all that was acknowledged is served",
            advice=ADVICE[refused.fault],
            **({"rescue": f"swaptier-server backup {self._swap_file.open_as} DEST"} if fault is _GONE else {}),
        )

    def _give_back(self) -> None:
        """Let the file get shorter by a piece, and by the next one after the requests that came meanwhile."""
        self._next_piece = None
        if self._is_closed:
            return
        if self._swap_file.give_back():
            self._next_piece = asyncio.get_running_loop().call_later(GIVE_BACK_PAUSE_SECONDS, self._give_back)
        self._after_change()

    def _say_if_it_has_other_names(self) -> None:
        """Warn once of a hard link: no page is lost by it, but no server starts on a file with two names."""
        had, self._names = self._names, self._swap_file.stat().st_nlink
        if self._names > max(had, 1):
            self._log.warning(
                "swap_file_has_other_names",
                path=str(self._swap_file.path),
                names=self._names,
                meaning="its log is found by this name only: a server that opened it by another would miss pages",
                advice="remove the other names before this server is started again; to copy the file, use backup",
            )


class Upkeep:
    """Does in pieces what nobody asks for in a request."""

    def __init__(
        self, tier: Tier, swap_file: SqliteSwapFile | None, turns: Turns, log: CallerLog | None = None
    ) -> None:
        """Look after *tier* and its *swap_file* between messages, whose *turns* these are.

        What callers cause is said in *log*.
        """
        self._tier: Final = tier
        self._swap_file: Final = swap_file
        self._turns: Final = turns
        self._checkpoint: asyncio.Task[None] | None = None
        """Brings the log in. Nothing else touches the swap file meanwhile."""
        self._waiting = 0
        """How many wait for the swap file. No checkpoint begins before they had it."""
        self._is_working = False
        self._may_sweep = True
        """The swap file has not refused to since the last housekeeping."""
        self._has_just_ended_some = False
        self._log: Final = get_log()
        self._caller_log: Final = CallerLog(time.monotonic_ns) if log is None else log

    @property
    def _has_work(self) -> bool:
        return self._tier.pool.wants_shrink or (self._may_sweep and self._tier.is_ending)

    def after_request(self) -> None:
        """See whether the pool met its limit or an area was closed, and make room then. Cheap: for every message."""
        if self._checkpoint is not None or self._is_working:
            return
        if self._swap_file is not None and not self._waiting and self._swap_file.log_is_long:
            self._turns.hold()
            self._checkpoint = asyncio.create_task(self._bring_in_the_log(self._swap_file), name="checkpoint")
        elif self._has_work:
            self._is_working = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        """Do one piece, in turn: neither the end of large areas keeps the pool full, nor a full pool their pages."""
        wants_end = self._may_sweep and self._tier.is_ending
        if wants_end and not (self._has_just_ended_some and self._tier.pool.wants_shrink):
            self._has_just_ended_some = True
            try:
                self._tier.end_some()
            except DeviceError:  # the watch says it
                self._may_sweep = False
        else:
            self._has_just_ended_some = False
            self._tier.shrink()
        self._is_working = False
        self.after_request()

    async def _bring_in_the_log(self, swap_file: SqliteSwapFile) -> None:
        """Have a thread do it, and wait for the disk, with the messages that came meanwhile after it."""
        alarm = asyncio.get_running_loop().call_later(HANGS_SECONDS, _say_it_hangs, swap_file.path)
        try:
            await asyncio.to_thread(swap_file.bring_in_the_log)
        finally:
            alarm.cancel()
            self._turns.let_go()
            self._checkpoint = None
        self.after_request()

    async def quiet(self) -> None:
        """Wait until the swap file can be used here: a thread of ours may have it.

        The messages that waited too are let go first, and may make the log long again before the caller goes on.
        """
        self._waiting += 1
        try:
            while self._checkpoint is not None:
                await asyncio.wait([self._checkpoint])
        finally:
            self._waiting -= 1

    def keep_house(self) -> None:
        """Try again what the swap file refused."""
        self._may_sweep = True
        self.after_request()

    def say_bad_reads(self) -> None:
        """Say how many reads failed, or gave another page than the device took, since the last call, and the first."""
        reads, first = self._tier.bad_reads.take()
        if first is not None:
            event = "device_gives_other_pages" if first.fault is DeviceFault.DAMAGED else "device_cannot_be_read"
            self._caller_log.of(None, event).error(
                event,
                reads=reads,
                **first._asdict(),
                meaning="such loads answer ERROR, and take nothing",
                advice=ADVICE[first.fault],
            )

    def end_leases(self) -> int:
        """Take back pages whose leases are over, as many as one turn of the loop allows; return how many."""
        ended = self._tier.expire_leases()
        if ended == LEASES_ENDED_MAX:
            asyncio.get_running_loop().call_soon(self.end_leases)
        return ended

    async def write_back_all(self) -> DrainProgress:
        """Write the whole pool back, because the server stops; return what became of its pages."""
        come_so_far = DrainProgress()
        await self.quiet()
        self._turns.finish()
        for part in self._tier.drain():
            come_so_far = part
            self.after_request()
            await asyncio.sleep(0)
            await self.quiet()
        self.say_bad_reads()
        return come_so_far


def _say_it_hangs(path: Path) -> None:
    get_log().error(
        "swap_file_hangs",
        path=str(path),
        seconds=HANGS_SECONDS,
        meaning="its log is being brought in, and the disk does not answer; all messages wait for that",
        advice=ADVICE[DeviceFault.IO],
    )
