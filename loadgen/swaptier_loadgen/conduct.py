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
from typing import Protocol

from swaptier_loadgen.config import RaceSettings
from swaptier_loadgen.messages import PolicyRun
from swaptier_loadgen.race import Observer, Race
from swaptier_loadgen.server_process import own_server


class Watcher(Observer, Protocol):
    """Who is told how the race goes, from its start."""

    def on_server(self, target: str, *, is_ours: bool) -> None:
        """The tier is there."""

    def on_signal(self, name: str) -> None:
        """The race was asked to stop."""


@dataclass(frozen=True, slots=True)
class Conducted:
    """What a race came to."""

    runs: tuple[PolicyRun, ...]
    signal: int | None
    """The signal that ended it early."""


@contextlib.asynccontextmanager
async def _tier(target: str | None) -> AsyncIterator[str]:
    """Give the address of the tier: the one named, or our own for the length of the block."""
    if target is not None:
        yield target
        return
    async with own_server() as server:
        yield server.target


async def conduct(settings: RaceSettings, corpus_files: Sequence[Path], watcher: Watcher) -> Conducted:
    """Run the whole race and return what came of it.

    Raises:
        ServerNotStarted: our own server did not come up.
        HostFailed: a host ended without a result.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    race: Race | None = None
    signals: list[signal.Signals] = []

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
        async with _tier(settings.target) as target:
            watcher.on_server(target, is_ours=settings.target is None)
            race = Race(settings, target, corpus_files, watcher)
            await race.run()
    except asyncio.CancelledError:
        if not signals:
            raise
        task.uncancel()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    runs = tuple(race.runs) if race is not None else ()
    return Conducted(runs, signals[0] if signals else None)
