"""An emulated process: a page table, and the lock that keeps fork and exit out of running faults.

Pure. Faults hold the mmap lock for reading, fork, exit and moves for writing; reclaim takes neither. A fault that must
wait for a folio's lock drops the mmap lock first and is taken again, as VM_FAULT_RETRY.

Models: struct mm_struct, mmap_lock; one virtual memory area that covers everything.
"""

from swaptier_client.mm.effects import Path, Wait, WaitQueue
from swaptier_client.mm.page_table import Pte


class MmapLock:
    """Many readers or one writer; a waiting writer keeps new readers out. Models: mmap_lock (an rw_semaphore)."""

    __slots__ = ("is_written", "queue", "readers", "writers_waiting")

    def __init__(self) -> None:
        self.readers = 0
        self.is_written = False
        self.writers_waiting = 0
        self.queue = WaitQueue("mmap lock")

    def read(self) -> Path[None]:
        """Take for reading; yields only when a writer has it or waits for it."""
        while self.is_written or self.writers_waiting:
            yield Wait(self.queue)
        self.readers += 1

    def read_done(self) -> None:
        """Release after read()."""
        assert self.readers > 0
        self.readers -= 1
        if self.readers == 0 and self.writers_waiting:
            self.queue.wake_all()

    def write(self) -> Path[None]:
        """Take for writing."""
        self.writers_waiting += 1
        while self.is_written or self.readers:
            yield Wait(self.queue)
        self.writers_waiting -= 1
        self.is_written = True

    def write_done(self) -> None:
        """Release after write()."""
        assert self.is_written
        self.is_written = False
        self.queue.wake_all()


class Process:
    """One address space. Addresses are virtual page numbers."""

    __slots__ = ("is_alive", "mmap_lock", "page_table", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.page_table: dict[int, Pte] = {}
        """No entry is pte_none. Changed only in atomic steps: the page table lock is the absence of a yield."""
        self.mmap_lock = MmapLock()
        self.is_alive = True
