"""What the explorer can find, and how it says so.

Pure. A violation names the first state that must not be: not the read that later notices, but the step that lost.
"""

from enum import StrEnum


class Kind(StrEnum):
    """What went wrong. The value is the word in reports and in JSON."""

    LOST_PAGE = "lost page"
    """A page that is still owed exists nowhere any more."""
    STALE_ZEROS = "zeros mapped"
    """A page that was written is mapped as zeros: a device slot that was never written."""
    LOST_UPDATE = "lost update"
    """An older version of the page is mapped, the newer one is gone."""
    FOREIGN_BYTES = "foreign bytes mapped"
    """Another page's bytes are mapped."""
    TOLD = "known loss"
    """The page is gone and its process is told so: not silent, but not kept."""
    TWO_OWNERS = "two owners"
    """The same version is owned by the swapcache and by the tier."""
    PROTECTION = "protection lost"
    """A page that is write-protected is mapped writable."""
    ACCOUNTING = "accounting"
    """A recount of mm or of the tier does not agree, or an assertion of theirs failed."""
    REUSED_EARLY = "slot reused early"
    """A slot is free on the host while the tier still holds a page for it."""
    LEAK = "leak"
    """Every process has ended, and something is still held."""
    DEADLOCK = "deadlock"
    """Tasks wait and no task is left to wake them."""
    LIVELOCK = "livelock"
    """The only path that can run comes back to where it was."""
    FAILED = "failed"
    """A path ended with an error that its world does not allow."""


class Violation(Exception):
    """A state that must not be was reached."""

    def __init__(self, kind: Kind, what: str) -> None:
        super().__init__(kind, what)  # what pickle makes it from again, in another process
        self.kind = kind
        self.what = what

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"
