"""What all commands print with: results on standard output, words about them on standard error, JSON in a file.

Touches the terminal and the result file.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from swaptier_loadgen.cli.statuses import Refusal

PROGRAM = "swaptier-loadgen"

PIPE_COLUMNS = 140
"""Width of a result where there is no terminal to ask and COLUMNS says nothing: every table fits."""


def console() -> Console:
    """Return what a result is printed with: nothing in it is taken for markup, and no number is coloured."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(width=width, highlight=False, markup=False)


def say(line: str) -> None:
    """Write *line* to standard error, with the program's name before it."""
    sys.stderr.write(f"{PROGRAM}: {line}\n")


def check_writable(path: Path | None) -> None:
    """Refuse a result file that could not be written at the end.

    Raises:
        Refusal: why not.
    """
    if path is None:
        return
    if path.is_dir():
        raise Refusal(f"--json {path} is a folder, not a file")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise Refusal(f"--json {path} cannot be written: no such folder, or no permission")


def write_json(path: Path | None, document: Mapping[str, object]) -> None:
    """Write the result file, if one was asked for."""
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n")
