"""Our own server, killed and paused on purpose."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Iterator

import pytest

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.mm.effects import Load, Lookup, Store, SwapEntry
from swaptier_client.transport import TierStream
from swaptier_loadgen.race.server_flags import ServerFlags
from swaptier_loadgen.race.server_process import ServerDied, own_server
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import PAGE_BYTES, LoadMode, LoadReply, Outcome, Reason

PATIENCE_SECONDS = 30
"""Only a failing test waits so long."""

AREA = HostArea("host", 1, "area", slots=8)


async def test_a_killed_server_is_back_at_its_address_with_another_epoch_and_its_client_finds_it() -> None:
    """The stream waits for it and says that the epoch is another; what was in memory is lost, and by the restart."""
    changes: list[tuple[int, int]] = []
    async with own_server() as server:
        first = (server.target, server.pid, server.epoch)
        stream = TierStream(server.target, AREA, on_epoch_change=lambda old, new: changes.append((old, new)))
        async with stream:
            await stream.submit(Store(SwapEntry(0, 1), 1, bytes(range(256)) * (PAGE_BYTES // 256)))
            await server.kill_and_restart()
            reply = await stream.submit(Load(SwapEntry(0, 1), 1, LoadMode.SHARED, 1, require_generation=True))
        assert isinstance(reply, LoadReply)
        assert (reply.outcome, reply.reason) == (Outcome.LOST, Reason.RESTARTED)
        assert changes == [(first[2], server.epoch)]
        assert server.target == first[0]
        assert server.pid != first[1]
        assert server.restarts == 1
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


async def test_a_paused_server_goes_on_where_it_stood() -> None:
    """Requests are answered when it is over, within their deadline nothing fails."""
    async with own_server() as server, TierStream(server.target, AREA, StreamSettings(give_up_seconds=0)) as stream:
        loop = asyncio.get_running_loop()
        began = loop.time()
        pausing = asyncio.create_task(server.pause(0.2))
        await asyncio.sleep(0)  # stopped
        answer = await stream.submit(Store(SwapEntry(0, 1), 1, bytes(PAGE_BYTES)))
        assert answer.outcome is Outcome.STORED
        assert loop.time() - began >= 0.2
        await pausing


async def test_a_host_that_gives_up_waits_for_no_server_that_is_gone() -> None:
    """What waits for a connection ends at once, and definitely: it was never sent. So does what comes later."""
    async with own_server() as server:
        stream = TierStream(server.target, AREA)
        async with stream:
            await stream.submit(Store(SwapEntry(0, 1), 1, bytes(PAGE_BYTES)))
            os.kill(server.pid, signal.SIGKILL)
            while not stream.counters.streams_broken:
                await asyncio.gather(stream.submit(Lookup(SwapEntry(0, 1))), return_exceptions=True)
            waits = stream.submit(Lookup(SwapEntry(0, 1)))
            stream.give_up()
            for ended in (waits, stream.submit(Lookup(SwapEntry(0, 1)))):
                with pytest.raises(TierUnreachable) as told:
                    await ended
                assert told.value.definite


@pytest.fixture
def waited_for_on_the_loop() -> Iterator[None]:
    """Have asyncio wait for processes on the loop, as since Python 3.12, instead of in a thread.

    So whether a dead process is signalled before asyncio has its status is decided by the test, not by the kernel.
    """
    if sys.version_info >= (3, 12):
        yield
        return
    before = asyncio.get_child_watcher()
    asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    yield
    asyncio.set_child_watcher(before)


@pytest.mark.usefixtures("waited_for_on_the_loop")
async def test_a_server_that_died_by_itself_is_no_fault_on_purpose() -> None:
    """It is not started again as if we had killed it: what was lost with it would be called as specified."""
    async with own_server() as server:
        descriptor = os.pidfd_open(server.pid)
        os.kill(server.pid, signal.SIGSEGV)
        assert select.select([descriptor], [], [], PATIENCE_SECONDS)[0], "it does not die"
        os.close(descriptor)
        with pytest.raises(ServerDied, match=r"status -11"):
            await server.kill_and_restart()
        assert server.restarts == 0


async def test_the_users_variables_for_servers_are_not_those_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a server could not start with: a race means the same in every shell."""
    monkeypatch.setenv("SWAPTIER_DURABILITY", "write-through")
    ServerFlags(pool_limit="1MiB").check()
    async with own_server() as server:
        assert server.target
