"""The processes that a race starts, and the signals that it sends them.

Touches processes.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Mapping
from signal import Signals

from swaptier_loadgen.race.failures import out_of_resources
from swaptier_wire.process.endings import NO_RESOURCES

NOT_STARTED = NO_RESOURCES | {errno.EAGAIN}
"""What the start of a process fails with when the machine or a limit has no room for it."""


async def start_process(
    what: str, *command: str, stdin: int, limit: int, env: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a process of ours, which talks to us by its standard output, in a session of its own.

    Raises:
        RaceFailed: there is no room for it.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=asyncio.subprocess.PIPE, limit=limit, env=env, start_new_session=True
        )
    except OSError as error:
        if error.errno not in NOT_STARTED:
            raise
        raise out_of_resources(f"{what} could not be started", error) from None
    except RuntimeError as error:  # of threading: it waits for the process in a thread
        raise out_of_resources(f"{what} could not be started", error) from None


def signal_process(process: asyncio.subprocess.Process, number: Signals) -> None:
    """Send signal *number* to *process*, unless it has ended.

    Process.send_signal(), kill() and terminate() wait for a dead process before asyncio does (until Python 3.12.8): its
    status is lost, and asyncio reports 255 for it.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
