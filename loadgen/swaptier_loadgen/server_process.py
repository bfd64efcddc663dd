"""Our own tier server: a separate process, started on a free loopback port and stopped again, whatever happens.

Touches processes. The server stops by SIGTERM when the block is left, by SIGKILL when it does not follow, and by the
kernel when this process is killed (`tied`). It has a session of its own, so that Ctrl-C reaches only the load
generator, which then ends in order.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import NamedTuple

from swaptier_loadgen.tied import tied_command

START_SECONDS_MAX = 30.0
"""From exec to the line that says where it listens. It takes under a second; a loaded machine may be slow."""

STOP_SECONDS_MAX = 5.0
"""From SIGTERM to SIGKILL. Its clients are gone by then: there is nothing to drain."""


class ServerNotStarted(Exception):
    """Our own server did not come up. Its own words are on stderr."""


class OwnServer(NamedTuple):
    """Where our server is."""

    target: str
    pid: int
    epoch: int


@contextlib.asynccontextmanager
async def own_server(*arguments: str) -> AsyncIterator[OwnServer]:
    """Run a server with *arguments* for the length of the block.

    Raises:
        ServerNotStarted: it ended or said nothing within START_SECONDS_MAX.
    """
    command = tied_command(
        "swaptier_server", "--listen", "127.0.0.1:0", "--metrics", "off", "--log-level", "warning", *arguments
    )
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None, "stdout is piped"
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS_MAX)
        except TimeoutError:
            raise ServerNotStarted(f"our own server was not ready within {START_SECONDS_MAX:.0f} s") from None
        if not line:
            raise ServerNotStarted(f"our own server ended with status {await process.wait()} before it was ready")
        ready = json.loads(line)
        yield OwnServer(target=ready["listening"], pid=process.pid, epoch=ready["epoch"])
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End *process*: ask, wait, insist. Returns when it is gone, also when it was gone before."""
    for asked, seconds in ((signal.SIGTERM, STOP_SECONDS_MAX), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(asked)
        try:
            # communicate() also reads what is left on stdout: a full pipe would keep the server from ending.
            await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            continue
        return
