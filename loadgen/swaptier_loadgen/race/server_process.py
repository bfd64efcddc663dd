"""Our own tier server: a separate process, started on a free loopback port and stopped again, whatever happens.

Touches processes. The server stops by SIGTERM when the block is left, by SIGKILL when it does not follow, and by the
kernel when this process is killed (`tied`). It has a session of its own, so that Ctrl-C reaches only the load
generator, which then ends in order.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Sequence

from swaptier_loadgen.race.child_process import child_command
from swaptier_loadgen.race.children import signal_process, start_process
from swaptier_loadgen.race.failures import RaceFailed, status_of_child
from swaptier_loadgen.race.server_flags import OWN_ADDRESSES, own_environment
from swaptier_wire.process.exit_status import ExitStatus

START_SECONDS_MAX = 30.0
"""From exec to the line that says where it listens. It takes under a second; a loaded machine may be slow."""

STOP_SECONDS_MAX = 5.0
"""From SIGTERM to SIGKILL. Its clients are gone by then: there is nothing to drain."""


READY_BYTES_MAX = 1 << 16
"""Of the line that says where it listens."""


class ServerNotStarted(RaceFailed):
    """Our own server did not come up. Its own words are on stderr."""

    def __init__(self, message: str, status: int = ExitStatus.UNREACHABLE) -> None:
        super().__init__(message, status)


class ServerDied(RaceFailed):
    """Our own server ended, and not by our hand: a defect of the server, which no fault on purpose may hide."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitStatus.DEFECT)


class OwnServer:
    """A server process of ours, and its successors on the same address. Made and ended by `own_server`."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.restarts = 0
        """Times it was killed and started again."""
        self.target = ""
        self.epoch = 0
        self._arguments = tuple(arguments)
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The process, as of now."""
        assert self._process is not None, "it was started"
        return self._process.pid

    async def start(self) -> None:
        """Start it, at the address it had before if it had one, and wait until it is ready.

        Raises:
            ServerNotStarted: it ended or said nothing within START_SECONDS_MAX.
            RaceFailed: there is no room for a process.
        """
        own = (*OWN_ADDRESSES, "--log-level", "warning")
        again = ("--listen", self.target) if self.target else ()
        self._process = process = await start_process(
            "our own server",
            *child_command("swaptier_server", *own, *self._arguments, *again),
            stdin=asyncio.subprocess.DEVNULL,
            limit=READY_BYTES_MAX,
            env=own_environment(),
        )
        assert process.stdout is not None, "stdout is piped"
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS_MAX)
        except TimeoutError:
            raise ServerNotStarted(f"our own server was not ready within {START_SECONDS_MAX:.0f} s") from None
        if not line:
            status = await process.wait()
            raise ServerNotStarted(
                f"our own server ended with status {status} before it was ready",
                status_of_child(status, ExitStatus.UNREACHABLE),
            )
        ready = json.loads(line)
        self.target, self.epoch = ready["listening"], ready["epoch"]

    async def kill_and_restart(self) -> None:
        """Kill it (SIGKILL) and start it again with the same flags at the same address.

        Raises:
            ServerNotStarted: as `start`.
            ServerDied: it was dead already. It is not started again.
        """
        async with self._lock:
            assert self._process is not None, "it was started"
            signal_process(self._process, signal.SIGKILL)
            await self._process.communicate()
            status = self._process.returncode
            if status != -signal.SIGKILL:
                raise ServerDied(
                    f"our own server ended with status {status} before it was to be killed. That is a defect of the "
                    "server; its own words are above. What pages were lost with it says nothing about a policy"
                )
            await self.start()
            self.restarts += 1

    async def pause(self, seconds: float) -> None:
        """Stop it (SIGSTOP) for *seconds*, then let it go on."""
        async with self._lock:
            assert self._process is not None, "it was started"
            signal_process(self._process, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                signal_process(self._process, signal.SIGCONT)

    async def stop(self) -> None:
        """End it: ask, wait, insist. Returns when it is gone, also when it was gone before."""
        process = self._process
        if process is None:
            return
        for asked, seconds in ((signal.SIGTERM, STOP_SECONDS_MAX), (signal.SIGKILL, None)):
            signal_process(process, asked)
            # communicate() also reads what is left on stdout: a full pipe would keep the server from ending.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), seconds)
                return


@contextlib.asynccontextmanager
async def own_server(*arguments: str) -> AsyncIterator[OwnServer]:
    """Run a server with *arguments* for the length of the block.

    Raises:
        ServerNotStarted: it ended or said nothing within START_SECONDS_MAX.
    """
    server = OwnServer(arguments)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
