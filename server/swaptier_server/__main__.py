"""`swaptier-server`, also `python -m swaptier_server`: read the configuration, serve until told to stop.

Touches the process: signals, stdin, stdout, stderr, the exit status. Exit status: 0 drained, 1 gRPC failed and nobody
could be served any more, 2 the configuration cannot be used (one line on stderr says why). SIGHUP reads certificates
and tokens again. A second SIGTERM or SIGINT while draining ends the process at once.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence

from swaptier_server.config import (
    PROGRAM,
    ServerConfig,
    load_config,
    split_errand,
    unknown_variables,
)
from swaptier_server.errors import ConfigError
from swaptier_server.malloc import keep_freed_memory
from swaptier_wire.version import program_version

STATUS_FAILED = 1
STATUS_CONFIG = 2
LAST_TASKS_SECONDS_MAX = 1.0
"""They need milliseconds; whatever hangs is not worth the wait."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server, or what else is asked for; return the exit status."""
    try:
        errand, flags = split_errand(sys.argv[1:] if arguments is None else arguments)
        if errand.hash_token_of is not None:
            return _hash_token(errand.hash_token_of)
        config = load_config(flags)
        # gRPC's own complaints about addresses, written by C, would stand around our one clear line.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        if errand.is_check:
            return _check(config, flags)
        keep_freed_memory()
        return asyncio.run(_serve(config))
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return STATUS_CONFIG


def _check(config: ServerConfig, flags: Sequence[str]) -> int:
    """Tell what the configuration is and whether it can be used: on stdout, and last, each problem a line on stderr."""
    from swaptier_server.check import check_files, effective_values

    for line in effective_values(config, flags):
        sys.stdout.write(f"{line}\n")
    for unknown in unknown_variables():
        sys.stdout.write(f"not known, and ignored: {unknown}\n")
    problems = []
    for finding in check_files(config):
        if finding.is_problem:
            problems.append(finding.text)
        else:
            sys.stdout.write(f"{finding.text}\n")
    sys.stdout.write(f"\nthis configuration {'cannot' if problems else 'can'} be used\n")
    sys.stdout.flush()  # what is wrong stands below everything else, whoever reads both
    for problem in problems:
        sys.stderr.write(f"{PROGRAM}: {problem}\n")
    return STATUS_CONFIG if problems else 0


def _hash_token(tenant: str) -> int:
    """Tell the line of a token file that lets the token on standard input in as *tenant*."""
    from swaptier_server.access.tokens import TokensUnusable, hash_token

    try:
        line = hash_token(tenant, sys.stdin.readline().strip())
    except TokensUnusable as error:
        raise ConfigError(f"--hash-token: {error}") from error
    sys.stdout.write(f"{line}\n")
    return 0


async def _serve(config: ServerConfig) -> int:
    """Serve until the first signal, then drain; return the exit status."""
    from swaptier_server.lifecycle import TierServer
    from swaptier_server.logs import configure_logs, get_log

    configure_logs(config.log_format, config.log_level)
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
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    log.info(
        "serving",
        version=program_version(),
        listening=server.listening,
        metrics=server.metrics_address,
        epoch=server.tier.epoch,
        pool_limit=str(config.pool_limit),
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


if __name__ == "__main__":
    sys.exit(main())
