"""A stage: one emulated host on the areas of a real tier, stepped by hand, with a clock that is set by hand.

For schedules that a test tells in words; the explorer's worlds choose their own. Nothing runs unless a test
steps it. `check()` may be called between any two steps.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVar, cast

from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.effects import Effect, Path, Preempt, Request, RequestReply, Wait
from swaptier_client.mm.folio import Process
from swaptier_client.mm.host import Host
from swaptier_client.mm.invariants import check_host
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot
from swaptier_loadgen.lockstep.driver import Lockstep, Task, TaskState
from swaptier_loadgen.lockstep.tiers import InProcessTiers
from swaptier_loadgen.measure.specification import ArmedFailures
from swaptier_server.tier.area import Area
from swaptier_server.tier.device import MemoryDevice
from swaptier_server.tier.load import lookup
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import AreaOptions, Outcome

T = TypeVar("T")

POOL_BYTES = 1 << 20
"""More than the pages of any small stage take."""


class TierFault(Enum):
    """What happens to a request on its way."""

    REFUSED = "refused"
    """It was never sent and never will be: a definite error."""
    REQUEST_LOST = "request lost"
    """It was not applied, and the host cannot know: an indefinite error."""
    REPLY_LOST = "reply lost"
    """It was applied, and the host cannot know: an indefinite error."""


def no_fault(_request: Request) -> TierFault | None:
    """Deliver everything."""
    return None


class FaultyTiers(InProcessTiers):
    """Areas that are reached over a network which a test can make fail, request by request."""

    def __init__(self, areas: Sequence[Area], fault: Callable[[Request], TierFault | None] = no_fault) -> None:
        super().__init__(areas)
        self.fault = fault
        """Asked once for each request, before it is applied."""

    def perform_one(self, request: Request) -> RequestReply:
        """Apply one request, or not, as `fault` chooses."""
        fault = self.fault(request)
        if fault is TierFault.REFUSED:
            raise TierUnreachable("the tier was told to refuse this; it was not applied", definite=True)
        if fault is TierFault.REQUEST_LOST:
            raise TierUnreachable("the request was lost on purpose; whether it was applied is unknown")
        reply = super().perform_one(request)
        if fault is TierFault.REPLY_LOST:
            raise TierUnreachable("the reply was lost on purpose; whether the request was applied is unknown")
        return reply


class Script(Lockstep):
    """A lock-step driver that runs one task up to a point that a test names."""

    def run_until(self, task: Task, reached: Callable[[Effect], bool]) -> None:
        """Step *task* alone until it stands at an effect that *reached* accepts. It must get there."""
        while True:
            self.step(task)
            assert task.state is not TaskState.DONE, f"{task.name} ended before it got there: {task.error!r}"
            assert task.at is not None
            if reached(task.at):
                return


def at_preempt(point: str) -> Callable[[Effect], bool]:
    """Return a predicate for run_until(): the task stands at Preempt(point)."""
    return lambda effect: isinstance(effect, Preempt) and effect.point == point


def at_wait(effect: Effect) -> bool:
    """Predicate for run_until(): the task sleeps."""
    return isinstance(effect, Wait)


class Stage:
    """A host, its tier, and everything that can be set about them."""

    def __init__(
        self,
        policy: Policy,
        *,
        slots: int = 16,
        resident_pages_max: int = 64,
        pool_bytes_max: int = POOL_BYTES,
        devices: Sequence[SwapDevice] | None = None,
        backing: Callable[[str], MemoryDevice] = lambda _name: MemoryDevice(),
        readahead: Readahead | None = None,
        has_zeromap: bool = False,
    ) -> None:
        self.now_ns = 0
        self.failures = ArmedFailures()
        self.requests: list[Request] = []
        """Every request that was sent, in the order in which it would arrive at the tier."""
        self.fault: Callable[[Request], TierFault | None] = no_fault
        """What happens to each request on its way; may be replaced between two steps."""
        self.dropped: list[SwapSlot] = []
        """Slots of which a fault dropped the only copy."""
        self.tier = Tier(TierLimits(pool_bytes_max), epoch=1, device_for=backing)
        swap_devices = [SwapDevice(0, slots)] if devices is None else list(devices)
        options = AreaOptions(device_free_on_read=policy.device_free_on_read)
        self.areas = [
            self.tier.swapon(Client("host", 1), f"swap-{device.type}", len(device.slots), options)[0]
            for device in swap_devices
        ]
        self.host = Host(
            policy,
            swap_devices,
            resident_pages_max=resident_pages_max,
            now_ns=lambda: self.now_ns,
            readahead=readahead or Readahead(),
            has_zeromap=has_zeromap,
            install_failure=self.failures,
            on_only_copy_dropped=self.dropped.append,
        )
        self.lockstep = Script(FaultyTiers(self.areas, self._note_and_choose))

    def slot(self, offset: int = 0) -> SwapSlot:
        """Return a slot of the first device. The first page swapped out gets slot 0."""
        return self.host.devices[0].slots[offset]

    def spawn(self, name: str, path: Path[object]) -> Task:
        """Add a task; it has not run yet."""
        return self.lockstep.spawn(name, path)

    def do(self, path: Path[T]) -> T:
        """Run *path* alone to its end and return its result; raises what it raised."""
        # Tasks of all results are kept in one list, so the type of this one's is lost on the way.
        return cast("T", self.lockstep.finish(self.spawn("alone", path)))

    def read(self, process: Process, address: int) -> Path[bytes]:
        """Read a page, as a load instruction does."""
        folio = yield from access_page(self.host, process, address, write=False)
        assert folio.content is not None
        return folio.content

    def write(self, process: Process, address: int, page: bytes) -> Path[None]:
        """Write a whole page, as a store instruction does."""
        yield from access_page(self.host, process, address, write=True)
        write_page(self.host, process, address, page)

    def tier_has(self, slot: SwapSlot) -> bool:
        """Tell whether the pool holds a page of *slot*, whatever the host thinks."""
        return lookup(self.areas[slot.entry.type], slot.entry.offset).outcome is Outcome.HIT

    def check(self) -> None:
        """Recount host and tier; with no task under way, compare the two as well.

        Without a pin a load may take the page of whoever has the slot by then, and the host cannot know; so such
        policies are not compared.

        Raises:
            AssertionError: a defect.
        """
        running = sum(task.state is not TaskState.DONE for task in self.lockstep.tasks)
        check_host(self.host, paths_running=running)
        self.tier.check_invariants()
        if running or not self.host.policy.pins:
            return
        for device in self.host.devices:
            for slot in device.slots:
                assert slot.in_doubt or self.tier_has(slot) == slot.in_pool, (
                    f"{slot.entry}: the host thinks that the tier {'has' if slot.in_pool else 'has not'} its page"
                )

    def _note_and_choose(self, request: Request) -> TierFault | None:
        self.requests.append(request)
        return self.fault(request)
