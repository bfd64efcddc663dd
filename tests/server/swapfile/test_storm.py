"""The corruption storm: whatever became of a swap file, an answer is right bytes or none, or the start is refused.

`make test` runs 200 cases, `make soak` 2,500 of another seed. A case that fails ends with the command that repeats it.
"""

import os
from collections import Counter
from typing import Final

import pytest
from tests.server.swapfile.storm.case import Case, run_case
from tests.server.swapfile.storm.damage import DAMAGES

SEED: Final = int(os.environ.get("SOAK_SEED", "1"))
CASES: Final = 200
SHARE: Final = 50
"""Of a process: they have a world each."""
SOAK_CASES: Final = int(os.environ.get("SOAK_STORM", "2500"))


@pytest.mark.parametrize("first", range(0, CASES, SHARE))
def test_a_damaged_file_gives_right_bytes_an_error_or_a_refused_start(first: int) -> None:
    """Of stopped, killed and running servers, under every mode of load, and again after a restart."""
    counts: Counter[str] = Counter()
    for number in range(first, first + SHARE):
        run_case(Case(1, number), counts)
    assert counts["refused"] and counts["ERROR"] and counts["running"] and counts["killed"] and counts["stopped"]


@pytest.mark.soak
def test_the_storm_of_a_soak() -> None:
    """Every kind of damage there is, many times."""
    counts: Counter[str] = Counter()
    for number in range(SOAK_CASES):
        run_case(Case(SEED + 1, number), counts)
    print(f"{SOAK_CASES} cases of seed {SEED + 1}: {counts['refused']} starts refused, {counts['ERROR']} loads ERROR")  # noqa: T201 - the soak shows what it did
    assert set(DAMAGES) <= counts.keys()
