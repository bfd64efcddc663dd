"""The swapfile behind the pool: it never says "not found".

Pure. A slot that was never written reads zeros and succeeds; a reused slot reads what its last user left, and succeeds.
That is what makes a lost page silent in the kernel, so nothing here may turn it into an error. Whether the bytes
are current is the area's to know.

`BackingDevice` is what an area needs of a device; `MemoryDevice` keeps the pages encoded, to save memory. A device
that can fail says so with DeviceError, never with other bytes. What outlives the server is `swap_file`'s to say.

Models: the slots of a swap device as swap_read_folio() and swap_writepage() in mm/page_io.c see them (KERNEL.md 4.2).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from swaptier_server.tier.page import UNWRITTEN, StoredPage


class DeviceFault(StrEnum):
    """Why a device could not do what it was asked to."""

    IO = "io"
    """The medium failed. Models: EIO."""
    FULL = "full"
    """There is no room. Models: ENOSPC."""
    READ_ONLY = "read_only"
    """It may not be written. Models: EROFS."""
    DAMAGED = "damaged"
    """What is there is not what was written: all of it makes no sense, or a page is another than it was given."""
    GONE = "gone"
    """Its name is not its own any more: removed, renamed, replaced or unmounted. What is written is found by no one."""
    EXPOSED = "exposed"
    """Others than its owner may read it."""


class DeviceError(Exception):
    """The device could not read or write. A failed write may have left anything in the slot."""

    def __init__(self, fault: DeviceFault = DeviceFault.IO, detail: str = "") -> None:
        """Fail for the reason *fault*; *detail* is for the log and holds no byte of a page."""
        super().__init__(f"the device failed ({fault.value}){': ' if detail else ''}{detail}")
        self.fault = fault


class BadRead(NamedTuple):
    """A read that did not give what the tier knows the device to have."""

    area: str
    offset: int
    generation: int
    """Of the slot, as the tier knows it; NO_GENERATION when it does not."""
    fault: DeviceFault
    why: str
    """One line without a byte of a page."""


class BadReads:
    """The bad reads of all areas, until they are asked for."""

    def __init__(self) -> None:
        self._count = 0
        self._first: BadRead | None = None

    def note(self, bad: BadRead) -> None:
        """Take *bad* to the others."""
        self._count += 1
        self._first = self._first or bad

    def take(self) -> tuple[int, BadRead | None]:
        """Return how many there were since this was last asked, and the first of them."""
        taken = self._count, self._first
        self._count, self._first = 0, None
        return taken


class BackingDevice(Protocol):
    """One area's backing store, slot by slot."""

    @property
    def incarnation(self) -> int:
        """Which opening of the area it was made for, to later servers too; 0 when it does not tell."""

    def read(self, offset: int) -> StoredPage:
        """Return what the slot has; UNWRITTEN until it is written.

        Raises:
            DeviceError: it cannot be read.
            DecodeError: what is there is not a page that was written.
        """

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Overwrite the slots, all different, in one go: durable together, if this device is durable.

        Raises:
            DeviceError: not all can be written; what any of the slots has now is unknown.
        """

    def drop(self, *offsets: int) -> None:
        """Make the slots read as unwritten, in one go. Cannot fail. Models: zram's slot free."""

    def forget(self, pages_max: int) -> int:
        """Forget so many pages, whichever; return how many there were. For a device that nothing reads any more.

        Raises:
            DeviceError: nothing changed.
        """


CHUNK_SLOTS: Final = 4096
"""Of a MemoryDevice, in one dictionary. One of all slots grows by copying itself: 30 ms in one go at 700,000 pages."""


class MemoryDevice:
    """A device in memory. Cannot fail, and is gone with the process."""

    incarnation: Final = 0

    def __init__(self) -> None:
        self._chunks: Final[dict[int, dict[int, StoredPage]]] = {}
        """Pages by slot, by the slot // CHUNK_SLOTS."""

    def read(self, offset: int) -> StoredPage:
        """Return what the slot has; UNWRITTEN until it is written."""
        chunk = self._chunks.get(offset // CHUNK_SLOTS)
        return UNWRITTEN if chunk is None else chunk.get(offset, UNWRITTEN)

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Overwrite the slots."""
        for offset, page in pages:
            self._chunks.setdefault(offset // CHUNK_SLOTS, {})[offset] = page

    def drop(self, *offsets: int) -> None:
        """Make the slots read as unwritten."""
        for offset in offsets:
            self._chunks.get(offset // CHUNK_SLOTS, {}).pop(offset, None)

    def forget(self, pages_max: int) -> int:
        """Forget so many pages, whichever; return how many there were. For a device that nothing reads any more."""
        forgotten = 0
        while forgotten < pages_max and self._chunks:
            number, chunk = self._chunks.popitem()
            while chunk and forgotten < pages_max:
                chunk.popitem()
                forgotten += 1
            if chunk:
                self._chunks[number] = chunk
        return forgotten

    def written(self) -> dict[int, StoredPage]:
        """Return every page that is there, by slot."""
        return {offset: page for chunk in self._chunks.values() for offset, page in chunk.items()}
