"""The signals that ask a program to end: HUP, INT and TERM. The first one asks, the next one ends it at once.

Touches signal handlers and standard error. Rules of conduct:
  - Each has a handler from the program's first line on, because process 1 of a container has no default action: what is
    not handled there is lost.
  - Before work has begun the first signal ends the program at once: nothing is there to be written.
  - What is under way looks for itself, step by step, whether it is asked to end. An exception that a handler raises is
    lost where it finds a finalizer or a callback of C code, and the work would go on.
  - After the first one the program has WRITE_SECONDS_MAX for what is to be written where nothing else is under way.
"""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from swaptier_wire.process.exit_status import of_signal

ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

WRITE_SECONDS_MAX: Final = 5.0
"""From a signal that finds the program writing to its end: a reader that does not read may never take the rest."""

SHOW_CURSOR: Final = b"\x1b[?25h"
"""For a terminal on which a progress bar has hidden it."""


class EndingSignals:
    """What came so far, and what is done about it. Only in the main thread; `SIGNALS` is the process's own."""

    def __init__(self) -> None:
        """Handle none yet."""
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a process that runs one command after the other does."""
        self.received: signal.Signals | None = None
        """The first one: its status is the program's."""
        self.has_begun = False
        """Something is there that should be written."""
        self.on_end_at_once: Callable[[], None] = lambda: None
        """What must not be left behind."""
        self._program = ""
        self._count = 0
        self._callback: Callable[[signal.Signals], None] | None = None
        self._times = 1

    def handle(self, program: str) -> None:
        """Handle them from now on, as *program*."""
        self._program = program
        for number in ENDING:
            # nohup ignores it, and means it. INT is ignored in every job of a script that runs in the background.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    @contextlib.contextmanager
    def calling(self, callback: Callable[[signal.Signals], None], times: int = 1) -> Iterator[None]:
        """Hand the first *times* signals to *callback* for the length of the block, between two bytecodes of it.

        It is called at once if one came before, and raises nothing.
        """
        try:
            self._callback, self._times = callback, times
            if self.received is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                callback(self.received)
            yield
        finally:
            self._callback = None
            if self.received is not None:
                signal.setitimer(signal.ITIMER_REAL, WRITE_SECONDS_MAX)

    def looked_for(self) -> contextlib.AbstractContextManager[None]:
        """Let the block see by `is_asked_to_end()` that one came, and end by itself."""
        return self.calling(lambda _: None)

    def is_asked_to_end(self) -> bool:
        """Tell whether one came."""
        return self.received is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self.received = self.received or signal.Signals(number)
        if self._callback is not None and self._count <= self._times:
            self._callback(signal.Signals(number))
        elif self._count > 1 or not self.has_begun:
            self._end_at_once("at once" if self.has_begun else "before anything was done")
        else:
            signal.setitimer(signal.ITIMER_REAL, WRITE_SECONDS_MAX)

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self._end_at_once(f"without the rest of its result, which nothing took for {WRITE_SECONDS_MAX:g} s")

    def _end_at_once(self, how: str) -> None:
        """End without a further line of Python: what is under way may hold any lock, that of standard error too."""
        assert self.received is not None
        self.on_end_at_once()
        line = f"{self._program}: ended by {self.received.name} {how}\n".encode()
        waiting = select.poll()
        waiting.register(2, select.POLLOUT)
        with contextlib.suppress(OSError):
            if waiting.poll(0):
                os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + line)
        os._exit(of_signal(self.received))


SIGNALS: Final = EndingSignals()
"""Of this process."""
