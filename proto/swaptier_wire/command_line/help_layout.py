"""How the help of both programs is laid out: as wide as the terminal, with names that are never broken.

Touches nothing.
"""

import inspect
from collections.abc import Sequence

from cyclopts import App
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


def epilogue(text: str, *examples: str) -> str:
    """Return the end of a help: *text*, and commands of 58 columns at most, which 60 leave whole."""
    return "\n".join([text, "", "Examples:", "", *(f"  {example}" for example in examples)])


def reflow(app: App) -> None:
    """Let the terminal break the lines of every help, where the source broke them for its own width."""
    for each in [app, *(app[name] for name in _commands(app))]:
        prose = inspect.cleandoc(each.help).partition("\n\nParameters\n")[0]  # they have a box of their own
        each.help = "\n\n".join(" ".join(one.split()) for one in prose.split("\n\n"))


def _commands(app: App) -> Sequence[str]:
    return [name for name in app if not name.startswith("-")]
