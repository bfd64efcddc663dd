"""The oracle's negative controls: every planted corruption is found once and called by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_loadgen.host.content import Contents, PageId, cut
from swaptier_loadgen.host.oracle import Corruption, Fate, Finding, Oracle
from swaptier_wire.types import ZERO_PAGE, Outcome

PAGE = PageId(0, 1, 5)
OTHER = PageId(0, 2, 9)
CONTENTS = Contents(3, list(cut(b"what real memory looks like " * 1000)))


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(CONTENTS.page)


def write(oracle: Oracle, page: PageId = PAGE) -> bytes:
    """Write the next version, as a thread that found the page right; return the bytes written."""
    access = oracle.begin(page)
    access.checked = True
    content = oracle.write(access)
    oracle.end(access)
    return content


def read(
    oracle: Oracle, content: bytes, source: Outcome | None = Outcome.HIT, page: PageId = PAGE
) -> Corruption | None:
    access = oracle.begin(page)
    finding = oracle.check(access, content, source)
    oracle.end(access)
    return finding and finding.corruption


def test_the_right_page_is_never_a_finding(oracle: Oracle) -> None:
    """Right bytes are right from any source, before and after writes."""
    assert read(oracle, ZERO_PAGE, None) is None
    for source in (None, Outcome.HIT, Outcome.SAME_FILLED, Outcome.DEVICE):
        assert read(oracle, write(oracle), source) is None
    assert oracle.tally.silent_stale_reads == oracle.tally.lost_updates == 0
    assert oracle.tally.pages_checked == 5


@pytest.mark.parametrize(
    ("planted", "source", "name"),
    [
        ("zeros", Outcome.DEVICE, Corruption.DEVICE_ZERO),
        ("zeros", Outcome.SAME_FILLED, Corruption.DEVICE_ZERO),
        ("zeros", None, Corruption.LOST_UPDATE),
        ("older", Outcome.DEVICE, Corruption.DEVICE_OLD),
        ("older", Outcome.HIT, Corruption.TIER_OLD),
        ("older", None, Corruption.LOST_UPDATE),
        ("foreign", Outcome.DEVICE, Corruption.DEVICE_FOREIGN),
        ("foreign", Outcome.HIT, Corruption.TIER_FOREIGN),
        ("foreign", None, Corruption.UNRECOGNISED),
        ("damaged", Outcome.HIT, Corruption.UNRECOGNISED),
        ("damaged", Outcome.DEVICE, Corruption.UNRECOGNISED),
    ],
)
def test_planted_bytes_are_called_by_their_name(
    oracle: Oracle, planted: str, source: Outcome | None, name: Corruption
) -> None:
    """Zeros, an older version, another page's bytes and damage are told apart, and by the load that brought them."""
    older, foreign = write(oracle), write(oracle, OTHER)
    current = write(oracle)
    damaged = current[:-1] + bytes([current[-1] ^ 1])
    content = {"zeros": ZERO_PAGE, "older": older, "foreign": foreign, "damaged": damaged}[planted]
    assert read(oracle, content, source) is name
    assert oracle.tally.corruptions_by_kind[name] == 1
    assert oracle.tally.corruptions_without_install_failure == 1


def test_a_version_that_was_current_when_a_fault_began_is_a_lost_update(oracle: Oracle) -> None:
    """CPU0 begins a fault on version 1 and is delayed | CPU1 writes version 2 | CPU0 maps version 1 over it."""
    version_1 = write(oracle)
    slow = oracle.begin(PAGE)
    write(oracle)
    finding = oracle.check(slow, version_1, Outcome.HIT)
    oracle.end(slow)
    assert finding is not None
    assert finding.corruption is Corruption.LOST_UPDATE
    assert (finding.expected_version, finding.found and finding.found.version) == (2, 1)
    assert oracle.tally.silent_stale_reads == 0


def test_a_lost_update_is_seen_also_by_another_thread_than_the_one_that_mapped_it(oracle: Oracle) -> None:
    """CPU0's fault on version 1 is still under way when CPU2 reads what it mapped."""
    version_1 = write(oracle)
    slow = oracle.begin(PAGE)
    write(oracle)
    assert read(oracle, version_1) is Corruption.LOST_UPDATE
    assert oracle.check(slow, version_1, Outcome.HIT) is None, "counted once"
    oracle.end(slow)


def test_a_wrong_page_is_counted_once_and_again_only_after_it_was_written(oracle: Oracle) -> None:
    """Reading the same wrong bytes again adds nothing; losing the healed page again does."""
    write(oracle)
    assert read(oracle, ZERO_PAGE, Outcome.DEVICE) is Corruption.DEVICE_ZERO
    assert read(oracle, ZERO_PAGE, None) is None
    write(oracle)
    assert read(oracle, ZERO_PAGE, Outcome.DEVICE) is Corruption.DEVICE_ZERO
    assert oracle.tally.corruptions_by_kind[Corruption.DEVICE_ZERO] == 2


