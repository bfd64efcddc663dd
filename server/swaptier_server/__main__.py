"""`swaptier-server`, also `python -m swaptier_server`: read the configuration, serve until told to stop.

Touches the process: signals, stdout, stderr, the exit status. Exit status: 0 drained, 2 the configuration cannot be
used (one line on stderr says why). A second signal while draining ends the process at once.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence

from swaptier_server.config import PROGRAM, ConfigError, ServerConfig, load_config, program_version, unknown_variables
from swaptier_server.malloc import keep_freed_memory

STATUS_CONFIG = 2
LAST_TASKS_SECONDS_MAX = 1.0
"""They need milliseconds; whatever hangs is not worth the wait."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return the exit status."""
    try:
        config = load_config(sys.argv[1:] if arguments is None else arguments)
        # gRPC's own complaints about addresses, written by C, would stand around our one clear line.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        keep_freed_memory()
        asyncio.run(_serve(config))
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return STATUS_CONFIG
    return 0


async def _serve(config: ServerConfig) -> None:
    """Serve until the first signal, then drain."""
    from swaptier_server.lifecycle import TierServer
    from swaptier_server.logs import configure_logs, get_log

    configure_logs(config)
    log = get_log()
    for variable in unknown_variables():
        log.warning("unknown_variable", variable=variable)
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
    log.info(
        "serving",
        version=program_version(),
        listening=server.listening,
        metrics=server.metrics_address,
        epoch=server.tier.epoch,
        pool_limit=str(config.pool_limit),
    )
    _announce({"listening": server.listening, "metrics": server.metrics_address, "epoch": server.tier.epoch})
    await stop.wait()
    await server.drain()
    # gRPC prints a traceback for each of its tasks that asyncio.run() would cancel; those of calls that were cut off
    # end by themselves within some turns.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=LAST_TASKS_SECONDS_MAX)


def _announce(facts: dict[str, str | int | None]) -> None:
    """Tell a parent process where we are; one that does not listen does not matter."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
