"""Names of areas as labels: no caller makes more of them than its share, and no other's share is less for it."""

from swaptier_server.rpc.area_labels import NAMES_SECONDS, AreaLabels
from swaptier_server.rpc.snapshot import AreaSnapshot
from swaptier_server.tier.counters import AreaCounters

HOUR_NS = round(NAMES_SECONDS * 1e9)


def area(name: str, pages: int = 1) -> AreaSnapshot:
    counters = AreaCounters()
    counters.duplicate_entries = pages
    return AreaSnapshot(name, pages, 0, pages, 0, 0, tuple(counters.rows()))


def names(areas: list[AreaSnapshot]) -> list[str]:
    return [one.name for one in areas]


def test_ever_new_names_end_in_one_label_for_a_tenant_and_none_of_anothers() -> None:
    """What has no label of its own is added up, gauges and counters alike."""
    labels = AreaLabels(2, has_tenants=True)
    assert names(labels.merged([area("alice|1"), area("bob|1")], 0)) == ["alice|1", "bob|1"]
    assert names(labels.merged([area("alice|2"), area("bob|1")], 1)) == ["alice|2", "bob|1"]
    merged = labels.merged([area("alice|3", 3), area("alice|4", 4), area("bob|2"), area("alice|2")], 2)
    assert names(merged) == ["alice|(others)", "bob|2", "alice|2"]
    others = merged[0]
    assert (others.stored_pages, others.pool_bytes) == (7, 7)
    assert sum(row.value for row in others.counters) == 7


def test_a_name_that_is_gone_gives_its_place_up_after_an_hour() -> None:
    """One that is still there does not."""
    labels = AreaLabels(1, has_tenants=True)
    labels.merged([area("alice|1")], 0)
    assert names(labels.merged([area("alice|2")], HOUR_NS - 1)) == ["alice|(others)"]
    assert names(labels.merged([area("alice|2")], HOUR_NS)) == ["alice|2"]
    assert names(labels.merged([area("alice|2")], 2 * HOUR_NS - 1)) == ["alice|2"]
    assert names(labels.merged([area("alice|3")], 2 * HOUR_NS)) == ["alice|(others)"]


def test_without_tenants_all_callers_share_one_number_whatever_they_call_themselves() -> None:
    """A name with a separator in it makes nobody a tenant."""
    labels = AreaLabels(1, has_tenants=False)
    assert names(labels.merged([area(f"{number}|a") for number in range(3)], 0)) == ["0|a", "(others)"]


def test_a_name_that_a_terminal_or_browser_would_obey_is_spelt_out() -> None:
    """Others are as their owner wrote them."""
    labels = AreaLabels(9, has_tenants=False)
    merged = labels.merged([area("a\nb"), area("\x1b[31m"), area("\u202eb"), area("größe")], 0)
    assert names(merged) == ["a\\nb", "\\x1b[31m", "\\u202eb", "größe"]
