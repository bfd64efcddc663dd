"""One emulated host at work: its threads fault, read, check, write and discard, and the oracle sees every page.

Touches the event loop and the tiers' streams, through `checked_host.py`. A thread stops between two accesses, never
inside one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count, islice
from time import monotonic_ns
from typing import NamedTuple, TypeAlias

from swaptier_client.driver import TierLink
from swaptier_client.mm.folio import Process
from swaptier_client.mm.host import clone_into
from swaptier_client.mm.reclaim import SWAP_CLUSTER_MAX
from swaptier_loadgen.faults.hazards import LostPage
from swaptier_loadgen.host.checked_host import CheckedHost
from swaptier_loadgen.host.content import HOSTS_MAX, PROCESSES_MAX, Contents
from swaptier_loadgen.host.latency import LatencyRecorder
from swaptier_loadgen.host.messages import LOSSES_MAX, HostSpec
from swaptier_loadgen.host.oracle import Oracle
from swaptier_loadgen.host.report import HostReport
from swaptier_loadgen.host.workload import (
    THREADS_MAX,
    AccessKind,
    AccessPattern,
    MemoryAccess,
    WorkloadKind,
    share,
    stream,
)

OPS_BETWEEN_TURNS = 64
"""A thread whose accesses all hit mapped pages lets the others, the reports and a stop run this often."""

CHILD_OPS = 24
"""Accesses of a forked child before it exits: some faults of its own, and some copies of pages it shares."""

FORKS = {"fork_percent": 1, "move_percent": 2}
"""What the workload `forks` has besides the accesses of `random`."""


class AddressSpace(NamedTuple):
    """An address space that threads run in."""

    host: CheckedHost
    process: Process
    pages: int
    number: int
    """Among all of them."""


ThreadWork: TypeAlias = Callable[[AddressSpace, int], Coroutine[None, None, None]]
"""What one emulated thread does, given where it runs and its number there."""


class EmulatedHost:
    """The threads of one host, from the first write of every page to the end of its processes.

    Life: made; `run`, which populates, races and sweeps; `exit_processes` or `swapoff`, after which the tier should
    hold nothing.
    """

    def __init__(
        self, spec: HostSpec, contents: Contents, tier: TierLink, *more: TierLink, twin: Sequence[TierLink] = ()
    ) -> None:
        """Put a swap device on each of the tiers; *twin* has the links of the clone that two-hosts runs besides."""
        self._spec = spec
        self._oracle = Oracle(contents.page)
        self._latency = LatencyRecorder()
        self._host = CheckedHost(spec, spec.host, self._oracle, self._latency, [tier, *more])
        self._hosts = [self._host]
        if twin:
            self._hosts.append(CheckedHost(spec, twin_number(spec.host), self._oracle, self._latency, twin))
        self._spaces = [
            AddressSpace(
                self._host, self._host.mm.spawn(), share(spec.settings.pages, spec.settings.processes, index), index
            )
            for index in range(spec.settings.processes)
        ]
        self._forks = 0
        self._ops_done = 0
        self._race_began_ns = 0
        self._race_ended_ns = 0
        self._faults_before_race = 0
        self._faults_in_race = 0
        self.is_stopping = False
        """Set from outside: threads end before their next access, and nothing is swept."""
        self.is_running = False
        """The tier has answered; it may be asked."""
        self.zswpwb = 0
        """Set from outside: the tier's count."""
        self.tiers_are_durable: bool | None = None
        """Set from outside: what the tiers say of their stores."""
        self._tier_restarts = 0

    async def run(self) -> None:
        """Write every page once, race, and read every page once more.

        Raises:
            SwapTierError: the tier did not answer or refused; what was read until then was checked.
            OutOfMemory: reclaim could not free a page.
        """
        self.is_running = True
        await self._each_thread(self._write_all)
        if len(self._hosts) > 1 and not self.is_stopping:
            await self._clone(self._hosts[1])
        self._race_began_ns, self._faults_before_race = monotonic_ns(), self._faults()
        if self._spec.settings.workload is WorkloadKind.STRESS_RACE:
            await self._stress_race()
        else:
            await self._each_thread(self._race)
        self._race_ended_ns, self._faults_in_race = monotonic_ns(), self._faults_so_far()
        await self._each_thread(self._sweep)

    async def swapoff(self) -> None:
        """Bring every page back, with as much memory as that takes, and read them all once more.

        Afterwards no slot is in use, so the tier should hold nothing, although all processes live on.

        Raises:
            SwapTierError: the tier did not answer.
        """
        for host in self._hosts:
            await host.swapoff()
        await self._each_thread(self._sweep)

    async def exit_processes(self) -> None:
        """End all processes: every slot becomes free, on the tier too.

        Raises:
            SwapTierError: the tier did not answer.
        """
        for space in self._spaces:
            await space.host.exit(space.process)
        for host in self._hosts:
            await host.reclaim_leftovers()

    def on_tier_restarted(self, type_: int) -> None:
        """Note that the server behind a swap device forgot what it held in memory."""
        self._tier_restarts += 1
        for host in self._hosts:
            host.on_tier_restarted(type_)

    def take_losses(self) -> list[LostPage]:
        """Return the pages lost since the last time, LOSSES_MAX at most."""
        losses = [host.losses.popleft() for host in self._hosts for _ in range(len(host.losses))]
        for loss in losses[LOSSES_MAX:]:
            self._host.losses.append(loss)
        return losses[:LOSSES_MAX]

    async def _clone(self, twin: CheckedHost) -> None:
        """Put the host to rest, and give *twin* its memory image: from now on both run, on the same area."""
        await self._host.swap_out_all()
        clone_into(twin.mm, self._host.mm)
        self._oracle.clone(self._host.number, twin.number)
        for space in self._spaces[:]:
            process = twin.mm.processes[space.process.pid]
            self._spaces.append(AddressSpace(twin, process, space.pages, len(self._spaces)))

    async def _each_thread(self, work: ThreadWork) -> None:
        """Run *work* for every thread at once; the first failure ends them all."""
        async with asyncio.TaskGroup() as threads:
            for space in self._spaces:
                for thread in range(self._spec.settings.threads):
                    threads.create_task(work(space, thread))

    async def _write_all(self, space: AddressSpace, thread: int) -> None:
        """Write this thread's share of the pages for the first time."""
        for address in self._own_pages(space, thread):
            if self.is_stopping:
                return
            await space.host.access(space.process, address, write=True)

    async def _race(self, space: AddressSpace, thread: int) -> None:
        """Make this thread's accesses, as many or as long as asked."""
        spec = self._spec
        index = space.number * spec.settings.threads + thread
        forks = FORKS if spec.settings.workload is WorkloadKind.FORKS else {}
        ops = self._accesses(AccessPattern(space.pages, **forks), space, thread)
        if spec.ops is not None:
            ops = islice(ops, share(spec.ops, len(self._spaces) * spec.settings.threads, index))
        for number, op in enumerate(ops):
            if self._is_over():
                return
            if number % OPS_BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
            if op.kind is AccessKind.FORK:
                await self._fork(space, thread + (number + 1) * THREADS_MAX)
            else:
                await self._perform(space, op)
            self._ops_done += 1

    def _accesses(self, pattern: AccessPattern, space: AddressSpace, stream_number: int) -> Iterator[MemoryAccess]:
        settings = self._spec.settings
        pattern = pattern._replace(read_share=settings.read_share)
        return stream(pattern, settings.seed, space.host.number, space.process.pid, stream_number)

    def _is_over(self) -> bool:
        """Tell whether threads end before their next access."""
        seconds = self._spec.settings.duration_seconds
        is_late = seconds is not None and monotonic_ns() >= self._race_began_ns + int(seconds * 1e9)
        return self.is_stopping or is_late

    async def _perform(self, space: AddressSpace, op: MemoryAccess) -> None:
        """Do to one page what *op* says; then read what was moved away meanwhile."""
        host, process, address = space.host, space.process, op.address
        match op.kind:
            case AccessKind.DISCARD:
                await host.discard(process, address)
            case AccessKind.MOVE:
                host.move(process, address)
            case _:
                await host.access(process, address, write=op.kind in (AccessKind.WRITE, AccessKind.PAGEOUT))
                if op.kind is AccessKind.PAGEOUT:
                    await host.page_out(process, [address])
        await host.read_moved(process)

    async def _fork(self, space: AddressSpace, stream_number: int) -> None:
        """Fork a process, have the child make CHILD_OPS accesses while the parent's threads go on, and end it."""
        if (
            len(self._spaces) + self._forks + 1 >= PROCESSES_MAX
        ):  # a page can say of no more processes that it is theirs
            return
        self._forks += 1
        child = space._replace(process=await space.host.fork(space.process))
        ops = self._accesses(AccessPattern(space.pages), space, stream_number)
        for op in islice(ops, CHILD_OPS):
            if self.is_stopping:
                break
            await self._perform(child, op)
        await space.host.exit(child.process)

    async def _stress_race(self) -> None:
        """Have all threads add one to every page while everything is paged out; the sweep then looks at the words."""
        adders_left = self._spec.settings.threads * len(self._spaces)

        async def add(space: AddressSpace, thread: int) -> None:
            nonlocal adders_left
            await self._add_to_all(space, thread)
            adders_left -= 1

        async with asyncio.TaskGroup() as group:
            group.create_task(self._each_thread(add))
            for space in self._spaces:
                group.create_task(self._page_out_all(space, lambda: adders_left == 0))
        for host in self._hosts:
            host.is_adding_over = True

    async def _add_to_all(self, space: AddressSpace, thread: int) -> None:
        """Add one to every page: upwards with an even number, downwards with an odd one.

        As many whole passes as the accesses asked for allow, but one at least.
        """
        spec, pages = self._spec, space.pages
        passes: Iterable[int] = count()
        if spec.ops is not None:
            passes = range(max(1, spec.ops // (spec.settings.threads * spec.settings.pages)))
        addresses = range(pages) if thread % 2 == 0 else range(pages - 1, -1, -1)
        for _ in passes:
            for address in addresses:
                if self._is_over():
                    return
                if address % OPS_BETWEEN_TURNS == 0:
                    await asyncio.sleep(0)
                await space.host.access(space.process, address, write=True)
                await space.host.read_moved(space.process)
                self._ops_done += 1

    async def _page_out_all(self, space: AddressSpace, is_done: Callable[[], bool]) -> None:
        """Page the whole process out, again and again. Models: the test's loop of MADV_PAGEOUT."""
        while True:
            for start in range(0, space.pages, SWAP_CLUSTER_MAX):
                if is_done():
                    return
                await space.host.page_out(space.process, range(start, start + SWAP_CLUSTER_MAX))
                await asyncio.sleep(0)

    async def _sweep(self, space: AddressSpace, thread: int) -> None:
        """Read this thread's share of the pages one last time, so that no loss stays unseen."""
        for address in self._own_pages(space, thread):
            if self.is_stopping:
                return
            await space.host.access(space.process, address, write=False)
            await space.host.read_moved(space.process)

    def _own_pages(self, space: AddressSpace, thread: int) -> Iterator[int]:
        """Return the pages of a process that fall to *thread* where each page is visited once."""
        return iter(range(thread, space.pages, self._spec.settings.threads))

    def _faults(self) -> int:
        return sum(host.mm.counters.faults for host in self._hosts)

    def _faults_so_far(self) -> int:
        return self._faults() - self._faults_before_race

    def report(self) -> HostReport:
        """Return what was done and found so far. Changes nothing."""
        has_raced = bool(self._race_ended_ns)
        race_ns = (self._race_ended_ns if has_raced else monotonic_ns()) - self._race_began_ns
        firsts = [host.first_corruption_ns for host in self._hosts if host.first_corruption_ns]
        duplication = self._host.mm.duplication  # the clone's copies are the same pages
        causes = {cause.name.lower(): (pages, seconds) for cause, pages, seconds in duplication.rows()}
        shared = HostReport(
            **asdict(self._oracle.tally),
            ops=self._ops_done,
            race_seconds=race_ns / 1e9 if self._race_began_ns else 0.0,
            race_faults=self._faults_in_race if has_raced else self._faults_so_far() * bool(self._race_began_ns),
            first_corruption_seconds=(min(firsts) - self._race_began_ns) / 1e9 if firsts else None,
            duplicate_pages={cause: pages for cause, (pages, _) in causes.items()},
            duplicate_page_seconds_by_cause={cause: seconds for cause, (_, seconds) in causes.items()},
            duplicate_pages_peak=duplication.pages_peak,
            duplicate_bytes=duplication.bytes,
            duplicate_waste_bytes=duplication.waste_bytes,
            zswpwb=self.zswpwb,
            tiers_are_durable=self.tiers_are_durable,
            tier_restarts=self._tier_restarts,
            latency_buckets=dict(self._latency.buckets),
            latency_seconds_sum=self._latency.seconds_sum,
        )
        return sum((host.report() for host in self._hosts), shared)

    def final_report(self) -> HostReport:
        """Return the last report, with the fates of all failed installs and the latency histogram."""
        self._oracle.close()
        return replace(self.report(), latency_histograms=[self._latency.encode()])


def twin_number(host: int) -> int:
    """Return the number of the clone of *host*: a page names the host that wrote it."""
    return HOSTS_MAX - 1 - host