def test_writing_before_checking_is_a_bug(oracle: Oracle) -> None:
    """A writer that does not look first would overwrite a loss unseen."""
    access = oracle.begin(PAGE)
    with pytest.raises(AssertionError, match="check before they write"):
        oracle.write(access)
    oracle.end(access)


def test_each_failed_install_gets_one_fate(oracle: Oracle) -> None:
    """Read wrong, read right, told lost, discarded, already lost, never read: the fates add up to the failures."""
    for page in (pages := [PageId(0, 0, address) for address in range(5)]):
        write(oracle, page)
        oracle.owed(page)
    oracle.owed(pages[0])  # lost again before anybody read it
    assert read(oracle, ZERO_PAGE, Outcome.DEVICE, pages[0]) is Corruption.DEVICE_ZERO
    assert read(oracle, CONTENTS.page(pages[1], 1), Outcome.HIT, pages[1]) is None
    access = oracle.begin(pages[2])
    oracle.detected_loss(access, "crc")
    oracle.end(access)
    oracle.discard(pages[3])
    tally = oracle.close()
    assert tally.owed_fates == {
        Fate.WRONG: 1,
        Fate.ALREADY_LOST: 1,
        Fate.RIGHT: 1,
        Fate.TOLD: 1,
        Fate.DISCARDED: 1,
        Fate.NEVER_READ: 1,
    }
    assert sum(tally.owed_fates.values()) == 6
    assert tally.corruptions_without_install_failure == 0
    assert oracle.close() is tally


def test_a_told_loss_is_counted_once_and_is_no_corruption(oracle: Oracle) -> None:
    """A process that was told has no wrong bytes."""
    write(oracle)
    for _ in range(2):
        access = oracle.begin(PAGE)
        oracle.detected_loss(access, "miss_must_exist")
        oracle.end(access)
    assert oracle.tally.detected_losses_by_reason == {"miss_must_exist": 1}
    assert oracle.is_known_lost(PAGE)
    assert oracle.tally.silent_stale_reads == 0


def test_a_discarded_page_reads_zeros_and_its_old_bytes_are_corruption(oracle: Oracle) -> None:
    """After a discard zeros are right, and what was there before is a leak."""
    before = write(oracle)
    oracle.discard(PAGE)
    assert read(oracle, ZERO_PAGE, None) is None
    assert read(oracle, before, Outcome.DEVICE) is Corruption.DEVICE_OLD


def test_the_sweep_covers_every_page_that_was_written(oracle: Oracle) -> None:
    """Pages only read are not swept: they were checked when read and hold zeros."""
    write(oracle)
    write(oracle, OTHER)
    read(oracle, ZERO_PAGE, None, PageId(0, 0, 0))
    assert oracle.written() == [PAGE, OTHER]


@given(st.lists(st.sampled_from(["write", "lose", "revert", "swap", "read", "owed"]), max_size=40))
def test_every_loss_is_found_exactly_once_at_the_next_read(steps: list[str]) -> None:
    """Against a plain model: memory that is right or was spoiled, read and healed as the host does it."""
    oracle = Oracle(CONTENTS.page)
    held, version, pending = ZERO_PAGE, 0, 0
    expected_findings = findings = owed = 0
    for step in [*steps, "read"]:
        right = CONTENTS.page(PAGE, version)
        if step == "write":
            access = oracle.begin(PAGE)
            finding: Finding | None = oracle.check(access, held, Outcome.DEVICE)
            findings += finding is not None
            expected_findings += held != right
            held, version, pending = oracle.write(access), version + 1, 0
            oracle.end(access)
        elif step == "lose":
            held = ZERO_PAGE
        elif step == "revert":
            held = CONTENTS.page(PAGE, max(version - 1, 0))
        elif step == "swap":
            held = CONTENTS.page(OTHER, 1)
        elif step == "owed":
            oracle.owed(PAGE)
            owed += 1
            pending += 1
        else:
            access = oracle.begin(PAGE)
            finding = oracle.check(access, held, Outcome.DEVICE)
            oracle.end(access)
            findings += finding is not None
            expected_findings += held != right
            if finding is not None:
                assert finding.owed_installs == pending
                held, version = write(oracle), version + 1
            pending = 0
    tally = oracle.close()
    assert findings == expected_findings == tally.silent_stale_reads + tally.lost_updates
    assert sum(tally.owed_fates.values()) == owed
    assert tally.owed_fates[Fate.NEVER_READ] == 0
