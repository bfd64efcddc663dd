"""The command `swaptier-loadgen specification`: the table of KERNEL.md 6.4, measured and specified side by side.

Touches the terminal, the result file and, with --target, the network: the same workloads then run over gRPC against a
real tier. Results go to standard output.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.driver import Driver
from swaptier_client.epochs import epoch_above_known
from swaptier_client.mm.policy import POLICIES, Policy
from swaptier_client.transport import TierStream
from swaptier_loadgen.cli.output import console, say
from swaptier_loadgen.cli.parameters import JsonFile, Policies, TierAddress
from swaptier_loadgen.cli.result_file import check_writable, write_json
from swaptier_loadgen.cli.statuses import ACCIDENTS, worst
from swaptier_loadgen.host.settings import TIERS, flag
from swaptier_loadgen.measure.specification import Measures
from swaptier_loadgen.measure.specification_table import (
    BUILDS,
    MEASURES,
    SLOTS,
    Build,
    F,
    K,
    M,
    N,
    SpecifiedCell,
    begin,
    cells_of,
    run_in_process,
)
from swaptier_loadgen.race.name import claim_name
from swaptier_wire.epochs import new_epoch
from swaptier_wire.errors import SwapTierError
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.types import AreaOptions

EPILOGUE = f"""Exit status: 0 every cell is as specified; 1 one is not; 2 wrong usage; 3 tier unreachable, or it \
refused; {ACCIDENTS}. M = {M}, F = {F}, K = {K}, N = {N}.

Examples:

  swaptier-loadgen specification --policy exclusive,shared
  swaptier-loadgen specification --target tier:50051"""


def specification(
    *,
    policy: Policies = tuple(POLICIES),
    target: Annotated[
        TierAddress | None,
        flag(
            TIERS,
            "Tier to measure against, HOST:PORT or unix:PATH. Without it, all in one process.",
            metavar="ADDRESS",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Measure W1 to W4 for every policy, and show each value beside the one that its specification says."""
    check_writable(json_file)
    if target is not None:
        say(f"measuring against the tier at {target}")
    rows: list[list[SpecifiedCell]] = []
    statuses: list[int] = []
    SIGNALS.has_begun = True
    try:
        asyncio.run(_measure([POLICIES[name] for name in policy], target, rows))
    except SwapTierError as error:
        say(str(error))
        statuses.append(ExitStatus.UNREACHABLE)
    wrong = [cell for row in rows for cell in row if not cell.is_as_specified]
    cells = [{**asdict(cell), "specified": cell.specified_text} for row in rows for cell in row]
    missing = policy[len(rows) :]
    document = {"target": target, "sizes": {"M": M, "F": F, "K": K, "N": N}, "cells": cells, "not_measured": missing}
    statuses += [write_json(json_file, document), ExitStatus.VERDICT if wrong else ExitStatus.AS_SPECIFIED]
    out = console(json_file)
    if rows:
        out.print(_table(rows))
        out.print(_closing_sentence(rows, wrong, target), soft_wrap=True)
    if missing and SIGNALS.received is not None:
        out.print(f"not measured, because it was ended before: {', '.join(missing)}", soft_wrap=True)
    return worst(statuses)


async def _measure(policies: list[Policy], target: str | None, rows: list[list[SpecifiedCell]]) -> None:
    """Add a row for each policy to *rows*, until a signal comes.

    Raises:
        SwapTierError: the tier at *target* did not answer, or refused.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    client = "" if target is None else claim_name()
    with contextlib.suppress(asyncio.CancelledError), SIGNALS.calling(lambda _: _soon(loop, task.cancel)):
        for policy in policies:
            await asyncio.sleep(0)  # where a signal ends it
            measured = {
                name: run_in_process(policy, build)
                if target is None
                else await run_over_grpc(policy, build, target, client)
                for name, build in BUILDS.items()
            }
            rows.append(cells_of(policy, measured))


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    loop.call_soon_threadsafe(call)


async def run_over_grpc(policy: Policy, build: Build, target: str, client: str) -> Measures:
    """Run a workload to its end on the tier at *target* as *client*, leave nothing there, and return what it measured.

    Raises:
        SwapTierError: the tier did not answer, or refused.
    """
    options = AreaOptions(device_free_on_read=policy.device_free_on_read)
    area = HostArea(f"{client}-0", new_epoch(), f"{client}-{policy.name}", SLOTS, options)
    settings = StreamSettings(give_up_seconds=0)
    area = area._replace(client_epoch=await epoch_above_known(target, [area], settings))
    workload = begin(policy, build)
    async with TierStream(target, area, settings) as stream:
        driver = Driver([stream], seed=1)
        await asyncio.gather(*(driver.run(path) for path in workload.paths.values()))
        measures = workload.measure()
        await stream.swapoff()
    return measures


def _table(rows: list[list[SpecifiedCell]]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("policy", no_wrap=True)
    for measure in MEASURES:
        table.add_column(f"{measure.workload}\n{measure.name.replace(' ', chr(10), 1)}", justify="right")
    for row in rows:
        cells = [
            Text(f"{cell.measured}/{cell.specified_text}", style="" if cell.is_as_specified else "bold red")
            for cell in row
        ]
        table.add_row(row[0].policy, *cells)
    return table


def _closing_sentence(rows: list[list[SpecifiedCell]], wrong: list[SpecifiedCell], target: str | None) -> str:
    where = "in one process" if target is None else f"over gRPC at {target}"
    total = sum(map(len, rows))
    if not wrong:
        return f"Measured/specified, {where}: all {total} cells are as specified."
    first = wrong[0]
    return (
        f"Measured/specified, {where}: {len(wrong)} of {total} cells are not as specified, the first in "
        f"{first.workload} for {first.policy}, {first.measure}: {first.measured}, not {first.specified_text}. That is "
        "a defect of this program."
    )
