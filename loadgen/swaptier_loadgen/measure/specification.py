"""The four workloads whose outcome the specification states exactly, policy by policy: W1 to W4 of KERNEL.md 6.4.

Pure. Each builds paths for a host and says what to measure when all have ended. They are only paths, so any driver can
run them: the lock-step one in a test, or asyncio over gRPC.

W1: pages swapped out once and faulted one by one, the first install failing on some of them.
W2: forked pages, faulted for reading by the first sharer, their folios kept in the swapcache.
W3: the pages of W2, reclaimed unmodified.
W4: two threads on one page, its slot reused between the first one's read and its install.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.duplication import DuplicationCause
from swaptier_client.mm.effects import Path, Preempt, Reply, Wait, WaitQueue
from swaptier_client.mm.folio import Process
from swaptier_client.mm.host import Host
from swaptier_client.mm.process import fork
from swaptier_client.mm.reclaim import swap_out
from swaptier_wire.types import PAGE_BYTES, WORD_BYTES

T = TypeVar("T")

READ = "swap_in.read"
"""The point at which a fault has read its page and holds no lock."""

FORK_PAGES_SWAP_FACTOR = 4
"""W2 and W3 need swap less than half full, or the kernel frees the swapcache early (vm_swap_full())."""


@dataclass(slots=True)
class Measures:
    """What a workload came to."""

    silent_stale_reads: int = 0
    lost_updates: int = 0
    storebacks: int = 0
    decompressions: int = 0
    double_loads: int = 0
    misses_read_from_device: int = 0
    duplicates_at_rest: int = 0
    duplicates_in_flight: int = 0
    """With a fault held after its load, the pages held twice by that; without those being filled."""
    duplicate_page_seconds: float = 0.0
    """The ledger's integral, without folios being filled."""
    wasted_recompressions: int = 0


class ArmedFailures:
    """An install-failure source that fails the next install of chosen pages, once each."""

    def __init__(self) -> None:
        self._armed: dict[int, InstallFailure] = {}

    def arm(self, address: int, cause: InstallFailure) -> None:
        """Make the next install at *address* fail."""
        self._armed[address] = cause

    def __call__(self, _pid: int, address: int) -> InstallFailure | None:
        """Answer the fault path."""
        return self._armed.pop(address, None)


@dataclass(frozen=True, slots=True)
class Workload:
    """Paths to run together to their ends, and what they measured."""

    paths: dict[str, Path[None]]
    measure: Callable[[], Measures]


