"""`python -m swaptier_loadgen` and the `swaptier-loadgen` script.

Touches the process: signals and standard streams are handled before anything else is loaded.
"""

import sys
from collections.abc import Sequence

from swaptier_wire.descriptors import raise_limit
from swaptier_wire.environment import withdraw_grpc_variables
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.endings import to_an_end
from swaptier_wire.process.exit_status import ExitStatus

PROGRAM = "swaptier-loadgen"

OURS = "swaptier"
"""How the names of our own packages begin: one that is missing is no missing extra."""


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    raise_limit()  # each host takes some
    withdrawn = withdraw_grpc_variables()
    try:
        from swaptier_loadgen.cli import app  # loads gRPC
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(OURS):
            raise
        sys.stderr.write(
            f'{PROGRAM}: the package {error.name.partition(".")[0]} is missing, which the extra "loadgen" brings: '
            "pip install 'swaptier[loadgen]'\n"
        )
        return ExitStatus.USAGE
    return app.run(arguments, withdrawn)


def main() -> None:
    """Run the command line of this process and exit."""
    SIGNALS.handle(PROGRAM)
    sys.exit(to_an_end(PROGRAM, lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
