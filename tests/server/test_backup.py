"""`swaptier-server backup`: a copy of a swap file that is in use is whole, private, and a device for another server."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.server.disks import MIB, tmpfs
from tests.server.host import Host, channel_to
from tests.server.swapfile.test_disk_trouble import WRITE_THROUGH, Writer, served
from tests.server.test_main import run, running

from swaptier_server.swapfile.backup import BackupFailed, BackupRefused
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.swapfile.header import PAGE_BYTES


async def backup(path: Path | str, to: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    return await asyncio.to_thread(run, "backup", str(path), str(to))


def names(folder: Path) -> list[str]:
    """Return what is in *folder*."""
    return sorted(one.name for one in folder.iterdir())


def line(result: "subprocess.CompletedProcess[str]", status: int) -> str:
    """Return the one line of a refusal with *status*."""
    assert (result.returncode, result.stdout) == (status, ""), result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


async def test_a_copy_of_a_server_at_work_is_a_device_for_another(tmp_path: Path) -> None:
    """With every page that was acknowledged when it began, none of half a batch, for its owner's eyes alone."""
    host = Host()
    write = Writer(host)
    swap, copy = tmp_path / "swap", tmp_path / "copy"
    async with served(host, "--device", f"sqlite:{swap}", *WRITE_THROUGH) as server:
        await write.store(256)
        making = asyncio.create_task(backup(swap, copy))
        while not making.done():
            await write.store(32)
        result = making.result()
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(f"{copy}: ")
        assert names(tmp_path) == ["copy", "swap", "swap-wal"]
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with closing(sqlite3.connect(copy)) as found:
            assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert line(await backup(swap, copy), 2).endswith("exists and is not overwritten; name another file\n")
        assert server.end()[0] == 0
    with running("--device", f"sqlite:{copy}") as other:
        async with channel_to(other.listening) as channel:
            host.meet(channel)
            await host.swapon()
            missing = await host.missing()
    assert not [offset for offset in missing if offset < 256]
    assert not missing or len({min(missing) % 32, len(missing) % 32}) == 1, "a batch is there whole or not at all"


async def test_a_file_that_no_server_has_is_copied_too(tmp_path: Path) -> None:
    """And what is no swap file, or not there, is refused in one line."""
    SqliteSwapFile(tmp_path / "swap").close()
    assert (await backup(tmp_path / "swap", tmp_path / "copy")).returncode == 0
    SqliteSwapFile(tmp_path / "copy").close()
    assert "No such file" in line(await backup(tmp_path / "none", tmp_path / "other"), 2)
    (tmp_path / "diary").write_text("dear diary\n" * 1000)
    assert "no swap file" in line(await backup(tmp_path / "diary", tmp_path / "other"), 2)
    assert "cannot make" in line(await backup(tmp_path / "swap", tmp_path / "none" / "copy"), 2)
    assert names(tmp_path) == ["copy", "diary", "swap"]


async def test_a_file_that_was_removed_is_rescued_from_its_server(tmp_path: Path) -> None:
    """The log says how; the copy has all that was acknowledged."""
    host = Host()
    write = Writer(host)
    swap, copy = tmp_path / "swap", tmp_path / "copy"
    async with served(host, "--device", f"sqlite:{swap}", *WRITE_THROUGH) as server:
        await write.store(256)
        swap.unlink()
        said = await asyncio.to_thread(server.wait_for_log, "swap_file_refuses")
        _, _, its_path, _ = str(said["rescue"]).split()
        assert (await backup(its_path, copy)).returncode == 0
        server.process.kill()
        server.process.wait()
    async with served(host, "--device", f"sqlite:{copy}", *WRITE_THROUGH):
        assert not await host.missing()


