"""The command `swaptier-loadgen budget`: shared against exclusive loads under one memory budget, as one table.

Touches the terminal, the corpus and the result file. Everything else runs in this process, without a network.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.flag_values import parse_policies
from swaptier_loadgen.host.content import PROCESS_PAGES_MAX, Contents, PageId
from swaptier_loadgen.host.corpus import CorpusUnreadable, corpus_files, read_corpus
from swaptier_loadgen.measure.budget import BudgetRow, BudgetSettings, Refused, run_budget
from swaptier_loadgen.race.report import STATUS_AS_SPECIFIED, STATUS_SAFE_POLICY_FAILED, STATUS_USAGE
from swaptier_loadgen.race.settings import UsageProblem, check_range, check_writable

PIPE_COLUMNS = 120
"""Width where there is no terminal."""

ACCESSES_MAX = 10**8
"""Hours. More is a typing error."""

DEFAULT_POLICIES = "shared,exclusive-if-swapcache"
"""The two modes on the path where they differ; the other policies load through the swapcache as one of them does."""

DEFAULTS = BudgetSettings()

EPILOG = "Exit status: 0 every byte was right; 1 one was not; 2 wrong usage."


def budget(
    policy: Annotated[
        str, typer.Option(help=f"Policies to compare, separated by commas, or all: {', '.join(POLICIES)}.")
    ] = DEFAULT_POLICIES,
    pages: Annotated[int, typer.Option(help="Pages of the one process.")] = DEFAULTS.pages,
    budget_percent: Annotated[
        int, typer.Option(help="Resident pages and pool together, of the memory that all pages take uncompressed.")
    ] = DEFAULTS.budget_percent,
    accesses: Annotated[int, typer.Option(help="Accesses after every page was written once.")] = DEFAULTS.accesses,
    write_percent: Annotated[int, typer.Option(help="Accesses that write.")] = DEFAULTS.write_percent,
    seed: Annotated[int, typer.Option(help="Of accesses and page contents.")] = DEFAULTS.seed,
    corpus: Annotated[
        Path | None, typer.Option(help="File or folder to take page contents from; else the interpreter's own files.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")] = None,
) -> None:
    """Give resident pages and compressed copies one budget, and count what each load mode makes of it."""
    settings = BudgetSettings(pages, budget_percent, accesses, write_percent, seed)
    try:
        names = parse_policies(policy)
        check_range("--pages", pages, 1, PROCESS_PAGES_MAX)
        check_range("--budget-percent", budget_percent, 1, 100)
        check_range("--accesses", accesses, 1, ACCESSES_MAX)
        check_range("--write-percent", write_percent, 0, 100)
        check_writable(json_file)
        contents = Contents(seed, read_corpus(corpus_files(corpus)))

        def content_of(address: int, version: int) -> bytes:
            return contents.page(PageId(0, 1, address), version)

        rows = [run_budget(POLICIES[name], settings, content_of) for name in names]
    except (UsageProblem, CorpusUnreadable, Refused) as problem:
        typer.echo(f"swaptier-loadgen: {problem}", err=True)
        raise typer.Exit(STATUS_USAGE) from None
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False, markup=False)
    console.print(
        f"seed {seed}: {accesses} accesses to {pages} pages, {write_percent} % of them writes, "
        f"{settings.budget_bytes >> 10} KiB for resident pages and pool together",
        soft_wrap=True,
    )
    console.print(_table(rows))
    console.print(closing_sentence(rows), soft_wrap=True)
    if json_file is not None:
        document = {"settings": asdict(settings), "runs": [asdict(row) for row in rows]}
        json_file.write_text(json.dumps(document, indent=2) + "\n")
    raise typer.Exit(STATUS_SAFE_POLICY_FAILED if any(row.wrong_pages for row in rows) else STATUS_AS_SPECIFIED)


def _table(rows: list[BudgetRow]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("policy", no_wrap=True)
    for heading in (
        "refaults",
        "stores",
        "wasted\nrecomp.",
        "resident\npages",
        "pool\nKiB",
        "dup.\npages",
        "wrong\npages",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        numbers = (
            row.refaults,
            row.stores,
            row.wasted_recompressions,
            round(row.resident_pages_mean),
            round(row.pool_bytes_mean / 1024),
            round(row.duplicate_pages_mean),
            row.wrong_pages,
        )
        table.add_row(row.policy, *map(str, numbers))
    return table


def closing_sentence(rows: list[BudgetRow]) -> str:
    """Return what to take home: who refaults least, who compresses least, and by how much."""
    wrong = [row.policy for row in rows if row.wrong_pages]
    if wrong:
        return f"Pages came back wrong under {', '.join(wrong)}, where nothing races: that is a defect of this program."
    if len(rows) == 1:
        return f"{rows[0].policy} refaulted {rows[0].refaults} and stored {rows[0].stores} pages."
    by_refaults = sorted(rows, key=lambda row: row.refaults)
    by_stores = sorted(rows, key=lambda row: row.stores)
    return (
        f"Under one budget {_compare(by_refaults[0], by_refaults[-1], 'refaults', lambda row: row.refaults)}; "
        f"{_compare(by_stores[0], by_stores[-1], 'stores', lambda row: row.stores)}."
    )


def _compare(least: BudgetRow, most: BudgetRow, what: str, count: Callable[[BudgetRow], int]) -> str:
    if count(least) == count(most):
        return f"all have the same {what}"
    return f"{least.policy} has {1 - count(least) / count(most):.1%} fewer {what} than {most.policy}"
