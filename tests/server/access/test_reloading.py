"""A value from files: of one state of them, never of two, and never worse than the one before."""

import os
from pathlib import Path

import pytest

from swaptier_server.access.reloading import FromFiles
from swaptier_server.errors import ConfigError


class Sum:
    """Reads the sum of two files of numbers; something may happen between the two."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "a", folder / "b"]
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

    def read(self) -> int:
        """Return the sum, or refuse."""
        self.reads += 1
        first = int(self.paths[0].read_text())
        if self.meanwhile:
            self.write(*self.meanwhile.pop())
        try:
            return first + int(self.paths[1].read_text())
        except (OSError, ValueError) as error:
            raise ConfigError("no number") from error


@pytest.fixture
def numbers(tmp_path: Path) -> Sum:
    """Two files."""
    return Sum(tmp_path)


def test_files_are_read_again_only_when_they_have_changed(numbers: Sum) -> None:
    """Looking costs no reading; being told to read reads."""
    value = FromFiles(numbers.paths, numbers.read)
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
    value = FromFiles(numbers.paths, numbers.read)
    numbers.write(2, 20)
    numbers.meanwhile = [(3, 30)]
    assert not value.refresh()
    assert value.value == 11
    assert value.refresh()
    assert value.value == 33


def test_what_cannot_be_used_is_told_once_and_replaces_nothing(numbers: Sum) -> None:
    """Until it changes again, also by being gone."""
    value = FromFiles(numbers.paths, numbers.read)
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
