"""What outlives the server: the areas and, for each, the device with its pages.

Pure; `swaptier_server.swapfile.file` keeps one on disk. Rules of conduct:
  - An area and its pages are recorded and forgotten together: an area of the same name never finds the pages of
    another, or of another life of its client.
  - What is recorded before a call returns is there for the next server. What failed with DeviceError changed nothing.

`MemorySwapFile` outlives a tier, not the process: for worlds in which a tier dies and another follows. A tier without a
swap file makes one for itself, so nothing outlives that tier.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from swaptier_server.tier.device import BackingDevice, MemoryDevice
from swaptier_wire.types import AreaOptions

SWEEP_PAGES_MAX: Final = 128
"""Pages of forgotten areas that are deleted in one go, unless said otherwise: some 1 ms."""


class Client(NamedTuple):
    """A host, in one of its lives."""

    id: str
    epoch: int
    """Rises each time the host starts anew."""


class SavedArea(NamedTuple):
    """What is recorded of an area."""

    name: str
    client: Client
    slots: int
    options: AreaOptions


class SavedPage(NamedTuple):
    """What is known of a slot's page without reading it."""

    offset: int
    generation: int
    checksum: int
    """XXH3-64 of the page."""


class SwapFile(Protocol):
    """The areas of one server, and their devices."""

    def saved_areas(self) -> Sequence[SavedArea]:
        """Return the areas that an earlier server left.

        Raises:
            DeviceError: they cannot be read.
        """

    def reopen_area(self, name: str) -> tuple[BackingDevice, Iterable[SavedPage]]:
        """Return the device of a saved area, and which pages it has: whole ones only, of slots inside the area.

        Raises:
            DeviceError: it cannot be read.
        """

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> BackingDevice:
        """Record a new area, forget those it replaces, and any of its own name; return its device, with no page.

        Raises:
            DeviceError: nothing changed.
        """

    def forget_area(self, name: str) -> None:
        """Forget an area. Nothing finds its pages from now on; its device's `forget()` gives their room back.

        Raises:
            DeviceError: nothing changed.
        """

    @property
    def has_rest(self) -> bool:
        """There may be pages of areas that were forgotten, of which their devices have not forgotten all."""

    def sweep(self, pages_max: int = SWEEP_PAGES_MAX) -> None:
        """Delete so many pages of areas that were forgotten.

        Raises:
            DeviceError: nothing changed.
        """


class MemorySwapFile:
    """Areas and devices that a second tier can be given after the first."""

    def __init__(self, device_for: Callable[[str], MemoryDevice] = lambda _name: MemoryDevice()) -> None:
        """Start with no area; let *device_for* make the device of a new one, by name."""
        self._device_for: Final = device_for
        self._areas: dict[str, tuple[SavedArea, MemoryDevice]] = {}

    def saved_areas(self) -> Sequence[SavedArea]:
        """Return the areas that are recorded."""
        return [area for area, _ in self._areas.values()]

    def reopen_area(self, name: str) -> tuple[BackingDevice, Iterable[SavedPage]]:
        """Return the device of a saved area, and which pages it has."""
        device = self._areas[name][1]
        return device, [SavedPage(offset, page.generation, page.checksum) for offset, page in device.written().items()]

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> BackingDevice:
        """Record a new area, forget those it replaces; return its device."""
        for name in (*replaced, area.name):
            self.forget_area(name)
        device = self._device_for(area.name)
        self._areas[area.name] = area, device
        return device

    def forget_area(self, name: str) -> None:
        """Forget an area."""
        self._areas.pop(name, None)

    @property
    def has_rest(self) -> bool:
        """Nothing is left of an area but what its device has."""
        return False

    def sweep(self, pages_max: int = SWEEP_PAGES_MAX) -> None:
        """Have nothing to delete."""
