"""Every link in the documents leads somewhere, and every page can be reached."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.blocks import ROOT, pages

LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
PAGES = [*pages(), Path("KERNEL.md"), Path("CHANGELOG.md")]


def links(page: Path) -> Iterator[str]:
    """Yield what *page* links to in this repository."""
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    yield from (target for target in LINK.findall(prose) if "://" not in target)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of *page*."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    """Relative to the page, as a browser takes it."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.resolve().relative_to(ROOT)), f"{page}: {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    """A page that nothing links to is not read."""
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(Path("README.md"))}
    assert {ROOT / page for page in PAGES} - {ROOT / "README.md"} <= linked


def test_what_the_architecture_says_lives_in_a_file_does() -> None:
    """The last column of its table names definitions or fields of that file."""
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Where does it live?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|[^|]+\| \[`([^`]+)`\]\([^)]+\) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) >= 10
    for path, names in rows:
        source = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)(?:\(\))?`", names):
            assert re.search(rf"\b{name}\b", source), f"{name} is not in {path}"
