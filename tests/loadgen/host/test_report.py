"""A host's report: what is declared once is added up, written as one line, and read again."""

from dataclasses import dataclass, fields
from typing import Annotated

import pytest

from swaptier_loadgen.host.report import HOST_REPORT, Ended, HostReport
from swaptier_loadgen.host.report_field import AddedBy, add_reports


def test_two_reports_add_up_field_by_field() -> None:
    """Counts are sums, by key where they have keys; times, ends and first findings as they are declared."""
    one = HostReport(ops=1, counters={"faults": 2, "loads": 1}, race_seconds=3.0, examples=["a", "b"], message="full")
    other = HostReport(
        ops=4, counters={"faults": 5, "stores": 7}, race_seconds=2.0, examples=["c", "d"], message="gone"
    )
    both = one + other
    assert (both.ops, both.race_seconds) == (5, 3.0)
    assert both.counters == {"faults": 7, "loads": 1, "stores": 7}
    assert both.examples == ["a", "b", "c"]
    assert both.message == "full"


@pytest.mark.parametrize(
    ("ends", "ended"),
    [
        ((Ended.FINISHED, Ended.FINISHED), Ended.FINISHED),
        ((Ended.STOPPED, Ended.FINISHED), Ended.STOPPED),
        ((Ended.UNREACHABLE, Ended.REFUSED), Ended.REFUSED),
        ((Ended.OUT_OF_MEMORY, Ended.UNREACHABLE), Ended.OUT_OF_MEMORY),
        ((None, Ended.STOPPED), Ended.STOPPED),
    ],
)
def test_the_worst_end_of_several_hosts_is_theirs(ends: tuple[Ended | None, Ended], ended: Ended) -> None:
    """A host that has not ended says nothing."""
    assert (HostReport(ended=ends[0]) + HostReport(ended=ends[1])).ended is ended


def test_every_field_can_be_added() -> None:
    """Adding nothing to a report changes nothing, whatever is declared next."""
    report = HostReport(ops=1, first_corruption_seconds=2.0, tiers_are_durable=True, tiers_gone=["tier:1"])
    assert report + HostReport() == HostReport() + report == report
    assert {field.name for field in fields(HostReport)} == set(vars(report))


def test_a_field_that_does_not_add_up_by_itself_says_how() -> None:
    """Two words have no sum: the declaration gives one, or adding is refused."""

    @dataclass
    class Words:
        said: Annotated[str, AddedBy(min)] = ""

    @dataclass
    class Unsaid:
        said: str = ""

    assert add_reports(Words("b"), Words("a")) == Words("a")
    with pytest.raises(TypeError, match="AddedBy"):
        add_reports(Unsaid("b"), Unsaid("a"))


def test_a_report_survives_its_line() -> None:
    """What the host process writes is what the race reads."""
    report = HostReport(ops=3, ended=Ended.STOPPED, counters={"install_failures.moved": 2}, new_losses=[])
    assert HOST_REPORT.validate_json(HOST_REPORT.dump_json(report)) == report
