"""Conducts a race from outside: the tier it needs, the signals that end it early, and what has been learnt by then.

Touches processes and signals. SIGINT and SIGTERM stop the hosts in order and the report covers what ran; a second one
does not wait for them. Either way our own server and every host are gone when `conduct` returns.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from swaptier_loadgen.config import RaceSettings
from swaptier_loadgen.messages import PolicyRun
from swaptier_loadgen.race import HostFailed, Observer, Race
from swaptier_loadgen.server_process import own_server


class Tier(NamedTuple):
    """What the race runs against."""

    target: str
    own_pids: tuple[int, ...]
    """Of our own servers; none for those that were named."""


class Watcher(Observer, Protocol):
    """Who is told how the race goes, from its start."""

    def on_tier(self, tier: Tier) -> None:
        """The tier is there, and the race begins."""

    def on_signal(self, name: str) -> None:
        """The race was asked to stop."""


@dataclass(frozen=True, slots=True)
class Conducted:
    """What a race came to."""

    runs: tuple[PolicyRun, ...]
    signal: int | None
    """The signal that ended it early."""
    defect: str
    """Why a host ended without a result; empty when none did."""


@contextlib.asynccontextmanager
async def _tier(target: str | None, servers: int) -> AsyncIterator[Tier]:
    """Give the tier: the one named, or *servers* of our own for the length of the block."""
    if target is not None:
        yield Tier(target, own_pids=())
        return
    async with contextlib.AsyncExitStack() as stack:
        own = [await stack.enter_async_context(own_server()) for _ in range(servers)]
        yield Tier(",".join(server.target for server in own), tuple(server.pid for server in own))


async def conduct(settings: RaceSettings, corpus_files: Sequence[Path], watcher: Watcher) -> Conducted:
    """Run the whole race and return what came of it.

    Raises:
        ServerNotStarted: our own server did not come up.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    race: Race | None = None
    signals: list[signal.Signals] = []
    defect = ""

    def on_signal(received: signal.Signals) -> None:
        signals.append(received)
        watcher.on_signal(received.name)
        if race is not None and len(signals) == 1:
            race.stop()
        else:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        async with _tier(settings.target, settings.servers) as tier:
            watcher.on_tier(tier)
            race = Race(settings, tier.target, corpus_files, watcher)
            await race.run()
    except HostFailed as failure:
        defect = str(failure)
    except asyncio.CancelledError:
        if not signals:
            raise
        task.uncancel()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    runs = tuple(race.runs) if race is not None else ()
    return Conducted(runs, signals[0] if signals else None, defect)
