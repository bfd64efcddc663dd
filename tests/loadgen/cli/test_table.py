"""The result table, at every width."""

import io

import pytest
from rich.console import Console
from tests.loadgen.summaries import run

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.table import ALL_COLUMNS, WIDE_COLUMNS, tables
from swaptier_loadgen.host.latency import LatencyRecorder
from swaptier_loadgen.race.results import RunSummary


def render(summaries: list[RunSummary], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    for table in tables(summaries, width):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, WIDE_COLUMNS, ALL_COLUMNS, 200])
def test_the_table_fits_the_terminal_and_cuts_nothing_off(width: int) -> None:
    """With large numbers in every column, every name, number and verdict stands there whole."""
    recorder = LatencyRecorder()
    for milliseconds in (12, 12, 12, 123):
        recorder.record(milliseconds * 1_000_000)
    counters = {
        "faults": 123_456_789,
        "install_failures.zapped": 99_999,
        "double_loads": 99_999,
        "wasted_recompress": 999_999,
        "stores": 12_345_678,
        "loads": 12_345_678,
    }
    big = [
        run(
            policy,
            corruptions_by_kind={} if POLICIES[policy].is_safe else {"device_zero": 99_999},
            counters=counters,
            duplicate_pages_peak=4096,
            duplicate_page_seconds_by_cause={"lease": 1234.5},
            race_faults=24_691,
            first_corruption_seconds=86_400.0,
            latency_histograms=[recorder.encode()],
        )
        for policy in POLICIES
    ]
    drawn = render(big, width)
    assert max(map(len, drawn.splitlines())) <= width
    assert "…" not in drawn
    words = drawn.split()
    for expected in ("no-bypass", "exclusive-if-swapcache", "123.5M", "99999", "1234.5", "1000.0k", "12346", "12/123"):
        assert expected in words, expected
    assert drawn.count("safe") == sum(policy.is_safe for policy in POLICIES.values())


def test_a_narrow_terminal_gets_two_tables_with_the_same_columns() -> None:
    """Nothing is left out at 80 columns: the costs come in a table of their own."""
    wide, narrow = tables([run("shared")], ALL_COLUMNS), tables([run("shared")], 80)
    headings = [column.header for table in narrow for column in table.columns]
    assert sorted(headings) == sorted([*(column.header for column in wide[0].columns), "policy"])
