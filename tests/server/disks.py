"""Small file systems that can be filled, made read-only and thrown away, each seen by those only that are told of it.

A disk is mounted in a mount namespace of its own, which a process holds that ends with the test: nothing stays mounted,
whatever becomes of the test. Root makes such a namespace as it is; anybody else needs a user namespace around it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20
PIECE_BYTES = 64 * 1024


class Disk:
    """A mounted file system."""

    def __init__(self, holder: "subprocess.Popen[str]", mount_point: Path) -> None:
        self._holder = holder
        self.mount_point = mount_point
        """As those see it who are `inside`."""
        self.folder = Path(f"/proc/{holder.pid}/root{mount_point}")
        """As we do."""
        user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        self.inside = ("nsenter", f"--target={holder.pid}", "--mount", *user)
        """What a command has to begin with, to see it."""
        self._ballast = self.folder / "ballast"

    @property
    def free_bytes(self) -> int:
        """What an ordinary user may still write."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, but_bytes: int = 0) -> None:
        """Let somebody else write until there is no room, or until *but_bytes* are left."""
        with self._ballast.open("ab", buffering=0) as ballast:
            size = PIECE_BYTES
            while size:
                size = min(size, self.free_bytes - but_bytes)
                if size <= 0:
                    break
                try:
                    ballast.write(b"x" * size)
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """Let somebody else delete what it wrote."""
        self._ballast.unlink()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run *command* where the disk is."""
        return subprocess.run([*self.inside, *command], capture_output=True, text=True, check=False)

    def remount(self, options: str) -> None:
        """Change how it is mounted."""
        done = self.run("mount", "-o", f"remount,{options}", str(self.mount_point))
        assert done.returncode == 0, done.stderr


@contextmanager
def _mounted(folder: Path, unshare: tuple[str, ...], *mount: str) -> Iterator[Disk]:
    mount_point = folder / "disk"
    mount_point.mkdir(exist_ok=True)
    script = '"$@" && echo mounted && exec cat'
    command = ["unshare", *unshare, "sh", "-c", script, "sh", "mount", *mount, str(mount_point)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None and holder.stderr is not None
        try:
            if holder.stdout.readline() != "mounted\n":
                pytest.skip(f"nothing can be mounted here: {holder.stderr.read().strip()}")
            yield Disk(holder, mount_point)
        finally:
            holder.stdin.close()


@contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """Mount a file system in memory below *folder*; skip the test, saying why, where that is not permitted."""
    for program in ("unshare", "nsenter", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here to mount a disk with")
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    with _mounted(folder, (*user, "--mount"), "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs") as disk:
        yield disk


@contextmanager
def ext4(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """Mount an ext4 of its own below *folder*, with what the last one there had.

    Skips the test, saying why, where that is not permitted.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk that can become read-only while files are open")
    for program in ("unshare", "nsenter", "mount", "mkfs.ext4", "e2fsck", "chattr"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here to make a disk with")
    image = folder / "image"
    if image.exists():
        subprocess.run(
            ["e2fsck", "-p", str(image)], check=False, capture_output=True
        )  # as any machine does at its start
    else:
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with _mounted(folder, ("--mount",), "-o", "loop", str(image)) as disk:
        yield disk
