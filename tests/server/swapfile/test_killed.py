"""A whole server that is killed in the middle of its work, and the one after it: what was acknowledged is kept or told.

What a store promises is what `--durability` says. The hosts below keep books of every acknowledgement.
"""

import asyncio
import random
import signal
from pathlib import Path

import pytest
from grpc import aio
from tests.server.host import Host, channel_to, noise
from tests.server.test_main import Running, running

from swaptier_wire.types import NO_GENERATION, LoadReply, Outcome, Reason

AREAS = 4
BATCH = 24
SLOTS = 96
ROUNDS = 3
RESTARTED = Outcome.LOST, Reason.RESTARTED


class BusyHost(Host):
    """Overwrites its slots again and again. Of those in the batch that was under way at the end, it knows nothing."""

    def __init__(self, area: str, seed: int) -> None:
        super().__init__(area, SLOTS)
        self._chance = random.Random(seed)
        self._generation = 0
        self.in_doubt: dict[int, int] = {}
        """By offset: the generation whose store got no answer, over the one that is owed."""

    async def store_until_killed(self, acknowledged: asyncio.Semaphore) -> None:
        """Store batches, releasing *acknowledged* for each, until the connection breaks."""
        self.in_doubt.clear()
        while True:
            self._generation += 1
            offsets = self._chance.sample(range(SLOTS), BATCH)
            before = {offset: self.owed[offset] for offset in offsets if offset in self.owed}
            try:
                answers = await self.store(offsets, self._generation)
            except aio.AioRpcError:
                assert before == {offset: self.owed[offset] for offset in before}
                self.in_doubt = dict.fromkeys(offsets, self._generation)
                return
            assert answers.keys() == {(Outcome.STORED, Reason.NONE)}
            acknowledged.release()

    async def settle(self) -> None:
        """Make sure that every slot has what was acknowledged, or what may have come after it, whole."""
        newer = 0
        for offset, reply in (await self.missing()).items():
            assert offset in self.in_doubt, f"slot {offset}: {reply}"
            assert (reply.outcome, reply.generation) == (Outcome.STALE_GENERATION, self.in_doubt[offset])
            newer += 1
        doubted = [offset for offset in self.in_doubt if offset in self.owed]
        assert newer in (0, len(doubted)), "a batch is kept whole or not at all"
        if newer:
            for offset in doubted:
                self.owed[offset] = self.in_doubt[offset], Outcome.STORED
            assert not await self.missing()


async def kill(server: Running) -> None:
    """End the process as nothing can be caught or finished in."""
    server.process.send_signal(signal.SIGKILL)
    assert await asyncio.to_thread(server.process.wait) == -signal.SIGKILL


async def test_every_store_that_was_written_through_and_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    """Several hosts overwrite their slots; one after the other the servers are killed amid it; nothing is missing."""
    hosts = [BusyHost(f"area-{number}", number) for number in range(AREAS)]
    epochs = []
    for _ in range(ROUNDS):
        with running("--device", f"sqlite:{tmp_path}/swap", "--durability", "write-through") as server:
            async with channel_to(server.listening) as channel:
                for host in hosts:
                    host.meet(channel)
                    answer = await host.swapon()
                    assert answer.reopened == bool(epochs)
                    await host.settle()
                epochs.append(answer.server_epoch)
                acknowledged = asyncio.Semaphore(0)
                work = [asyncio.create_task(host.store_until_killed(acknowledged)) for host in hosts]
                for _ in range(10 * AREAS):
                    await acknowledged.acquire()
                await kill(server)
                await asyncio.gather(*work)
    with running("--device", f"sqlite:{tmp_path}/swap") as server:
        async with channel_to(server.listening) as channel:
            for host in hosts:
                host.meet(channel)
                assert len(host.owed) > SLOTS / 2
                await host.settle()
    assert epochs == sorted(set(epochs)), "every server has a higher epoch than those before"


async def lost(host: Host) -> dict[int, LoadReply]:
    """Return the slots of what was owed and is not there, which has to be told as the restart's fault."""
    missing = await host.missing()
    assert {(reply.outcome, reply.reason) for reply in missing.values()} <= {RESTARTED}
    assert {reply.generation for reply in missing.values()} <= {NO_GENERATION}
    return missing


async def test_what_only_the_pool_had_is_told_as_lost_and_what_was_written_back_is_served(tmp_path: Path) -> None:
    """A pool of 64 KiB, which met its limit: the oldest pages had gone to the device, and the newest had not."""
    host = Host()
    flags = ("--device", f"sqlite:{tmp_path}/swap", "--pool-limit", "64KiB")
    with running(*flags) as server:
        async with channel_to(server.listening) as channel:
            host.meet(channel)
            await host.swapon()
            for first in range(0, 48, 4):
                await host.store(range(first, first + 4))
            before = await host.load(host.owed)
            await kill(server)
    pooled = {offset for offset, reply in before.items() if reply.outcome is Outcome.HIT}
    stored = {offset for offset, (_, outcome) in host.owed.items() if outcome is Outcome.STORED}
    assert pooled and stored - pooled, "some pages were in the pool, others had been there and were written back"
    with running(*flags) as server:
        async with channel_to(server.listening) as channel:
            host.meet(channel)
            assert (await host.swapon()).reopened
            assert (await lost(host)).keys() == pooled
            await host.store(pooled, generation=2)
            assert not await host.missing()


@pytest.mark.parametrize("says", [True, False], ids=["says which server it knew", "says nothing"])
async def test_a_host_whose_server_kept_nothing_is_told_so(says: bool) -> None:
    """Swapon finds no area. With the epoch of the server that it knew, what is not here is the restart's fault."""
    host = Host()
    for _ in range(2):
        with running() as server:
            async with channel_to(server.listening) as channel:
                host.meet(channel)
                assert not (await host.swapon()).reopened
                if host.owed:
                    missing = await host.missing()
                    assert missing.keys() == host.owed.keys()
                    reason = Reason.RESTARTED if says else Reason.NEVER_STORED
                    assert {(reply.outcome, reply.reason) for reply in missing.values()} == {(Outcome.LOST, reason)}
                    continue
                await host.store(range(8))
                assert {reply.content() for reply in (await host.load([3])).values()} == {noise(3, 1)}
                await kill(server)
                if not says:
                    host.server_epoch = 0
