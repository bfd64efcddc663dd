"""A counterexample as a page that a reviewer can read: the question, the table, what was lost, how to repeat it.

Pure. The table is that of kernel commit messages: a column for each CPU, and one for the tier. A golden
transcript carries no line numbers and no times, so that it changes only when the race does.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.cell import Cell
from swaptier_loadgen.explore.trace import Step
from swaptier_loadgen.explore.worlds import WORLDS

TABLE_COLUMNS = 110
COLUMN_MIN = 22
TIER = "tier"

KNOWN_BUGS = (
    ("free-on-read", "double-fault"),
    ("exclusive-unpinned", "double-fault"),
    ("exclusive", "aborted-install"),
    ("exclusive", "slot-reuse"),
    ("shared-unpinned", "slot-reuse"),
    ("exclusive-if-swapcache-unpinned", "readahead-race"),
    ("cache-on-hit-early", "early-lookup"),
    ("exclusive", "lost-reply"),
    ("cache-on-hit", "lost-reply"),
    ("no-bypass", "lost-reply"),
    ("exclusive", "retried-load"),
    ("exclusive", "server-restart"),
    ("exclusive-if-swapcache", "two-hosts"),
)
"""(policy, world) of each bug that has a golden transcript."""


def transcript(cell: Cell, *, columns: int, with_lines: bool = True) -> str:
    """Return the page for a cell that loses, *columns* wide where the table allows."""
    question, violation = cell.question, cell.violation
    assert violation is not None, "a cell that loses nothing has no transcript"
    policy, world = POLICIES[question.policy], WORLDS[question.world]
    bounds = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(question.bounds).items())
    return "\n".join(
        (
            f"{policy.name} in {world.name}: {violation.kind} after {len(cell.steps)} steps",
            f"policy  {policy.origin}",
            f"asked   {world.question}",
            f"within  {bounds}",
            "",
            draw(cell.steps, columns, with_lines=with_lines),
            "",
            f"lost    {violation.what}",
            f"repeat  {question.command()}",
            "",
        )
    )


def file_name(cell: Cell) -> str:
    """Return the name of the cell's golden transcript."""
    return f"{cell.question.policy}.{cell.question.world}.txt"


def matrix(cells: dict[tuple[str, str], Cell], policies: list[str], worlds: list[str]) -> str:
    """Return policies down, worlds across, as a markdown table."""
    rows = ["| | " + " | ".join(worlds) + " |", "|---|" + "---|" * len(worlds)]
    for policy in policies:
        row = [cells[policy, world].verdict if (policy, world) in cells else "" for world in worlds]
        rows.append(f"| `{policy}` | " + " | ".join(row) + " |")
    return "\n".join(rows)


def draw(steps: Sequence[Step], columns: int = TABLE_COLUMNS, *, with_lines: bool = True) -> str:
    """Return the steps as a table; each CPU is a column, in the order in which they come in."""
    cpus = list(dict.fromkeys(step.cpu for step in steps))
    headings = [*(f"CPU{index} ({name})" for index, name in enumerate(cpus)), TIER]
    width = max(COLUMN_MIN, (columns - 3 * (len(headings) - 1)) // len(headings))
    lines = [_row([[heading] for heading in headings], width), _row([["-" * width] for _ in headings], width)]
    for number, step in enumerate(steps, 1):
        cells: list[list[str]] = [[] for _ in headings]
        cells[cpus.index(step.cpu)] = _wrap(
            [f"{number}. {_function(step.where, with_lines=with_lines)}", *step.does], width
        )
        cells[-1] = _wrap(list(step.tier), width)
        lines.append(_row(cells, width))
    return "\n".join(line.rstrip() for block in lines for line in block.split("\n"))


def _function(where: str, *, with_lines: bool) -> str:
    """Return "module:function:line" as a kernel engineer writes it."""
    module, _, rest = where.partition(":")
    function, _, line = rest.partition(":")
    if not line:
        return where
    return f"{function}()  {module}.py:{line}" if with_lines else f"{function}()  {module}.py"


def _wrap(texts: list[str], width: int) -> list[str]:
    lines: list[str] = []
    for index, text in enumerate(texts):
        indent = "  " if index else ""
        lines += textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent + "  ")
    return lines


def _row(cells: list[list[str]], width: int) -> str:
    height = max(len(cell) for cell in cells)
    return "\n".join(
        " | ".join((cell[line] if line < len(cell) else "").ljust(width) for cell in cells) for line in range(height)
    )
