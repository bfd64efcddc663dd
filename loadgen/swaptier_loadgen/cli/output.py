"""What all commands print with: results on standard output, words about them on standard error.

Touches the terminal. Printing raises nothing: `standard_streams` drops what cannot be written, `run` asks at the end.
"""

import os
import re
import sys
from pathlib import Path

from rich.console import Console

PROGRAM = "swaptier-loadgen"

PIPE_COLUMNS = 140
"""Width of a result where there is no terminal to ask and COLUMNS says nothing: every table fits."""

OUTPUT_DESCRIPTOR = 1


def descriptor_of(path: Path) -> int | None:
    """Return the descriptor of this process that *path* names, as "-" and /dev/fd/63 do; None for another file."""
    names = {"-": OUTPUT_DESCRIPTOR, "/dev/stdout": OUTPUT_DESCRIPTOR, "/dev/stderr": 2}
    number = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(number[1]) if number else names.get(str(path))


def console(json_file: Path | None) -> Console:
    """Return what a result is printed with: nothing in it is taken for markup, and no number is coloured.

    Where standard output is for the JSON document, the tables go to standard error.
    """
    is_taken = json_file is not None and descriptor_of(json_file) == OUTPUT_DESCRIPTOR
    stream = sys.stderr if is_taken else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(width=width, highlight=False, markup=False, stderr=is_taken)


def say(line: str) -> None:
    """Write *line* to standard error, with the program's name before it."""
    sys.stderr.write(f"{PROGRAM}: {line}\n")
