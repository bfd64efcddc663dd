"""README.md is short, and what it shows of a race is what a race prints."""

import re

from tests.docs.blocks import ROOT

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.table import COLUMNS
from swaptier_loadgen.race.verdict import Verdict

README = (ROOT / "README.md").read_text()
LINES_MAX = 100
"""Two screens."""


def sample() -> list[str]:
    """Return what README shows of `make run`."""
    [block] = re.findall(r"```\n(seed .*?)```", README, re.DOTALL)
    return str(block).splitlines()


def test_the_readme_fits_on_two_screens() -> None:
    """What is longer belongs into docs/."""
    assert README.count("\n") <= LINES_MAX


def test_the_sample_has_the_columns_of_the_first_table() -> None:
    """Not those of the second: speeds of one run are noise."""
    above, below = sample()[1:3]
    headings = [word for column in COLUMNS if not column.is_cost for word in column.heading.split()]
    assert sorted([*above.split(), *below.split()]) == sorted([*headings, "policy", "verdict"])


def test_the_sample_shows_verdicts_that_the_policies_can_have() -> None:
    """A policy that is specified to be safe is, and the bug is not."""
    rows = [line.split(maxsplit=6) for line in sample() if line.split()[0] in POLICIES]
    assert [row[0] for row in rows] == ["exclusive", "store-back", "exclusive-if-swapcache", "claim"]
    for name, *_counts, verdict in rows:
        assert verdict == (Verdict.SAFE if POLICIES[name].is_safe else Verdict.AS_SPECIFIED)


def test_the_sample_has_twelve_lines_at_most() -> None:
    """A reader takes it in at once."""
    assert len(sample()) <= 12
