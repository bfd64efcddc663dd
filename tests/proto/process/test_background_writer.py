"""A stream that never blocks: what is written, what is dropped, and that it is counted."""

import fcntl
import os
import threading
from collections.abc import Iterator

import pytest

from swaptier_wire.process.background_writer import BYTES_MAX, BackgroundWriter

SECONDS = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give a pipe that holds little."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_lines_are_written_in_their_order(pipe: tuple[int, int]) -> None:
    """Any text is; what no encoding has gets backslashes."""
    reading, writing = pipe
    writer = BackgroundWriter(writing)
    for line in ("first\n", "\udcff\n"):
        writer.write(line)
        writer.flush()
    assert writer.wait_until_written(SECONDS)
    assert os.read(reading, 100) == b"first\n\\udcff\n"


def test_a_reader_that_comes_late_gets_what_waited_and_how_much_was_dropped(pipe: tuple[int, int]) -> None:
    """Writing returns at once all the while."""
    reading, writing = pipe
    writer = BackgroundWriter(writing)
    said = threading.Event()
    dropped = []

    def say(lines: int) -> None:
        dropped.append(lines)
        said.set()

    writer.say_dropped = say
    line = "x" * 1023 + "\n"
    kept, lost = BYTES_MAX // len(line), 3
    for _ in range(kept + lost):
        writer.write(line)
    assert not writer.wait_until_written(0)
    got = b""
    while len(got) < kept * len(line):
        got += os.read(reading, 1 << 16)
    assert got == line.encode() * kept
    assert said.wait(SECONDS)
    assert dropped == [lost]


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    """A parent may have made it so."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = BackgroundWriter(writing)
    writer.write("x" * 10_000)
    got = b""
    while len(got) < 10_000:
        got += os.read(reading, 1 << 16)
    assert writer.wait_until_written(SECONDS)


def test_what_cannot_be_written_is_dropped_and_raises_nothing() -> None:
    """A full device, and one that takes no writing."""
    for path, flags in (("/dev/full", os.O_WRONLY), ("/dev/null", os.O_RDONLY)):
        descriptor = os.open(path, flags)
        writer = BackgroundWriter(descriptor)
        writer.write("line\n")
        assert writer.wait_until_written(SECONDS)
        os.close(descriptor)
