"""A whole server on a disk that is full, read-only or failing: it refuses with a cause, loses nothing, and recovers."""

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families
from tests.server.disks import MIB, Disk, ext4, tmpfs
from tests.server.host import Answers, Host, channel_to
from tests.server.test_main import FREE, TIMEOUT_SECONDS, Running, run, running

from swaptier_server.swapfile.medium import ROOM_BYTES
from swaptier_server.tier.device import DeviceFault
from swaptier_wire.errors import LimitReached
from swaptier_wire.status import from_rpc_error
from swaptier_wire.types import BATCH_SLOTS_MAX, Outcome, Reason

DISK_BYTES = ROOM_BYTES + 16 * MIB
"""Room for some 3,000 pages besides what the swap file leaves free."""
FULL, READ_ONLY, GONE = DeviceFault.FULL, DeviceFault.READ_ONLY, DeviceFault.GONE
REFUSED = Outcome.REJECTED, Reason.DEVICE_ERROR
STORED = Outcome.STORED, Reason.NONE
WRITE_THROUGH = ("--durability", "write-through")
SMALL_POOL = ("--pool-limit", "256KiB")
MODES = [pytest.param(SMALL_POOL, id="memory"), pytest.param(WRITE_THROUGH, id="write-through")]


def device(disk: Disk) -> tuple[str, ...]:
    return "--device", f"sqlite:{disk.mount_point}/swap"


@asynccontextmanager
async def served(host: Host, *flags: str, disk: Disk | None = None) -> AsyncIterator[Running]:
    """Have *host* talk to a server that is started for the block, and killed unless it has ended before."""
    inside, where = ((), ()) if disk is None else (disk.inside, device(disk))
    with running("--metrics", "127.0.0.1:0", *where, *flags, inside=inside) as server:
        async with channel_to(server.listening) as channel:
            host.meet(channel)
            await host.swapon()
            yield server


async def metrics(server: Running, name: str) -> dict[str, float]:
    """Return what /metrics says of *name*, by its last label, for what is not 0."""
    connection = HTTPConnection(str(server.ready["metrics"]), timeout=10)

    def fetch() -> str:
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    families = text_string_to_metric_families(await asyncio.to_thread(fetch))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {list(sample.labels.values())[-1]: sample.value for sample in samples if sample.value}


class Writer:
    """Stores in slots that were never used before, batch by batch."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._next = 0

    async def store(self, slots: int = 64) -> Answers:
        """Store one batch."""
        first, self._next = self._next, self._next + slots
        return await self._host.store(range(first, first + slots))

    async def store_until_refused(self) -> Answers:
        """Store until the device refuses something; return the answers to the batch in which it did."""
        while True:
            answers = await self.store(BATCH_SLOTS_MAX)
            if REFUSED in answers:
                return answers


async def refused(call: Awaitable[object]) -> LimitReached:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert isinstance(error, LimitReached)
    return error


def restart_is_refused(disk: Disk) -> str:
    """Return the one line with which a server does not start on *disk*."""
    result = run(*FREE, *device(disk), inside=disk.inside)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("swaptier-server: --device: cannot ")
    return result.stderr


async def log_says(server: Running, event: str) -> dict[str, object]:
    """Return what the server logs as the next *event*. If it does not, its end lets the thread go that waits."""
    return await asyncio.wait_for(asyncio.to_thread(server.wait_for_log, event), TIMEOUT_SECONDS)


# A full disk


@pytest.mark.parametrize("flags", MODES)
async def test_a_disk_that_others_have_filled_refuses_stores_and_loses_nothing(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """To the last byte. The refusal has its cause, and stores work again when there is room, also after a SIGKILL."""
    host = Host()
    write = Writer(host)
    with tmpfs(tmp_path, DISK_BYTES) as disk:
        async with served(host, *flags, disk=disk) as server:
            assert REFUSED not in await write.store()
            disk.fill()
            assert disk.free_bytes == 0
            assert set(await write.store_until_refused()) <= {REFUSED, STORED}
            assert (await metrics(server, "swaptier_tier_device_errors_total")).keys() == {FULL}
            assert (await metrics(server, "swaptier_tier_rejects_total"))["device_error"] > 0
            said = await log_says(server, "swap_file_refuses")
            assert said["fault"] == FULL
            assert "make room on its file system" in str(said["advice"])
            assert not await host.missing()

            disk.empty()
            assert REFUSED not in await write.store()
            await log_says(server, "swap_file_takes_pages_again")
            assert not await host.missing()
            disk.fill()
            await write.store_until_refused()
            server.process.send_signal(signal.SIGKILL)
            assert server.process.wait() == -signal.SIGKILL
        assert "What is in it is kept; start again when its file system has room" in restart_is_refused(disk)
        disk.empty()
        async with served(host, *flags, disk=disk):
            missing = await host.missing()
            assert all(host.owed[offset][1] is Outcome.STORED for offset in missing), "the device had acknowledged it"
            assert {(reply.outcome, reply.reason) for reply in missing.values()} <= {(Outcome.LOST, Reason.RESTARTED)}
            assert not missing or flags is SMALL_POOL, "all was written through"
            assert REFUSED not in await write.store()


@pytest.mark.parametrize("flags", MODES)
async def test_a_disk_that_the_swap_file_has_filled_itself_goes_on_like_a_swap_device(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Newer pages find room in the place of older ones, a closed area makes room for another, and it starts again."""
    host = Host()
    write = Writer(host)
    with tmpfs(tmp_path, DISK_BYTES) as disk:
        async with served(host, *flags, disk=disk) as server:
            await write.store_until_refused()
            assert 0 < disk.free_bytes < ROOM_BYTES
            assert (await metrics(server, "swaptier_tier_device_errors_total")).keys() == {FULL}
            on_device = [offset for offset, (_, outcome) in host.owed.items() if outcome is Outcome.DEVICE]
            for generation in range(2, 12):
                answers = await host.store((on_device or sorted(host.owed))[:BATCH_SLOTS_MAX], generation)
                assert REFUSED not in answers
            assert not await host.missing()
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        async with served(host, *flags, disk=disk) as server:
            assert (await log_says(server, "swap_file_has_no_room"))["path"] == f"{disk.mount_point}/swap"
            assert all(reply.outcome is Outcome.LOST for reply in (await host.missing()).values())
            await host.swapoff()
            await host.swapon()
            assert REFUSED not in await host.store(range(BATCH_SLOTS_MAX))
            assert not await host.missing()
            assert server.end()[0] == 0


