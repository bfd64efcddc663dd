"""Runs a race: one policy after the other, each on fresh hosts that are OS processes, against one tier.

Touches processes, signals and the event loop. Rules of conduct:

- Every policy gets the same seed, so the same accesses, page contents and injected failures; their order is real.
- Whatever ends the race, no host process outlives it: hosts are stopped in order, killed when the block is left
  otherwise, and tied to this process in case it is killed.
- A host that ends without a last report is a defect of ours and never a verdict on a policy.
- SIGHUP, SIGINT and SIGTERM stop the hosts in order and the report covers what ran; a second one does not wait for
  them. Either way our own server and every host are gone when `run_race` returns. A third ends this process.
"""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.epochs import epoch_above_known
from swaptier_client.mm.policy import POLICIES
from swaptier_client.security import PLAIN
from swaptier_loadgen.faults.hazards import HazardCounts, specified_hazard
from swaptier_loadgen.faults.injection import InjectedFaults
from swaptier_loadgen.host.messages import LINE_BYTES_MAX, HostSpec, parse_tiers
from swaptier_loadgen.host.report import HOST_REPORT, Ended, HostReport
from swaptier_loadgen.host.workload import WorkloadKind, share
from swaptier_loadgen.race.child_process import child_command
from swaptier_loadgen.race.children import signal_process, start_process
from swaptier_loadgen.race.failures import RaceFailed, status_of_child
from swaptier_loadgen.race.results import RunSummary, summarise
from swaptier_loadgen.race.settings import RaceSettings, area_name
from swaptier_loadgen.race.tiers import RaceTiers, race_tiers, server_faults
from swaptier_wire.epochs import new_epoch
from swaptier_wire.errors import SwapTierError
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus

STOP_SECONDS_MAX = 15.0
"""From asking a host to stop to killing it: longer than a request to a tier that hangs may take."""


FAULTY_DEADLINE_SECONDS = 1.0
"""For an answer where answers get lost on purpose: the last one before a lull is missed by nothing but its deadline."""


class HostFailed(RaceFailed):
    """A host process ended without a last report, for what its status says or by a defect. See its line."""

    def __init__(self, spec: HostSpec, how: str, status: int | None) -> None:
        known = status_of_child(status, ExitStatus.DEFECT)
        what = (
            "This is a defect of the load generator, not a verdict on the policy; its own"
            if known == ExitStatus.DEFECT
            else "Its"
        )
        super().__init__(f"host {spec.host} of policy {spec.policy} {how}. {what} line is above", known)


class Watcher(Protocol):
    """What is called as a race goes on."""

    def on_tiers(self, tiers: RaceTiers) -> None:
        """The tiers are there, and the race begins."""

    def on_report(self, policy: str, host: int, report: HostReport) -> None:
        """A host reported."""

    def on_run(self, run: RunSummary) -> None:
        """A policy has run."""

    def on_older_clock(self, name: str, epoch: int) -> None:
        """A tier knows hosts of this race's *name* in a later epoch than the clock gives; they start in *epoch*."""

    def on_signal(self, name: str) -> None:
        """The race was asked to stop."""


@dataclass(frozen=True, slots=True)
class RaceOutcome:
    """What a race came to."""

    runs: tuple[RunSummary, ...]
    failure: RaceFailed | None
    """What ended it, and was no policy's doing: a host ended without a result, or our own server by itself."""


