"""What the documents take from the code is what the code has: `make docs` brings them up to date."""

import re
import time
from pathlib import Path

import pytest
from tests.docs.blocks import BLOCK, FAULT_EXAMPLES, GOLDEN, ROOT, attribute_docstrings, fill, pages

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.cell import Question, ask
from swaptier_loadgen.explore.expectation import expected
from swaptier_loadgen.explore.transcript import KNOWN_BUGS
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.faults.spec import FAULTS, Faults
from swaptier_loadgen.race.verdict import Verdict

QUICK = ("double-fault", "lost-reply", "retried-load")
"""Worlds whose whole column is asked in a second."""


@pytest.mark.parametrize("page", pages(), ids=str)
def test_a_page_holds_what_the_code_has(page: Path) -> None:
    """If it does not: make docs, and look at the difference."""
    text = (ROOT / page).read_text()
    assert text.count("<!-- generated: ") == text.count("<!-- end -->") == len(BLOCK.findall(text))
    assert fill(text) == text


@pytest.fixture(name="matrix", scope="module")
def _matrix() -> dict[tuple[str, str], str]:
    """The verdicts that the page shows, by policy and world."""
    text = (ROOT / "docs/policies.md").read_text()
    [block] = [found["text"] for found in BLOCK.finditer(text) if found["call"] == "matrix"]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in block.splitlines()]
    worlds = rows[0][1:]
    return {(row[0], world): cell for row in rows[2:] for world, cell in zip(worlds, row[1:], strict=True)}


def test_the_matrix_has_every_policy_in_every_world_as_it_is_specified(matrix: dict[tuple[str, str], str]) -> None:
    """After a change that moves a cell: make docs DOCS=--matrix (minutes)."""
    verdicts = {cell: text.partition(" ")[0] for cell, text in matrix.items()}
    assert verdicts == {
        (policy, world): str(expected(POLICIES[policy], world, spec.bounds))
        for policy in POLICIES
        for world, spec in WORLDS.items()
    }
    assert all(re.fullmatch(r"loses \(\d+ steps\)|(safe|tells) \(\d+ states\)", text) for text in matrix.values())


@pytest.mark.parametrize("world", QUICK)
def test_the_matrix_is_what_the_explorer_finds_where_that_is_quick(
    matrix: dict[tuple[str, str], str], world: str
) -> None:
    """Steps and states, not only the verdict."""
    shown = {policy: matrix[policy, world] for policy in POLICIES}
    bounds = WORLDS[world].bounds
    assert shown == {policy: ask(Question(policy, world, bounds), now=time.monotonic).verdict for policy in POLICIES}


@pytest.mark.parametrize(("policy", "world"), KNOWN_BUGS)
def test_the_matrix_has_as_many_steps_as_the_transcript(
    matrix: dict[tuple[str, str], str], policy: str, world: str
) -> None:
    """The transcript is compared with the explorer elsewhere."""
    first = (GOLDEN / f"{policy}.{world}.txt").read_text().partition("\n")[0]
    assert first.endswith(f" after {matrix[policy, world].removeprefix('loses (').removesuffix(')')}")


def test_every_verdict_is_explained() -> None:
    """Each once, and none that no race ends in."""
    page = (ROOT / "docs/load-generator.md").read_text()
    section = page.partition("## The verdicts")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == sorted(Verdict)


def test_every_fault_has_an_example_that_can_be_read() -> None:
    """The examples together are one line that --fault takes."""
    assert str(Faults.parse(FAULT_EXAMPLES)) == FAULT_EXAMPLES
    assert [example.partition("=")[0] for example in FAULT_EXAMPLES.split(",")] == list(FAULTS)


def test_the_glossary_has_thirty_words_in_order() -> None:
    """Each once, and each with a meaning."""
    rows = re.findall(r"^\| ([a-z ]+) \| (.+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [word for word, meaning in rows if word != "word"]
    assert len(words) == 30
    assert words == sorted(set(words))
    assert all(meaning.endswith(".") for word, meaning in rows if word != "word")


def test_a_word_in_italics_on_the_first_page_is_in_the_glossary() -> None:
    """That page sends its readers there."""
    glossary = (ROOT / "docs/glossary.md").read_text()
    words = re.findall(r"(?<!\*)\*([a-z ]+)\*(?!\*)", (ROOT / "docs/first-losing-schedule.md").read_text())
    assert words
    assert [word for word in words if f"| {word.removesuffix('s')}" not in glossary] == []


def test_what_stands_under_an_attribute_is_found() -> None:
    """As the tables of faults and hazards need it."""
    assert list(attribute_docstrings(Sample).items()) == [
        ("first", "Said of the first."),
        ("second", "Over two lines."),
    ]


class Sample:
    """A class with attributes, some of which are explained."""

    first: int = 1
    """Said of the first."""
    silent = 0
    second = 2
    """Over
    two lines."""