async def test_a_drain_onto_a_full_disk_says_what_is_dropped_and_exits_0(tmp_path: Path) -> None:
    """Only the pool had it; what the device has is there for the next server."""
    host = Host()
    write = Writer(host)
    with tmpfs(tmp_path, DISK_BYTES) as disk:
        async with served(host, *SMALL_POOL, disk=disk) as server:
            await write.store(256)
            disk.fill()
            await write.store_until_refused()
            assert not await host.missing()
            status, _, log = await asyncio.to_thread(server.end)
        assert status == 0
        told = {str(line["event"]): line for line in log}
        dropped = told["drained"]["dropped_pool_pages"]
        assert isinstance(dropped, int) and dropped > 0
        assert told["drain_refused_by_the_device"]["dropped_pool_pages"] == dropped
        assert "what was dropped is gone" in str(told["drained"]["meaning"])
        disk.empty()
        async with served(host, disk=disk):
            assert len(await host.missing()) == dropped


# A disk that may not be written


Change = Callable[[Disk], None]


def make_immutable(disk: Disk) -> None:
    """Forbid to write to the files, also for who has them open."""
    assert disk.run("chattr", "+i", *(f"{disk.mount_point}/{name}" for name in ("swap", "swap-wal"))).returncode == 0


def make_mutable(disk: Disk) -> None:
    """Take that back."""
    assert disk.run("chattr", "-i", *(f"{disk.mount_point}/{name}" for name in ("swap", "swap-wal"))).returncode == 0


def fail_into_read_only(disk: Disk) -> None:
    """Do what ext4 does by itself when its medium fails: nothing is written any more, whoever has files open."""
    disk.run("sync")  # what was not would be lost with the medium, as with its power
    disk.remount("abort")


@pytest.mark.parametrize("flags", MODES)
@pytest.mark.parametrize(
    ("forbid", "allow"),
    [(make_immutable, make_mutable), (fail_into_read_only, None)],
    ids=["for a while", "for good"],
)
async def test_a_disk_that_becomes_read_only_refuses_stores_and_loses_nothing(
    tmp_path: Path, flags: tuple[str, ...], forbid: Change, allow: Change | None
) -> None:
    """Loads go on; stores do when it can be written again, at the latest with the next server."""
    host = Host()
    write = Writer(host)
    with ext4(tmp_path, 2 * ROOM_BYTES) as disk:
        async with served(host, *flags, disk=disk) as server:
            await write.store(256)
            forbid(disk)
            assert set(await write.store_until_refused()) <= {REFUSED, STORED}
            assert (await metrics(server, "swaptier_tier_device_errors_total")).keys() == {READ_ONLY}
            assert (await log_says(server, "swap_file_refuses"))["fault"] == READ_ONLY
            assert not await host.missing()
            assert "was not closed: the swap file could not record it (read_only)" in str(await refused(host.swapoff()))
            if allow is not None:
                allow(disk)
                assert REFUSED not in await write.store()
                await log_says(server, "swap_file_takes_pages_again")
            assert not await host.missing()
            status, _, log = await asyncio.to_thread(server.end)
            assert status == 0
            dropped = log[-1]["dropped_pool_pages"]
            assert dropped == 0 or (flags is SMALL_POOL and allow is None)
    with ext4(tmp_path, 2 * ROOM_BYTES) as disk:
        async with served(host, *flags, disk=disk):
            assert len(await host.missing()) == dropped
            assert REFUSED not in await write.store()


