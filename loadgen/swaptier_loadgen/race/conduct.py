"""Conducts a race from outside: the tier it needs, the signals that end it early, and what has been learnt by then.

Touches processes and signals. SIGINT and SIGTERM stop the hosts in order and the report covers what ran; a second one
does not wait for them. Either way our own server and every host are gone when `conduct` returns.
"""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swaptier_loadgen.host.messages import PolicyRun
from swaptier_loadgen.race.race import HostFailed, Observer, Race
from swaptier_loadgen.race.server_process import ServerDied
from swaptier_loadgen.race.settings import RaceSettings
from swaptier_loadgen.race.tiers import RaceTiers, ServerFaults, race_tiers


class Watcher(Observer, Protocol):
    """Who is told how the race goes, from its start."""

    def on_tiers(self, tiers: RaceTiers) -> None:
        """The tiers are there, and the race begins."""

    def on_signal(self, name: str) -> None:
        """The race was asked to stop."""


@dataclass(frozen=True, slots=True)
class Conducted:
    """What a race came to."""

    runs: tuple[PolicyRun, ...]
    signal: int | None
    """The signal that ended it early."""
    defect: str
    """Why a host ended without a result, or our own server by itself; empty when none did."""


async def conduct(settings: RaceSettings, corpus_files: Sequence[Path], watcher: Watcher) -> Conducted:
    """Run the whole race and return what came of it.

    Raises:
        ServerNotStarted: our own server did not come up, or not again after it was killed on purpose.
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
        async with race_tiers(settings) as tiers:
            watcher.on_tiers(tiers)
            race = Race(settings, tiers.host_target, corpus_files, watcher, tiers.injected)
            async with ServerFaults(tiers, settings.faults, race.stop) as server_faults:
                await race.run()
            if server_faults.failure is not None:  # and what ran until then says nothing about a policy
                raise server_faults.failure
    except (HostFailed, ServerDied) as failure:
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
