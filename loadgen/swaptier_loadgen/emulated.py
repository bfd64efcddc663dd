"""One emulated host at work: its threads fault, read, check, write and discard, and the oracle sees every page.

Touches the event loop and the tier's stream, through the driver. Rules of conduct:

- From the moment `driver.run(host.access(...))` returns, until the next await, the page stays mapped and nobody else
  runs: there the page is checked, and only there it is written.
- A thread stops between two accesses, never inside one.
- What the host tells of a failed install is only noted; nothing it says makes a page right.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import count, islice
from time import monotonic_ns
from typing import TypeAlias

from swaptier_client.driver import Driver, Preemption
from swaptier_client.driver import Tier as TierLink
from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.errors import PageLost
from swaptier_client.mm.fault import MOVE_DISTANCE
from swaptier_client.mm.host import Host
from swaptier_client.mm.page_table import PresentPte, SwapPte
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import Process, exit_process, fork, move, zap
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.reclaim import SWAP_CLUSTER_MAX, pageout
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot
from swaptier_loadgen.config import THREADS_MAX
from swaptier_loadgen.content import PROCESSES_MAX, Contents, PageId
from swaptier_loadgen.counter_words import CounterWords
from swaptier_loadgen.injection import InstallFailures, rates_of
from swaptier_loadgen.latency import LatencyRecorder
from swaptier_loadgen.messages import Duplicates, HostReport, HostSpec
from swaptier_loadgen.oracle import Finding, Oracle
from swaptier_loadgen.workload import Op, OpKind, Shape, WorkloadKind, share, stream
from swaptier_wire.errors import TierUnreachable

OPS_BETWEEN_TURNS = 64
"""A thread whose accesses all hit mapped pages lets the others, the reports and a stop run this often."""

CHILD_OPS = 24
"""Accesses of a forked child before it exits: some faults of its own, and some copies of pages it shares."""

FORKS = {"fork_percent": 1, "move_percent": 2}
"""What the workload `forks` has besides the accesses of `random`."""

EXAMPLES_MAX = 3
"""Findings told in words; the rest are counted."""

ThreadWork: TypeAlias = Callable[[Process, int], Coroutine[None, None, None]]
"""What one emulated thread does, given its process and its number there."""


class EmulatedHost:
    """The threads of one host, from the first write of every page to the end of its processes.

    Life: made; `run`, which populates, races and sweeps; `exit_processes`, after which the tier should hold nothing.
    """

    def __init__(self, spec: HostSpec, contents: Contents, tier: TierLink) -> None:
        self._spec = spec
        self._oracle = Oracle(contents.page)
        self._latency = LatencyRecorder()
        chance = random.Random(f"{spec.seed}/{spec.host}/install")
        self._words = CounterWords() if spec.workload is WorkloadKind.STRESS_RACE else None
        self._host = Host(
            POLICIES[spec.policy],
            [SwapDevice(0, spec.slots)],
            resident_pages_max=spec.resident,
            now_ns=monotonic_ns,
            readahead=Readahead(spec.readahead),
            has_zeromap=spec.zeromap,
            install_failure=InstallFailures(rates_of(spec.install_failure_rate, spec.install_failures), chance),
            on_only_copy_dropped=self._on_only_copy_dropped,
            on_entry_taken=self._on_entry_taken,
        )
        self._driver = Driver([tier], seed=spec.seed + spec.host, preemption=Preemption(spec.preemption_rate))
        self._processes = [self._host.spawn() for _ in range(spec.processes)]
        self._pages = {
            process: share(spec.pages, spec.processes, index) for index, process in enumerate(self._processes)
        }
        self._moved: dict[int, deque[int]] = {process.pid: deque() for process in self._processes}
        """Where the pages are that were moved in each process, until they are read there."""
        self._ops_done = 0
        self._race_began_ns = 0
        self._race_ended_ns = 0
        self._faults_before_race = 0
        self._faults_in_race = 0
        self._first_corruption_ns = 0
        self._examples: list[str] = []
        self.is_stopping = False
        """Set from outside: threads end before their next access, and nothing is swept."""
        self._has_tier_restarted = False
        self._is_adding_over = False
        """In stress-race: no thread adds any more, so the words of every page can be checked."""

    async def run(self) -> None:
        """Write every page once, race, and read every page once more.

        Raises:
            SwapTierError: the tier did not answer or refused; what was read until then was checked.
            OutOfMemory: reclaim could not free a page.
        """
        await self._each_thread(self._write_all)
        self._race_began_ns, self._faults_before_race = monotonic_ns(), self._host.counters.faults
        if self._words is None:
            await self._each_thread(self._race)
        else:
            await self._stress_race()
        self._race_ended_ns, self._faults_in_race = monotonic_ns(), self._faults_so_far()
        await self._each_thread(self._sweep)

    async def exit_processes(self) -> None:
        """End all processes: every slot becomes free, and the tier is told so.

        Raises:
            SwapTierError: it could not be told.
        """
        for process in self._processes:
            await self._driver.run(exit_process(self._host, process))

    def on_tier_restarted(self) -> None:
        """Note that the server forgot what it held; nothing read from now on can be held against a policy."""
        self._has_tier_restarted = True

    async def _each_thread(self, work: ThreadWork) -> None:
        """Run *work* for every thread at once; the first failure ends them all."""
        async with asyncio.TaskGroup() as threads:
            for process in self._processes:
                for thread in range(self._spec.threads):
                    threads.create_task(work(process, thread))

    async def _write_all(self, process: Process, thread: int) -> None:
        """Write this thread's share of the pages for the first time."""
        for address in self._own_pages(process, thread):
            if self.is_stopping:
                return
            await self._access(process, address, write=True)

    async def _race(self, process: Process, thread: int) -> None:
        """Make this thread's accesses, as many or as long as asked."""
        spec = self._spec
        index = self._processes.index(process) * spec.threads + thread
        forks = FORKS if spec.workload is WorkloadKind.FORKS else {}
        ops: Iterable[Op] = stream(Shape(self._pages[process], **forks), spec.seed, spec.host, process.pid, thread)
        if spec.ops is not None:
            ops = islice(ops, share(spec.ops, spec.processes * spec.threads, index))
        for number, op in enumerate(ops):
            if self._is_over():
                return
            if number % OPS_BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
            if op.kind is OpKind.FORK:
                await self._fork(process, thread + (number + 1) * THREADS_MAX)
            else:
                await self._perform(process, op)
            self._ops_done += 1

    def _is_over(self) -> bool:
        """Tell whether threads end before their next access."""
        seconds = self._spec.duration_seconds
        is_late = seconds is not None and monotonic_ns() >= self._race_began_ns + int(seconds * 1e9)
        return self.is_stopping or is_late

    async def _perform(self, process: Process, op: Op) -> None:
        """Do to one page what *op* says; then read what was moved away meanwhile."""
        match op.kind:
            case OpKind.DISCARD:
                await self._discard(process, op.address)
            case OpKind.MOVE:
                if move(self._host, process, op.address, op.address + MOVE_DISTANCE):
                    self._on_entry_taken(process.pid, op.address, InstallFailure.MOVED)
            case _:
                await self._access(process, op.address, write=op.kind in (OpKind.WRITE, OpKind.PAGEOUT))
                if op.kind is OpKind.PAGEOUT:
                    await self._driver.run(pageout(self._host, process, [op.address]))
        await self._read_moved(process)

    async def _read_moved(self, process: Process) -> None:
        """Read the pages that were moved where they are now, then drop them, so that others can be moved there."""
        moved = self._moved[process.pid]
        while moved:
            address = moved.popleft()
            await self._access(process, address, write=False)
            await self._discard(process, address)

    async def _fork(self, process: Process, stream_number: int) -> None:
        """Fork *process*, have the child make CHILD_OPS accesses while the parent's threads go on, and end it."""
        if len(self._moved) + 1 >= PROCESSES_MAX:
            return
        child = await self._driver.run(fork(self._host, process))
        self._oracle.fork(self._spec.host, process.pid, child.pid)
        self._moved[child.pid] = deque()
        shape = Shape(self._pages[process])
        ops = stream(shape, self._spec.seed, self._spec.host, process.pid, stream_number)
        for op in islice(ops, CHILD_OPS):
            if self.is_stopping:
                break
            await self._perform(child, op)
        self._oracle.exit(self._spec.host, child.pid)
        await self._driver.run(exit_process(self._host, child))

    async def _stress_race(self) -> None:
        """Have all threads add one to every page while everything is paged out; the sweep then looks at the words."""
        adders_left = [self._spec.threads * len(self._processes)]

        async def add(process: Process, thread: int) -> None:
            await self._add_to_all(process, thread)
            adders_left[0] -= 1

        async with asyncio.TaskGroup() as group:
            group.create_task(self._each_thread(add))
            for process in self._processes:
                group.create_task(self._page_out_all(process, lambda: adders_left[0] == 0))
        self._is_adding_over = True

    async def _add_to_all(self, process: Process, thread: int) -> None:
        """Add one to every page: upwards with an even number, downwards with an odd one.

        As many whole passes as the accesses asked for allow, but one at least.
        """
        spec, pages = self._spec, self._pages[process]
        passes: Iterable[int] = count()
        if spec.ops is not None:
            passes = range(max(1, spec.ops // (spec.threads * spec.pages)))
        addresses = range(pages) if thread % 2 == 0 else range(pages - 1, -1, -1)
        for _ in passes:
            for address in addresses:
                if self._is_over():
                    return
                if address % OPS_BETWEEN_TURNS == 0:
                    await asyncio.sleep(0)
                await self._access(process, address, write=True)
                await self._read_moved(process)
                self._ops_done += 1

    async def _page_out_all(self, process: Process, is_done: Callable[[], bool]) -> None:
        """Page the whole process out, again and again. Models: the test's loop of MADV_PAGEOUT."""
        while True:
            for start in range(0, self._pages[process], SWAP_CLUSTER_MAX):
                if is_done():
                    return
                await self._driver.run(pageout(self._host, process, range(start, start + SWAP_CLUSTER_MAX)))
                await asyncio.sleep(0)

    async def _sweep(self, process: Process, thread: int) -> None:
        """Read this thread's share of the pages one last time, so that no loss stays unseen."""
        for address in self._own_pages(process, thread):
            if self.is_stopping:
                return
            await self._access(process, address, write=False)
            await self._read_moved(process)

    def _own_pages(self, process: Process, thread: int) -> Iterator[int]:
        """Return the pages of *process* that fall to *thread* where each page is visited once."""
        return iter(range(thread, self._pages[process], self._spec.threads))

    async def _access(self, process: Process, address: int, *, write: bool) -> None:
        """Fault the page in if need be, check it, write its next version if asked, or if it was wrong or blank."""
        page = PageId(self._spec.host, process.pid, address)
        if self._oracle.is_told(page):
            return
        access = self._oracle.begin(page)
        is_swapped = isinstance(process.page_table.get(address), SwapPte)
        began_ns = monotonic_ns()
        try:
            folio = await self._driver.run(self._host.access(process, address, write=write))
            if is_swapped:
                self._latency.record(monotonic_ns() - began_ns)
            if self._has_tier_restarted:
                raise TierUnreachable("the tier server started anew: the pages it held in memory are lost")
            assert folio.content is not None, "a page is mapped only when it is uptodate"
            finding = self._oracle.check(access, folio.content, folio.source)
            if finding is not None:
                self._note(finding)
            if self._words is not None and self._is_adding_over and not write:
                self._words.check(page, folio.content)
            pte = process.page_table[address]
            # A moved page is only read: it is dropped next.
            must_write = address < MOVE_DISTANCE and (write or finding is not None or self._oracle.is_blank(page))
            if must_write and isinstance(pte, PresentPte) and pte.writable:
                version = None if self._words is None else self._words.add(page, folio.content)
                self._host.write(process, address, self._oracle.write(access, version))
                must_write = False
        except PageLost as lost:
            self._oracle.told(access, str(lost.reason))
            return
        finally:
            self._oracle.end(access)
        if must_write:  # read only, and wrong or blank: write over it, so that a later loss of it shows
            await self._access(process, address, write=True)

    async def _discard(self, process: Process, address: int) -> None:
        """Drop one page, as MADV_DONTNEED does."""

        def addresses() -> Iterator[int]:  # zap() takes them in one atomic step: there the oracle is told
            self._on_entry_taken(process.pid, address, InstallFailure.ZAPPED)
            yield address

        await self._driver.run(zap(self._host, process, addresses()))

    def _on_only_copy_dropped(self, slot: SwapSlot) -> None:
        """Note whose page a failed install took along."""
        for pid, address in dict.fromkeys(slot.owners):
            process = self._host.processes.get(pid)
            pte = None if process is None else process.page_table.get(address)
            if isinstance(pte, SwapPte) and pte.entry == slot.entry:
                self._oracle.owed(PageId(self._spec.host, pid, address))

    def _on_entry_taken(self, pid: int, address: int, cause: InstallFailure) -> None:
        """Note that a page was discarded, or is expected elsewhere from now on."""
        page = PageId(self._spec.host, pid, address)
        if cause is InstallFailure.MOVED:
            target = address + MOVE_DISTANCE
            self._oracle.move(page, page._replace(address=target))
            self._moved[pid].append(target)
        else:
            self._oracle.discard(page)
        if self._words is not None:
            self._words.forget(page)

    def _note(self, finding: Finding) -> None:
        """Keep the first findings in words, and when the very first was."""
        self._first_corruption_ns = self._first_corruption_ns or monotonic_ns()
        if len(self._examples) < EXAMPLES_MAX:
            page, found = finding.page, finding.found
            read = "zeros or damage" if found is None else f"version {found.version} of page {found.page.address}"
            whose = "" if found is None or found.page.process == page.process else f" of process {found.page.process}"
            self._examples.append(
                f"host {page.host} process {page.process} page {page.address}: expected version "
                f"{finding.expected_version}, read {read}{whose} ({finding.corruption})"
            )

    def _faults_so_far(self) -> int:
        return self._host.counters.faults - self._faults_before_race

    def report(self) -> HostReport:
        """Return what was done and found so far. Changes nothing."""
        host, tally, ledger = self._host, self._oracle.tally, self._host.duplication
        has_raced = bool(self._race_ended_ns)
        race_ns = (self._race_ended_ns if has_raced else monotonic_ns()) - self._race_began_ns
        rows = list(ledger.rows())
        return HostReport(
            ops_done=self._ops_done,
            race_seconds=race_ns / 1e9 if self._race_began_ns else 0.0,
            race_faults=self._faults_in_race if has_raced else self._faults_so_far() * bool(self._race_began_ns),
            counters=list(host.counters.rows()),
            pages_checked=tally.pages_checked,
            corruptions=dict(tally.corruptions),
            told_lost=dict(tally.told_lost),
            owed_fates=dict(tally.owed_fates),
            unexplained=tally.unexplained,
            first_corruption_seconds=(
                (self._first_corruption_ns - self._race_began_ns) / 1e9 if self._first_corruption_ns else None
            ),
            counters_wrong=0 if self._words is None else self._words.counters_wrong,
            index_words_wrong=0 if self._words is None else self._words.index_words_wrong,
            examples=list(self._examples),
            duplicates=Duplicates(
                pages={cause.name.lower(): pages for cause, pages, _ in rows},
                page_seconds={cause.name.lower(): seconds for cause, _, seconds in rows},
                pages_peak=ledger.pages_peak,
                bytes_now=ledger.bytes,
                waste_bytes_now=ledger.waste_bytes,
            ),
            resident_pages=host.resident_pages,
            swapcache_pages=sum(folio.entry is not None for folio in host.lru.folios),
            orphan_entries=host.orphan_entries,
            latency_buckets=list(self._latency.buckets),
            latency_seconds_sum=self._latency.seconds_sum,
        )

    def final_report(self) -> HostReport:
        """Return the last report, with the fates of all failed installs and the latency histogram."""
        self._oracle.close()
        return self.report().model_copy(update={"latency_histogram": self._latency.encode()})