class Race:
    """One race against one tier. Made; `run` once; `stop` at any time, from the same event loop."""

    def __init__(
        self,
        settings: RaceSettings,
        target: str,
        corpus_files: Sequence[Path],
        watcher: Watcher,
        injected: InjectedFaults | None = None,
    ) -> None:
        """Have hosts connect to *target*; *injected* collects the faults that are injected on the way there."""
        self._settings = settings
        self._target = target
        self._injected = injected or InjectedFaults()
        self._corpus_files = tuple(map(str, corpus_files))
        self._watcher = watcher
        self._epoch = new_epoch()
        self._hosts: list[asyncio.subprocess.Process] = []
        self._killer: asyncio.TimerHandle | None = None
        self.is_stopping = False
        self.runs: list[RunSummary] = []
        """What came of the policies so far."""

    async def run(self) -> None:
        """Run the policies in order; a stop, a tier that is gone or refuses, or too little memory ends the race early.

        Raises:
            RaceFailed: a host ended without a result, or could not be started.
        """
        if self._settings.target is not None:
            await self._rise_above_known(self._settings.target)
        for policy in self._settings.policies:
            if self.is_stopping:
                break
            run = await self._run_policy(policy)
            self.runs.append(run)
            self._watcher.on_run(run)
            if run.ended in (Ended.UNREACHABLE, Ended.REFUSED, Ended.OUT_OF_MEMORY):
                break

    async def _rise_above_known(self, target: str) -> None:
        """See that the hosts' epoch is above those that the tiers at *target* know of them: a clock was set back."""
        policy = self._settings.policies[0]
        areas = [
            HostArea(_client_id(self._settings, index), 0, area_name(self._settings.name, policy, index), 1)
            for index in range(self._settings.hosts)
        ]
        settings = StreamSettings(security=self._settings.security)
        began = self._epoch
        for tier in parse_tiers(target):
            with contextlib.suppress(SwapTierError):  # the hosts ask too, and say it
                asked = [area._replace(client_epoch=self._epoch) for area in areas]
                self._epoch = await epoch_above_known(tier.address, asked, settings)
        if self._epoch != began:
            self._watcher.on_older_clock(self._settings.name, self._epoch)

    def stop(self) -> None:
        """Ask all hosts to stop; kill those that do not within STOP_SECONDS_MAX."""
        if self.is_stopping:
            return
        self.is_stopping = True
        for host in self._hosts:
            _ask_to_stop(host)
        self._wait_before_killing(STOP_SECONDS_MAX)

    def _wait_before_killing(self, seconds: float) -> None:
        """Kill in so many seconds, counted one by one: after a stop of this process their reports come first."""
        if seconds <= 0:
            self._kill()
            return
        loop = asyncio.get_running_loop()
        self._killer = loop.call_later(1.0, self._wait_before_killing, seconds - 1.0)

    def _kill(self) -> None:
        for host in self._hosts:
            signal_process(host, signal.SIGKILL)

    async def _run_policy(self, policy: str) -> RunSummary:
        """Run *policy* on fresh hosts, all at once."""
        self._hosts = []
        before = Counter(self._injected.counts)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run_host(self._spec(policy, index)))
                    for index in range(self._settings.hosts)
                ]
        except* RaceFailed as failures:
            raise failures.exceptions[0] from None
        finally:
            self._kill()
            if self._killer is not None:
                self._killer.cancel()
        return summarise(
            policy,
            [task.result() for task in tasks],
            workload=self._settings.host.workload,
            fault_settings=self._settings.faults,
            injected=dict(self._injected.counts - before),
            require_generation=self._settings.host.require_generation,
        )

    async def _run_host(self, spec: HostSpec) -> HostReport:
        """Run one host process to its last report, passing on the others."""
        process = await start_process(
            f"host {spec.host} of policy {spec.policy}",
            *child_command("swaptier_loadgen.host.process"),
            stdin=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        self._hosts.append(process)
        try:
            return await self._listen_to(process, spec)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def _listen_to(self, process: asyncio.subprocess.Process, spec: HostSpec) -> HostReport:
        """Give a host its *spec* and take its reports, passing on all but the last, which is returned."""
        assert process.stdin is not None and process.stdout is not None, "both are piped"
        process.stdin.write(spec.model_dump_json().encode() + b"\n")
        if self.is_stopping:
            _ask_to_stop(process)
        last: HostReport | None = None
        has_clones = spec.settings.workload is WorkloadKind.TWO_HOSTS
        lost_to = HazardCounts(
            self._injected.taken_pages,
            has_links=bool(self._settings.faults.on_the_way),
            specified=specified_hazard(POLICIES[spec.policy], has_clones=has_clones),
        )
        async for line in process.stdout:
            if not line.endswith(b"\n"):  # it ended in the middle
                break
            said = HOST_REPORT.validate_json(line)
            is_end = said.ended is not None
            known = lost_to.add(said.new_losses, tiers_are_durable=bool(said.tiers_are_durable), is_end=is_end)
            last = replace(said, lost_to=known, new_losses=[])
            self._watcher.on_report(spec.policy, spec.host, last)
        status = await process.wait()
        if last is None or last.ended is None:
            raise HostFailed(spec, f"ended with status {status} and no result", status)
        return last

    def _spec(self, policy: str, index: int) -> HostSpec:
        settings = self._settings
        # A link on this machine does for its hosts what the tier asks for.
        security = PLAIN if settings.faults.on_the_way else settings.security
        return HostSpec(
            host=index,
            policy=policy,
            target=self._target,
            client_id=_client_id(settings, index),
            client_epoch=self._epoch,
            area=area_name(settings.name, policy, index),
            slots=settings.host.slots,
            settings=settings.host,
            ops=None if settings.host.ops is None else share(settings.host.ops, settings.hosts, index),
            corpus_files=self._corpus_files,
            deadline_seconds=FAULTY_DEADLINE_SECONDS if settings.faults else None,
            patience_seconds=settings.patience_seconds,
            security_files={field: str(path) for field, path in asdict(security).items() if path is not None},
        )


def _client_id(settings: RaceSettings, index: int) -> str:
    return f"{settings.name}-{index}"


def _ask_to_stop(host: asyncio.subprocess.Process) -> None:
    """End *host*'s input, which it takes as a request to stop; its last report follows."""
    assert host.stdin is not None, "stdin is piped"
    host.stdin.close()


async def run_race(settings: RaceSettings, corpus_files: Sequence[Path], watcher: Watcher) -> RaceOutcome:
    """Run the whole race, with the tiers it needs, until its end or a signal, and return what came of it.

    It ends in order at a signal of `SIGNALS`.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    race: Race | None = None
    signals: list[signal.Signals] = []
    failure: RaceFailed | None = None

    def on_signal(received: signal.Signals) -> None:
        signals.append(received)
        watcher.on_signal(received.name)
        if race is not None and len(signals) == 1:
            race.stop()
        else:
            task.cancel()

    def soon(received: signal.Signals) -> None:
        loop.call_soon_threadsafe(on_signal, received)

    with SIGNALS.calling(soon, times=2):
        try:
            async with race_tiers(settings) as tiers:
                watcher.on_tiers(tiers)
                race = Race(settings, tiers.host_target, corpus_files, watcher, tiers.injected)
                async with server_faults(tiers, settings.faults, race.stop):
                    await race.run()
        except RaceFailed as problem:
            failure = problem
        except asyncio.CancelledError:
            if not signals:
                raise
            task.uncancel()
    return RaceOutcome(tuple(race.runs) if race is not None else (), failure)
