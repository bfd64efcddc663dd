"""The tier server of a world, with its memory and what outlives it: it may die and start anew at any time.

Pure.
"""

from collections.abc import Sequence

from swaptier_loadgen.explore.failures import Failure, Failures
from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.swap_file import Client, MemorySwapFile
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import AreaOptions


class Server:
    """A tier and the areas that hosts have open in it."""

    def __init__(self, failures: Failures, limits: TierLimits, *, has_swap_file: bool) -> None:
        """Start the first tier. It writes every page through to a swap file, if there is one."""
        self._failures = failures
        self._limits = limits
        self._swap_file = MemorySwapFile(self._device) if has_swap_file else None
        self._open: list[list[Area]] = []
        self.has_swap_file = has_swap_file
        """Pages outlive the tier."""
        self.tier = self._start(1)

    def swapon(self, client: Client, name: str, slots: int, options: AreaOptions) -> list[Area]:
        """Open an area and return it in a list, in which a restart replaces it."""
        area, _ = self.tier.swapon(client, name, slots, options)
        self._open.append([area])
        return self._open[-1]

    def restart(self) -> None:
        """Start the tier anew, with nothing in its memory and with what the swap file kept, if there is one.

        The epoch rises. A host learns of it before its next request is applied, as from a stream that has to be opened
        anew. Without a swap file what only the tier had is lost, and that is no defect; to map other bytes instead is.
        """
        before = self.tier.epoch
        self.tier = self._start(before + 1)
        for areas in self._open:
            areas[:] = [
                self.tier.swapon(old.client, old.name, old.slots, old.options, seen_server_epoch=before)[0]
                for old in areas
            ]

    def _start(self, epoch: int) -> Tier:
        if self._swap_file is None:
            return Tier(self._limits, epoch, self._device)
        return Tier(self._limits, epoch, swap_file=self._swap_file, durability=Durability.WRITE_THROUGH)

    def _device(self, _name: str) -> MemoryDevice:
        return _FailingDevice(self._failures)


class _FailingDevice(MemoryDevice):
    """A device that may refuse a write."""

    def __init__(self, failures: Failures) -> None:
        super().__init__()
        self._failures = failures

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Write, or fail without a trace.

        Raises:
            DeviceError: by choice.
        """
        if self._failures.happens(Failure.DEVICE, "the device refuses"):
            raise DeviceError
        super().write(pages)
