"""A counterexample as a page that a reviewer can read: the question, the table, what was lost, how to repeat it.

Pure. A golden transcript carries no line numbers and no times, so that it changes only when the race does.
"""

from dataclasses import asdict

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.cell import Cell
from swaptier_loadgen.explore.cpu_table import draw
from swaptier_loadgen.explore.worlds import WORLDS

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
    question = cell.question
    policy, world = POLICIES[question.policy], WORLDS[question.world]
    bounds = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(question.bounds).items())
    return "\n".join(
        (
            f"{policy.name} in {world.name}: {cell.kind} after {len(cell.steps)} steps",
            f"policy  {policy.origin}",
            f"asked   {world.question}",
            f"within  {bounds}",
            "",
            draw(cell.steps, columns, with_lines=with_lines),
            "",
            f"lost    {cell.what}",
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
