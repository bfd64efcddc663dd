"""How long the swap file's log is, and who brings it in."""

import random
import sqlite3
import threading
from pathlib import Path

from tests.server.host import Host, channel_to

from swaptier_server.config import ServerConfig
from swaptier_server.lifecycle import TierServer
from swaptier_server.swapfile.log import Log
from swaptier_server.swapfile.medium import LOG_PAGES, LOG_PAGES_LAST


def test_the_pages_counted_are_those_that_sqlite_counts(tmp_path: Path) -> None:
    """As the log grows, when it was brought in, and when it begins anew in the room of an older one that was longer."""
    path, chance = tmp_path / "swap", random.Random(1)
    log = Log(path)
    assert log.new_pages() == 0
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("CREATE TABLE pages (number INTEGER PRIMARY KEY, body BLOB)")
    for rows in (200, 10, 3, 90, 1):
        for number in range(rows):
            db.execute("INSERT OR REPLACE INTO pages VALUES (?, ?)", (number, chance.randbytes(4096)))
        counted = log.new_pages()
        assert db.execute("PRAGMA wal_checkpoint").fetchone() == (0, counted, counted)
        assert counted >= rows
        log.note_brought_in()
        assert log.new_pages() == 0
    db.close()


def test_a_log_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    """The count follows a request that was applied, and may not replace its answer. A folder opens, unread."""
    (tmp_path / "swap-wal").mkdir()
    log = Log(tmp_path / "swap")
    assert log.new_pages() == 0
    log.note_brought_in()
    assert log.new_pages() == 0


async def test_a_thread_brings_the_log_in_and_what_comes_meanwhile_is_answered(tmp_path: Path) -> None:
    """The disk takes its time to sync, and the loop waits for none of it."""
    config = ServerConfig.model_validate(
        {
            "listen": "127.0.0.1:0",
            "metrics": "off",
            "device": f"sqlite:{tmp_path}/swap",
            "durability": "write-through",
        }
    )
    server = await TierServer.start(config)
    assert server.listening is not None and server.upkeep._swap_file is not None
    threads: set[int] = set()

    def note_thread(statement: str) -> None:
        if "wal_checkpoint" in statement:
            threads.add(threading.get_ident())

    server.upkeep._swap_file._db.set_trace_callback(note_thread)
    log = Log(tmp_path / "swap")
    host = Host()
    async with channel_to(server.listening) as channel:
        host.meet(channel)
        await host.swapon()
        for first in range(0, 2 * LOG_PAGES, 100):
            await host.store(range(first, first + 100))
            assert log.new_pages() < LOG_PAGES_LAST
        assert await host.missing() == {}
    await server.drain()
    assert threads
    assert threading.get_ident() not in threads
