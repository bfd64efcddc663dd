"""A world: hosts, a tier, tasks and what may go wrong, with one step at a time. What the explorer explores.

Pure. A world is built anew for every run, from the same function, so that the same choices lead to the same state. It
holds the real `mm` and the real `tier`; between them `Network`, which may lose a reply, repeat a request, deliver one
late or let the tier die of one, as often as `Failures` allows.
"""

from dataclasses import dataclass
from typing import TypeVar

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.effects import Path, Wait
from swaptier_client.mm.errors import NotMapped, OutOfMemory, PageLost
from swaptier_client.mm.folio import Process, SwapPte
from swaptier_client.mm.host import Host, clone_into
from swaptier_client.mm.invariants import check_host
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.process import exit_process
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_loadgen.explore.cpu import Cpu
from swaptier_loadgen.explore.failures import REPEATS_REQUESTS, Failure, Failures
from swaptier_loadgen.explore.model import PageModel
from swaptier_loadgen.explore.network import Network, WorldHost
from swaptier_loadgen.explore.server import Server
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.lockstep.driver import Lockstep, TaskState
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import TierLimits
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
        self.failures = Failures()
        self.failures.left[Failure.INSTALL] = bounds.install_failures
        self.failures.left[Failure.LOST_REPLY] = bounds.lost_replies
        self.choices = self.failures.choices
        self.has_told = False
        """A process got SIGBUS for a page that is gone."""
        self.repeats_requests = False
        """A request may reach the tier twice."""
        self.writes_back = False
        """The order in which pages were stored matters: the oldest is written back first."""
        self._protecting: tuple[Process, int] | None = None
        """The page that this step's install failure write-protects."""
        self.server = Server(self.failures, TierLimits(pool_bytes), has_swap_file=has_swap_file)
        self.hosts: list[WorldHost] = []
        self.model = PageModel()
        self.tasks: list[Cpu] = []

    # Building

    def add_host(self, *, readahead: Readahead | None = None, is_synchronous: bool = True) -> WorldHost:
        """Add a host with one swap device of `bounds.slots` slots, in an area of its own."""
        index = len(self.hosts)
        options = AreaOptions(device_free_on_read=self.policy.device_free_on_read)
        areas = self.server.swapon(Client(f"host-{index}", 1), f"swap-{index}", self.bounds.slots, options)
        host = Host(
            self.policy,
            [SwapDevice(0, self.bounds.slots, is_synchronous=is_synchronous)],
            resident_pages_max=RESIDENT_PAGES_MAX,
            now_ns=lambda: 0,
            readahead=readahead or Readahead(),
            install_failure=self._install_failure,
        )
        network = Network(host, self.server, areas, self.failures, self.model.note_restart_told)
        there = WorldHost(index, host, network)
        self.hosts.append(there)
        return there

    def add_twin(self, original: WorldHost) -> WorldHost:
        """Add a clone of a host at rest, on the same area: a second machine that believes the slots are its own.

        What each host believes of a slot is then no longer what the tier has, so only what processes are given is
        checked from here on.
        """
        self.model.has_twins = True
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
        self.failures.is_on = True
        self.repeats_requests = any(self.failures.left[failure] for failure in REPEATS_REQUESTS)

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
                assert task.there is not None, "a process has a host"
                if not self.model.allows_loss(task.there.host.processes[error.pid], error.address):
                    raise Violation(Kind.TOLD, str(error)) from error
            case NotMapped():
                pass
            case OutOfMemory() | SwapTierError():
                raise Violation(Kind.FAILED, f"{task.name}: {error}") from error
            case _:
                raise error

    def check(self) -> None:
        """Check everything that must hold in every state.

        Raises:
            Violation: what does not.
        """
        self.model.check(self.tasks)
        try:
            self.server.tier.check_invariants()
            for there in self.hosts:
                # Without the pin a fault writes to slots that are not its own any more, so the books are wrong before
                # the page is. What matters of these policies is what they do to the page.
                if self.policy.pins:
                    running = sum(task.has_begun and task.there is there for task in self.tasks)
                    check_host(there.host, paths_running=running)
                if not self.model.has_twins:
                    _check_slots(there)
        except AssertionError as error:
            raise Violation(Kind.ACCOUNTING, str(error)) from error
        if not self.is_over and not self.enabled():
            waiting = ", ".join(
                f"{task.name} ({task.at.queue.name if isinstance(task.at, Wait) else 'parked'})"
                for task in self.tasks
                if task.state is TaskState.WAITING
            )
            raise Violation(Kind.DEADLOCK, f"no task is left to wake {waiting}")

    def finish(self) -> None:
        """End every process and check that nothing is left: no slot, no folio, no entry. The world is then used up.

        Raises:
            Violation: something is.
        """
        self.failures.is_on = False
        for there in self.hosts:
            for process in list(there.host.processes.values()):
                self.run_alone(there, exit_process(there.host, process))
            # A folio that was busy when its last user went stays in the swapcache until reclaim finds it.
            while self.run_alone(there, swap_out(there.host)):
                pass
            device = there.host.devices[0]
            in_tier = there.network.areas[0].stored_pages
            if not self.model.has_twins and (device.slots_in_use or there.host.resident_pages or in_tier):
                raise Violation(
                    Kind.LEAK,
                    f"every process has ended; {device.slots_in_use} slots, {there.host.resident_pages} folios and "
                    f"{in_tier} pool entries are left",
                )

    def _install_failure(self, pid: int, address: int) -> InstallFailure | None:
        """Answer a fault that asks whether its install fails."""
        causes = self.failures.causes
        taken = self.failures.happens(Failure.INSTALL, *(f"the install fails: {cause}" for cause in causes))
        if not taken:
            return None
        cause = causes[taken - 1]
        if cause is InstallFailure.UFFD_WP:
            self._protecting = (next(process for process in self.model.hosts if process.pid == pid), address)
        return cause


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
