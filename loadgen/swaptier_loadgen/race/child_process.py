"""Runs a command that dies with its parent: `python -m swaptier_loadgen.race.child_process PARENT_PID COMMAND...`.

Asks the kernel to send SIGKILL when the parent ends (the tie outlives exec), then becomes the command. So a killed load
generator, even by SIGKILL, leaves no server and no host behind. Linux only.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs *module* with this interpreter, tied to this process."""
    python = [sys.executable, "-m"]
    return [*python, "swaptier_loadgen.race.child_process", str(os.getpid()), *python, module, *arguments]


def environment(parents: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: it speaks UTF-8 over its pipes and ends at its end, whatever *parents* says.

    PYTHONIOENCODING would encode its reports, PYTHONINSPECT would have it read on after the last.
    """
    kept = {name: text for name, text in parents.items() if name not in ("PYTHONIOENCODING", "PYTHONINSPECT")}
    return {**kept, "PYTHONUTF8": "1"}


def die_with(parent: int) -> None:
    """Have the kernel end this process when its *parent* ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)  # it ended before the tie was made


def main(arguments: list[str]) -> None:
    """Tie this process to the parent named first, then run the rest in its place."""
    parent, *command = arguments
    die_with(int(parent))
    os.execve(command[0], command, environment(os.environ))  # noqa: S606  # our own command, no shell wanted


if __name__ == "__main__":
    main(sys.argv[1:])
