"""A server as a process: it serves until a signal, then drains.

Touches the process: its standard streams, its exit status, and signals by way of `signals`. Standard output and error
are written by threads: a reader that does not read stops no server.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from signal import Signals

from swaptier_server.config import ServerConfig
from swaptier_server.lifecycle import TierServer
from swaptier_server.logs import configure_logs, get_log
from swaptier_server.memory import machine_bytes, memory_parts, text
from swaptier_server.rpc.descriptors import connections_max
from swaptier_server.rpc.garbage import Collector, leave_the_rest_to_a_collector
from swaptier_server.rpc.turns import Turns
from swaptier_server.shares import tenants_expected
from swaptier_server.signals import STOPPING, take_signals
from swaptier_wire.process.background_writer import BackgroundWriter
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.version import program_version

LAST_TASKS_SECONDS_MAX = 1.0
"""They need milliseconds; what hangs is not worth the wait."""
COLLECTOR_SECONDS = 1.0
"""From one look to the next."""
SWITCH_SECONDS = 0.0005
"""How long a thread keeps Python from the loop at most. A scrape takes milliseconds, and Python's own value is 5 ms."""
LAST_LINES_SECONDS_MAX = 0.5
"""How long the end waits for a reader of standard output, and for one of standard error."""


def serve_until_signal(config: ServerConfig, unknown_variables: Iterable[str], withdrawn: Sequence[str]) -> int:
    """Serve until the first signal, then drain; return the exit status. Warn of variables that do not count.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    with _streams_that_never_block() as streams:
        configure_logs(config.log_format, config.log_level)
        log = get_log()
        streams[1].say_dropped = lambda lines: log.warning("log_lines_dropped", lines=lines, meaning="nobody read them")
        for variable in unknown_variables:
            log.warning("unknown_variable", variable=variable)
        if withdrawn:
            log.warning("variables_ignored", variables=withdrawn, meaning="gRPC would change the transport")
        return asyncio.run(_serve(config, streams))


async def _serve(config: ServerConfig, streams: Sequence[BackgroundWriter]) -> int:
    log = get_log()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server: TierServer | None = None

    def on_signal(number: Signals) -> None:
        if number in STOPPING:
            log.info("stopping", signal=number.name, note="a second signal exits at once")
            stop.set()
        elif number is not Signals.SIGHUP:
            log.warning("signal_ignored", signal=number.name, advice="SIGTERM drains, SIGHUP reads files again")
        elif server is not None:
            server.reload()

    take_signals().hand_over(
        lambda number: loop.call_soon_threadsafe(on_signal, number),
        lambda: [stream.wait_until_written(LAST_LINES_SECONDS_MAX) for stream in streams],
    )
    server = await TierServer.start(config)
    _say_what_serves(config, server)
    ready = {"listening": server.listening, "metrics": server.metrics_address, "epoch": server.tier.epoch}
    streams[0].write(json.dumps(ready) + "\n")
    leave_the_rest_to_a_collector()
    sys.setswitchinterval(SWITCH_SECONDS)
    collecting = asyncio.create_task(_collect_for_ever(server.traffic.turns), name="collector")
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(server.failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in (*waits, collecting):
        wait.cancel()
    await server.drain()
    # gRPC prints a traceback for each of its tasks that asyncio.run() would cancel; those of calls that were cut off
    # end by themselves within some turns.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=LAST_TASKS_SECONDS_MAX)
    return ExitStatus.AS_SPECIFIED if stop.is_set() else ExitStatus.DEFECT


def _say_what_serves(config: ServerConfig, server: TierServer) -> None:
    """Log the addresses and bounds of a server that began, and warn if there is less memory than it may use."""
    log = get_log()
    tenants = tenants_expected(config, server.access)
    memory_max = sum(part.most for part in memory_parts(config, tenants, connections_max()))
    log.info(
        "serving",
        version=program_version(),
        listening=server.listening,
        metrics=server.metrics_address,
        epoch=server.tier.epoch,
        pool_limit=str(config.pool_limit),
        connections_max=connections_max(),
        memory_max=text(memory_max),
    )
    if (there := machine_bytes()) is not None and memory_max > there:
        log.warning(
            "memory_may_not_suffice",
            memory_max=text(memory_max),
            there=text(there),
            meaning="with all its bounds reached, this server would be killed, and pages in memory lost",
            advice="swaptier-server check-config says what takes how much",
        )


async def _collect_for_ever(turns: Turns) -> None:
    """Let reference cycles be looked for, where that is in the way of nobody."""
    collector = Collector(time.monotonic_ns)
    while True:
        await asyncio.sleep(COLLECTOR_SECONDS)
        collector.look(turns.submitted)


@contextmanager
def _streams_that_never_block() -> Iterator[tuple[BackgroundWriter, BackgroundWriter]]:
    """Give what stands for standard output and error; the latter is also what libraries write to."""
    before = sys.stderr
    streams = BackgroundWriter(1), BackgroundWriter(2)
    sys.stderr = streams[1]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.wait_until_written(LAST_LINES_SECONDS_MAX)
        sys.stderr = before
