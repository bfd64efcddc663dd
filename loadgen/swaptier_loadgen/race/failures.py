"""What ends a race and says nothing about a policy."""

import resource

from swaptier_wire.process.exit_status import ExitStatus

SAID_BY_CHILDREN = (ExitStatus.USAGE, ExitStatus.NO_RESOURCES)
"""Statuses of a process of ours that are the race's too: its own line on standard error says why."""


def status_of_child(status: int | None, otherwise: ExitStatus) -> ExitStatus:
    """Return the race's status for the end of a process of ours that should not have ended.

    Where memory is limited, a library that gets none ends its process by a signal.
    """
    if status is not None and status < 0 and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return ExitStatus.NO_RESOURCES
    return ExitStatus(status) if status in SAID_BY_CHILDREN else otherwise


class RaceFailed(Exception):
    """The race cannot go on. One line, and the status of the program that ends with it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def out_of_resources(what: str, error: OSError | RuntimeError) -> RaceFailed:
    """Return the failure of *what*, for want of descriptors, processes or memory."""
    reason = error.strerror if isinstance(error, OSError) else error
    return RaceFailed(
        f"{what}: {reason}; see ulimit -n for files, -u for processes, -v for memory, or take fewer --hosts",
        ExitStatus.NO_RESOURCES,
    )
