"""One emulated host as an OS process: `python -m swaptier_loadgen.host.process`, started by `race.py`.

Touches standard input and output (`messages.py` says what is said), files of the corpus, and the network. Ends with
status 0 and a last report however the run went; any other end is a defect.
"""

import asyncio
import contextlib
import gc
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic_ns

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import DEADLINE_SECONDS, StreamSettings
from swaptier_client.mm.errors import OutOfMemory
from swaptier_client.mm.policy import POLICIES
from swaptier_client.security import Security, SecurityUnusable
from swaptier_client.transport import TierStream
from swaptier_loadgen.host.content import Contents
from swaptier_loadgen.host.corpus import CorpusUnreadable, read_corpus
from swaptier_loadgen.host.emulated import EmulatedHost
from swaptier_loadgen.host.messages import (
    LINE_BYTES_MAX,
    LOSSES_MAX,
    REPORT_SECONDS,
    STALL_SECONDS_MAX,
    HostSpec,
    device_area,
)
from swaptier_loadgen.host.report import HOST_REPORT, Ended, HostReport
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_wire.awake import AwakeClock
from swaptier_wire.errors import (
    AreaExists,
    AreaNotOwned,
    ClientReplaced,
    Draining,
    ServerDefect,
    SwapTierError,
    TierUnreachable,
)
from swaptier_wire.process.endings import to_an_end
from swaptier_wire.process.exit_status import ExitStatus

GONE = (TierUnreachable, Draining, ServerDefect)
"""What says that a tier is not there to be asked; every other error is its answer."""

TAKEN = (ClientReplaced, AreaNotOwned, AreaExists)
"""What says that another one goes by the same name."""

WRITTEN_BACK = "written_back_pages"
"""How the name of the tier's counter ends."""

STALLED_STATUS = 75
"""Exit status of a host that hangs."""


async def run_host(spec: HostSpec, stdin: asyncio.StreamReader) -> None:
    """Run what *spec* says and report it; returns after the last report."""
    contents = Contents(spec.settings.seed, read_corpus([Path(name) for name in spec.corpus_files]))
    options = spec.settings.area_options._replace(device_free_on_read=POLICIES[spec.policy].device_free_on_read)
    settings = StreamSettings(
        deadline_seconds=spec.deadline_seconds or DEADLINE_SECONDS,
        give_up_seconds=spec.patience_seconds,
        security=Security(**{field: Path(name) for field, name in spec.security_files.items()}),
    )
    for there in spec.tiers:
        settings.security.check(there.address)

    def on_epoch_change(type_: int, _old: int, _new: int) -> None:
        host.tiers_are_durable = bool(host.tiers_are_durable) and tiers[type_].writes_through
        host.on_tier_restarted(type_)

    def streams_to_all() -> list[TierStream]:
        return [
            TierStream(
                tier.address,
                HostArea(spec.client_id, spec.client_epoch, device_area(spec.area, type_), spec.slots, options),
                settings,
                on_epoch_change=partial(on_epoch_change, type_),
            )
            for type_, tier in enumerate(spec.tiers)
        ]

    tiers = streams_to_all()
    # The clone says that it is the same client, so the server opens the same areas again.
    twin = streams_to_all() if spec.settings.workload is WorkloadKind.TWO_HOSTS else []
    host = EmulatedHost(spec, contents, *tiers, twin=twin)
    gc.freeze()  # nothing made so far dies before the end: spare the collector the sight of it
    leaked_pages = 0
    ended, message = Ended.FINISHED, ""
    helpers = [
        asyncio.create_task(_report_often(host, [*tiers, *twin], STALL_SECONDS_MAX + spec.patience_seconds)),
        asyncio.create_task(_ask_often(host, tiers)),
        asyncio.create_task(_stop_when_told(stdin, host, [*tiers, *twin])),
    ]
    try:
        async with contextlib.AsyncExitStack() as streams:
            for tier in (*tiers, *twin):
                await streams.enter_async_context(tier)
            host.tiers_are_durable = all(tier.writes_through for tier in tiers)
            await host.run()
            if not host.is_stopping:
                await (host.swapoff() if spec.settings.swapoff else host.exit_processes())
            await _note_written_back(host, tiers)
            leaked_pages = 0 if host.is_stopping else await _swapoff_areas(tiers)
    except* OutOfMemory as failures:
        ended, message = Ended.OUT_OF_MEMORY, str(_first(failures))
    except* SwapTierError as failures:  # the last word: without a tier nothing can be reclaimed either
        failure = _first(failures)
        ended = Ended.UNREACHABLE if isinstance(failure, GONE) else Ended.REFUSED
        message = f"{failure}{_advice(spec) if isinstance(failure, TAKEN) else ''}"
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.wait(helpers)
    if host.is_stopping and ended is not Ended.OUT_OF_MEMORY:
        ended = Ended.STOPPED
    while len(losses := host.take_losses()) == LOSSES_MAX:
        say(replace(host.report(), new_losses=losses))
    last = _connections(host.final_report(), [*tiers, *twin])
    say(replace(last, ended=ended, message=message, leaked_pages=leaked_pages, new_losses=losses))


