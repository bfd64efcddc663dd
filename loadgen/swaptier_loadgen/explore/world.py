"""A world: hosts, a tier, tasks and what may go wrong, with one step at a time. What the explorer explores.

Pure. A world is built anew for every run, from the same function, so that the same choices lead to the same state. It
holds the real `mm` and the real `tier`; between them `Network`, which may lose a reply, repeat a request, deliver one
late or let the tier die of one, as often as its budget allows. A budget is part of the state: what was spent cannot
happen again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.effects import (
    Path,
    SwapEntry,
    Wait,
)
from swaptier_client.mm.errors import NotMapped, OutOfMemory, PageLost
from swaptier_client.mm.folio import Process, SwapPte
from swaptier_client.mm.host import Host, clone_into
from swaptier_client.mm.invariants import check_host
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.process import exit_process
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot
from swaptier_loadgen.explore.choices import Choices
from swaptier_loadgen.explore.cpu import Cpu
from swaptier_loadgen.explore.model import PageModel
from swaptier_loadgen.explore.network import Budget, FailingDevice, Network
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.lockstep.driver import Lockstep, TaskState
from swaptier_server.tier.area import Durability
from swaptier_server.tier.swap_file import Client, MemorySwapFile
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import AreaOptions

T = TypeVar("T")

RESIDENT_PAGES_MAX = 64
"""Far more than any world touches: worlds reclaim when they say so, not when memory is short."""

POOL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """What limits a world. The first six are its size; a larger one is another question."""

    threads: int = 2
    processes: int = 1
    slots: int = 1
    swap_outs: int = 1
    install_failures: int = 0
    lost_replies: int = 0


class WorldHost:
    """A host, the network behind it and its areas."""

    def __init__(self, index: int, host: Host, network: Network) -> None:
        self.index = index
        self.host = host
        self.network = network


class World:
    """One instance of a world, at some point of one schedule.

    Life: a world's function adds hosts and tasks and runs the prelude; `start()`; then the explorer steps it until
    `is_over`, looks at `key()` and calls `check()` in every state; `finish()` at the end of a schedule.
    """

    def __init__(
        self, policy: Policy, bounds: Bounds, *, pool_bytes: int = POOL_BYTES, has_swap_file: bool = False
    ) -> None:
        """Start empty. The tier writes every page through to a swap file, if the world has one."""
        self.policy = policy
        self.bounds = bounds
        self.choices = Choices()
        self.budget = Budget(install_failures=bounds.install_failures, lost_replies=bounds.lost_replies)
        self.allows_known_loss = False
        """Processes may be told that a page is gone: the policy's specification says so for this world."""
        self.has_twins = False
        """Two hosts share an area: what one believes of a slot, the other may change."""
        self.has_told = False
        """A process was told that a page is gone."""
        self.repeats_requests = bounds.lost_replies > 0
        """A request may reach the tier twice."""
        self.writes_back = False
        """The order in which pages were stored matters: the oldest is written back first."""
        self.is_running = False
        self._protecting: tuple[Process, int] | None = None
        """The page that this step's install failure write-protects."""
        self.has_swap_file = has_swap_file
        """Pages outlive the tier."""
        self._swap_file = MemorySwapFile(lambda _name: FailingDevice(self)) if has_swap_file else None
        self.tier = self._start_tier(TierLimits(pool_bytes), epoch=1)
        self.hosts: list[WorldHost] = []
        self.model = PageModel()
        self.tasks: list[Cpu] = []

    # Building

    def add_host(self, *, readahead: Readahead | None = None, is_synchronous: bool = True) -> WorldHost:
        """Add a host with one swap device of `bounds.slots` slots, in an area of its own."""
        index = len(self.hosts)
        options = AreaOptions(device_free_on_read=self.policy.device_free_on_read)
        area, _ = self.tier.swapon(Client(f"host-{index}", 1), f"swap-{index}", self.bounds.slots, options)
        host = Host(
            self.policy,
            [SwapDevice(0, self.bounds.slots, is_synchronous=is_synchronous)],
            resident_pages_max=RESIDENT_PAGES_MAX,
            now_ns=_no_time,
            readahead=readahead,
            install_failure=self._install_failure,
        )
        there = WorldHost(index, host, Network(self, host, [area]))
        self.hosts.append(there)
        return there

    def add_twin(self, original: WorldHost) -> WorldHost:
        """Add a clone of a host at rest, on the same area: a second machine that believes the slots are its own.

        What each host believes of a slot is then no longer what the tier has, so only what processes are given is
        checked from here on.
        """
        self.has_twins = True
        twin = self.add_host()
        twin.network.areas = original.network.areas
        clone_into(twin.host, original.host)
        for pid, copy in twin.host.processes.items():
            process = original.host.processes[pid]
            self.model.hosts[copy] = twin
            self.model.note_copied(process, copy)
        return twin

    def add_process(self, there: WorldHost) -> Process:
        """Start a process on a host."""
        process = there.host.spawn()
        self.model.hosts[process] = there
        return process

    def spawn(
        self, name: str, path: Path[object], there: WorldHost | None, *, alike: str = "", is_daemon: bool = False
    ) -> Cpu:
        """Add a task. Those of one class *alike* must run the same program with the same arguments."""
        task = Cpu(name, path, there, alike, is_daemon=is_daemon)
        self.tasks.append(task)
        return task

    def run_alone(self, there: WorldHost, path: Path[T]) -> T:
        """Run *path* to its end with nothing else running and nothing going wrong, and return its result."""
        lockstep = Lockstep(there.network)
        return lockstep.finish(lockstep.spawn("alone", path))  # type: ignore[return-value]  # Task does not carry T

    def start(self) -> None:
        """End the prelude: from now on things may go wrong."""
        self.is_running = True

    def restart_tier(self) -> None:
        """Start the tier anew, with nothing in its memory and with what the swap file kept, if there is one.

        The epoch rises. A host learns of it before its next request is applied, as a stream that has to be opened anew
        tells it. Without a swap file what only the tier had is lost from now on, and nobody's fault; whoever maps other
        bytes instead is at fault.
        """
        before = self.tier.epoch
        self.tier = self._start_tier(self.tier.limits, epoch=before + 1)
        for there in self.hosts:
            there.network.areas = tuple(
                self.tier.swapon(old.client, old.name, old.slots, old.options, seen_server_epoch=before)[0]
                for old in there.network.areas
            )

    def _start_tier(self, limits: TierLimits, *, epoch: int) -> Tier:
        if self._swap_file is None:
            return Tier(limits, epoch, lambda _name: FailingDevice(self))
        return Tier(limits, epoch, swap_file=self._swap_file, durability=Durability.WRITE_THROUGH)

    # Running

    def enabled(self) -> list[int]:
        """Return the tasks that can take a step."""
        return [index for index, task in enumerate(self.tasks) if task.state is TaskState.READY]

    @property
    def is_over(self) -> bool:
        """Every task that must end has ended."""
        return all(task.state is TaskState.DONE or task.is_daemon for task in self.tasks)

    def step(self, index: int) -> None:
        """Let one task take one step.

        Raises:
            Violation: the task met a state that must not be, or ended as it must not.
        """
        task = self.tasks[index]
        network = task.there.network if task.there is not None else self.hosts[0].network
        try:
            task.step(network)
        except AssertionError as error:
            raise Violation(Kind.ACCOUNTING, str(error)) from error
        self.model.note_kept()
        if self._protecting is not None:
            process, address = self._protecting
            self._protecting = None
            pte = process.page_table.get(address)
            # Only an entry that was still there could be protected.
            if isinstance(pte, SwapPte) and pte.uffd_wp:
                self.model.protected.append((process, address))
        if task.error is not None:
            self._judge(task, task.error)

    def _judge(self, task: Cpu, error: Exception) -> None:
        match error:
            case Violation():
                raise error
            case AssertionError():
                raise Violation(Kind.ACCOUNTING, f"an assertion failed: {error}") from error
            case PageLost():
                self.has_told = True
                assert task.there is not None, "only processes are told, and each is on a host"
                if not self.allows_loss(task.there.host.processes[error.pid], error.address):
                    raise Violation(Kind.TOLD, str(error)) from error
            case NotMapped():
                pass
            case OutOfMemory() | SwapTierError():
                raise Violation(Kind.FAILED, f"{task.name}: {error}") from error
            case _:
                raise error

    def allows_loss(self, process: Process, address: int) -> bool:
        """Tell whether a page may be gone, so long as its process is told: it was in a memory that died, or any may."""
        is_unheard_of = not self.has_swap_file and self.model.hosts[process].network.is_server_new
        return self.allows_known_loss or is_unheard_of or (process, address) in self.model.at_risk

    def check(self) -> None:
        """Check everything that must hold in every state.

        Raises:
            Violation: what does not.
        """
        self.model.check(self)
        try:
            self.tier.check_invariants()
            for there in self.hosts:
                # Without the pin a fault writes to slots that are not its own any more, so the books are wrong before
                # the page is. What matters of these policies is what they do to the page.
                if self.policy.pins:
                    running = sum(task.has_begun and task.there is there for task in self.tasks)
                    check_host(there.host, paths_running=running)
                if not self.has_twins:
                    _check_slots(there)
        except AssertionError as error:
            raise Violation(Kind.ACCOUNTING, str(error)) from error
        if not self.is_over and not self.enabled():
            waiting = ", ".join(
                f"{task.name} ({task.at.queue.name if isinstance(task.at, Wait) else 'parked'})"
                for task in self.tasks
                if task.state is TaskState.WAITING
            )
            raise Violation(Kind.DEADLOCK, f"nobody is left to wake {waiting}")

    def finish(self) -> None:
        """End every process and check that nothing is left: no slot, no folio, no entry. The world is then used up.

        Raises:
            Violation: something is.
        """
        self.is_running = False
        for there in self.hosts:
            for process in list(there.host.processes.values()):
                self.run_alone(there, exit_process(there.host, process))
            # A folio that was busy when its last user went stays in the swapcache until reclaim finds it.
            while self.run_alone(there, swap_out(there.host)):
                pass
            device = there.host.devices[0]
            in_tier = there.network.areas[0].stored_pages
            if not self.has_twins and (device.slots_in_use or there.host.resident_pages or in_tier):
                raise Violation(
                    Kind.LEAK,
                    f"every process has ended; {device.slots_in_use} slots, {there.host.resident_pages} folios and "
                    f"{in_tier} pool entries are left",
                )

    def slot_of(self, task: Cpu, entry: SwapEntry) -> SwapSlot | None:
        """Return the slot that *entry* names on the task's host."""
        return task.there.host.slot(entry) if task.there is not None else None

    def _install_failure(self, pid: int, address: int) -> InstallFailure | None:
        """Answer a fault that asks whether its install fails."""
        if not self.is_running or not self.budget.install_failures:
            return None
        taken = self.choices.choose(*(f"the install fails: {cause}" for cause in self.budget.causes))
        if not taken:
            return None
        self.budget.install_failures -= 1
        cause = self.budget.causes[taken - 1]
        if cause is InstallFailure.UFFD_WP:
            self._protecting = (next(process for process in self.model.hosts if process.pid == pid), address)
        return cause


def _no_time() -> int:
    """Return the time in a world without a clock."""
    return 0


def _check_slots(there: WorldHost) -> None:
    """Check what host and tier may not both believe.

    Raises:
        Violation: a free slot has an entry, or a page has two owners.
    """
    for device, area in zip(there.host.devices, there.network.areas, strict=True):
        for slot in device.slots:
            held = area.held(slot.entry.offset)
            if held.entry is None:
                continue
            if slot.count == 0 and not slot.has_cache:
                raise Violation(
                    Kind.REUSED_EARLY, f"slot {slot.entry.offset} is free and the tier still holds a page for it"
                )
            folio = slot.folio
            # A host that doubts the slot takes neither copy for the only one: the next store's generation settles it.
            is_sure = held.generation == slot.generation and not slot.in_doubt
            if folio is not None and folio.dirty and folio.uptodate and is_sure:
                raise Violation(
                    Kind.TWO_OWNERS,
                    f"the swapcache's folio of slot {slot.entry.offset} is dirty, and the tier holds the same version",
                )
