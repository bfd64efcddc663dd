"""How the help of both programs is laid out: as wide as the terminal, with names that are never broken.

Touches nothing. Needs cyclopts, which only the programs have.
"""

from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, HelpEntry, NameRenderer
from rich.console import Console, ConsoleOptions

NAMES_SHARE = 0.35
"""Of the terminal's width that names may take, unless one alone is longer."""


def _columns(console: Console, options: ConsoleOptions, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:
    del options  # the console says as much
    words = [word for entry in entries for label in entry.display_labels_with_metavar for word in label.split()]
    longest = max(map(len, words), default=0)
    width = max(int(console.width * NAMES_SHARE), longest + 2)
    names = ColumnSpec(renderer=NameRenderer(max_width=width), style="cyclopts.name", no_wrap=True)
    return names, ColumnSpec(renderer=DescriptionRenderer(), overflow="fold")


HELP_LAYOUT = DefaultFormatter(column_specs=_columns)
