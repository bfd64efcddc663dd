"""The table of KERNEL.md 6.4, every policy, exactly: on the pure tier in one process, and over gRPC on a server."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.loadgen.command_line import invoke
from tests.server.configuration import load_config

from swaptier_client.connection import GIVE_UP_SECONDS
from swaptier_client.mm.policy import POLICIES, Policy
from swaptier_loadgen.cli.specification import run_over_grpc
from swaptier_loadgen.measure import specification_table
from swaptier_loadgen.measure.specification import Measures
from swaptier_loadgen.measure.specification_table import BUILDS, MEASURES, Build, F, M, cells_of, run_in_process
from swaptier_server.lifecycle import TierServer

Run: TypeAlias = Callable[[Policy, Build], Awaitable[Measures]]


@pytest.fixture(params=["in process", "over gRPC"])
async def run(request: pytest.FixtureRequest) -> AsyncIterator[Run]:
    """What runs a workload to its end, both ways."""
    if request.param == "in process":

        async def run_here(policy: Policy, build: Build) -> Measures:
            return run_in_process(policy, build)

        yield run_here
        return
    server = await TierServer.start(load_config(["--listen", "127.0.0.1:0", "--metrics", "off"]), epoch=1)

    async def run_there(policy: Policy, build: Build) -> Measures:
        return await run_over_grpc(policy, build, str(server.listening), "race")

    yield run_there
    await server.drain()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("workload", BUILDS)
async def test_every_policy_measures_what_its_specification_says(name: str, workload: str, run: Run) -> None:
    """W1 to W4, all rows of the table.

    W1: M pages, F of them with one failed install. W2: K pages with two users, read by the first: K duplicates under
    shared loads. W3: N of them reclaimed unmodified: recompressed under exclusive loads only. W4: T1 reads the slot and
    is held; T2 faults, writes, swaps out into the same slot; T1 goes on: corrupts exactly the unpinned policies.
    """
    measures = await run(POLICIES[name], BUILDS[workload])
    row = [cell for cell in cells_of(POLICIES[name], dict.fromkeys(BUILDS, measures)) if cell.workload == workload]
    assert row
    assert [cell for cell in row if not cell.is_as_specified] == []


async def test_w4_shared_unpinned_loses_the_update_without_reading_anything_stale(run: Run) -> None:
    """The pure ABA: every read was right when it was made, and the newer page is gone all the same."""
    measures = await run(POLICIES["shared-unpinned"], BUILDS["W4"])
    assert measures.lost_updates == 1
    assert measures.silent_stale_reads == 0


LETTERS = {
    "a": "exclusive",
    "b": "cache-on-hit",
    "c": "store-back",
    "d": "shared",
    "e": "exclusive-if-swapcache",
    "f": "no-bypass",
}
"""The columns of the table that have a pin, or need none."""


async def measures_by_letter(run: Run, build: Build) -> dict[str, Measures]:
    return {letter: await run(POLICIES[name], build) for letter, name in LETTERS.items()}


async def test_only_optimistic_reads_are_held_twice_while_a_fault_is_delayed(run: Run) -> None:
    """Delayed after the load: duplicate page-seconds d = e > a, b, c, f."""
    seconds = {
        letter: measures.duplicate_page_seconds
        for letter, measures in (await measures_by_letter(run, BUILDS["W1"])).items()
    }
    assert seconds["d"] == seconds["e"] == M + F
    assert {seconds[letter] for letter in "abcf"} == {0}


async def test_shared_loads_are_held_twice_longer_than_the_merged_fix_where_pages_are_forked(run: Run) -> None:
    """On W2: duplicate page-seconds d > e, strictly."""
    measures = await measures_by_letter(run, BUILDS["W2"])
    assert measures["d"].duplicate_page_seconds > measures["e"].duplicate_page_seconds


async def test_only_shared_loads_spare_the_recompression(run: Run) -> None:
    """On W3: wasted recompressions d < e = a = b = c = f."""
    measures = await measures_by_letter(run, BUILDS["W3"])
    wasted = {letter: each.wasted_recompressions for letter, each in measures.items()}
    assert wasted["d"] < wasted["e"]
    assert {wasted[letter] for letter in "abcef"} == {wasted["e"]}


async def test_only_exclusive_corrupts_and_only_store_back_compresses_again(run: Run) -> None:
    """On W1: corruption a > 0 = b = c = d = e = f; stores beyond the first of each page: c > others."""
    measures = await measures_by_letter(run, BUILDS["W1"])
    assert measures["a"].silent_stale_reads > 0
    assert {measures[letter].silent_stale_reads for letter in "bcdef"} == {0}
    assert measures["c"].storebacks > max(measures[letter].storebacks for letter in "abdef")


def test_the_command_shows_every_cell_beside_its_specification(tmp_path: Path) -> None:
    """In one process: status 0, a row for each policy, and the same in the JSON document."""
    result = invoke("specification", "--json", str(tmp_path / "cells.json"))
    assert result.exit_code == 0, result.output
    assert "…" not in result.stdout
    assert f"all {len(POLICIES) * len(MEASURES)} cells are as specified" in result.stdout
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert {cell["policy"] for cell in cells} == set(POLICIES)
    assert {
        "policy": "exclusive",
        "workload": "W1",
        "measure": "stale reads",
        "measured": F,
        "specified": str(F),
    } in cells


def test_the_command_fails_when_a_cell_is_not_as_specified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a specification that says something else. Status 1, and the first such cell is named."""
    monkeypatch.setitem(specification_table.W1, "exclusive", (0, 0, M, 0, F, 0))
    result = invoke("specification", "--policy", "exclusive")
    assert result.exit_code == 1
    assert f"1 of {len(MEASURES)} cells are not as specified, the first in W1 for exclusive" in result.stdout


def test_the_command_says_that_the_tier_cannot_be_reached() -> None:
    """Status 3, at once: whom it asks, and that nobody is there."""
    began = time.monotonic()
    result = invoke("specification", "--target", "unix:/does/not/exist", "--policy", "shared")
    assert result.exit_code == 3
    asks, answer = result.stderr.splitlines()
    assert asks == "swaptier-loadgen: measuring against the tier at unix:/does/not/exist"
    assert "no swap tier answers at unix:/does/not/exist" in answer
    assert time.monotonic() - began < GIVE_UP_SECONDS / 2, "it waited for somebody to come"