def _advice(spec: HostSpec) -> str:
    name = spec.client_id.removesuffix(f"-{spec.host}")
    return f". Another load generator runs as --name {shlex.quote(name)}, like this one: give each a --name of its own"


async def _swapoff_areas(tiers: Sequence[TierStream]) -> int:
    """Close all areas and return how many pages the pools still held.

    Raises:
        SwapTierError: no tier answers any more.
    """
    leaked_pages, gone = 0, 0
    for tier in tiers:
        try:
            leaked_pages += await tier.swapoff()
        except SwapTierError:
            gone += 1
            if gone == len(tiers):
                raise
    return leaked_pages


async def _note_written_back(host: EmulatedHost, tiers: Sequence[TierStream]) -> None:
    """Ask the tiers how many pages they wrote back from the pool: no reply to a load or store says so."""
    pages = 0
    for tier in tiers:
        with contextlib.suppress(SwapTierError):  # a tier that is gone is found out by the next fault
            counters = (await tier.stat()).counters
            pages += sum(value for (name, _), value in counters.items() if name.endswith(WRITTEN_BACK))
    host.zswpwb = max(host.zswpwb, pages)


def _connections(report: HostReport, tiers: Sequence[TierStream]) -> HostReport:
    """Return *report* with what it says of the connections to *tiers*."""
    return replace(
        report,
        tiers_gone=sorted({tier.address for tier in tiers if tier.is_cut_off}),
        reconnects=sum(tier.counters.reconnects for tier in tiers),
    )


async def _report_often(host: EmulatedHost, tiers: Sequence[TierStream], stall_seconds_max: float) -> None:
    """Report until cancelled; end the process if the host hangs, and say where its threads stand."""
    awake = AwakeClock(monotonic_ns, 2 * REPORT_SECONDS)
    checked, checked_at = -1, awake.seconds()
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        awake.beat()
        report = host.report()
        if host.is_running:  # the first report says that all tiers have answered
            say(replace(_connections(report, tiers), new_losses=host.take_losses()))
        if report.pages_checked != checked:
            checked, checked_at = report.pages_checked, awake.seconds()
        elif awake.seconds() - checked_at > stall_seconds_max:
            for task in asyncio.all_tasks():
                with contextlib.suppress(Exception):  # a coroutine of grpc's has no line numbers, and fails to print
                    task.print_stack(file=sys.stderr)
            sys.stderr.write(f"no page was checked for {stall_seconds_max:.0f} s: the threads wait for each other\n")
            sys.stderr.flush()
            os._exit(STALLED_STATUS)


async def _ask_often(host: EmulatedHost, tiers: Sequence[TierStream]) -> None:
    """Ask the tiers what only they know, until cancelled; the reports do not wait for one that does not answer."""
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        if host.is_running:
            await _note_written_back(host, tiers)


async def _stop_when_told(stdin: asyncio.StreamReader, host: EmulatedHost, tiers: Sequence[TierStream]) -> None:
    """Stop *host* at the next line, or when the load generator is gone; it then waits for no tier that is gone."""
    await stdin.readline()
    host.is_stopping = True
    for tier in tiers:
        tier.give_up()


def say(report: HostReport) -> None:
    """Write one line to standard output."""
    sys.stdout.write(HOST_REPORT.dump_json(report).decode() + "\n")
    sys.stdout.flush()


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure of a group; the others are its consequences."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


async def listen_and_run() -> None:
    """Read the spec from standard input and run it.

    Raises:
        CorpusUnreadable, SecurityUnusable: a file has changed since the race looked at it.
    """
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    with contextlib.closing(transport):
        await run_host(HostSpec.model_validate_json(await stdin.readline()), stdin)


def main() -> int:
    """Run one host; return the status that the race takes for its own where a file or the machine is to blame."""
    try:
        asyncio.run(listen_and_run())
    except (CorpusUnreadable, SecurityUnusable) as problem:
        sys.stderr.write(f"swaptier-loadgen: {problem}\n")
        return ExitStatus.USAGE
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return ExitStatus.AS_SPECIFIED


if __name__ == "__main__":
    sys.exit(to_an_end("swaptier-loadgen: a host", main))
