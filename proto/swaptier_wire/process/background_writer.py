"""Lines for a reader that may never come: written by a thread, so that a full pipe holds nothing up.

Touches a descriptor, in a thread. O_NONBLOCK would be simpler, but it belongs to the open file, which a shell or a
parent may share.
"""

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

BYTES_MAX: Final = 1 << 20
"""What waits for a reader; more is dropped and counted."""


class BackgroundWriter(io.TextIOBase):
    """A text stream over a descriptor. Writing never blocks and never fails; a write is a line, whole or dropped."""

    def __init__(self, descriptor: int) -> None:
        """Write to *descriptor* until the process ends."""
        self.say_dropped: Callable[[int], object] = lambda lines: None
        """Called in the thread that writes, with how many lines were dropped before one could be written again."""
        self._descriptor: Final = descriptor
        self._changed: Final = threading.Condition()
        self._waiting: Final[deque[bytes]] = deque()
        """The first is being written. This and the counts are guarded by the condition."""
        self._waiting_bytes = 0
        self._dropped = 0
        self._is_torn = False
        """The last line was written in part."""
        threading.Thread(target=self._write_forever, name=f"writer of {descriptor}", daemon=True).start()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def write(self, text: str) -> int:
        """Have *text* written, soon; return its length."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._waiting_bytes + len(line) > BYTES_MAX:
                self._dropped += 1
            else:
                self._waiting.append(line)
                self._waiting_bytes += len(line)
                self._changed.notify_all()
        return len(text)

    def wait_until_written(self, seconds_max: float) -> bool:
        """Return True as soon as nothing waits, False if something still does after *seconds_max*."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds_max)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                line = self._waiting[0]
            is_written = self._write_line(line)
            with self._changed:
                if not is_written:
                    self._dropped += 1
                dropped = self._dropped if is_written else 0
                self._dropped -= dropped
            if dropped:
                self.say_dropped(dropped)
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(line)
                self._changed.notify_all()

    def _write_line(self, line: bytes) -> bool:
        """Return whether *line* could be written; what comes after a part of one begins a line of its own."""
        left = b"\n" + line if self._is_torn else line
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                self._is_torn |= 0 < len(left) < len(line)
                return False
        self._is_torn = False
        return True
