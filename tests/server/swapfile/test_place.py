"""Where a swap file stands: what becomes of it under a running server is found out, and others may not read it."""

import logging
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from swaptier_server.backing import SwapFileWatch
from swaptier_server.swapfile.database import SwapFileDatabase
from swaptier_server.swapfile.file import SqliteDevice, SqliteSwapFile, SwapFileUnusable
from swaptier_server.swapfile.place import HeldFile
from swaptier_server.tier.device import DeviceError, DeviceFault
from swaptier_server.tier.page import StoredPage, stored_page
from swaptier_server.tier.swap_file import Client, SavedArea
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, AreaOptions

NOISE = random.Random(3).randbytes(PAGE_BYTES)
PAGE = stored_page(NOISE, page_checksum(NOISE), 1)
NEWER = PAGE._replace(generation=2)
FILE, LOG = "swap", "swap-wal"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteSwapFile]:
    with SqliteSwapFile(tmp_path / FILE) as opened:
        yield opened


@pytest.fixture
def device(file: SqliteSwapFile) -> SqliteDevice:
    opened = file.open_area(SavedArea("a", Client("host", 1), 64, AreaOptions()), ())
    assert isinstance(opened, SqliteDevice)
    opened.write([(offset, PAGE) for offset in range(8)])
    return opened


def fault(file: SqliteSwapFile) -> DeviceFault | None:
    """Look, and return what is wrong."""
    file.look()
    return None if file.refused is None else file.refused.fault


def takes(device: SqliteDevice, page: StoredPage = NEWER) -> DeviceFault | None:
    """Return why a store is refused; None when it is not."""
    try:
        device.write([(9, page)])
    except DeviceError as error:
        return error.fault
    return None


def remove(path: Path) -> None:
    """Take the name away."""
    path.unlink()


def replace(path: Path) -> None:
    """Let another file have the name, as an editor or a restored backup does."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.chmod(0o600)
    other.replace(path)


def cut(path: Path) -> None:
    """Make it shorter."""
    os.truncate(path, path.stat().st_size // 2)


def show(path: Path) -> None:
    """Let others read it."""
    path.chmod(0o640)


def forbid(path: Path) -> None:
    """Forbid to write to it."""
    path.chmod(0o400)


def rename_folder(path: Path) -> None:
    """Rename what the file is in."""
    path.parent.rename(path.parent.with_name("elsewhere"))


CHANGES = [
    (remove, DeviceFault.GONE),
    (replace, DeviceFault.GONE),
    (rename_folder, DeviceFault.GONE),
    (cut, DeviceFault.DAMAGED),
    (show, DeviceFault.EXPOSED),
    (forbid, DeviceFault.READ_ONLY),
]


@pytest.mark.parametrize("name", [FILE, LOG])
@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_nothing_is_stored_in_a_file_that_is_not_where_its_path_says_or_not_ours_alone(
    tmp_path: Path, name: str, change: Callable[[Path], None], expected: DeviceFault
) -> None:
    """With or without a look between: each store looks. What can be read safely is still read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with SqliteSwapFile(folder / FILE) as file:
        device = file.open_area(SavedArea("a", Client("host", 1), 64, AreaOptions()), ())
        assert isinstance(device, SqliteDevice)
        device.write([(0, PAGE)])
        change(folder / name)
        assert takes(device) is expected
        if change is not cut:
            assert device.read(0) == PAGE
        if (name, change) != (LOG, remove):
            assert fault(file) is expected
            assert takes(device) is expected


@pytest.mark.parametrize("end", [FILE, LOG])
@pytest.mark.parametrize("change", [remove, replace])
def test_what_is_recorded_while_the_file_is_taken_away_is_refused(
    tmp_path: Path, end: str, change: Callable[[Path], None]
) -> None:
    """Between the look and the commit: nothing is acknowledged that the next server does not find."""
    with closing(SwapFileDatabase(tmp_path / FILE, survives_power_loss=False)) as database:

        def record() -> None:
            with database.transaction() as db:
                db.execute("DELETE FROM server")
                change(tmp_path / end)

        with pytest.raises(DeviceError):
            record()
        assert database.refused is not None
        assert database.refused.fault is DeviceFault.GONE
        assert database.last_refusal() == database.refused


def test_a_file_that_comes_back_is_used_again(tmp_path: Path, file: SqliteSwapFile, device: SqliteDevice) -> None:
    """Renamed back, its mode set right, or its own bytes in its place: without a restart."""
    path = tmp_path / FILE
    path.rename(tmp_path / "away")
    assert fault(file) is DeviceFault.GONE
    assert file.refused is not None and str(tmp_path / "away") in file.refused.reason
    (tmp_path / "away").rename(path)
    assert fault(file) is None
    path.chmod(0o644)
    assert fault(file) is DeviceFault.EXPOSED
    path.chmod(0o600)
    assert fault(file) is None
    assert takes(device) is None
    assert device.read(9) == NEWER


