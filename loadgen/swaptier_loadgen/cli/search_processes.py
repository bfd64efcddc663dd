"""Searches cells in processes of their own, one for each CPU, until all are answered or a signal comes.

Touches processes and signals. Rules of conduct:
  - No signal of the terminal reaches a search: it is in a session of its own, and ends when this process asks it to, by
    a flag that both see, or with this process.
  - After a signal what was covered is waited for, for a bounded time.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess

from swaptier_loadgen.cli.statuses import Refusal
from swaptier_loadgen.explore.cell import Cell, Question, ask
from swaptier_loadgen.race.child_process import die_with
from swaptier_wire.process.ending_signals import ENDING, SIGNALS
from swaptier_wire.process.exit_status import ExitStatus

INTERRUPTED_SECONDS_MAX = 5.0
"""How long to wait, after a signal, for what the searches covered: each tells it within some replays."""

LOOK_SECONDS = 0.5
"""How often the wait for a search looks whether that time is over."""

_is_ending = c_bool(False)
"""In a search process: shared with the one that asks."""


def ask_in_processes(questions: Sequence[Question], show: Callable[[Question], None]) -> Iterator[Cell]:
    """Yield the answers in the order of the questions; *show* is called with each that is waited for.

    After a signal only what was covered is yielded.

    Raises:
        Refusal: a process ended, or could not be started; what was yielded stands.
    """
    context = get_context("spawn")
    is_ending = context.RawValue(c_bool, False)

    processes: list[BaseProcess] = []

    def end(_received: signal.Signals) -> None:
        is_ending.value = True

    count = min(len(questions), os.cpu_count() or 1)
    try:
        with (
            SIGNALS.calling(end),
            ProcessPoolExecutor(count, context, _begin, (is_ending, os.getpid())) as searches,
        ):
            try:
                futures = _submit(searches, questions, processes)
                for future, question in zip(futures, questions, strict=True):
                    show(question)
                    if SIGNALS.received is not None and future.cancel():
                        continue
                    if not _is_done(future):
                        for process in processes:
                            process.kill()
                        return
                    if (cell := future.result()) is not None:
                        yield cell
            finally:
                is_ending.value = True
    except BrokenProcessPool:
        # Only now, when the pool's thread has waited for all of them: a status that both ask for is lost to one.
        is_killed = any(process.exitcode == -signal.SIGKILL for process in processes)
        raise _ended(is_killed=is_killed) from None
    except MemoryError:
        raise Refusal("a search ran out of memory; take smaller bounds", ExitStatus.NO_RESOURCES) from None


def _submit(
    searches: ProcessPoolExecutor, questions: Sequence[Question], processes: list[BaseProcess]
) -> list[Future[Cell | None]]:
    """Hand all questions on and add the *processes* that this starts, which are born with the signals blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        futures = [searches.submit(_ask, question) for question in questions]
        processes += active_children()
    except OSError as error:
        raise Refusal(f"a search could not be started: {error.strerror}", ExitStatus.NO_RESOURCES) from None
    else:
        return futures
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _is_done(future: Future[Cell | None]) -> bool:
    """Wait for an answer; return False where a signal has come and it took too long since."""
    latest: float | None = None
    while not wait([future], LOOK_SECONDS).done:
        if SIGNALS.received is not None:
            latest = latest or time.monotonic() + INTERRUPTED_SECONDS_MAX
            if time.monotonic() > latest:
                return False
    return True


def _ended(*, is_killed: bool) -> Refusal:
    if is_killed:
        why = "a search was killed, as the kernel does when memory runs out; take smaller bounds"
        return Refusal(why, ExitStatus.NO_RESOURCES)
    return Refusal("a search process ended by itself: a defect of this program", ExitStatus.DEFECT)


def _begin(is_ending: c_bool, parent: int) -> None:
    """Prepare this search process; nothing but the flag and the pool end it from now on."""
    global _is_ending  # noqa: PLW0603 - the pool hands it to its processes only here
    _is_ending = is_ending
    os.setsid()
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # drops what came meanwhile
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which a broken pool ends its processes
    die_with(parent)


def _ask(question: Question) -> Cell | None:
    """Answer in this process; None where it was asked to end before it began."""
    if _is_ending.value:
        return None
    return ask(question, now=time.monotonic, is_asked_to_end=lambda: _is_ending.value)
