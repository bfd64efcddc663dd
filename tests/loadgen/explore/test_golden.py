"""A known bug's race is a page in the repository: when it changes, a reviewer sees how."""

import time
from pathlib import Path

import pytest

from swaptier_loadgen.explore.cell import Question, ask
from swaptier_loadgen.explore.transcript import KNOWN_BUGS, TABLE_COLUMNS, file_name, matrix, transcript
from swaptier_loadgen.explore.worlds import WORLDS

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize(("policy", "world"), KNOWN_BUGS)
def test_a_known_bug_still_happens_the_way_its_transcript_says(policy: str, world: str) -> None:
    """After a change on purpose: swaptier-loadgen explore --golden, and look at the difference."""
    cell = ask(Question(policy, world, WORLDS[world].bounds), now=time.monotonic)
    assert transcript(cell, columns=TABLE_COLUMNS, with_lines=False) == (GOLDEN / file_name(cell)).read_text()


def test_no_transcript_is_left_of_a_bug_that_nobody_knows() -> None:
    """The folder holds exactly the known bugs."""
    assert {path.name for path in GOLDEN.glob("*.txt")} == {f"{policy}.{world}.txt" for policy, world in KNOWN_BUGS}


def test_the_matrix_has_a_row_for_each_policy_and_a_column_for_each_world() -> None:
    """Each cell says safe with its states, or loses with its steps."""
    cells = {
        (policy, "aborted-install"): ask(
            Question(policy, "aborted-install", WORLDS["aborted-install"].bounds), now=time.monotonic
        )
        for policy in ("exclusive", "shared")
    }
    lines = matrix(cells, ["exclusive", "shared"], ["aborted-install"]).splitlines()
    assert lines[0] == "| | aborted-install |"
    assert lines[2] == "| `exclusive` | loses (4 steps) |"
    assert lines[3].startswith("| `shared` | safe (")
