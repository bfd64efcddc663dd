"""Standard input, output and error, which may be closed, full, or without a reader, from the start or later.

Touches descriptors 0 to 2. Rules of conduct:
  - A closed one is held by a descriptor that refuses, so that no socket or file of ours gets its number and then the
    words meant for the stream. What is written there fails as before.
  - Printing raises nothing: what cannot be written is remembered (`output_failure`), and decides about the status at
    the end (see `endings`).
  - Standard error waits for no reader longer than ERROR_SECONDS_MAX: its lines are dropped then.
"""

import errno
import io
import os
import select
import sys
from typing import Final, TextIO

ERROR_SECONDS_MAX: Final = 1.0


class ForgivingWriter(io.RawIOBase):
    """Writes to a descriptor that is not its own; what fails is dropped and remembered, and nothing is raised."""

    def __init__(self, descriptor: int, seconds_max: float | None = None) -> None:
        """Write to *descriptor*; wait for its reader for at most *seconds_max* each time, where that is a number."""
        self._descriptor: Final = descriptor
        self._seconds_max: Final = seconds_max
        self.failure: OSError | None = None
        """The first. After it nothing more is written to a descriptor that is waited for: no result has a hole."""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # Buffer is of Python 3.12
        """Write *data*, or drop it; return its length."""
        left = memoryview(data).cast("B")
        size = len(left)
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        try:
            while left and (self.failure is None or self._seconds_max is not None):
                if not waiting.poll(None if self._seconds_max is None else self._seconds_max * 1000):
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = left[os.write(self._descriptor, left[: select.PIPE_BUF]) :]
        except OSError as error:
            self.failure = self.failure or error
        return size


def hold_standard_streams() -> None:
    """Give every stream a descriptor, and let printing raise nothing, whatever text it is.

    Call it before anything else is opened.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            held = os.open(os.devnull, flags)
            if held != number:
                os.dup2(held, number)
                os.close(held)
            os.set_inheritable(number, True)
    # Python leaves None for a stream that was closed when it started.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
    sys.stdout = _forgiving(sys.stdout, ForgivingWriter(1))
    sys.stderr = _forgiving(sys.stderr, ForgivingWriter(2, ERROR_SECONDS_MAX))


def output_failure() -> OSError | None:
    """Write what standard output still holds; return why it could not be written, now or before."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, ForgivingWriter) else None


def _forgiving(stream: TextIO | None, raw: ForgivingWriter) -> TextIO:
    """Return a stream that writes by *raw* as *stream* does; text that its encoding lacks gets backslashes."""
    before = stream if isinstance(stream, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]  # typeshed's protocol names the parameter of write otherwise
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
        write_through=before is not None and before.write_through,
    )
