"""Which hazard took a page: the word of the link first, then that of the host."""

import pytest

from swaptier_client.mm.counters import DetectedLoss
from swaptier_loadgen.faults import hazards
from swaptier_loadgen.faults.hazards import Hazard, HazardCounts, LostPage, PageName, TakenPages, UnknownOutcome

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


def test_the_reasons_that_name_their_hazard_are_those_of_the_host() -> None:
    """Two modules, one vocabulary."""
    assert (hazards.RESTARTED, hazards.UNREACHABLE) == (DetectedLoss.EPOCH, DetectedLoss.UNREACHABLE)


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
