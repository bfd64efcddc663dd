"""The result table on a terminal or in a pipe. Builds rich renderables; prints nothing.

From WIDE_COLUMNS on it is one table. Narrower, all columns come as two tables, what happened to the data and what it
cost, because a table that wraps its numbers cannot be read.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.verdict import Verdict

ALL_COLUMNS = 126
"""What all columns take side by side."""

WIDE_COLUMNS = 120
"""What they take without the one that is only nice to have: a common width of terminals."""

POLICY_COLUMNS = 22
"""Longer names go on over two lines, broken before a hyphen."""

_COLOURS = {
    Verdict.SAFE: "green",
    Verdict.AS_SPECIFIED: "yellow",
    Verdict.LOSES: "yellow",
    Verdict.TELLS: "yellow",
    Verdict.NOT_SEEN: "yellow",
    Verdict.CORRUPTED: "bold red",
    Verdict.LOST: "bold red",
    Verdict.LEAKED: "bold red",
}


class Column(NamedTuple):
    """One column: its heading and how a cell is made."""

    heading: str
    cell: Callable[[RunSummary], str | Text]
    is_cost: bool = False
    """In the second table when there are two."""
    is_extra: bool = False
    """Left out of one table between WIDE_COLUMNS and ALL_COLUMNS."""


COLUMNS = (
    Column("faults", lambda s: _count(s.faults)),
    Column("install\nfailures", lambda s: _count(s.install_failures)),
    Column("stale", lambda s: _bad(s, s.silent_stale_reads)),
    Column("lost", lambda s: _bad(s, s.lost_updates + s.detected_losses)),
    Column("first\nat s", lambda s: _seconds(s.first_corruption_seconds), is_extra=True),
    Column("dup.\npeak", lambda s: _count(s.duplicate_pages_peak), is_cost=True),
    Column("dup.\npage-s", lambda s: f"{s.duplicate_page_seconds:.1f}", is_cost=True),
    Column("double\nloads", lambda s: _count(s.double_loads), is_cost=True),
    Column("wasted\nrecomp.", lambda s: _count(s.wasted_recompressions), is_cost=True),
    Column("stores", lambda s: _count(s.stores), is_cost=True),
    Column("loads", lambda s: _count(s.loads), is_cost=True),
    Column("faults\n/s", lambda s: _count(round(s.faults_per_second)), is_cost=True),
    Column("p50/p99\nms", lambda s: f"{_ms(s.latency_us.p50)}/{_ms(s.latency_us.p99)}", is_cost=True),
)


def tables(summaries: Sequence[RunSummary], width: int) -> list[Table]:
    """Return the result as one table, or as two where *width* columns are too few."""
    if width >= WIDE_COLUMNS:
        fitting = [column for column in COLUMNS if width >= ALL_COLUMNS or not column.is_extra]
        return [_table(summaries, fitting, has_verdict=True)]
    return [
        _table(summaries, [column for column in COLUMNS if not column.is_cost], has_verdict=True),
        _table(summaries, [column for column in COLUMNS if column.is_cost], has_verdict=False),
    ]


def _table(summaries: Sequence[RunSummary], columns: Sequence[Column], *, has_verdict: bool) -> Table:
    is_crowded = has_verdict and any(column.is_cost for column in columns)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)  # the box itself leaves a column between columns
    table.add_column("policy", min_width=POLICY_COLUMNS, no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    if has_verdict:
        table.add_column("verdict", no_wrap=True)
    for summary in summaries:
        cells = [column.cell(summary) for column in columns]
        if has_verdict:
            verdict = str(summary.verdict)
            if is_crowded:
                verdict = verdict.replace(" (", "\n(")
            cells.append(Text(verdict, style=_COLOURS.get(summary.verdict, "")))
        table.add_row(_name(summary.policy), *cells)
    return table


def _name(policy: str) -> str:
    """Return the policy's name on as many lines as POLICY_COLUMNS needs."""
    if len(policy) <= POLICY_COLUMNS:
        return policy
    end = policy.rindex("-", 0, POLICY_COLUMNS + 1)
    return f"{policy[:end]}\n{policy[end:]}"


def _ms(microseconds: float) -> str:
    """Return milliseconds with two significant digits or more, in at most six characters."""
    milliseconds = microseconds / 1000
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def _seconds(seconds: float | None) -> str:
    """Return seconds in at most five characters, "-" for never."""
    return "-" if seconds is None else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def _count(number: int) -> str:
    """Return *number* in at most six characters: 99999, then 123.4k, then 12.3M."""
    if number < 100_000:
        return str(number)
    return f"{number / 1e3:.1f}k" if number < 1_000_000 else f"{number / 1e6:.1f}M"


def _bad(summary: RunSummary, number: int) -> Text:
    """Return a count that should be 0: bold red where the policy promises that it is."""
    style = ("bold red" if summary.is_safe_by_specification else "yellow") if number else "dim"
    return Text(_count(number), style=style)
