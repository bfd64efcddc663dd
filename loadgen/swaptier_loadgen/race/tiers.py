"""The tiers of a race, and what goes wrong on purpose: on the way to them, and with their processes.

Touches processes, sockets and, where a race needs a swap file of its own, a temporary folder. Rules of conduct:

- Hosts connect to `host_target`: the tiers themselves, or a faulty link to each.
- A server that was killed is started again with the same flags, at the same address, on the same swap file.
- What cannot be started again ends the race: whatever was to be measured can no longer be.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple

from swaptier_loadgen.faults.injection import InjectedFaults, Route
from swaptier_loadgen.faults.proxy import FaultyLink
from swaptier_loadgen.faults.spec import Faults
from swaptier_loadgen.host.messages import parse_tiers
from swaptier_loadgen.race.own_folder import own_folder, remove_leftovers
from swaptier_loadgen.race.server_process import OwnServer, own_server
from swaptier_loadgen.race.settings import RaceSettings


class RaceTiers(NamedTuple):
    """What a race runs against."""

    target: str
    """Where the tiers are."""
    host_target: str
    """Where hosts connect."""
    own: tuple[OwnServer, ...]
    """Our own servers; none where a target was named."""
    injected: InjectedFaults
    """What was done on purpose so far."""

    @property
    def own_pids(self) -> tuple[int, ...]:
        """Processes of our own servers, as of now."""
        return tuple(server.pid for server in self.own)


@contextlib.asynccontextmanager
async def race_tiers(settings: RaceSettings) -> AsyncIterator[RaceTiers]:
    """Give the tiers of a race for the length of the block, with links to them if something goes wrong on the way.

    Raises:
        ServerNotStarted: one of our own did not come up.
    """
    remove_leftovers()
    async with contextlib.AsyncExitStack() as stack:
        own = [] if settings.target is not None else await _own_servers(settings, stack)
        target = settings.target or ",".join(server.target for server in own)
        injected = InjectedFaults()
        links = [
            await stack.enter_async_context(FaultyLink(route, settings.host.seed, settings.name))
            for route in (_routes(settings, target, injected) if settings.faults.on_the_way else ())
        ]
        tiers = parse_tiers(target)
        linked = ",".join(f"{link.address}@{tier.priority}" for link, tier in zip(links, tiers, strict=False))
        yield RaceTiers(target, linked or target, tuple(own), injected)


async def _own_servers(settings: RaceSettings, stack: contextlib.AsyncExitStack) -> list[OwnServer]:
    folder = None
    if settings.server_flags.needs_swap_file:
        folder = stack.enter_context(own_folder())
    return [
        await stack.enter_async_context(own_server(*settings.server_flags.arguments(number, folder)))
        for number in range(settings.servers)
    ]


def _routes(settings: RaceSettings, target: str, injected: InjectedFaults) -> list[Route]:
    return [
        Route(tier.address, number, settings.faults, injected, settings.security)
        for number, tier in enumerate(parse_tiers(target))
    ]


@contextlib.asynccontextmanager
async def server_faults(tiers: RaceTiers, faults: Faults, on_failure: Callable[[], None]) -> AsyncIterator[None]:
    """Kill and pause our own servers for the length of the block; call *on_failure* when one does not come back.

    Raises:
        ServerNotStarted, ServerDied: after the block, which then says nothing about a policy.
    """
    failures: list[BaseException] = []

    def look(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            failures.append(failure)
            on_failure()

    strikes = []
    for server in tiers.own:
        if faults.kill_server_seconds:
            strikes.append(("kill-server", faults.kill_server_seconds, server.kill_and_restart))
        if (pause := faults.pause_server) is not None:
            strikes.append(("pause-server", pause.every_seconds, partial(server.pause, pause.seconds)))
    tasks = [asyncio.create_task(_strike_for_ever(tiers.injected, *strike)) for strike in strikes]
    for task in tasks:
        task.add_done_callback(look)
    try:
        yield
    finally:  # the race is over and needs no server that is not back yet
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise failures[0]


async def _strike_for_ever(
    injected: InjectedFaults, fault: str, every_seconds: float, strike: Callable[[], Awaitable[None]]
) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        injected.counts[fault] += 1
        await strike()
