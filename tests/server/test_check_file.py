"""`swaptier-server check-file`: what is in a swap file, what is damaged, what would be lost; and nothing is changed."""

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.server.swapfile.test_foreign import killed, state, stopped
from tests.server.test_main import run, running

from swaptier_server.check_file import check_file
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.swapfile.header import LOG_HEADER_BYTES
from swaptier_server.swapfile.log import pages_and_torn
from swaptier_wire.process.exit_status import ExitStatus

pytestmark = pytest.mark.usefixtures("files_of_ours_alone")


def test_a_whole_file_is_described_and_not_changed(tmp_path: Path) -> None:
    """With every area, its client and its pages; also what a killed server left in the log alone."""
    for make in (stopped, killed):
        make(tmp_path / "swap")
        before = state(tmp_path)
        done = run("check-file", str(tmp_path / "swap"))
        assert (done.returncode, done.stderr) == (0, "")
        head, alice, bob, verdict = done.stdout.splitlines()
        assert head.startswith(f"{tmp_path}/swap: format 2, epoch 2, ")
        assert ("log of" in head) == (make is killed)
        assert alice.startswith("area 'alice' of client 'alice', epoch 1: 64 slots, 64 pages, ")
        assert bob.startswith("area 'bob' of client 'bob', epoch 1: 64 slots, 64 pages, ")
        assert verdict == "whole: a server starts on it and has all of this"
        assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("statement", "says", "pages"),
    [
        ("UPDATE pages SET body = zeroblob(length(body)) WHERE number & 4294967295 IN (3, 5)", "slots 3, 5", 124),
        ("UPDATE pages SET generation = 7 WHERE number % 64 = 1", "slots 1", 126),
        ("UPDATE pages SET number = number + 4000000 WHERE number % 64 = 0", "1 pages of area 'alice': slots ", 126),
        ("UPDATE areas SET slots = 9 WHERE name = 'bob'", "the rows of 1 areas are not what was written", 64),
        ("DELETE FROM areas WHERE name = 'bob'", "the rows of 1 areas are not there", 64),
        ("UPDATE server SET epoch = -1", "the server's row is missing or damaged", 128),
    ],
)
def test_what_is_damaged_is_named_and_counted(tmp_path: Path, statement: str, says: str, pages: int) -> None:
    """And a server that is started on the file serves as many pages as was said."""
    stopped(tmp_path / "swap")
    with closing(sqlite3.connect(tmp_path / "swap", isolation_level=None)) as db:
        db.execute(statement)
    before = state(tmp_path)
    status, lines = check_file(tmp_path / "swap")
    assert status == ExitStatus.VERDICT
    assert says in "\n".join(lines)
    assert f"has {pages} pages" in lines[-1]
    assert state(tmp_path) == before


@pytest.mark.parametrize("place", [16, 30, LOG_HEADER_BYTES + 8, LOG_HEADER_BYTES + 16, LOG_HEADER_BYTES + 100])
def test_a_torn_log_is_named_by_the_check_and_by_the_start(tmp_path: Path, place: int) -> None:
    """In its head's salt or checksum, in a page's or in a page: SQLite believes no change from there on."""
    killed(tmp_path / "swap")
    log = tmp_path / "swap-wal"
    pages, torn = pages_and_torn(log)
    assert pages > 1
    assert torn == 0
    content = bytearray(log.read_bytes())
    content[place] ^= 1
    log.write_bytes(content)
    status, lines = check_file(tmp_path / "swap")
    assert status == ExitStatus.VERDICT
    assert f"the last {pages} changes in the log are torn" in "\n".join(lines)
    with SqliteSwapFile(tmp_path / "swap") as file:
        assert file.findings.torn_log_pages == pages


def test_a_damaged_tree_is_named_with_what_can_be_read(tmp_path: Path) -> None:
    stopped(tmp_path / "swap")
    with closing(sqlite3.connect(tmp_path / "swap")) as db:
        (last,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'pages'").fetchone()
    content = bytearray((tmp_path / "swap").read_bytes())
    content[(last - 1) * 4096 + 5] ^= 0xFF
    (tmp_path / "swap").write_bytes(content)
    status, lines = check_file(tmp_path / "swap")
    assert status == ExitStatus.VERDICT
    assert lines[-1].startswith("lost: no server starts on it; ")
    assert "nothing was read" not in lines[-1]


def test_a_file_that_was_cut_is_not_read_and_what_to_do_is_said(tmp_path: Path) -> None:
    stopped(tmp_path / "swap")
    content = (tmp_path / "swap").read_bytes()
    (tmp_path / "swap").write_bytes(content[:-4096])
    status, lines = check_file(tmp_path / "swap")
    assert status == ExitStatus.VERDICT
    assert lines[-1] == (
        "lost: no server starts on it; nothing was read. Keep it; start on a copy made by backup, or on a new file"
    )


def test_a_file_that_a_server_has_is_refused_in_a_line(tmp_path: Path) -> None:
    with running("--device", f"sqlite:{tmp_path}/swap"):
        before = (tmp_path / "swap").read_bytes()
        done = run("check-file", str(tmp_path / "swap"))
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.endswith("make a copy with swaptier-server backup, and check that\n")
        assert (tmp_path / "swap").read_bytes() == before


def test_a_log_is_read_in_a_copy_that_leaves_no_page_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no name while it is read. Where there is no room for it, that is said."""
    killed(tmp_path / "swap")
    (tmp_path / "short").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "short"))
    assert check_file(tmp_path / "swap")[0] == ExitStatus.AS_SPECIFIED
    assert not list((tmp_path / "short").iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        status, lines = check_file(tmp_path / "swap")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, len(lines)) == (ExitStatus.NOT_WRITTEN, 1)
    assert "set TMPDIR to a folder that has" in lines[0]
    assert not list((tmp_path / "short").iterdir())


def test_what_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    done = run("check-file", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"swaptier-server: check-file: {tmp_path}/none: No such file or directory\n"
    assert not list(tmp_path.iterdir())


def test_a_copy_made_by_backup_is_whole(tmp_path: Path) -> None:
    with SqliteSwapFile(tmp_path / "swap") as file:
        file.begin_life(1)
        file.back_up(tmp_path / "copy", lambda _left, _of: True)
    assert check_file(tmp_path / "copy")[0] == ExitStatus.AS_SPECIFIED
