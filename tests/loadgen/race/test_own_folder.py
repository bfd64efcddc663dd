"""What a killed race leaves on disk is removed by the next one, and what a living race has is not."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swaptier_loadgen.race.own_folder import PREFIX, own_folder, remove_leftovers

HOLD = """
import sys
from swaptier_loadgen.race.own_folder import own_folder
with own_folder() as folder:
    (folder / "swap").write_bytes(b"pages")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _temporary_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def another_race() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Have a process with a folder of its own, and that folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as race:
        assert race.stdout is not None
        try:
            yield race, Path(race.stdout.readline().strip())
        finally:
            race.kill()


def test_a_folder_is_its_users_alone_and_goes_with_its_race() -> None:
    with own_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "swap").write_bytes(b"pages")
    assert not folder.exists()


def test_a_folder_that_another_race_removes_before_it_is_locked_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its opening, where a lock cannot yet keep it."""
    make, made = tempfile.mkdtemp, []

    def make_and_lose(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with own_folder() as folder:
        assert [str(folder)] == made[1:]
        assert folder.exists()


def test_what_a_killed_race_left_is_removed_and_a_living_ones_is_not() -> None:
    """The lock of a folder ends with its process, however that ends."""
    with another_race() as (killed, left), another_race() as (_, kept), own_folder() as ours:
        killed.kill()
        killed.wait()
        assert (left / "swap").exists()
        remove_leftovers()
        assert not left.exists()
        assert (kept / "swap").exists()
        assert ours.exists()


def test_what_is_not_a_folder_of_ours_stays(tmp_path: Path) -> None:
    """A link of that name leads to what is another's, and so may a folder be."""
    others = tmp_path / "others"
    others.mkdir()
    link, file = tmp_path / f"{PREFIX}link", tmp_path / f"{PREFIX}file"
    link.symlink_to(others)
    file.touch()
    theirs = tmp_path / f"{PREFIX}theirs"
    if os.geteuid() == 0:
        theirs.mkdir()
        os.chown(theirs, 65534, -1)
    remove_leftovers()
    assert others.exists() and link.is_symlink() and file.exists()
    assert theirs.exists() or os.geteuid() != 0


def test_every_race_removes_leftovers(tmp_path: Path) -> None:
    """Also one that needs no folder."""
    left = tmp_path / f"{PREFIX}dead"
    left.mkdir()
    (left / "swap").write_bytes(b"pages")
    command = [sys.executable, "-m", "swaptier_loadgen", "race", "--target", f"unix:{tmp_path}/nobody"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done
    assert not left.exists()
