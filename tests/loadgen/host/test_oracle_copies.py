"""Pages that are moved, forked or cloned: expected where they are now, and wrong only when they are wrong there."""

import pytest

from swaptier_loadgen.host.content import Contents, PageId, cut
from swaptier_loadgen.host.oracle import Corruption, Fate, Oracle
from swaptier_wire.types import ZERO_PAGE, Outcome

PAGE = PageId(0, 1, 5)
CHILD = PageId(0, 2, 5)
MOVED = PageId(0, 1, 1 << 41)
CONTENTS = Contents(3, list(cut(b"what real memory looks like " * 1000)))


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(CONTENTS.page)


def write(oracle: Oracle, page: PageId = PAGE) -> bytes:
    access = oracle.begin(page)
    access.checked = True
    content = oracle.write(access)
    oracle.end(access)
    return content


def read(oracle: Oracle, page: PageId, content: bytes, source: Outcome | None = Outcome.HIT) -> Corruption | None:
    access = oracle.begin(page)
    finding = oracle.check(access, content, source)
    oracle.end(access)
    return finding and finding.corruption


def test_a_moved_page_is_expected_at_its_new_address_and_zeros_at_the_old_one(oracle: Oracle) -> None:
    """UFFDIO_MOVE."""
    content = write(oracle)
    oracle.move(PAGE, MOVED)
    assert read(oracle, MOVED, content) is None
    assert read(oracle, PAGE, ZERO_PAGE, None) is None
    assert oracle.is_blank(PAGE)
    assert not oracle.is_blank(MOVED)


def test_what_a_failed_install_owed_moves_along(oracle: Oracle) -> None:
    """Its fate is decided where the page is read."""
    write(oracle)
    oracle.owed(PAGE)
    oracle.move(PAGE, MOVED)
    assert read(oracle, PAGE, ZERO_PAGE, None) is None
    assert read(oracle, MOVED, ZERO_PAGE, Outcome.DEVICE) is Corruption.DEVICE_ZERO
    assert oracle.tally.owed_fates[Fate.WRONG] == 1
    assert oracle.tally.corruptions_without_install_failure == 0


def test_an_older_version_of_the_original_is_an_old_version_of_the_copy(oracle: Oracle) -> None:
    """Not another page's bytes."""
    older = write(oracle)
    write(oracle)
    oracle.fork(0, 1, 2)
    assert read(oracle, CHILD, older, Outcome.DEVICE) is Corruption.DEVICE_OLD


def test_parent_and_child_write_apart(oracle: Oracle) -> None:
    """Copy-on-write: what one writes after the fork is the other's corruption."""
    shared = write(oracle)
    oracle.fork(0, 1, 2)
    assert read(oracle, CHILD, shared) is None
    mine, childs = write(oracle), write(oracle, CHILD)
    assert read(oracle, PAGE, mine) is None
    assert read(oracle, CHILD, childs) is None
    assert read(oracle, CHILD, mine) is Corruption.TIER_FOREIGN
    assert read(oracle, PAGE, childs) is Corruption.TIER_FOREIGN


def test_wrong_bytes_and_told_losses_are_inherited_and_not_counted_again(oracle: Oracle) -> None:
    """A loss that the parent has seen is one loss."""
    write(oracle)
    read(oracle, PAGE, ZERO_PAGE, Outcome.DEVICE)
    access = oracle.begin(PAGE._replace(address=6))
    oracle.detected_loss(access, "crc")
    oracle.end(access)
    write(oracle, PAGE._replace(address=6))
    oracle.fork(0, 1, 2)
    assert read(oracle, CHILD, ZERO_PAGE) is None
    assert oracle.is_known_lost(CHILD._replace(address=6))
    assert oracle.tally.silent_stale_reads == 1
    assert sum(oracle.tally.detected_losses_by_reason.values()) == 1


def test_a_child_that_ends_leaves_its_parent_alone(oracle: Oracle) -> None:
    """What was owed to the child was discarded with it."""
    content = write(oracle)
    oracle.fork(0, 1, 2)
    oracle.owed(CHILD)
    oracle.exit(0, 2)
    assert oracle.tally.owed_fates[Fate.DISCARDED] == 1
    assert read(oracle, PAGE, content) is None
    assert read(oracle, CHILD, ZERO_PAGE, None) is None


def test_a_twin_has_the_memory_image_and_then_its_own(oracle: Oracle) -> None:
    """What the original writes later is foreign to the twin."""
    content = write(oracle)
    oracle.clone(0, 63)
    twin = PAGE._replace(host=63)
    assert read(oracle, twin, content) is None
    assert read(oracle, twin, write(oracle)) is Corruption.TIER_FOREIGN
