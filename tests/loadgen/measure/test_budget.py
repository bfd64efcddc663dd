"""Shared against exclusive loads under one budget."""

import json
from functools import cache
from pathlib import Path

import pytest
from tests.loadgen.command_line import invoke

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.measure.budget import BudgetRow, BudgetSettings, Refused, run_budget
from swaptier_loadgen.measure.specification import page_version
from swaptier_wire.types import PAGE_BYTES

SMALL = BudgetSettings(pages=512, budget_percent=50, accesses=3000)


@cache
def content(address: int, version: int) -> bytes:
    """A page that lz4 takes to about a third: the shape of the comparison needs a pool worth having."""
    noise = bytes((address * 31 + version * 17 + index * index) % 251 for index in range(PAGE_BYTES // 3))
    return noise + page_version(address, version)[len(noise) :]


@pytest.fixture(scope="module", name="rows")
def _rows() -> dict[str, BudgetRow]:
    return {name: run_budget(POLICIES[name], SMALL, content) for name in ("shared", "exclusive-if-swapcache")}


def test_exclusive_loads_refault_less_under_one_budget(rows: dict[str, BudgetRow]) -> None:
    """Compressed copies of pages that are in memory take the place of other pages."""
    assert rows["exclusive-if-swapcache"].refaults < rows["shared"].refaults
    assert rows["exclusive-if-swapcache"].resident_pages_mean > rows["shared"].resident_pages_mean
    assert rows["exclusive-if-swapcache"].duplicate_pages_mean < rows["shared"].duplicate_pages_mean


def test_shared_loads_recompress_less(rows: dict[str, BudgetRow]) -> None:
    """The price of exclusive loads: an unmodified page is compressed again."""
    assert rows["shared"].wasted_recompressions == 0
    assert rows["exclusive-if-swapcache"].wasted_recompressions > 0
    assert rows["shared"].stores < rows["exclusive-if-swapcache"].stores


def test_nothing_is_lost_where_nothing_races(rows: dict[str, BudgetRow]) -> None:
    """Both modes return every byte."""
    assert {row.wrong_pages for row in rows.values()} == {0}


def test_the_same_settings_give_the_same_row() -> None:
    """One thread, no clock, seeded chance."""
    tiny = BudgetSettings(pages=256, budget_percent=60, accesses=500)
    assert run_budget(POLICIES["shared"], tiny, content) == run_budget(POLICIES["shared"], tiny, content)


def test_a_budget_without_room_is_refused() -> None:
    """Below two reclaim batches a host would only reclaim."""
    with pytest.raises(Refused, match="more pages or a larger share"):
        run_budget(POLICIES["shared"], BudgetSettings(pages=100, budget_percent=50), content)


def test_the_command_compares_the_two_modes_in_one_table_and_one_sentence(tmp_path: Path) -> None:
    """The corpus' pages, status 0, and the same numbers in the JSON document."""
    file = tmp_path / "budget.json"
    arguments = ["--pages", "512", "--accesses", "3000", "--budget-percent", "85", "--json", str(file)]
    result = invoke("budget", *arguments)
    assert result.exit_code == 0, result.output
    assert "fewer refaults than shared" in result.stdout
    assert "shared has" in result.stdout.splitlines()[-1]
    runs = {run["policy"]: run for run in json.loads(file.read_text())["runs"]}
    assert runs["exclusive-if-swapcache"]["refaults"] < runs["shared"]["refaults"]
    assert str(runs["shared"]["stores"]) in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget-percent", "0"],
        ["--write-percent", "101"],
        ["--pages", "100"],
        ["--accesses", "0"],
        ["--policy", "xyzzy"],
        ["--corpus", "/does/not/exist"],
        ["--json", "/does/not/exist/x"],
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    """Status 2, one line, nothing on standard output."""
    result = invoke("budget", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
