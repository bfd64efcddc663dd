"""`swaptier-server`, also `python -m swaptier_server`.

Loads nothing heavy before the standard streams are held and signals are taken.
"""

import sys

from swaptier_server.signals import take_signals
from swaptier_wire.process.endings import to_an_end


def main() -> int:
    """Run the command line of this process; return the exit status."""
    return to_an_end("swaptier-server", _run)


def _run() -> int:
    take_signals()
    from swaptier_server.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
