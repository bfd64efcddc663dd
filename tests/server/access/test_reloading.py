"""A value from files: of one state of them, never of two, and never worse than the one before."""

import os
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from swaptier_server.access.reloading import FromFiles
from swaptier_server.errors import ConfigError
from swaptier_wire.process.small_file import SmallFile


class Sum:
    """Makes the sum of two files of numbers; something may happen meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "a", folder / "b"]
        self.files = dict(zip(("--a", "--b"), self.paths, strict=True))
        self.write(1, 10)
        self.meanwhile: list[tuple[int, int]] = []
        self.reads = 0

    def write(self, *numbers: int) -> None:
        """Replace both files, each by a link that is swapped."""
        for path, number in zip(self.paths, numbers, strict=True):
            fresh = path.with_suffix(".new")
            fresh.write_text(str(number))
            os.utime(fresh, ns=(number, number))
            fresh.replace(path)

    def make(self, files: Mapping[str, SmallFile]) -> int:
        """Return the sum, or refuse."""
        self.reads += 1
        if self.meanwhile:
            self.write(*self.meanwhile.pop())
        try:
            return sum(int(file.content) for file in files.values())
        except ValueError as error:
            raise ConfigError("no number") from error


@pytest.fixture
def numbers(tmp_path: Path) -> Sum:
    """Two files."""
    return Sum(tmp_path)


def test_files_are_read_again_only_when_they_have_changed(numbers: Sum) -> None:
    """Looking costs no reading; being told to read reads."""
    value = FromFiles(numbers.files, numbers.make)
    assert (value.value, numbers.reads) == (11, 1)
    assert not value.refresh()
    assert numbers.reads == 1
    numbers.write(2, 20)
    assert value.refresh()
    assert (value.value, numbers.reads) == (22, 2)
    assert value.refresh(is_forced=True)
    assert numbers.reads == 3


def test_files_that_are_replaced_while_they_are_read_give_no_value_of_both_states(numbers: Sum) -> None:
    """The half old one is dropped, and the next look reads again."""
    value = FromFiles(numbers.files, numbers.make)
    numbers.write(2, 20)
    numbers.meanwhile = [(3, 30)]
    assert not value.refresh()
    assert value.value == 11
    assert value.refresh()
    assert value.value == 33


def test_what_cannot_be_used_is_told_once_and_replaces_nothing(numbers: Sum) -> None:
    """Until it changes again, also by being gone."""
    value = FromFiles(numbers.files, numbers.make)
    numbers.paths[1].write_text("x")
    with pytest.raises(ConfigError):
        value.refresh()
    assert not value.refresh()
    numbers.paths[1].unlink()
    with pytest.raises(ConfigError):
        value.refresh()
    assert not value.refresh()
    assert value.value == 11
    numbers.write(2, 20)
    assert value.refresh()
    assert value.value == 22


def test_what_came_out_of_a_pipe_is_kept_and_the_pipe_is_not_read_again(numbers: Sum) -> None:
    """The other file is followed all the same; a pipe in the place of a file is refused without waiting for it."""
    reading, writing = os.pipe()
    os.write(writing, b"5")
    os.close(writing)
    value = FromFiles({"--pipe": Path(f"/dev/fd/{reading}"), "--a": numbers.paths[0]}, numbers.make)
    assert (value.value, numbers.reads) == (6, 1)
    assert not value.refresh()
    assert value.refresh(is_forced=True)
    numbers.write(2, 20)
    assert value.refresh()
    assert value.value == 7
    os.close(reading)
    numbers.paths[0].unlink()
    os.mkfifo(numbers.paths[0])
    with pytest.raises(ConfigError, match=r"--a: .* is a pipe that did not come to an end within 0 seconds"):
        value.refresh()
    assert value.value == 7


def test_a_look_without_a_descriptor_to_spare_is_told_and_repeated(numbers: Sum) -> None:
    """The files are not to blame, and have not changed when there is one again."""
    value = FromFiles(numbers.files, numbers.make)
    numbers.write(2, 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(ConfigError, match="--a, --b: Too many open files"):
            value.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert value.refresh()
    assert value.value == 22
