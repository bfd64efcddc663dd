"""A swap file gets shorter after its pages have gone, in pieces, and never at the cost of what is stored meanwhile."""

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.server.host import Host
from tests.server.swapfile.test_disk_trouble import WRITE_THROUGH, Writer, served
from tests.server.test_main import TIMEOUT_SECONDS

from swaptier_server.swapfile.database import GIVE_BACK_PAGES, SPARE_PAGES
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier.device import BackingDevice
from swaptier_server.tier.page import stored_page
from swaptier_server.tier.swap_file import Client, SavedArea
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, AreaOptions

NOISE = random.Random(3).randbytes(PAGE_BYTES)
PAGE = stored_page(NOISE, page_checksum(NOISE), 1)
PAGES = 2048
SPARE_BYTES = (SPARE_PAGES + GIVE_BACK_PAGES) * 4096


def filled(file: SqliteSwapFile, name: str) -> BackingDevice:
    """Return the device of a new area with PAGES pages."""
    device = file.open_area(SavedArea(name, Client("host", 1), PAGES, AreaOptions()), ())
    for first in range(0, PAGES, 256):
        device.write([(offset, PAGE) for offset in range(first, first + 256)])
    return device


def forget(file: SqliteSwapFile, name: str) -> None:
    """Forget an area, with all its pages."""
    file.forget_area(name)
    while file.has_rest:
        file.sweep()


def give_back(file: SqliteSwapFile) -> int:
    """Give back all that may be; return in how many pieces."""
    pieces = 1
    while file.give_back():
        pieces += 1
    return pieces


def test_room_is_given_back_in_pieces_once_it_was_not_needed_between_two_looks(tmp_path: Path) -> None:
    """All but some spare pages. What another area has behind the gap is moved, whole."""
    with SqliteSwapFile(tmp_path / "swap") as file:
        filled(file, "gone")
        kept = filled(file, "kept")
        file.bring_in_the_log()
        file.look()
        full = file.stat().st_size
        forget(file, "gone")
        file.look()
        assert give_back(file) == 1, "it may be needed again at once"
        file.look()
        assert give_back(file) > PAGES // GIVE_BACK_PAGES
        assert file.log_is_long, "only then does the file itself get shorter"
        file.bring_in_the_log()
        assert file.stat().st_size < full / 2 + SPARE_BYTES
        assert all(kept.read(offset) == PAGE for offset in range(PAGES))
        assert file._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        file.look()
        assert (file.refused, give_back(file)) == (None, 1)


def test_pages_that_are_needed_again_are_not_given_back(tmp_path: Path) -> None:
    with SqliteSwapFile(tmp_path / "swap") as file:
        filled(file, "gone")
        forget(file, "gone")
        file.look()
        filled(file, "next")
        file.look()
        assert give_back(file) == 1


def test_a_file_of_an_older_version_keeps_its_length_and_its_backup_does_not(tmp_path: Path) -> None:
    """The copy is rewritten as one that can get shorter; it has every page."""
    with SqliteSwapFile(tmp_path / "swap") as file:
        filled(file, "a")
    with closing(sqlite3.connect(tmp_path / "swap", isolation_level=None)) as older:
        older.execute("PRAGMA journal_mode = DELETE")
        older.execute("PRAGMA auto_vacuum = NONE")
        older.execute("VACUUM")
    with SqliteSwapFile(tmp_path / "swap") as file:
        assert not file.is_given_back
        file.look()
        file.look()
        assert not file.give_back()
        file.back_up(tmp_path / "copy", lambda _remaining, _total: True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy", "swap"]
    with SqliteSwapFile(tmp_path / "copy") as copy:
        assert copy.is_given_back
        assert [area.name for area in copy.saved_areas()] == ["a"]
        assert len(list(copy.reopen_area("a")[1])) == PAGES


async def test_a_server_gives_room_back_after_a_swapoff(tmp_path: Path) -> None:
    """Within some seconds, while it serves."""
    host = Host()
    write = Writer(host)
    swap = tmp_path / "swap"
    async with served(host, "--device", f"sqlite:{swap}", *WRITE_THROUGH), asyncio.timeout(TIMEOUT_SECONDS):
        for _ in range(12):
            await write.store(256)
        full = swap.stat().st_size
        await host.swapoff()
        await host.swapon()
        while swap.stat().st_size > SPARE_BYTES + full / 4:
            assert not await host.missing()
            await host.store(range(8), 2)
