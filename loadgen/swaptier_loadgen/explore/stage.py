"""A stage: one emulated host on the areas of a real tier, stepped by hand, with a clock that is set by hand.

Pure. For schedules that a test tells in words; the explorer's worlds choose their own. Nothing runs unless a caller
steps it. `check()` may be called between any two steps.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from swaptier_client.mm.effects import Path, Request
from swaptier_client.mm.host import Host
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.process import Process
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot
from swaptier_loadgen.explore.in_process import InProcessTiers, TierFault, no_fault
from swaptier_loadgen.explore.lockstep import Lockstep, Task, TaskState
from swaptier_loadgen.measure.specification import ArmedFailures
from swaptier_server.tier.area import Client
from swaptier_server.tier.device import BackingDevice, MemoryDevice
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import AreaOptions, Outcome

T = TypeVar("T")

POOL_BYTES = 1 << 20
"""More than the pages of any small stage take."""


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
        backing: Callable[[str], BackingDevice] = lambda _name: MemoryDevice(),
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
            readahead=readahead,
            has_zeromap=has_zeromap,
            install_failure=self.failures,
            on_only_copy_dropped=self.dropped.append,
        )
        self.lockstep = Lockstep(InProcessTiers(self.areas, self._note_and_choose))

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
        folio = yield from self.host.access(process, address, write=False)
        assert folio.content is not None
        return folio.content

    def write(self, process: Process, address: int, page: bytes) -> Path[None]:
        """Write a whole page, as a store instruction does."""
        yield from self.host.access(process, address, write=True)
        self.host.write(process, address, page)

    def tier_has(self, slot: SwapSlot) -> bool:
        """Tell whether the pool holds a page of *slot*, whatever the host thinks."""
        return self.areas[slot.entry.type].lookup(slot.entry.offset).outcome is Outcome.HIT

    def check(self) -> None:
        """Recount host and tier; with no task under way, compare the two as well.

        Without a pin a load may take the page of whoever has the slot by then, and the host cannot know; so such
        policies are not compared.

        Raises:
            AssertionError: a defect.
        """
        running = sum(task.state is not TaskState.DONE for task in self.lockstep.tasks)
        self.host.check_invariants(paths_running=running)
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
