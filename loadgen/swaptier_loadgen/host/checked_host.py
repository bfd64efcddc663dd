"""One host kernel and its tiers, with every access checked by the oracle.

Touches the event loop and the tiers' streams, through the driver. Rules of conduct:

- From the moment `driver.run(access_page(...))` returns, until the next await, the page stays mapped and nothing else
  runs: there the page is checked, and only there it is written.
- What the host says of a failed install is only noted; it makes no page right.
- While one of several tiers lives, another one's end is not the race's: pages that were on it count as lost.
- Where hosts outlive their tiers, a process that gets an error drops the page and writes it anew, as one that
  handles SIGBUS does: a race goes on losing pages instead of running out of them.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from time import monotonic_ns

from swaptier_client.driver import Driver, Preemption, TierLink
from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.backing import tier_restarted
from swaptier_client.mm.counters import DetectedLoss, InstallFailure
from swaptier_client.mm.effects import Load, Path, SwapEntry
from swaptier_client.mm.errors import OutOfMemory, PageLost
from swaptier_client.mm.fault import MOVE_DISTANCE
from swaptier_client.mm.folio import PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, move, zap
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.reclaim import pageout, swap_out
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot
from swaptier_client.mm.swapoff import swapoff
from swaptier_loadgen.faults.hazards import LostPage, PageName
from swaptier_loadgen.host.content import PageId
from swaptier_loadgen.host.counter_words import CounterWords
from swaptier_loadgen.host.install_failures import InstallFailures
from swaptier_loadgen.host.latency import LatencyRecorder
from swaptier_loadgen.host.messages import HostSpec, device_area
from swaptier_loadgen.host.observed_link import ObservedLink
from swaptier_loadgen.host.oracle import Access, Finding, Oracle
from swaptier_loadgen.host.report import EXAMPLES_MAX, HostReport, by_name
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_wire.errors import SwapTierError, TierUnreachable
from swaptier_wire.types import NO_GENERATION

UNREACHABLE_RETRIES_MAX = 64
"""Times an access is begun again because reclaim met a dead tier; each time other pages are reclaimed first."""


class CheckedHost:
    """A host whose pages are compared with what was written, each time one is accessed.

    Hosts can share an oracle and a latency recorder: the pages of each carry its *number*.
    """

    def __init__(
        self, spec: HostSpec, number: int, oracle: Oracle, latency: LatencyRecorder, tiers: Sequence[TierLink]
    ) -> None:
        settings = spec.settings
        chance = random.Random(f"{settings.seed}/{number}/install")
        self._area = spec.area
        self._survives_restarts = spec.survives_restarts
        self._links = [ObservedLink(tier, self._on_stale) for tier in tiers]
        self.number = number
        self.oracle = oracle
        self.words = CounterWords() if settings.workload is WorkloadKind.STRESS_RACE else None
        policy = POLICIES[spec.policy]
        self.mm = Host(
            replace(policy, requires_generation=policy.requires_generation or settings.require_generation),
            [SwapDevice(type_, spec.slots, priority=spec.priority(type_)) for type_ in range(len(tiers))],
            resident_pages_max=settings.resident,
            now_ns=monotonic_ns,
            readahead=Readahead(settings.readahead),
            has_zeromap=settings.zeromap,
            install_failure=InstallFailures(settings.install_failure_rates, chance),
            on_only_copy_dropped=self._on_only_copy_dropped,
            on_entry_taken=self._on_entry_taken,
        )
        self._driver = Driver(self._links, seed=settings.seed + number, preemption=Preemption(settings.preemption_rate))
        self._latency = latency
        self._moved: dict[int, deque[int]] = {}
        """Where the pages are that were moved in each process, until they are read there."""
        self._examples: list[str] = []
        self.first_corruption_ns = 0
        self.has_tier_restarted = False
        """Nothing read from now on can be held against a policy."""
        self.losses: deque[LostPage] = deque()
        """Pages that were lost or read wrong and not yet reported."""
        self._names: dict[PageId, PageName] = {}
        """What the tier called each page when it was last found swapped out."""
        self._stale: dict[PageId, PageName] = {}
        """What it called those that came back as something else and were not read since."""
        self._left_with_tier: dict[SwapEntry, int] = {}
        """Generation of each page that a tier had alone when it last started anew."""
        self.lost_with_tier = 0
        """Detected losses that were among these."""
        self.is_adding_over = False
        """In stress-race: no thread adds any more, so the words of every page can be checked."""

    def on_tier_restarted(self, type_: int) -> None:
        """Note that the tier behind a swap device forgot what it held in memory."""
        if self._survives_restarts:
            self._left_with_tier |= {
                slot.entry: slot.generation
                for slot in self.mm.devices[type_].slots
                if slot.count and (slot.folio is None or not slot.folio.uptodate)
            }
            tier_restarted(self.mm, type_)
        else:
            self.has_tier_restarted = True

    async def access(self, process: Process, address: int, *, write: bool) -> None:
        """Fault the page in if need be, check it, write its next version if asked, or if it was wrong or blank."""
        page = PageId(self.number, process.pid, address)
        for _ in range(UNREACHABLE_RETRIES_MAX):
            if self.oracle.is_known_lost(page):
                return
            try:
                is_done = await self._access_once(process, page, write=write)
            except SwapTierError as error:
                if self._is_unreachable(process, address):
                    self._lose(process, page, DetectedLoss.UNREACHABLE)
                self._end_unless_survived(error)
                continue
            except OutOfMemory as error:
                if all(device.is_dead for device in self.mm.devices):
                    raise TierUnreachable("no tier answers any more, and nothing can be reclaimed") from error
                raise
            if is_done:
                return
            write = True  # it could be read only, and was wrong or blank: write over it, so that a later loss shows
        raise TierUnreachable("a tier is gone, and reclaim has nothing left that could go to another")

    async def _access_once(self, process: Process, page: PageId, *, write: bool) -> bool:
        """Return whether the access is over; else it must be made again, for writing."""
        address = page.address
        access = self.oracle.begin(page)
        is_swapped = self._note_name(process, page)
        began_ns = monotonic_ns()
        try:
            folio = await self._driver.run(access_page(self.mm, process, address, write=write))
            if is_swapped:
                self._latency.record(monotonic_ns() - began_ns)
            if self.has_tier_restarted:
                raise TierUnreachable("the tier server started anew: the pages it held in memory are lost")
            assert folio.content is not None, "a page is mapped only when it is uptodate"
            finding = self.oracle.check(access, folio.content, folio.source)
            if finding is not None:
                self._note(finding)
                # Perhaps another thread's fault mapped it, and we are the first to read it: the name is the page's.
                self._note_loss(page, str(finding.corruption), was_dropped=finding.owed_installs > 0)
            self._stale.pop(page, None)  # what it was lost as has been said, or did not come to anything
            if self.words is not None and self.is_adding_over and not write:
                self.words.check(page, folio.content)
            pte = process.page_table[address]
            # A moved page is only read: it is dropped next.
            must_write = address < MOVE_DISTANCE and (write or finding is not None or self.oracle.is_blank(page))
            if must_write and isinstance(pte, PresentPte) and pte.writable:
                version = None if self.words is None else self.words.add(page, folio.content)
                write_page(self.mm, process, address, self.oracle.write(access, version))
                must_write = False
        except PageLost as lost:
            self._note_name(process, page)
            self._note_detected_loss(access, str(lost.reason))
        finally:
            self.oracle.end(access)
        if not self.oracle.is_known_lost(page):
            return not must_write
        if self._survives_restarts:
            await self.discard(process, address)
        return True

    def _lose(self, process: Process, page: PageId, reason: str) -> None:
        """Count *page* as lost: its process gets an error."""
        self._note_name(process, page)
        access = self.oracle.begin(page)
        self._note_detected_loss(access, reason)
        self.oracle.end(access)

    def _note_detected_loss(self, access: Access, reason: str) -> None:
        if not self.oracle.is_known_lost(access.page):
            self._note_loss(access.page, reason, was_dropped=self.oracle.is_owed(access.page))
            self.lost_with_tier += reason == DetectedLoss.EPOCH and self._was_left_with_tier(access.page)
        self.oracle.detected_loss(access, reason)

    def _was_left_with_tier(self, page: PageId) -> bool:
        """Tell whether a tier had the page alone when it started anew: no policy could have kept it."""
        name = self._names[page]
        return self._left_with_tier.get(SwapEntry(name.tier, name.offset)) == name.generation

    def _note_loss(self, page: PageId, reason: str, *, was_dropped: bool) -> None:
        """Keep what is known here of a page that was lost; one that never had a name was lost on its host."""
        name = self._stale.pop(page, None) or self._names.get(page) or PageName(0, self._area, 0, NO_GENERATION)
        unknown = self._links[name.tier].unknown(name.offset, name.generation)
        self.losses.append(LostPage(name, reason, unknown, was_dropped))

    def _on_stale(self, load: Load) -> None:
        """Remember as what the pages of a slot were lost: a program may first read them after they went out again."""
        type_, offset = load.entry
        name = PageName(type_, device_area(self._area, type_), offset, load.generation)
        for page in self._pages_in(self.mm.slot(load.entry)):
            self._stale.setdefault(page, name)

    def _note_name(self, process: Process, page: PageId) -> bool:
        """Remember what the tier calls a page, if it is swapped out; tell whether it is."""
        pte = process.page_table.get(page.address)
        if not isinstance(pte, SwapPte):
            return False
        type_, offset = pte.entry
        area = device_area(self._area, type_)
        self._names[page] = PageName(type_, area, offset, self.mm.slot(pte.entry).generation)
        return True

    def _end_unless_survived(self, error: SwapTierError) -> None:
        """Raise *error* unless it is the end of one tier while another lives."""
        is_alive = any(not device.is_dead for device in self.mm.devices)
        if self.has_tier_restarted or not is_alive or not isinstance(error, TierUnreachable):
            raise error

    def _is_unreachable(self, process: Process, address: int) -> bool:
        """Tell whether the page is on a device whose tier is dead, and nowhere else."""
        pte = process.page_table.get(address)
        if not isinstance(pte, SwapPte):
            return False
        return self.mm.device(pte.entry).is_dead and self.mm.slot(pte.entry).folio is None

    async def discard(self, process: Process, address: int) -> None:
        """Drop one page, as MADV_DONTNEED does."""

        def addresses() -> Iterator[int]:  # zap() takes them in one atomic step, and there the oracle learns of it
            self._on_entry_taken(process.pid, address, InstallFailure.ZAPPED)
            yield address

        await self._survive(zap(self.mm, process, addresses()))

    async def page_out(self, process: Process, addresses: Iterable[int]) -> None:
        """Page out what of the pages at *addresses* is mapped once only. Models: MADV_PAGEOUT."""
        await self._survive(pageout(self.mm, process, addresses))

    async def swap_out_all(self) -> None:
        """Reclaim until no page is resident; nothing else runs on this host."""
        while self.mm.resident_pages:
            await self._driver.run(swap_out(self.mm))

    async def reclaim_leftovers(self) -> None:
        """Reclaim what is left when all processes have ended: a folio that was busy when its last user went.

        It stays in the swapcache, and with it the tier's page, until reclaim finds it.
        """
        try:
            while self.mm.resident_pages and await self._driver.run(swap_out(self.mm)):
                pass
        except SwapTierError as error:
            self._end_unless_survived(error)

    async def _survive(self, path: Path[object]) -> None:
        """Run *path*; the error of one of several tiers ends nothing."""
        try:
            await self._driver.run(path)
        except SwapTierError as error:
            self._end_unless_survived(error)

    def move(self, process: Process, address: int) -> None:
        """Move the page away if it is swapped out and no fault reads it. Models: UFFDIO_MOVE."""
        if move(self.mm, process, address, address + MOVE_DISTANCE):
            self._on_entry_taken(process.pid, address, InstallFailure.MOVED)

    async def read_moved(self, process: Process) -> None:
        """Read the pages that were moved where they are now, then drop them, so that others can be moved there."""
        moved = self._moved.get(process.pid)
        while moved:
            address = moved.popleft()
            await self.access(process, address, write=False)
            await self.discard(process, address)

    async def fork(self, process: Process) -> Process:
        """Return a child with the same pages."""
        child = await self._driver.run(fork(self.mm, process))
        self.oracle.fork(self.number, process.pid, child.pid)
        return child

    async def exit(self, process: Process) -> None:
        """End *process*: its slots become free, on the tier too."""
        self.oracle.exit(self.number, process.pid)
        await self._survive(exit_process(self.mm, process))

    async def swapoff(self) -> None:
        """Bring every page back, with as much memory as that takes.

        Afterwards no slot is in use. A page that turns out to be lost is noted and dropped: it would keep its device
        in use.

        Raises:
            SwapTierError: the tier did not answer.
        """
        self.mm.resident_pages_max += sum(len(process.page_table) for process in self.mm.processes.values())
        for device in self.mm.devices:
            while device.slots_in_use:
                try:
                    await self._driver.run(swapoff(self.mm, device))
                except PageLost as lost:
                    process = self.mm.processes[lost.pid]
                    page = PageId(self.number, lost.pid, lost.address)
                    self._lose(process, page, str(lost.reason))
                    await self._driver.run(zap(self.mm, process, [lost.address]))

    def _pages_in(self, slot: SwapSlot) -> list[PageId]:
        """Return the pages that are swapped out to *slot* now; its owners are all that ever were."""
        pages = []
        for pid, address in dict.fromkeys(slot.owners):
            process = self.mm.processes.get(pid)
            pte = None if process is None else process.page_table.get(address)
            if isinstance(pte, SwapPte) and pte.entry == slot.entry:
                pages.append(PageId(self.number, pid, address))
        return pages

    def _on_only_copy_dropped(self, slot: SwapSlot) -> None:
        """Note which pages a failed install took along."""
        for page in self._pages_in(slot):
            self.oracle.owed(page)

    def _on_entry_taken(self, pid: int, address: int, cause: InstallFailure) -> None:
        """Note that a page was discarded, or is expected elsewhere from now on."""
        page = PageId(self.number, pid, address)
        self._stale.pop(page, None)
        if cause is InstallFailure.MOVED:
            target = address + MOVE_DISTANCE
            self.oracle.move(page, page._replace(address=target))
            self._moved.setdefault(pid, deque()).append(target)
        else:
            self.oracle.discard(page)
        if self.words is not None:
            self.words.forget(page)

    def _note(self, finding: Finding) -> None:
        """Keep the first findings in words, and when the very first was."""
        self.first_corruption_ns = self.first_corruption_ns or monotonic_ns()
        if len(self._examples) < EXAMPLES_MAX:
            page, found = finding.page, finding.found
            read = "zeros or damage" if found is None else f"version {found.version} of page {found.page.address}"
            whose = "" if found is None or found.page.process == page.process else f" of process {found.page.process}"
            if found is not None and found.page.host != page.host:
                whose += f" of host {found.page.host}"
            self._examples.append(
                f"host {page.host} process {page.process} page {page.address}: expected version "
                f"{finding.expected_version}, read {read}{whose} ({finding.corruption})"
            )

    def report(self) -> HostReport:
        """Return what this host counted, without what the oracle did. Changes nothing."""
        mm, words = self.mm, self.words or CounterWords()
        return HostReport(
            counters=by_name(mm.counters),
            lost_with_tier=self.lost_with_tier,
            tiers_dead=sum(device.is_dead for device in mm.devices),
            counters_wrong=words.counters_wrong,
            index_words_wrong=words.index_words_wrong,
            examples=list(self._examples),
            resident_pages=mm.resident_pages,
            swapcache_pages=sum(folio.entry is not None for folio in mm.lru.folios),
            orphan_entries=len(mm.orphans),
        )
