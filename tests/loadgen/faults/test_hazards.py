"""Which hazard took a page: the word of the link first, then that of the host."""

import pytest

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.faults import hazards
from swaptier_loadgen.faults.hazards import (
    Hazard,
    HazardCounts,
    LostPage,
    PageName,
    TakenPages,
    UnknownOutcome,
    specified_hazard,
)
from swaptier_loadgen.host.oracle import Corruption

PAGE = PageName(0, "exclusive-0", 7, 3)
MISS = str(DetectedLoss.MISS_MUST_EXIST)


def explain(losses: list[LostPage], taken_pages: TakenPages, *, tiers_are_durable: bool = False) -> dict[str, int]:
    return HazardCounts(taken_pages, has_links=True).add(losses, tiers_are_durable=tiers_are_durable, is_end=True)


def only(hazard: Hazard) -> dict[str, int]:
    return {str(each): int(each is hazard) for each in Hazard}


@pytest.mark.parametrize(
    ("reason", "unknown", "seen", "hazard"),
    [
        (MISS, UnknownOutcome.LATE, Hazard.REPLY_DROPPED, Hazard.REPLY_DROPPED),
        (MISS, UnknownOutcome.BROKEN, Hazard.REPLY_DROPPED, Hazard.REPLY_DROPPED),
        (MISS, UnknownOutcome.NO, Hazard.REQUEST_REPEATED, Hazard.REQUEST_REPEATED),
        (MISS, UnknownOutcome.BROKEN, None, Hazard.CONNECTION_LOST),
        (MISS, UnknownOutcome.LATE, None, Hazard.REPLY_LATE),
        (MISS, UnknownOutcome.OVERTAKEN, None, Hazard.REPLY_DROPPED),
        (MISS, UnknownOutcome.NO, None, Hazard.UNEXPLAINED),
        (str(DetectedLoss.EPOCH), UnknownOutcome.BROKEN, Hazard.REPLY_DROPPED, Hazard.REPLY_DROPPED),
        (str(DetectedLoss.EPOCH), UnknownOutcome.BROKEN, None, Hazard.SERVER_RESTARTED),
        (str(DetectedLoss.UNREACHABLE), UnknownOutcome.NO, None, Hazard.UNREACHABLE),
        (str(DetectedLoss.STOREBACK_REJECTED), UnknownOutcome.NO, None, Hazard.STORE_BACK_REJECTED),
        (str(DetectedLoss.CHECKSUM), UnknownOutcome.NO, None, Hazard.UNEXPLAINED),
    ],
)
def test_the_link_knows_best_then_the_tier_then_the_host(
    reason: str, unknown: UnknownOutcome, seen: Hazard | None, hazard: Hazard
) -> None:
    """A dropped answer is what the link saw; a restart what the tier says; the rest what the host made of it."""
    taken_pages = TakenPages()
    taken_pages.note(PAGE._replace(generation=4), Hazard.REQUEST_REPEATED)
    if seen is not None:
        taken_pages.note(PAGE, seen)
    assert explain([LostPage(PAGE, reason, unknown)], taken_pages) == only(hazard)


def test_the_first_word_on_a_page_stands() -> None:
    """A generation is taken once: what comes later is the same answer on its way through an aftermath."""
    taken_pages = TakenPages()
    taken_pages.note(PAGE, Hazard.REPLY_DROPPED)
    taken_pages.note(PAGE, Hazard.CONNECTION_LOST)
    assert taken_pages.hazard(PAGE) is Hazard.REPLY_DROPPED


