"""Something that was read from files, and is read again when they change.

Touches files. What cannot be used does not replace what can: the old value stays, and the error is told once for each
change. Files are told apart by time, size and inode, so a link that is swapped, as container engines do with secrets,
is a change. What came out of a pipe, as <(...) is one, is kept: nothing else will come.
"""

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from swaptier_server.errors import ConfigError
from swaptier_wire.process.small_file import PIPE_SECONDS_MAX, FileUnusable, SmallFile, read_small_file

FILE_BYTES_MAX: Final = 1 << 20
"""Of a token or certificate file: a thousand of either. A larger one is the wrong file."""

_T = TypeVar("_T")
_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class FromFiles(Generic[_T]):
    """A value and the files it comes from. `value` is of one state of the files, never of two."""

    def __init__(self, files: Mapping[str, Path], make: Callable[[Mapping[str, SmallFile]], _T]) -> None:
        """Read *files*, by the flags that name them, and *make* the value, which raises ConfigError when it cannot.

        Raises:
            ConfigError: it cannot be used.
            OSError: no descriptor is left.
        """
        self._files: Final = dict(files)
        self._make: Final = make
        self._kept: Final[dict[Path, SmallFile]] = {}
        """What came out of pipes."""
        self._tried: _State | None = self._state()
        """State of the files at the last attempt, good or bad; None when it said nothing of them."""
        self.value: _T = make(self._read(PIPE_SECONDS_MAX))

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
        try:
            value = self._make(self._read(pipe_seconds_max=0))  # the event loop waits meanwhile
        except OSError as error:
            self._tried = None
            raise ConfigError(f"{', '.join(self._files)}: {error.strerror}") from error
        if self._state() != state:  # replaced while it was read: half of it may be old. The next refresh reads again
            return False
        self.value = value
        return True

    def _state(self) -> _State:
        states: list[tuple[int, int, int] | None] = []
        for path in self._files.values():
            try:
                found = path.stat()
            except (OSError, ValueError):
                states.append(None)
            else:  # of a pipe the time changes whenever it is read
                is_regular = stat.S_ISREG(found.st_mode)
                states.append((found.st_mtime_ns, found.st_size, found.st_ino) if is_regular else None)
        return tuple(states)

    def _read(self, pipe_seconds_max: float) -> dict[str, SmallFile]:
        return {flag: self._read_file(flag, path, pipe_seconds_max) for flag, path in self._files.items()}

    def _read_file(self, flag: str, path: Path, pipe_seconds_max: float) -> SmallFile:
        if path in self._kept and not path.is_file():
            return self._kept[path]
        try:
            file = read_small_file(path, FILE_BYTES_MAX, pipe_seconds_max)
        except FileUnusable as error:
            raise ConfigError(f"{flag}: {error}") from error
        if file.is_gone:
            self._kept[path] = file
        return file
