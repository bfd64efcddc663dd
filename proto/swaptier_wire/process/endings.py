"""How both programs end: with a status for each class of ending, one line that says why, and never a traceback.

Touches the standard streams.
"""

import errno
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Final

from swaptier_wire.process.exit_status import ExitStatus, of_signal
from swaptier_wire.process.standard_streams import hold_standard_streams, output_failure

NO_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
NOT_WRITTEN: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What a write of a file fails with that is not the fault of its name."""


OUT_OF_MEMORY: Final = ("can't start new thread", "failed to map segment", "Cannot allocate memory")
"""In what is raised when the system gave no memory, but is not a MemoryError."""


def to_an_end(program: str, run: Callable[[], int]) -> int:
    """Return the status that *run* returns, or the one that what it raises stands for; say that with one line.

    The standard streams are held before, so that printing raises nothing. A status other than 0 stands, whatever could
    not be written.
    """
    sys.unraisablehook = lambda told: _say_aside(program, told.exc_value)
    threading.excepthook = lambda told: _say_aside(program, told.exc_value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # for developers, who ask with -W
    try:
        hold_standard_streams()
        status = run()
    except Exception as error:  # noqa: BLE001 - the last resort: nothing may end in a traceback, or in status 1
        status, reason = _ending_of(error)
        sys.stderr.write(f"{program}: {reason}\n")
    except KeyboardInterrupt:
        status = of_signal(signal.SIGINT)
    failure = output_failure()
    if failure is not None and status == ExitStatus.AS_SPECIFIED:
        sys.stderr.write(f"{program}: standard output could not be written: {failure.strerror}\n")
        return ExitStatus.NOT_WRITTEN
    return status


def _ending_of(error: Exception) -> tuple[int, str]:
    """Return the status for *error*, and why, in one line."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return ExitStatus.NO_RESOURCES, f"out of memory: {error}" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.errno in NO_RESOURCES:
        return ExitStatus.NO_RESOURCES, f"{error.strerror}; see ulimit -n for files, ulimit -v for memory"
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        return ExitStatus.NOT_WRITTEN, f"a result could not be written: {error.strerror}"
    return ExitStatus.DEFECT, f"a defect of this program, please report it: {describe(error)}"


def one_line(text: str) -> str:
    """Return *text* with what is not printable, such as a line's end in the name of a file, in Python's notation."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _say_aside(program: str, error: BaseException | None) -> None:
    """Say that *error* was raised where nothing could catch it, in a thread or by what was thrown away."""
    if error is not None:
        sys.stderr.write(f"{program}: a defect of this program, please report it: {describe(error)}\n")


def describe(error: BaseException) -> str:
    """Return what was raised and where, in one line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" (at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
    return f"{type(error).__name__}: {one_line(str(error))}{where}"