def test_what_a_link_knows_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soak of days does not fill the memory."""
    monkeypatch.setattr(hazards, "LEDGER_PAGES_MAX", 3)
    taken_pages = TakenPages()
    for offset in range(5):
        taken_pages.note(PAGE._replace(offset=offset), Hazard.REPLY_DROPPED)
    assert [offset for offset in range(5) if taken_pages.hazard(PAGE._replace(offset=offset))] == [2, 3, 4]


@pytest.mark.parametrize(
    ("unknown", "hazard"),
    [(UnknownOutcome.BROKEN, Hazard.CONNECTION_LOST), (UnknownOutcome.NO, Hazard.SERVER_RESTARTED)],
)
def test_what_a_durable_tier_lost_in_a_restart_was_being_loaded(unknown: UnknownOutcome, hazard: Hazard) -> None:
    """The device had the page, so it was the answer that died with the server; a page nobody loaded is a defect."""
    lost = [LostPage(PAGE, str(DetectedLoss.EPOCH), unknown)]
    assert explain(lost, TakenPages(), tiers_are_durable=True) == only(hazard)


def test_a_page_that_a_fault_dropped_is_no_fault_of_the_networks() -> None:
    """Also when its load had been asked twice."""
    lost = [LostPage(PAGE, "device_zero", UnknownOutcome.BROKEN, was_dropped=True)]
    assert explain(lost, TakenPages()) == only(Hazard.INSTALL_FAILED)


def test_what_a_link_learns_after_the_host_missed_its_page_still_explains_it() -> None:
    """However late, until the end; and a page that was counted under one hazard stays there."""
    taken_pages = TakenPages()
    lost_to = HazardCounts(taken_pages, has_links=True)
    assert sum(lost_to.add([LostPage(PAGE, MISS, UnknownOutcome.NO)], tiers_are_durable=False).values()) == 0
    assert sum(lost_to.add([], tiers_are_durable=False).values()) == 0
    taken_pages.note(PAGE, Hazard.REQUEST_REPEATED)
    assert lost_to.add([], tiers_are_durable=False, is_end=True) == only(Hazard.REQUEST_REPEATED)


def test_without_links_nobody_learns_anything_later() -> None:
    """A loss is counted when it is reported: a dashboard need not wait for the end of a race."""
    lost_to = HazardCounts(TakenPages(), has_links=False)
    assert lost_to.add([LostPage(PAGE, MISS, UnknownOutcome.NO)], tiers_are_durable=False) == only(Hazard.UNEXPLAINED)


RACES = {
    "free-on-read": Hazard.SLOT_REUSE,
    "shared-unpinned": Hazard.SLOT_REUSE,
    "exclusive-unpinned": Hazard.SLOT_REUSE,
    "exclusive-if-swapcache-unpinned": Hazard.SLOT_REUSE,
    "cache-on-hit-early": Hazard.LOOKUP_OUTDATED,
}
"""What a race on the host takes pages by, of the policies that are specified to lose some so."""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reason", ["device_zero", "tier_foreign", "lost_update", MISS])
def test_a_loss_that_the_policy_is_specified_to_have_is_called_by_its_name(policy: str, reason: str) -> None:
    """And of a policy that is not, it is unexplained: a safe one is never excused by a race."""
    specified = specified_hazard(POLICIES[policy], has_clones=False)
    assert specified is RACES.get(policy, Hazard.UNEXPLAINED)
    assert not (POLICIES[policy].is_safe and specified is not Hazard.UNEXPLAINED)
    lost_to = HazardCounts(TakenPages(), has_links=False, specified=specified)
    assert lost_to.add([LostPage(PAGE, reason, UnknownOutcome.NO)], tiers_are_durable=False) == only(specified)


@pytest.mark.parametrize("policy", POLICIES)
def test_with_two_hosts_on_an_area_the_other_host_takes_pages_under_every_policy(policy: str) -> None:
    """No pin of one host keeps the other out."""
    assert specified_hazard(POLICIES[policy], has_clones=True) is Hazard.OTHER_HOST


@pytest.mark.parametrize("reason", [str(DetectedLoss.CHECKSUM), str(DetectedLoss.DECOMPRESS), Corruption.UNRECOGNISED])
@pytest.mark.parametrize("specified", [Hazard.SLOT_REUSE, Hazard.LOOKUP_OUTDATED, Hazard.OTHER_HOST])
def test_no_race_and_no_other_host_excuses_damaged_bytes(specified: Hazard, reason: str) -> None:
    """A race gives a page another page's bytes, or zeros; never what no process wrote."""
    lost_to = HazardCounts(TakenPages(), has_links=False, specified=specified)
    assert lost_to.add([LostPage(PAGE, reason, UnknownOutcome.NO)], tiers_are_durable=False) == only(Hazard.UNEXPLAINED)


def test_what_a_link_learns_late_comes_before_what_the_policy_is_specified_to_do() -> None:
    """The race is what is left when nothing else explains a loss, at the end."""
    taken_pages = TakenPages()
    lost_to = HazardCounts(taken_pages, has_links=True, specified=Hazard.SLOT_REUSE)
    losses = [LostPage(PAGE._replace(offset=at), MISS, UnknownOutcome.NO) for at in range(2)]
    lost_to.add(losses, tiers_are_durable=False)
    taken_pages.note(losses[0].page, Hazard.REPLY_DROPPED)
    counts = lost_to.add([], tiers_are_durable=False, is_end=True)
    assert counts[Hazard.REPLY_DROPPED] == counts[Hazard.SLOT_REUSE] == sum(counts.values()) / 2 == 1
