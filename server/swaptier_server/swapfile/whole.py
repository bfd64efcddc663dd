"""Whether a swap file is one that this program left: its tables are ours, and its trees hold together.

Touches a connection, and changes nothing. It is what a server's start and `check-file` ask. What is wrong with a row is
not asked here: its seal says that.
"""

import sqlite3
from pathlib import Path
from typing import Final

from swaptier_server.swapfile.header import format_in
from swaptier_server.swapfile.place import SwapFileUnusable
from swaptier_server.swapfile.schema import FORMAT, OLD_FORMAT, why_other_tables
from swaptier_wire.process.endings import one_line

CHECKED_PAGES_MAX: Final = 1 << 20
"""Of SQLite, 4 KiB each. Of a longer file a start checks the small tables' trees only: a page takes some 6 us, besides
what the disk takes to read them all."""
_TREE_DAMAGED: Final = "*** in database main ***\n"
"""What SQLite finds in its trees begins so; what is wrong with a row does not."""


def distrust(db: sqlite3.Connection) -> None:
    """Let nothing in the file's schema run more than SQLite's own functions, and let a cell end where its page does."""
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    # What is no text where text should be is a damaged row, not an error: its seal does not fit.
    db.text_factory = lambda text: text.decode(errors="replace")


def format_of(db: sqlite3.Connection, path: Path) -> int:
    """Return the format of the tables.

    Raises:
        SwapFileUnusable: this program does not read it.
        sqlite3.Error: it cannot be read.
    """
    its_format = format_in(db.execute("PRAGMA user_version").fetchone()[0])
    if its_format not in (OLD_FORMAT, FORMAT):
        raise SwapFileUnusable(
            f"the swap file {path} has format {its_format}, and this server reads {FORMAT}; it was not changed. Use "
            "the version that made it, or name another file"
        )
    return its_format


def why_not_whole(db: sqlite3.Connection, its_format: int, *, pages_max: int = CHECKED_PAGES_MAX) -> str | None:
    """Return what is wrong with the tables, or with the trees of a file of so many pages; None when nothing is.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    if (why := why_other_tables(db, its_format)) is not None:
        return why
    is_short = int(db.execute("PRAGMA page_count").fetchone()[0]) <= pages_max
    for table in ("",) if is_short else ("('server')", "('areas')"):
        found = str(db.execute(f"PRAGMA quick_check{table}").fetchone()[0])
        if found.startswith(_TREE_DAMAGED):
            what = one_line(found.removeprefix(_TREE_DAMAGED).split("\n")[0])
            return f"its trees do not hold together (SQLite: {what})"
    return None
