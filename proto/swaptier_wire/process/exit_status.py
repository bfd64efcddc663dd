"""The exit statuses of both programs: one for each class of ending, so that a verdict is never taken for an accident.

Touches nothing.
"""

from enum import IntEnum
from signal import Signals


class ExitStatus(IntEnum):
    """What a program ends with."""

    AS_SPECIFIED = 0
    """Everything went as it should."""
    VERDICT = 1
    """A safe policy lost, corrupted or leaked a page, or a check that was asked for failed; never an accident."""
    USAGE = 2
    """Wrong usage: a flag, a variable, a file or an address that cannot be used."""
    UNREACHABLE = 3
    """The tier does not answer, or it refused."""
    NOT_WRITTEN = 5
    """A result could not be written: the disk is full, or what should have read it is gone."""
    NO_RESOURCES = 6
    """Out of memory or file descriptors."""
    CUT_OFF = 7
    """A search was cut off before its end and proves nothing."""
    DEFECT = 70
    """A defect of this program."""


def of_signal(number: int) -> int:
    """Return the status of a program that a signal ended, as a shell gives it: 129 HUP, 130 INT, 143 TERM."""
    return 128 + Signals(number)