async def test_a_server_does_not_start_on_what_is_read_only(tmp_path: Path) -> None:
    """With one line, on a file that is there and on one that would have to be made; the check says the same."""
    host = Host()
    with tmpfs(tmp_path, DISK_BYTES) as disk:
        async with served(host, *WRITE_THROUGH, disk=disk) as server:
            await host.store(range(8))
            assert server.end()[0] == 0
        disk.remount("bind,ro")
        new = ("--device", f"sqlite:{disk.mount_point}/new")
        for where in (device(disk), new):
            started, checked = (run(*command, *FREE, *where, inside=disk.inside) for command in ((), ("check-config",)))
            assert started.returncode == checked.returncode == 2
            assert len(started.stderr.splitlines()) == len(checked.stderr.splitlines()) == 1
            assert "Read-only file system" in started.stderr
            assert "--device: " in checked.stderr
        disk.remount("bind,rw")
        async with served(host, *WRITE_THROUGH, disk=disk):
            assert not await host.missing()


# A disk that goes


@pytest.mark.parametrize("flags", MODES)
async def test_a_file_that_goes_is_said_in_log_and_metrics_and_used_again_when_it_is_back(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Found out without a store, which then is refused; what was acknowledged is still served."""
    host = Host()
    write = Writer(host)
    swap, away = tmp_path / "swap", tmp_path / "away"
    async with served(host, "--device", f"sqlite:{swap}", *flags) as server:
        await write.store(256)
        swap.rename(away)
        said = await log_says(server, "swap_file_refuses")
        assert said["fault"] == GONE
        assert f"it is at {away}" in str(said["reason"])
        assert await metrics(server, "swaptier_tier_device_refusing") == {GONE: 1}
        assert set(await write.store_until_refused()) <= {REFUSED, STORED}
        assert (await metrics(server, "swaptier_tier_device_errors_total")).keys() == {GONE}
        assert not await host.missing()
        away.rename(swap)
        await log_says(server, "swap_file_takes_pages_again")
        assert not await metrics(server, "swaptier_tier_device_refusing")
        assert REFUSED not in await write.store()
        away.hardlink_to(swap)
        assert (await log_says(server, "swap_file_has_other_names"))["names"] == 2
        assert REFUSED not in await write.store()
        away.unlink()
        assert not await host.missing()
        assert server.end()[0] == 0


async def test_a_disk_that_is_unmounted_under_the_server_takes_no_more_stores(tmp_path: Path) -> None:
    """Lazily, as an operator does with one that is busy: to the process that has the files open nothing changes."""
    host = Host()
    write = Writer(host)
    with tmpfs(tmp_path, DISK_BYTES) as disk:
        async with served(host, *WRITE_THROUGH, disk=disk) as server:
            await write.store()
            assert disk.run("umount", "--lazy", str(disk.mount_point)).returncode == 0
            assert (await log_says(server, "swap_file_refuses"))["fault"] == GONE
            assert set(await write.store()) == {REFUSED}
            assert not await host.missing()


# A bound that is not the disk's


@pytest.mark.parametrize("flags", MODES)
async def test_a_limit_of_the_process_is_a_full_device_and_loses_nothing(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """As ulimit -f sets one, or a quota: SQLite says "I/O error" to either, and room is what is missing."""
    host = Host()
    write = Writer(host)
    async with served(host, "--device", f"sqlite:{tmp_path}/swap", *flags) as server:
        await write.store(256)
        before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        assert set(await write.store_until_refused()) <= {REFUSED, STORED}
        assert (await metrics(server, "swaptier_tier_device_errors_total")).keys() == {FULL}
        assert not await host.missing()
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
        assert REFUSED not in await write.store()
        assert not await host.missing()
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    async with served(host, "--device", f"sqlite:{tmp_path}/swap", *flags):
        missing = await host.missing()
        assert all(host.owed[offset][1] is Outcome.STORED for offset in missing)
        assert not missing or flags is SMALL_POOL


def test_the_disks_of_these_tests_are_nobody_elses(tmp_path: Path) -> None:
    """What is mounted for a test is seen by nobody who is not told, and is gone with it."""
    with tmpfs(tmp_path, MIB) as disk:
        (disk.folder / "file").touch()
        assert not (disk.mount_point / "file").exists()
        found = disk.run(sys.executable, "-c", f"import os; print(os.listdir({str(disk.mount_point)!r}))")
        assert found.stdout == "['file']\n"
    assert not (disk.mount_point / "file").exists()
