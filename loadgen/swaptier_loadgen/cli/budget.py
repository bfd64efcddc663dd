"""The command `swaptier-loadgen budget`: shared against exclusive loads under one memory budget, as one table.

Touches the terminal, the corpus and the result file. Everything else runs in this process, without a network.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.output import console
from swaptier_loadgen.cli.parameters import JsonFile, Policies
from swaptier_loadgen.cli.result_file import check_writable, write_json
from swaptier_loadgen.cli.statuses import ACCIDENTS, Refusal, worst
from swaptier_loadgen.host.content import Contents, PageId
from swaptier_loadgen.host.corpus import CorpusUnreadable, corpus_files, read_corpus
from swaptier_loadgen.host.settings import RUN, flag
from swaptier_loadgen.measure.budget import BudgetRow, BudgetSettings, Ended, Refused, run_budget
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus

DEFAULT_POLICIES = ("shared", "exclusive-if-swapcache")
"""The two modes on the path where they differ; the other policies load through the swapcache as one of them does."""

DEFAULTS = BudgetSettings()

EPILOGUE = f"""Exit status: 0 every byte was right; 1 one was not; 2 wrong usage; {ACCIDENTS}.

Examples:

  swaptier-loadgen budget --budget-percent 50
  swaptier-loadgen budget --policy all --json budget.json"""


def budget(
    *,
    policy: Policies = DEFAULT_POLICIES,
    settings: Annotated[BudgetSettings, Parameter(name="*")] = DEFAULTS,
    corpus: Annotated[
        Path | None, flag(RUN, "File or folder to take page contents from; else the interpreter's own files.")
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Give resident pages and compressed copies one budget, and count what each load mode makes of it."""
    check_writable(json_file)
    try:
        contents = Contents(settings.seed, read_corpus(corpus_files(corpus)))

        def content_of(address: int, version: int) -> bytes:
            return contents.page(PageId(0, 1, address), version)

        rows = _measure(policy, settings, content_of)
    except (CorpusUnreadable, Refused) as problem:
        raise Refusal(str(problem)) from None
    document = {"settings": settings.model_dump(), "runs": [asdict(row) for row in rows]}
    statuses = [write_json(json_file, {**document, "not_measured": policy[len(rows) :]})]
    _show(console(json_file), settings, rows, policy[len(rows) :])
    return worst([*statuses, ExitStatus.VERDICT if any(row.wrong_pages for row in rows) else ExitStatus.AS_SPECIFIED])


def _measure(
    policies: Sequence[str], settings: BudgetSettings, content_of: Callable[[int, int], bytes]
) -> list[BudgetRow]:
    """Return a row for each policy, or for those that were done when a signal came.

    Raises:
        Refused: the budget is too small.
    """
    rows: list[BudgetRow] = []
    SIGNALS.has_begun = True
    with contextlib.suppress(Ended), SIGNALS.looked_for():
        for name in policies:
            rows.append(  # noqa: PERF401 - what is done is kept
                run_budget(POLICIES[name], settings, content_of, SIGNALS.is_asked_to_end)
            )
    return rows


def _show(out: Console, settings: BudgetSettings, rows: list[BudgetRow], missing: Sequence[str]) -> None:
    """Print the table and the sentences about it; *missing* policies were not measured to their end."""
    out.print(
        f"seed {settings.seed}: {settings.accesses} accesses to {settings.pages} pages, "
        f"{settings.write_percent} % of them writes, "
        f"{settings.budget_bytes >> 10} KiB for resident pages and pool together",
        soft_wrap=True,
    )
    if rows:
        out.print(_table(rows))
        out.print(closing_sentence(rows), soft_wrap=True)
    if missing:
        out.print(f"not measured, because it was ended before: {', '.join(missing)}", soft_wrap=True)


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