async def test_a_copy_without_room_is_status_5_and_leaves_nothing(tmp_path: Path) -> None:
    host = Host()
    write = Writer(host)
    with tmpfs(tmp_path, MIB) as disk:
        swap = tmp_path / "swap"
        with running("--device", f"sqlite:{swap}", *WRITE_THROUGH, "--metrics", "off", inside=disk.inside) as server:
            async with channel_to(server.listening) as channel:
                host.meet(channel)
                await host.swapon()
                for _ in range(8):
                    await write.store(256)
            to = disk.mount_point / "copy"
            result = await asyncio.to_thread(run, "backup", str(swap), str(to), inside=disk.inside)
            assert "full" in line(result, 5)
            assert names(disk.folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_another_user_gets_no_copy(tmp_path: Path) -> None:
    """Who it is, the kernel says."""
    host = Host()
    async with served(host, "--device", f"sqlite:{tmp_path}/swap"):
        for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
            if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1:
                folder.chmod(0o711)
        ask = (
            "import sys; from pathlib import Path; from swaptier_server.backup import ask_for_backup;"
            "import os; os.setgroups([]); os.setuid(65534);"
            "status, why = ask_for_backup(Path(sys.argv[1]), Path(sys.argv[2])); print(int(status), why)"
        )
        command = [sys.executable, "-c", ask, f"{tmp_path}/swap", f"{tmp_path}/copy"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("3 "), done
        assert not (tmp_path / "copy").exists()


def test_a_copy_that_was_broken_off_leaves_nothing_and_removes_nothing_of_others(tmp_path: Path) -> None:
    """A file of the user's is not the copy's own, whatever its name."""
    with SqliteSwapFile(tmp_path / "swap") as file:
        with pytest.raises(BackupFailed, match="the server ends"):
            file.back_up(tmp_path / "copy", lambda _remaining, _total: False)
        assert names(tmp_path) == ["swap", "swap-wal"]
        (tmp_path / "copy.part").write_bytes(b"half of it")
        assert file.back_up(tmp_path / "copy", lambda _remaining, _total: True) > 0
        assert names(tmp_path) == ["copy", "copy.part", "swap", "swap-wal"]
        assert (tmp_path / "copy.part").read_bytes() == b"half of it"
    SqliteSwapFile(tmp_path / "copy").close()


def test_two_servers_copies_to_one_name_are_one_whole_copy_and_one_refusal(tmp_path: Path) -> None:
    """Also when the second begins while the first is half done: neither has a byte of the other."""
    with SqliteSwapFile(tmp_path / "one") as one, SqliteSwapFile(tmp_path / "two") as two:
        one.begin_life(1111)
        two.begin_life(2222)
        copied = []

        def meanwhile(_remaining: int, _total: int) -> bool:
            copied.append(two.back_up(tmp_path / "copy", lambda _remaining, _total: True))
            return True

        with pytest.raises(BackupRefused, match="exists by now"):
            one.back_up(tmp_path / "copy", meanwhile)
        assert copied == [(tmp_path / "copy").stat().st_size]
        assert names(tmp_path) == ["copy", "one", "one-wal", "two", "two-wal"]
    with SqliteSwapFile(tmp_path / "copy") as copy:
        assert copy.begin_life(0) > 2222


def test_a_copy_whose_file_was_replaced_fails_and_leaves_the_other_file(tmp_path: Path) -> None:
    """Success is never reported for bytes that another program put there."""
    with SqliteSwapFile(tmp_path / "swap") as file:

        def replace(_remaining: int, _total: int) -> bool:
            [part] = tmp_path.glob("copy.*.part")
            (tmp_path / "other").write_bytes(b"other")
            (tmp_path / "other").rename(part)
            return True

        with pytest.raises(BackupFailed, match="another program"):
            file.back_up(tmp_path / "copy", replace)
    assert not (tmp_path / "copy").exists()
    [part] = tmp_path.glob("copy.*.part")
    assert part.read_bytes() == b"other"


def test_there_is_no_copy_of_a_tree_that_was_damaged_under_its_server(tmp_path: Path) -> None:
    """The copy is checked before it gets its name: it would be a device that no server starts on."""
    with SqliteSwapFile(tmp_path / "swap") as file:
        file.begin_life(1)
        (root,) = file._db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'areas'").fetchone()
        with (tmp_path / "swap").open("r+b") as disk:
            disk.seek((root - 1) * PAGE_BYTES)
            disk.write(bytes(PAGE_BYTES))
        file._db.execute("PRAGMA shrink_memory")
        with pytest.raises(BackupFailed, match="there is no copy of what is damaged"):
            file.back_up(tmp_path / "copy", lambda _remaining, _total: True)
        assert names(tmp_path) == ["swap", "swap-wal"]
