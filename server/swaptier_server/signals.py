"""Signals, taken by a thread of their own from the program's first moment on.

Touches the process: its signal mask, its handlers, its end. Why a thread, and every other one has them blocked:
  - Process 1 of a container has no default actions: a signal without a handler is dropped. What is blocked is kept, so
    nothing that comes while the program loads its libraries is lost.
  - A second signal ends the process even when the event loop hangs, which a handler in the loop could not.
  - The main thread never has to unwind from a KeyboardInterrupt in the middle of anything.
"""

import functools
import os
import signal
import threading
from collections.abc import Callable
from signal import Signals
from typing import Final

from swaptier_wire.process.exit_status import of_signal

STOPPING: Final = frozenset({Signals.SIGTERM, Signals.SIGINT})
TAKEN: Final = STOPPING | {Signals.SIGHUP, Signals.SIGQUIT, Signals.SIGUSR1, Signals.SIGUSR2}
"""SIGUSR1 and SIGUSR2 would end a server without a drain, and SIGQUIT write pages into a core file."""


class SignalThread:
    """Takes the signals of this process.

    Before `hand_over()`, SIGTERM, SIGINT and SIGQUIT end the process, which has nothing to lose, and the others do
    nothing: files that SIGHUP reloads have not been read. After it, the first SIGTERM or SIGINT and all others but
    SIGQUIT are handed over. The second SIGTERM or SIGINT, and SIGQUIT, end the process at once.
    """

    def __init__(self) -> None:
        """Block the signals in this thread, whose children inherit that, and start the one that takes them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        for number in TAKEN:
            signal.signal(number, _never_runs)
        if os.getpid() == 1:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the container leave no zombies
        self._act: Callable[[Signals], object] | None = None
        self._last_words: Callable[[], object] | None = None
        self._is_stopping = False
        threading.Thread(target=self._take_forever, name="signals", daemon=True).start()

    def hand_over(self, act: Callable[[Signals], object], last_words: Callable[[], object]) -> None:
        """Call *act* with each signal from now on, in the thread of the signals; *last_words* before an end at once.

        Neither may block for long. *act* raises RuntimeError when it can do nothing any more.
        """
        self._act, self._last_words = act, last_words

    def _take_forever(self) -> None:
        while True:
            self._take(Signals(signal.sigwait(TAKEN)))

    def _take(self, number: Signals) -> None:
        is_last = number is Signals.SIGQUIT or (number in STOPPING and self._is_stopping)
        self._is_stopping |= number in STOPPING
        if self._act is not None and not is_last:
            try:
                self._act(number)
            except RuntimeError:  # the loop is closed
                is_last = number in STOPPING
        elif self._is_stopping:
            is_last = True
        if is_last:
            if self._last_words is not None:
                self._last_words()
            os._exit(of_signal(number))


@functools.cache
def take_signals() -> SignalThread:
    """Return the thread that takes the signals of this process; start it at the first call."""
    return SignalThread()


def _never_runs(_number: int, _frame: object) -> None:
    """Stand for an action, so that no signal is ignored; every thread but one, which waits for them, blocks them."""
