"""What no server starts on: files of other programs, and swap files whose parts are not what a server left.

Each is refused in one line by a start, by `backup` and by `check-file`, and nothing at or beside the path is changed.
"""

import os
import re
import resource
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.builders import noise_of, page_of
from tests.server.builders import put

from swaptier_server.backup import ask_for_backup
from swaptier_server.check_file import check_file
from swaptier_server.swapfile.file import SqliteSwapFile, SwapFileUnusable
from swaptier_server.swapfile.header import APPLICATION_ID, PAGE_BYTES
from swaptier_server.swapfile.schema import FORMAT
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.types import AreaOptions

pytestmark = pytest.mark.usefixtures("files_of_ours_alone")

NOT_OURS, DAMAGED = ExitStatus.USAGE, ExitStatus.VERDICT
"""What check-file ends with."""
Make = Callable[[Path], None]

CASES: dict[str, tuple[Make, str, ExitStatus]] = {}
"""How to make the file, what the refusal says, and the status of check-file."""


def refused(says: str, status: ExitStatus = NOT_OURS) -> Callable[[Make], Make]:
    """Note how a file is made that is refused so."""

    def note(make: Make) -> Make:
        CASES[make.__name__] = make, says, status
        return make

    return note


@lru_cache
def files(name: str = "swap") -> Mapping[str, bytes]:
    """Return a swap file and the log that a killed server left beside it; another for each *name*."""
    with TemporaryDirectory() as folder, SqliteSwapFile(Path(folder) / name) as file:
        tier = Tier(TierLimits(0), file.begin_life(1), swap_file=file)
        for client in ("alice", "bob"):
            area, _ = tier.swapon(Client(client, 1), client, 64, AreaOptions())
            for offset in range(64):
                put(area, offset, 1, noise_of(offset) if offset % 2 else page_of(offset))
        file.bring_in_the_log()
        file.begin_life(2)
        return {end: Path(f"{file.path}{end}").read_bytes() for end in ("", "-wal")}


def stopped(path: Path) -> None:
    """Leave what a server leaves that ended."""
    killed(path)
    SqliteSwapFile(path).close()


def killed(path: Path) -> None:
    """Leave what a killed server leaves."""
    for end, content in files().items():
        Path(f"{path}{end}").write_bytes(content)


@refused("is a database and no swap file")
def another_programs_database_without_tables(path: Path) -> None:
    sql(path, "PRAGMA user_version = 5", "PRAGMA user_version = 0")


@refused("is a database and no swap file")
def another_programs_database_whose_tables_are_gone(path: Path) -> None:
    sql(path, "CREATE TABLE t (a)", "INSERT INTO t VALUES (zeroblob(9000))", "DROP TABLE t")


