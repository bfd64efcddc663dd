"""Every command in the documents is one that its program takes, and every flag that they name exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.blocks import BLOCK, PROGRAMS, ROOT, pages

FENCE = re.compile(r"^```\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(rf"(?:\.venv/bin/)?({'|'.join(PROGRAMS)})(?: (.+))?")
FLAG = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])")


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every command of ours that *page* shows: the program, and what is said to it."""
    text = BLOCK.sub("", (ROOT / page).read_text())
    shown = [line for block in FENCE.findall(text) for line in block.splitlines()]
    shown += INLINE.findall(FENCE.sub("", text))
    for line in shown:
        for command in re.split(r" && |; | \| ", line):
            if found := COMMAND.fullmatch(command.strip()):
                words = shlex.split(found[2] or "", comments=True)
                redirection = next((at for at, word in enumerate(words) if word in ("<", ">", ">>")), len(words))
                yield found[1], words[:redirection]


COMMANDS = [(page, program, words) for page in pages() for program, words in commands(page)]


@pytest.mark.parametrize(("page", "program", "words"), COMMANDS, ids=str)
def test_a_command_is_understood(page: Path, program: str, words: list[str]) -> None:
    """It is read by the real command line, up to the point where it would be run."""
    PROGRAMS[program].parse_args(words, print_error=False, exit_on_error=False)


def test_a_command_that_is_wrong_is_noticed() -> None:
    """Else the test above proves nothing."""
    with pytest.raises(Exception, match="polcy"):
        PROGRAMS["swaptier-loadgen"].parse_args(["race", "--polcy", "all"], print_error=False, exit_on_error=False)


def test_commands_are_found_on_the_pages_that_are_there_for_them() -> None:
    """In fences, in tables, behind pipes."""
    found = {(str(page), program) for page, program, _words in COMMANDS}
    assert {
        ("README.md", "swaptier-loadgen"),
        ("README.md", "swaptier-server"),
        ("docs/first-losing-schedule.md", "swaptier-loadgen"),
        ("docs/server.md", "swaptier-server"),
    } <= found


@pytest.mark.parametrize("page", pages(), ids=str)
def test_a_flag_that_a_page_names_exists(page: Path) -> None:
    """Of either program: pages name a flag without its command where that is clear."""
    known = {
        name
        for program in PROGRAMS.values()
        for command in program
        if not command.startswith("-")
        for argument in program[command].assemble_argument_collection()
        for name in argument.names
    }
    named = set(FLAG.findall((ROOT / page).read_text()))
    assert named - known - {"--help", "--version"} == set()


def test_a_make_target_that_a_page_names_exists() -> None:
    """As the Makefile has it."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named <= targets, page
