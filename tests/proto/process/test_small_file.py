"""A file that a flag names: regular, read once, or no file at all."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swaptier_wire.process.small_file import FileUnusable, read_small_file

BYTES_MAX = 1000


def test_a_file_is_read_whole_and_can_be_read_again(tmp_path: Path) -> None:
    """It is not gone."""
    path = tmp_path / "file"
    path.write_bytes(b"\xff" * BYTES_MAX)
    assert read_small_file(path, BYTES_MAX) == (path, b"\xff" * BYTES_MAX, False)


def test_a_pipe_is_read_to_its_end_and_is_gone() -> None:
    """As <(...) gives one; a writer that is slower than the reader is waited for."""
    reading, writing = os.pipe()
    os.write(writing, b"first")

    def write_the_rest() -> None:
        os.write(writing, b" second")
        os.close(writing)

    threading.Timer(0.05, write_the_rest).start()
    path = Path(f"/dev/fd/{reading}")
    assert read_small_file(path, BYTES_MAX) == (path, b"first second", True)
    os.close(reading)


def test_a_fifo_is_waited_for_until_a_writer_opens_it(tmp_path: Path) -> None:
    """At first it has none, which is not its end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[b"late"]).start()
    assert read_small_file(path, BYTES_MAX).content == b"late"


def _too_large(path: Path) -> None:
    path.write_bytes(bytes(BYTES_MAX + 1))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


CANNOT_BE_READ: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "cannot read .*: No such file or directory"),
    "folder": (Path.mkdir, "is a folder, not a file"),
    "dangling symlink": (lambda path: path.symlink_to("nowhere"), "cannot read .*: No such file or directory"),
    "circle": (lambda path: path.symlink_to(path), "cannot read .*: Too many levels of symbolic links"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "empty device": (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
    "socket": (_socket, "is a socket, not a file"),
    "FIFO without a writer": (os.mkfifo, "is a pipe that did not come to an end within 0.05 seconds"),
    "too large": (_too_large, "has more than 1000 bytes"),
}


@pytest.mark.parametrize("what", CANNOT_BE_READ)
def test_what_cannot_be_read_is_refused_with_its_name(what: str, tmp_path: Path) -> None:
    """Within a bounded time, and in one line."""
    make, reason = CANNOT_BE_READ[what]
    path = tmp_path / "file"
    make(path)
    with pytest.raises(FileUnusable, match=reason) as refusal:
        read_small_file(path, BYTES_MAX, pipe_seconds_max=0.05)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_names_that_no_file_can_have_are_refused() -> None:
    """A NUL, too many characters, bytes that are no text."""
    for name in ("a\0b", "x" * 5000, "\udcff"):
        with pytest.raises(FileUnusable, match="cannot read"):
            read_small_file(Path(name), BYTES_MAX)


def test_an_endless_pipe_is_not_read_for_ever() -> None:
    """More than the limit is not asked for."""
    reading, writing = os.pipe()
    os.write(writing, bytes(BYTES_MAX * 2))
    with pytest.raises(FileUnusable, match="more than 1000 bytes"):
        read_small_file(Path(f"/dev/fd/{reading}"), BYTES_MAX)
    os.close(reading)
    os.close(writing)


def test_a_pipe_whose_writer_stays_is_not_waited_for_for_ever() -> None:
    """Not even when something came."""
    reading, writing = os.pipe()
    os.write(writing, b"half")
    with pytest.raises(FileUnusable, match="did not come to an end within"):
        read_small_file(Path(f"/dev/fd/{reading}"), BYTES_MAX, pipe_seconds_max=0.05)
    os.close(reading)
    os.close(writing)