@refused("is a database and no swap file")
def another_programs_database_that_has_all_in_its_log(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (a)")
        kept = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-wal")}
    for end, content in kept.items():
        Path(f"{path}{end}").write_bytes(content)


@refused("is no swap file")
def a_text(path: Path) -> None:
    path.write_bytes(b"dear diary\n" * 1000)


@refused("is no swap file")
def one_byte(path: Path) -> None:
    path.write_bytes(b"x")


@refused("is empty, and .*-wal has pages of a file that was there")
def an_empty_file_beside_a_log(path: Path) -> None:
    killed(path)
    path.write_bytes(b"")


@refused("is empty, and .*-journal has pages of a file that was there")
def an_empty_file_beside_a_journal(path: Path) -> None:
    path.touch()
    Path(f"{path}-journal").write_bytes(b"journal")


@refused("-wal is no log of a swap file")
def a_text_in_the_place_of_the_log(path: Path) -> None:
    stopped(path)
    Path(f"{path}-wal").write_bytes(b"dear diary\n" * 1000)


@refused("-wal is the log of another file")
def another_programs_log(path: Path) -> None:
    stopped(path)
    with closing(sqlite3.connect(f"{path}2", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (a)")
        Path(f"{path}-wal").write_bytes(Path(f"{path}2-wal").read_bytes())


@refused("-journal is of another program")
def another_programs_journal(path: Path) -> None:
    stopped(path)
    Path(f"{path}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))


@refused("has 2 names")
def a_second_name(path: Path) -> None:
    killed(path.with_name("first"))
    path.hardlink_to(path.with_name("first"))


@refused("did not end, and its log, which has the newest pages, is not beside it as .*/swap-wal")
def a_name_that_the_log_does_not_have(path: Path) -> None:
    killed(path.with_name("first"))
    path.with_name("first").rename(path)


@refused("is a symbolic link")
def a_symbolic_link(path: Path) -> None:
    stopped(path.with_name("first"))
    path.symlink_to("first")


@refused("Is a directory")
def a_folder(path: Path) -> None:
    path.mkdir()


@refused("is no regular file")
def a_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


@refused("is no regular file")
def a_folder_in_the_place_of_the_log(path: Path) -> None:
    stopped(path)
    Path(f"{path}-wal").mkdir()


@refused("bytes, and its header says", DAMAGED)
def a_file_without_its_last_page(path: Path) -> None:
    stopped(path)
    os.truncate(path, path.stat().st_size - PAGE_BYTES)


@refused("bytes, and its header says", DAMAGED)
def a_file_that_ends_after_its_header(path: Path) -> None:
    stopped(path)
    os.truncate(path, 100)


@refused("bytes, and its header says", DAMAGED)
def a_file_that_is_longer_than_its_header_says(path: Path) -> None:
    stopped(path)
    os.truncate(path, path.stat().st_size + PAGE_BYTES)


@refused("page_bytes 1024, where a swap file has 4096", DAMAGED)
def other_page_sizes(path: Path) -> None:
    stopped(path)
    sql(path, "PRAGMA journal_mode = DELETE", "PRAGMA page_size = 1024", "VACUUM")


@refused("its header has encoding 2", DAMAGED)
def another_encoding(path: Path) -> None:
    sql(path, "PRAGMA encoding = 'UTF-16'", f"PRAGMA application_id = {APPLICATION_ID}", "CREATE TABLE t (a)")


@refused("of different moments", DAMAGED)
def a_header_of_two_moments(path: Path) -> None:
    stopped(path)
    content = bytearray(path.read_bytes())
    content[27] ^= 1
    path.write_bytes(content)


@refused(f"has format 127, and this server reads {FORMAT}")
def a_newer_format(path: Path) -> None:
    stopped(path)
    sql(path, "PRAGMA user_version = 127")


@refused("has format 0")
def no_format(path: Path) -> None:
    stopped(path)
    sql(path, "PRAGMA user_version = 0")


@refused("its trees do not hold together", DAMAGED)
def a_page_of_a_tree_that_is_a_copy_of_another(path: Path) -> None:
    stopped(path)
    content = bytearray(path.read_bytes())
    leaves = [first for first in range(PAGE_BYTES, len(content), PAGE_BYTES) if content[first] == LEAF]
    copied, over = leaves[-1], leaves[-2]
    content[over : over + PAGE_BYTES] = content[copied : copied + PAGE_BYTES]
    path.write_bytes(content)


@refused("is damaged", DAMAGED)
def a_tree_that_begins_with_a_page_of_another(path: Path) -> None:
    stopped(path)
    with closing(sqlite3.connect(path)) as db:
        roots = dict(db.execute("SELECT name, (rootpage - 1) * 4096 FROM sqlite_master").fetchall())
    content = bytearray(path.read_bytes())
    pages, areas = roots["pages"], roots["areas"]
    content[areas : areas + PAGE_BYTES] = content[pages : pages + PAGE_BYTES]
    path.write_bytes(content)


LEAF = 0x0D
WRITABLE = "PRAGMA writable_schema = ON"
SCHEMAS = {
    "a trigger": ("it has a 'trigger evil'", "CREATE TRIGGER evil AFTER INSERT ON pages BEGIN DELETE FROM areas; END"),
    "a view": ("it has a 'view evil'", "CREATE VIEW evil AS SELECT 1"),
    "an index": ("it has a 'index evil'", "CREATE INDEX evil ON pages (checksum)"),
    "a table": ("it has a 'table evil'", "CREATE TABLE evil (a)"),
    "statistics": ("it has a 'table sqlite_stat1'", "ANALYZE"),
    "a column": ("its 'areas' is another", "ALTER TABLE areas ADD COLUMN evil DEFAULT 1"),
    "a computed column": ("its 'pages' is another", "ALTER TABLE pages ADD COLUMN evil AS (abs(number))"),
    "no table": ("it has no table pages", "DROP TABLE pages"),
    "another name": ("it has no table server", "ALTER TABLE server RENAME TO evil"),
    "a default": (
        "its 'pages' is another",
        WRITABLE,
        "UPDATE sqlite_master SET sql = replace(sql, 'body BLOB', 'body BLOB DEFAULT 1')",
    ),
    "one tree for two": (
        "two of its tables have the same pages",
        WRITABLE,
        "UPDATE sqlite_master SET rootpage = (SELECT max(rootpage) FROM sqlite_master)",
    ),
    "no tree": ("invalid rootpage", WRITABLE, "UPDATE sqlite_master SET rootpage = 9999"),
    "no statement": ("malformed", WRITABLE, "UPDATE sqlite_master SET sql = 'CREATE'"),
}
"""The refusal, and what another program did to the tables."""


def sql(path: Path, *statements: str) -> None:
    """Do something to the file as another program does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def state(folder: Path) -> Mapping[str, object]:
    """Return all that a careless look could change, of everything in *folder*."""
    return {
        one.name: (one.lstat().st_mtime_ns, one.lstat().st_ctime_ns, one.is_file() and one.read_bytes())
        for one in folder.iterdir()
    }


def refuse(path: Path, status: ExitStatus) -> str:
    """Let a start, a backup and a check refuse what is at *path*; return the start's line."""
    before = state(path.parent)
    assert check_file(path)[0] == status
    assert state(path.parent) == before
    with pytest.raises(SwapFileUnusable) as refusal:
        SqliteSwapFile(path)
    assert state(path.parent) == before
    assert ask_for_backup(path, path.with_name("copy"))[0] == ExitStatus.USAGE
    assert state(path.parent) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("name", CASES)
def test_what_no_server_left_is_refused_in_one_line_and_not_changed(tmp_path: Path, name: str) -> None:
    make, says, status = CASES[name]
    make(tmp_path / "swap")
    assert re.search(says, refuse(tmp_path / "swap", status))


@pytest.mark.parametrize("name", SCHEMAS)
def test_tables_that_are_not_those_of_a_server_are_refused(tmp_path: Path, name: str) -> None:
    """A trigger would run, and a column or a default would show, what another program wrote."""
    says, *statements = SCHEMAS[name]
    stopped(tmp_path / "swap")
    sql(tmp_path / "swap", *statements)
    assert says in refuse(tmp_path / "swap", DAMAGED)


def test_an_empty_file_is_begun_on_and_a_log_without_its_file_is_not(tmp_path: Path) -> None:
    """SQLite would delete the log, with the pages of a file that was only moved away."""
    path = tmp_path / "swap"
    path.touch()
    SqliteSwapFile(path).close()
    assert check_file(path)[0] == ExitStatus.AS_SPECIFIED
    killed(path)
    path.unlink()
    before = state(tmp_path)
    with pytest.raises(SwapFileUnusable, match=r"is not there, and .*-wal has pages of a file that was there"):
        SqliteSwapFile(path)
    assert state(tmp_path) == before


def test_the_log_of_another_swap_file_is_found_out(tmp_path: Path) -> None:
    """Two files have the same tables, and SQLite takes any log for its file's."""
    path = tmp_path / "swap"
    stopped(path)
    Path(f"{path}-wal").write_bytes(files("other")["-wal"])
    assert check_file(path)[0] != ExitStatus.AS_SPECIFIED


def test_a_log_that_is_lost_is_asked_for_until_an_empty_one_says_so(tmp_path: Path) -> None:
    """What the file itself has is then served. A look at a killed server's file, by check-config say, is no loss."""
    path = tmp_path / "swap"
    killed(path)
    SqliteSwapFile(path).close()
    SqliteSwapFile(path).close()
    killed(path)
    log = tmp_path / "swap-wal"
    log.unlink()
    refuse(path, NOT_OURS)
    log.touch(0o600)
    SqliteSwapFile(path).close()
    assert check_file(path)[0] == ExitStatus.AS_SPECIFIED


def test_an_end_that_cannot_be_noted_leaves_an_empty_log(tmp_path: Path) -> None:
    """Else the next start would ask for the log that SQLite has brought in and removed."""
    path = tmp_path / "swap"
    file = SqliteSwapFile(path)
    file.begin_life(1)
    file._db.execute("PRAGMA query_only = ON")
    file.close()
    assert (tmp_path / "swap-wal").exists()
    with SqliteSwapFile(path) as file:
        assert file.begin_life(1) > 1
    assert not (tmp_path / "swap-wal").exists()


def test_a_file_that_finds_no_room_to_begin_stays_empty(tmp_path: Path) -> None:
    """And is begun on when there is room; a part of it would be a damaged one."""
    path = tmp_path / "swap"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE_BYTES, before[1]))
    try:
        with pytest.raises(SwapFileUnusable, match="cannot open the swap file"):
            SqliteSwapFile(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 0
    SqliteSwapFile(path).close()
