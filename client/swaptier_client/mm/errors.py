"""Why an access to a page fails.

Pure. A page that is known to be gone is never replaced by other bytes: the process gets `PageLost`, as it would SIGBUS.
"""

from swaptier_client.mm.counters import DetectedLoss


class PageLost(Exception):
    """The page at this address is gone. Models: VM_FAULT_SIGBUS."""

    def __init__(self, pid: int, address: int, reason: DetectedLoss) -> None:
        super().__init__(
            f"page {address} of process {pid} is lost ({reason}): no copy of its current content is left; "
            "the process must restore it or end"
        )
        self.pid, self.address, self.reason = pid, address, reason


class OutOfMemory(Exception):
    """A page was needed and reclaim could not free one. Nothing was read or changed. Models: VM_FAULT_OOM."""


class NotMapped(Exception):
    """The process ended or never had this address. Models: VM_FAULT_SIGSEGV."""
