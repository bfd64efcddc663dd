"""The oracle: what every page must hold, and what it means when it does not.

Pure, and independent of mm and tier: it knows what was written and what was read, byte for byte. What the host says
is evidence only: which load brought a page (`source`) and which failed installs took one (`owed`).

    write -> read right                                     nothing to say
    write -> read wrong   counted once; the reader writes the next version over it, so that a later loss shows again
    write -> owed -> read right | read wrong | found lost | discarded | never read      the fate of the failed install

Rules of conduct:
  - `begin` before the access, `check` on every page read before anything else runs, `write` only after `check`: a loss
    is never overwritten unseen.
  - Each wrong page is one corruption, counted when first read. Wrong bytes already counted are then what the page is
    expected to hold until the next write.
  - At most one emulated thread runs between two awaits, so nothing here is locked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, NamedTuple

from swaptier_client.mm.counters import DetectedLoss
from swaptier_loadgen.host.content import PageId, Stamp, read_stamp
from swaptier_loadgen.host.report_field import Metric
from swaptier_wire.types import ZERO_PAGE, Outcome


class Corruption(StrEnum):
    """What a page with wrong bytes turned out to be. All but LOST_UPDATE are silent stale reads, by source."""

    DEVICE_ZERO = "device_zero"
    """Zeros: a device slot that was never written. No emulated process writes zeros."""
    DEVICE_OLD = "device_old"
    """An older version of the page, left on the device."""
    DEVICE_FOREIGN = "device_foreign"
    """Another page's bytes, left on the device by the slot's former user."""
    TIER_OLD = "tier_old"
    """An older version from the pool, older than every fault now under way on the page."""
    TIER_FOREIGN = "tier_foreign"
    """Another page's bytes from the pool: the slot was reused between the fault's look at the PTE and its load."""
    UNRECOGNISED = "unrecognised"
    """Bytes that no process wrote: damaged on the way."""
    LOST_UPDATE = "lost_update"
    """A version that was current when a fault began was mapped over a newer one: the slot was freed and reused under
    the fault, and the PTE looked unchanged (ABA). Or the host dropped what was written, with no load involved."""


class Fate(StrEnum):
    """What became of a page whose install failed while its process still needed the data."""

    WRONG = "read_wrong"
    """The next read got wrong bytes: the failed install had taken the only copy."""
    RIGHT = "read_right"
    """The next read got the right bytes: another copy existed."""
    TOLD = "told_lost"
    """The process got an error: the page is gone."""
    ALREADY_LOST = "already_lost"
    """An earlier failed install had lost the page and no process had read it since: this one lost nothing more."""
    DISCARDED = "discarded"
    """The process dropped the page before reading it again."""
    NEVER_READ = "never_read"
    """The run ended first."""


class Finding(NamedTuple):
    """One wrong page, as first read."""

    page: PageId
    corruption: Corruption
    expected_version: int
    found: Stamp | None
    """What the wrong bytes say of themselves."""
    owed_installs: int
    """Failed installs on this page since it was last read right; 0 says that no failed install explains it."""


@dataclass
class Tally:
    """What the oracle counted. Integers only grow."""

    pages_checked: Annotated[int, Metric("Pages compared with what had been written.")] = 0
    """Every byte of each."""
    corruptions_by_kind: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Corruption), 0))
    """By `Corruption`."""
    corruptions_without_install_failure: int = 0
    """Of pages on which no install had failed: lost by a race, not by a failed install."""
    detected_losses_by_reason: Annotated[
        dict[str, int],
        Metric("Pages a process was told are gone (SIGBUS), by reason.", "reason", DetectedLoss, "detected_loss"),
    ] = field(default_factory=dict)
    """Once for each page, by `DetectedLoss`."""
    owed_fates: Annotated[
        dict[str, int], Metric("What became of pages whose failed install took the only copy.", "fate", Fate)
    ] = field(default_factory=lambda: dict.fromkeys(map(str, Fate), 0))
    """By `Fate`; their sum is the failed installs whose data was owed, less those still pending before `close`."""

    @property
    def lost_updates(self) -> int:
        """Newer versions that were mapped over by older ones."""
        return self.corruptions_by_kind.get(Corruption.LOST_UPDATE, 0)

    @property
    def silent_stale_reads(self) -> int:
        """Reads that reported success and got wrong bytes, lost updates apart."""
        return sum(self.corruptions_by_kind.values()) - self.lost_updates


class Access:
    """One access under way: begun, then checked or found lost, then perhaps written, then ended."""

    __slots__ = ("checked", "page", "version_at_begin")

    def __init__(self, page: PageId, version_at_begin: int) -> None:
        self.page = page
        self.version_at_begin = version_at_begin
        self.checked = False


class Oracle:
    """Expected version and bytes of every page of one host, from the first access to `close`.

    Invariant: `_standing` holds the bytes of exactly those pages whose content is not that of their version: wrong
    bytes already counted, and zeros after a discard. `_origins` says, of pages that were forked or moved to where they
    are, what they held then: their version 0.
    """

    def __init__(self, content_of: Callable[[PageId, int], bytes]) -> None:
        self._content_of = content_of
        self._versions: dict[PageId, int] = {}
        self._standing: dict[PageId, bytes] = {}
        self._origins: dict[PageId, Stamp] = {}
        self._under_way: dict[PageId, list[int]] = {}
        self._owed: dict[PageId, int] = {}
        self._known_lost: set[PageId] = set()
        self._closed = False
        self.tally = Tally()

    def begin(self, page: PageId) -> Access:
        """Note that a thread begins to access *page*. Every begun access is ended."""
        version = self._versions.get(page, 0)
        self._under_way.setdefault(page, []).append(version)
        return Access(page, version)

    def end(self, access: Access) -> None:
        """Note that *access* is over, whatever came of it."""
        begun = self._under_way[access.page]
        begun.remove(access.version_at_begin)
        if not begun:
            del self._under_way[access.page]

    def check(self, access: Access, content: bytes, source: Outcome | None) -> Finding | None:
        """Compare every byte of a page read; return what is wrong with it, None when nothing is.

        *source* is the outcome of the load that filled the page's folio, None when no load did.
        """
        page = access.page
        access.checked = True
        self.tally.pages_checked += 1
        version = self._versions.get(page, 0)
        is_explained = page in self._owed
        owed = self._owed.pop(page, 0)
        if content == self._expected(page):
            self.tally.owed_fates[Fate.RIGHT] += owed
            return None
        if owed:
            self.tally.owed_fates[Fate.WRONG] += 1
            self.tally.owed_fates[Fate.ALREADY_LOST] += owed - 1
        self.tally.corruptions_without_install_failure += not is_explained
        found = read_stamp(content)
        corruption = self._classify(page, content, found, source)
        self.tally.corruptions_by_kind[corruption] += 1
        self._standing[page] = bytes(content)
        return Finding(page, corruption, version, found, owed)

    def _expected(self, page: PageId) -> bytes:
        standing = self._standing.get(page)
        if standing is not None:
            return standing
        version = self._versions.get(page, 0)
        origin = self._origins.get(page)
        return self._content_of(page, version) if version or origin is None else self._content_of(*origin)

    def _classify(self, page: PageId, content: bytes, found: Stamp | None, source: Outcome | None) -> Corruption:
        """Say what wrong *content* is, by its own stamp and by the load that brought it."""
        from_device = source is Outcome.DEVICE
        origin = self._origins.get(page)
        is_inherited = found is not None and origin is not None and found.page == origin.page
        if is_inherited and found is not None and origin is not None:
            is_inherited = found.version <= origin.version  # what the original wrote later is another page's
        is_own = is_inherited or (found is not None and found.page == page)
        if content == ZERO_PAGE and source is not None:
            return Corruption.DEVICE_ZERO
        if source is None:
            # No load brought it: the host itself went back to zeros or to an older version.
            return Corruption.LOST_UPDATE if is_own or content == ZERO_PAGE else Corruption.UNRECOGNISED
        if found is None:
            return Corruption.UNRECOGNISED
        if not is_own:
            return Corruption.DEVICE_FOREIGN if from_device else Corruption.TIER_FOREIGN
        if from_device:
            return Corruption.DEVICE_OLD
        oldest = min(self._under_way[page])
        if origin is not None and is_inherited:
            was_current = oldest == 0 and found.version == origin.version
        else:
            was_current = found.version >= oldest
        return Corruption.LOST_UPDATE if was_current else Corruption.TIER_OLD

    def write(self, access: Access, version: int | None = None) -> bytes:
        """Return the next version of the page, PAGE_BYTES long, which the caller writes before anything else runs.

        *version* is given by a process that counts on from what it read, right or wrong.
        """
        assert access.checked, "writers check before they write: a loss is never overwritten unseen"
        page = access.page
        version = self._versions.get(page, 0) + 1 if version is None else version
        self._versions[page] = version
        self._standing.pop(page, None)
        return self._content_of(page, version)

    def is_blank(self, page: PageId) -> bool:
        """Return whether *page* is expected to hold zeros, so that losing it to an unwritten slot would not show."""
        standing = self._standing.get(page)
        is_written = page in self._versions or page in self._origins
        return standing == ZERO_PAGE or (standing is None and not is_written)

    def detected_loss(self, access: Access, reason: str) -> None:
        """Note that the access failed with a detected loss; only the first on a page counts."""
        page = access.page
        owed = self._owed.pop(page, 0)
        self.tally.owed_fates[Fate.TOLD] += min(owed, 1)
        self.tally.owed_fates[Fate.ALREADY_LOST] += max(owed - 1, 0)
        if page not in self._known_lost:
            self._known_lost.add(page)
            losses = self.tally.detected_losses_by_reason
            losses[reason] = losses.get(reason, 0) + 1

    def is_owed(self, page: PageId) -> bool:
        """Return whether a failed install may have taken the only copy of *page*, and no process has read it since."""
        return self._owed.get(page, 0) > 0

    def is_known_lost(self, page: PageId) -> bool:
        """Return whether *page* was detected as lost; there is nothing left to check then."""
        return page in self._known_lost

    def owed(self, page: PageId) -> None:
        """Note a failed install that may have taken the only copy of *page*, whose data is still needed."""
        self._owed[page] = self._owed.get(page, 0) + 1

    def discard(self, page: PageId) -> None:
        """Note that the process dropped *page*: what it held is owed no more, and it reads zeros from now on."""
        self.tally.owed_fates[Fate.DISCARDED] += self._owed.pop(page, 0)
        self._standing[page] = ZERO_PAGE
        self._known_lost.discard(page)

    def move(self, page: PageId, target: PageId) -> None:
        """Note that *page* is now expected at *target*, and zeros where it was."""
        owed = self._owed.pop(page, 0)
        self._copy(page, target)
        if owed:
            self._owed[target] = owed
        self._known_lost.discard(page)
        self._standing[page] = ZERO_PAGE

    def fork(self, host: int, parent: int, child: int) -> None:
        """Note that process *child* has all pages of *parent*, as they are expected now."""
        for page in self._pages_of(host, parent):
            copy = page._replace(process=child)
            self._copy(page, copy)
            if page in self._owed:
                self._owed[copy] = 0  # explains a wrong copy; the failed install itself is counted with the original

    def clone(self, host: int, twin: int) -> None:
        """Note that *twin* has all pages of *host*, as they are expected now."""
        for page in {*self._versions, *self._standing, *self._origins}:
            if page.host == host:
                self._copy(page, page._replace(host=twin))

    def exit(self, host: int, process: int) -> None:
        """Forget the pages of *process*, which has ended: what they held is owed no more."""
        for page in self._pages_of(host, process):
            self.tally.owed_fates[Fate.DISCARDED] += self._owed.pop(page, 0)
            for known in (self._versions, self._standing, self._origins):
                known.pop(page, None)
            self._known_lost.discard(page)

    def _pages_of(self, host: int, process: int) -> set[PageId]:
        known = {*self._versions, *self._standing, *self._origins}
        return {page for page in known if page.process == process and page.host == host}

    def _copy(self, page: PageId, copy: PageId) -> None:
        """Expect of *copy* what is expected of *page*, detected losses included."""
        version = self._versions.get(page, 0)
        origin = Stamp(page, version) if version else self._origins.get(page)
        for known in (self._versions, self._standing, self._origins):
            known.pop(copy, None)
        if origin is not None:
            self._origins[copy] = origin
        if page in self._standing:
            self._standing[copy] = self._standing[page]
        if page in self._known_lost:
            self._known_lost.add(copy)

    def written(self) -> list[PageId]:
        """Return every page ever written, in order: what the final sweep reads."""
        return sorted(self._versions)

    def close(self) -> Tally:
        """End the run: failed installs still pending were never read again. Returns the tally; idempotent."""
        if not self._closed:
            self._closed = True
            self.tally.owed_fates[Fate.NEVER_READ] += sum(self._owed.values())
            self._owed.clear()
        return self.tally
