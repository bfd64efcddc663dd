"""`swaptier-server`, also `python -m swaptier_server`.

Loads nothing heavy before the standard streams are held and signals are taken.
"""

import errno
import sys
from typing import Final

from swaptier_server.signals import take_signals
from swaptier_wire.descriptors import free_descriptors, raise_limit
from swaptier_wire.process.endings import to_an_end

DESCRIPTORS_MIN: Final = 24
"""A server without clients takes some 20."""


def main() -> int:
    """Run the command line of this process; return the exit status."""
    return to_an_end("swaptier-server", _run)


def _run() -> int:
    take_signals()
    raise_limit()
    if free_descriptors() < DESCRIPTORS_MIN:  # gRPC would abort, without a word or with a core file
        raise OSError(errno.EMFILE, f"too few file descriptors: {free_descriptors()}, of {DESCRIPTORS_MIN} at least")
    from swaptier_server.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
