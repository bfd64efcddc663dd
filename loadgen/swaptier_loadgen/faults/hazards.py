"""Which hazard took a page: what the faulty links saw, joined with what the hosts know.

Pure. Neither knows all. A link knows which answers it dropped, and so which exclusive loads took pages that never
arrived. A host knows which pages are lost, what the tier says of them, and how the load that found out had begun: with
its answer overtaken, late, or its connection gone. What neither explains is a race of the kind that the policy is
specified to lose pages by, if it is. A page is named by both as (tier, area, offset, generation); each generation can
be taken once only, so one name has one cause.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.policy import Policy, PoolLookup

LEDGER_PAGES_MAX = 1 << 20
"""Pages remembered; with more, the oldest are forgotten and their losses stay unexplained."""


class Hazard(StrEnum):
    """What took a page, as far as it can be known. The words are label values and keys of the JSON document."""

    REPLY_DROPPED = "reply_dropped"
    """An exclusive load took it and its answer was dropped on the way. KERNEL.md section 5, hazard 1."""
    REPLY_LATE = "reply_late"
    """Its answer came when the host had stopped waiting: it was held back, or the server paused. Hazard 1."""
    CONNECTION_LOST = "connection_lost"
    """Its answer was on its way when the connection broke. Hazard 1."""
    REQUEST_REPEATED = "request_repeated"
    """The second arrival of a load took it. Hazard 2."""
    SERVER_RESTARTED = "server_restarted"
    """The server was killed and had it in memory only. Hazard 6."""
    INSTALL_FAILED = "install_failed"
    """The fault that had it could not map it and dropped the only copy: the seed's bug, KERNEL.md 1.2."""
    STORE_BACK_REJECTED = "store_back_rejected"
    """The fault that had it could not map it and stored it back, and the tier did not take it. KERNEL.md 2 (c)."""
    UNREACHABLE = "unreachable"
    """The tier did not answer for as long as the host was to wait."""
    SLOT_REUSE = "slot_reuse"
    """The policy does not pin: another fault took, freed or reused the slot before this one mapped. KERNEL.md 1.4."""
    LOOKUP_OUTDATED = "lookup_outdated"
    """The policy looks into the pool before it pins, and what it found was not true any more. KERNEL.md 2 (b)."""
    OTHER_HOST = "other_host"
    """Another host used the same slots of the same area, which no pin of this one keeps out: `--workload two-hosts`."""
    UNEXPLAINED = "unexplained"
    """None of these, as far as links and hosts know, and nothing that the policy is specified to do."""


class UnknownOutcome(StrEnum):
    """How the first outcome of a load came to be unknown to its host."""

    NO = ""
    """It was known: the first answer said that the page is lost."""
    OVERTAKEN = "overtaken"
    """Later messages were answered."""
    LATE = "late"
    """Its deadline passed."""
    BROKEN = "broken"
    """The connection broke."""


class PageName(NamedTuple):
    """One version of one page in a tier."""

    tier: int
    """Number of the tier among those of the race, and of the swap device on each host."""
    area: str
    offset: int
    generation: int


class LostPage(NamedTuple):
    """One page that is gone: its process got an error, or other bytes."""

    page: PageName
    reason: str
    """A `DetectedLoss`, or the `Corruption` of what was read instead."""
    unknown: UnknownOutcome
    was_dropped: bool = False
    """A fault that could not install the page had dropped the only copy."""


class TakenPages:
    """What the links know: pages that were taken by a load whose answer did not arrive, and why it did not."""

    def __init__(self) -> None:
        self._hazards: dict[PageName, Hazard] = {}

    def __len__(self) -> int:
        return len(self._hazards)

    def note(self, page: PageName, hazard: Hazard) -> None:
        """Remember what became of the answer that carried *page*; the first word on a page stands."""
        self._hazards.setdefault(page, hazard)
        if len(self._hazards) > LEDGER_PAGES_MAX:
            del self._hazards[next(iter(self._hazards))]

    def hazard(self, page: PageName) -> Hazard | None:
        """Return what took *page*, if it is known here."""
        return self._hazards.get(page)