def page_version(address: int, version: int) -> bytes:
    """Return a page that compresses, is not same-filled, and differs for every address and version."""
    word = (address << 32 | version).to_bytes(WORD_BYTES, "little")
    return word * (PAGE_BYTES // WORD_BYTES - 1) + b"\xff" * WORD_BYTES


def first_install_fails(host: Host, failures: ArmedFailures, pages: int, failing: int) -> Workload:
    """Build W1: *pages* pages, the first *failing* of them with one failed install each, the data owed."""
    process = host.spawn()
    result = Measures()

    def path() -> Path[None]:
        yield from write_all(host, process, pages, version=1)
        yield from swap_out_everything(host)
        for address in range(failing):
            failures.arm(address, InstallFailure.LOCK_CONTENDED)
        for address in range(pages):
            fault = access_page(host, process, address, write=False)
            folio = yield from watch(fault, READ, lambda: _note_in_flight(host, result))
            result.silent_stale_reads += folio.content != page_version(address, 1)

    return Workload({"w1": path()}, lambda: _measured(host, result))


def first_sharer_reads(host: Host, pages: int, *, reclaim_after: bool = False) -> Workload:
    """Build W2: *pages* forked pages, each read by the parent only. W3: then everything is reclaimed unmodified."""
    assert all(len(device.slots) >= FORK_PAGES_SWAP_FACTOR * pages for device in host.devices)
    parent = host.spawn()
    result = Measures()

    def path() -> Path[None]:
        yield from write_all(host, parent, pages, version=1)
        yield from swap_out_everything(host)
        yield from fork(host, parent)
        for address in range(pages):
            folio = yield from access_page(host, parent, address, write=False)
            result.silent_stale_reads += folio.content != page_version(address, 1)
        if reclaim_after:
            yield from swap_out_everything(host)

    return Workload({"forked": path()}, lambda: _measured(host, result))


def slot_reused_under_a_fault(host: Host) -> Workload:
    """Build W4: one thread reads the page's slot and is held; another faults, writes and swaps the page out again.

    Where a pin or a folio lock keeps the second thread waiting, the first is let go and both finish in order.
    """
    process = host.spawn()
    result = Measures()
    slow = HeldPath(_read_page(host, process, 1, result), READ)
    fast = HeldPath(_write_and_swap_out(host, process, result), None)

    def direct() -> Path[None]:
        yield from write_all(host, process, 1, version=1)
        yield from swap_out_everything(host)
        slow.go_on()
        yield from slow.wait_until(lambda: slow.is_held)
        fast.go_on()
        yield from fast.wait_until(lambda: fast.is_done or fast.is_asleep)
        slow.go_on()
        yield from fast.wait_until(lambda: fast.is_done)
        yield from slow.wait_until(lambda: slow.is_done)
        folio = yield from access_page(host, process, 0, write=False)
        result.lost_updates += folio.content != page_version(0, 2)

    return Workload({"director": direct(), "slow": slow.run(), "fast": fast.run()}, lambda: _measured(host, result))


def _read_page(host: Host, process: Process, version: int, result: Measures) -> Path[None]:
    folio = yield from access_page(host, process, 0, write=False)
    # It may see the other thread's write, never anything else.
    result.silent_stale_reads += folio.content not in (page_version(0, version), page_version(0, version + 1))


def _write_and_swap_out(host: Host, process: Process, result: Measures) -> Path[None]:
    folio = yield from access_page(host, process, 0, write=True)
    result.silent_stale_reads += folio.content != page_version(0, 1)
    write_page(host, process, 0, page_version(0, 2))
    yield from swap_out_everything(host)


def write_all(host: Host, process: Process, pages: int, *, version: int) -> Path[None]:
    """Write *version* to the first *pages* addresses."""
    for address in range(pages):
        yield from access_page(host, process, address, write=True)
        write_page(host, process, address, page_version(address, version))


def swap_out_everything(host: Host) -> Path[None]:
    """Reclaim until a whole round frees nothing; the first round only clears referenced bits."""
    while (yield from swap_out(host)):
        pass


class HeldPath:
    """A path that waits to be started, and can be held at a Preempt point; others can wait for where it stands."""

    def __init__(self, path: Path[None], hold_at: str | None) -> None:
        self._path = path
        self._hold_at = hold_at
        self._progress = WaitQueue("progress")
        self._go = WaitQueue("go")
        self._stages = 0
        """How far it may go: to its start, then past the point where it is held."""
        self.is_held = False
        self.is_asleep = False
        self.is_done = False

    def go_on(self) -> None:
        """Let it begin; the second time, let it pass the point where it is held, for good."""
        self._stages += 1
        self._go.wake_all()

    def wait_until(self, reached: Callable[[], bool]) -> Path[None]:
        """Sleep until *reached* holds; it is asked whenever the path is held, falls asleep or ends."""
        while not reached():
            yield Wait(self._progress)

    def run(self) -> Path[None]:
        """Run the path; this is what a driver gets."""
        while self._stages < 1:
            yield Wait(self._go)
        reply: Reply = None
        while True:
            try:
                effect = self._path.send(reply)
            except StopIteration:
                break
            reply = None
            if isinstance(effect, Preempt) and effect.point == self._hold_at:
                self.is_held = True
                self._progress.wake_all()
                while self._stages < 2:
                    yield Wait(self._go)
                self.is_held = False
                continue
            self.is_asleep = isinstance(effect, Wait)
            if self.is_asleep:
                self._progress.wake_all()
            reply = yield effect
            self.is_asleep = False
        self.is_done = True
        self._progress.wake_all()


def watch(path: Path[T], point: str, seen: Callable[[], None]) -> Path[T]:
    """Run *path* and return its result, calling *seen* each time it stands at Preempt(point)."""
    reply: Reply = None
    while True:
        try:
            effect = path.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if isinstance(effect, Preempt) and effect.point == point:
            seen()
        reply = yield effect


def _note_in_flight(host: Host, result: Measures) -> None:
    held_twice = sum(host.duplication.pages(cause) for cause in _HELD_AFTER_LOAD)
    result.duplicates_in_flight = max(result.duplicates_in_flight, held_twice)


_HELD_AFTER_LOAD = tuple(cause for cause in DuplicationCause if cause is not DuplicationCause.LOAD_INFLIGHT)


def _measured(host: Host, result: Measures) -> Measures:
    counters = host.counters
    result.storebacks = counters.storeback_stored + counters.storeback_rejected
    result.decompressions = counters.zswpin
    result.double_loads = counters.double_loads
    result.misses_read_from_device = counters.tier_miss_must_exist
    result.duplicates_at_rest = host.duplication.pages_total
    result.duplicate_page_seconds = sum(host.duplication.page_seconds(cause) for cause in _HELD_AFTER_LOAD)
    result.wasted_recompressions = counters.wasted_recompress
    return result
