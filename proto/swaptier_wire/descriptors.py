"""How many descriptors this process may have open, as far as the system lets it.

Touches the limits of the process.
"""

import errno
import os
import resource
from typing import Final

DESCRIPTORS_MAX: Final = 1 << 20
"""What is asked for where the system has no limit."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one and return it. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def free_descriptors() -> int:
    """Return how many can still be opened, judging by the lowest free number."""
    try:
        lowest = os.eventfd(0)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0
        raise
    os.close(lowest)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - lowest
