"""The counterexample as kernel commit messages draw a race: a column for each CPU, and one for the tier.

Pure.
"""

import textwrap
from collections.abc import Sequence

from swaptier_loadgen.explore.trace import Step

TABLE_COLUMNS = 110
COLUMN_MIN = 22
TIER = "tier"


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
