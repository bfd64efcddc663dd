"""A server as a process: it serves until a signal, then drains.

Touches the process: signals, stdout, the exit status. SIGHUP reads certificates and tokens again. A second SIGTERM or
SIGINT while draining ends the process at once.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterable, Sequence

from swaptier_server.config import ServerConfig
from swaptier_server.lifecycle import TierServer
from swaptier_server.logs import configure_logs, get_log
from swaptier_server.rpc.descriptors import connections_max
from swaptier_wire.descriptors import raise_limit
from swaptier_wire.version import program_version

STATUS_FAILED = 1
LAST_TASKS_SECONDS_MAX = 1.0
"""They need milliseconds; what hangs is not worth the wait."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve_until_signal(config: ServerConfig, unknown_variables: Iterable[str], withdrawn: Sequence[str]) -> int:
    """Serve until the first signal, then drain; return the exit status. Warn of variables that do not count."""
    configure_logs(config.log_format, config.log_level)
    log = get_log()
    for variable in unknown_variables:
        log.warning("unknown_variable", variable=variable)
    if withdrawn:
        log.warning("variables_ignored", variables=withdrawn, meaning="gRPC would change the transport")
    raise_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        # From here on the kernel's default action: a second signal works even if this loop should hang.
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        log.info("stopping", signal=number.name, note="a second signal exits at once")
        stop.set()

    for each in _SIGNALS:
        loop.add_signal_handler(each, on_signal, each)
    server = await TierServer.start(config)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    log.info(
        "serving",
        version=program_version(),
        listening=server.listening,
        metrics=server.metrics_address,
        epoch=server.tier.epoch,
        pool_limit=str(config.pool_limit),
        connections_max=connections_max(),
    )
    _announce({"listening": server.listening, "metrics": server.metrics_address, "epoch": server.tier.epoch})
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(server.failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await server.drain()
    # gRPC prints a traceback for each of its tasks that asyncio.run() would cancel; those of calls that were cut off
    # end by themselves within some turns.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=LAST_TASKS_SECONDS_MAX)
    return 0 if stop.is_set() else STATUS_FAILED


def _announce(facts: dict[str, str | int | None]) -> None:
    """Tell a parent process where we are; one that does not listen does not matter."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
