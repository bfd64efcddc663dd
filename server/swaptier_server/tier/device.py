"""The swapfile behind the pool: it never says "not found".

Pure. A slot that was never written reads zeros and succeeds; a reused slot reads what its last user left, and succeeds.
That is what makes a lost page silent in the kernel, so nothing here may turn it into an error. Whether the bytes
are current is the area's to know.

`SwapDevice` is what an area needs of a device; `MemoryDevice` keeps the pages encoded, to save memory. A device
that can fail says so with DeviceError, never with other bytes.

Models: the slots of a swap device as swap_read_folio() and swap_writepage() in mm/page_io.c see them (KERNEL.md 4.2).
"""

from typing import Protocol

from swaptier_server.tier.page import UNWRITTEN, StoredPage


class DeviceError(Exception):
    """The device could not read or write. A failed write may have left anything in the slot. Models: EIO."""


class SwapDevice(Protocol):
    """One area's backing store, slot by slot."""

    def read(self, offset: int) -> StoredPage:
        """Return what the slot has; UNWRITTEN when nobody wrote it.

        Raises:
            DeviceError: it cannot be read.
        """

    def write(self, offset: int, page: StoredPage) -> None:
        """Overwrite the slot.

        Raises:
            DeviceError: it cannot be written; what the slot has now is unknown.
        """

    def drop(self, offset: int) -> None:
        """Make the slot read as unwritten. Cannot fail. Models: zram's slot free."""


class MemoryDevice:
    """A device in memory. Cannot fail, and is gone with the process."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, StoredPage] = {}

    def read(self, offset: int) -> StoredPage:
        """Return what the slot has; UNWRITTEN when nobody wrote it."""
        return self._pages.get(offset, UNWRITTEN)

    def write(self, offset: int, page: StoredPage) -> None:
        """Overwrite the slot."""
        self._pages[offset] = page

    def drop(self, offset: int) -> None:
        """Make the slot read as unwritten."""
        self._pages.pop(offset, None)