_DAMAGED = (DetectedLoss.CHECKSUM, DetectedLoss.DECOMPRESS, "unrecognised")
"""Reasons that no race explains: the bytes are those of no page. The last is a `Corruption`."""

_BY_REASON = {
    DetectedLoss.UNREACHABLE: Hazard.UNREACHABLE,
    DetectedLoss.STOREBACK_REJECTED: Hazard.STORE_BACK_REJECTED,
}

_BY_OUTCOME = {
    UnknownOutcome.OVERTAKEN: Hazard.REPLY_DROPPED,
    UnknownOutcome.LATE: Hazard.REPLY_LATE,
    UnknownOutcome.BROKEN: Hazard.CONNECTION_LOST,
    UnknownOutcome.NO: Hazard.UNEXPLAINED,
}
"""What the host's own outcome of the load comes to, where no link saw the answer."""


def specified_hazard(policy: Policy, *, has_clones: bool) -> Hazard:
    """Return what a race on the hosts takes pages by, where the specification of *policy* says that it does.

    *has_clones* says that several hosts take themselves for the owner of one area; then no policy is safe.
    """
    if has_clones:
        return Hazard.OTHER_HOST
    if policy.bypasses_swapcache and not policy.pins:
        return Hazard.SLOT_REUSE
    if policy.pool_lookup is PoolLookup.BEFORE_PIN:
        return Hazard.LOOKUP_OUTDATED
    return Hazard.UNEXPLAINED


class HazardCounts:
    """What took the pages of one host, as it becomes known. The counts only rise.

    A link may learn what took a page after its host missed it. So where there are links, a loss is looked up with the
    next losses that come, and one that is not explained once more at the end.
    """

    def __init__(self, taken_pages: TakenPages, *, has_links: bool, specified: Hazard = Hazard.UNEXPLAINED) -> None:
        self._taken_pages = taken_pages
        self._specified = specified
        """Takes what neither links nor hosts explain, by `specified_hazard()`."""
        self._has_links = has_links
        self._counts = Counter({str(hazard): 0 for hazard in Hazard})
        self._new: list[LostPage] = []
        self._unexplained: list[LostPage] = []

    def add(self, losses: Iterable[LostPage], *, tiers_are_durable: bool, is_end: bool = False) -> dict[str, int]:
        """Take *losses* and return how many pages each hazard took, as far as is known; every hazard is there.

        *tiers_are_durable* says that no restart takes a page that was not being loaded: its store was answered when the
        device had it.
        """
        is_last_word = is_end or not self._has_links
        ripe, self._new = self._new, list(losses)
        if is_last_word:
            ripe += self._unexplained + self._new
            self._new, self._unexplained = [], []
        for loss in ripe:
            hazard = _hazard_of(loss, self._taken_pages, tiers_are_durable=tiers_are_durable)
            if hazard is Hazard.UNEXPLAINED and not is_last_word:
                self._unexplained.append(loss)
                continue
            if hazard is Hazard.UNEXPLAINED and loss.reason not in _DAMAGED:
                hazard = self._specified
            self._counts[str(hazard)] += 1
        return dict(self._counts)


def _hazard_of(loss: LostPage, taken_pages: TakenPages, *, tiers_are_durable: bool) -> Hazard:
    if loss.was_dropped:
        return Hazard.INSTALL_FAILED
    seen = taken_pages.hazard(loss.page)
    if seen is not None:
        return seen
    if loss.reason in _BY_REASON:
        return _BY_REASON[DetectedLoss(loss.reason)]
    if loss.reason == DetectedLoss.EPOCH and not (tiers_are_durable and loss.unknown is not UnknownOutcome.NO):
        return Hazard.SERVER_RESTARTED
    return _BY_OUTCOME[loss.unknown]