def test_a_log_that_was_removed_is_begun_anew_without_a_loss(
    tmp_path: Path, file: SqliteSwapFile, device: SqliteDevice
) -> None:
    """All that was acknowledged was in the log alone; it is in the file before the next store is taken."""
    (tmp_path / LOG).unlink()
    assert takes(device) is DeviceFault.GONE
    assert fault(file) is None
    assert takes(device) is None
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (FILE, LOG):  # as a kill would leave them
        (copy / name).write_bytes((tmp_path / name).read_bytes())
        (copy / name).chmod(0o600)
    with SqliteSwapFile(copy / FILE) as after:
        again, pages = after.reopen_area("a")
        assert [page.offset for page in pages] == [*range(8), 9]
        assert again.read(0) == PAGE


def test_a_file_whose_place_cannot_be_told_is_refused_all_the_same(tmp_path: Path) -> None:
    """As on a system without /proc: here a descriptor that is no more. The reason of a refusal is never an error."""
    path = tmp_path / FILE
    path.touch(mode=0o600)
    held = HeldFile(path)
    held.close()
    path.unlink()
    trouble = held.trouble()
    assert trouble is not None
    assert trouble.fault is DeviceFault.GONE
    assert "where that is, is not known" in trouble.reason


def test_the_end_of_a_server_leaves_anothers_log_alone(tmp_path: Path) -> None:
    """SQLite removes its log by name. The file was moved away with its log, and another put in their place."""
    file = SqliteSwapFile(tmp_path / FILE)
    for name in (FILE, LOG):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    (tmp_path / FILE).write_bytes(b"")
    (tmp_path / LOG).write_bytes(b"another's")
    file.close()
    assert (tmp_path / LOG).read_bytes() == b"another's"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["old-swap", "old-swap-wal", FILE, LOG]


# Who may read it


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_file_that_others_may_open_is_refused_and_not_changed(tmp_path: Path, end: str, mode: int) -> None:
    """So is one beside it, which holds pages, too. The line says what to do, and that is enough."""
    SqliteSwapFile(tmp_path / FILE).close()
    exposed = tmp_path / f"{FILE}{end}"
    exposed.touch()
    exposed.chmod(mode)
    with pytest.raises(SwapFileUnusable, match=f"chmod 600 {exposed}$"):
        SqliteSwapFile(tmp_path / FILE)
    assert stat.S_IMODE(exposed.stat().st_mode) == mode
    exposed.chmod(0o600)
    SqliteSwapFile(tmp_path / FILE).close()


@pytest.mark.parametrize("end", ["", "-wal"])
def test_what_is_no_file_of_one_name_is_refused(tmp_path: Path, end: str) -> None:
    """A link leads to where others may write, a second name to a log that is not found, and a FIFO never ends."""
    path, elsewhere = tmp_path / f"{FILE}{end}", tmp_path / "elsewhere"
    if end:
        SqliteSwapFile(tmp_path / FILE).close()
    path.symlink_to(elsewhere)
    with pytest.raises(SwapFileUnusable, match=r"is a symbolic link: name the file itself, .*elsewhere"):
        SqliteSwapFile(tmp_path / FILE)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(SwapFileUnusable, match="is no regular file"):
        SqliteSwapFile(tmp_path / FILE)
    path.unlink()
    path.touch(0o600)
    elsewhere.hardlink_to(path)
    with pytest.raises(SwapFileUnusable, match="has 2 names"):
        SqliteSwapFile(tmp_path / FILE)
    assert not elsewhere.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner can read it, whatever its mode."""
    SqliteSwapFile(tmp_path / FILE).close()
    os.chown(tmp_path / FILE, 65534, -1)
    with pytest.raises(SwapFileUnusable, match="belongs to user 65534, and this is user 0"):
        SqliteSwapFile(tmp_path / FILE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_that_is_given_away_is_used_no_more(tmp_path: Path, file: SqliteSwapFile, device: SqliteDevice) -> None:
    os.chown(tmp_path / FILE, 65534, -1)
    assert takes(device) is fault(file) is DeviceFault.EXPOSED
    os.chown(tmp_path / FILE, 0, -1)
    assert takes(device) is fault(file) is None


def test_a_refusal_between_two_looks_is_said(
    file: SqliteSwapFile, device: SqliteDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that was away for a moment: a host was told, and so is the operator, who then hears that it is over."""
    caplog.set_level(logging.INFO, logger="swaptier.server")
    watch = SwapFileWatch(file)
    away = file.path.rename(file.path.with_name("away"))
    assert takes(device) is DeviceFault.GONE
    away.rename(file.path)
    assert takes(device) is None
    watch.look()
    assert watch.fault is None
    assert "swap_file_refuses" in caplog.text and "takes_pages_again" not in caplog.text
    caplog.clear()
    watch.look()
    assert "swap_file_takes_pages_again" in caplog.text
