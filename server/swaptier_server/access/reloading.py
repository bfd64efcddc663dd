"""Something that was read from files, and is read again when they change.

Touches files. What cannot be used does not replace what can: the old value stays, and the error is told once for each
change. Files are told apart by time, size and inode, so a link that is swapped, as container engines do with secrets,
is a change.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from swaptier_server.errors import ConfigError

FILE_BYTES_MAX: Final = 1 << 20
"""Of a token or certificate file: a thousand of either. A larger one is the wrong file."""

_T = TypeVar("_T")
_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class FromFiles(Generic[_T]):
    """A value and the files it comes from. `value` is of one state of the files, never of two."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], _T]) -> None:
        """Read the value for the first time by *read*, which raises ConfigError when it cannot be used.

        Raises:
            ConfigError: it cannot be used.
        """
        self._paths: Final = tuple(paths)
        self._read: Final = read
        self._tried = self._state()
        """State of the files at the last attempt, good or bad."""
        self.value: _T = read()

    def refresh(self, *, is_forced: bool = False) -> bool:
        """Read again if the files have changed or *is_forced*; return whether there is a new value.

        Raises:
            ConfigError: they have changed and cannot be used; the value is the old one. Not raised again until they
                change again.
        """
        state = self._state()
        if state == self._tried and not is_forced:
            return False
        self._tried = state
        value = self._read()
        if self._state() != state:  # replaced while it was read: half of it may be old. The next refresh reads again
            return False
        self.value = value
        return True

    def _state(self) -> _State:
        states: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                states.append(None)
            else:
                states.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(states)


def read_file(flag: str, path: Path) -> bytes:
    """Return the content of the file that *flag* names.

    Raises:
        ConfigError: it cannot be read, or is far too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{flag}: {path} has more than {FILE_BYTES_MAX} bytes; it is not what {flag} names")
    return content
