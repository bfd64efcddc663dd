"""The command `swaptier-loadgen race`: every policy on one seed, and what each did to the data, as one table.

Touches the terminal and the result file. Everything that can be refused is refused before anything is started.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from swaptier_client.security import PLAIN
from swaptier_loadgen.cli.output import console, say
from swaptier_loadgen.cli.parameters import Era, JsonFile, MetricsAddress
from swaptier_loadgen.cli.progress import Watcher, configure_logging
from swaptier_loadgen.cli.repeat import repeat_command
from swaptier_loadgen.cli.result_file import check_writable, write_json
from swaptier_loadgen.cli.statuses import ACCIDENTS, Refusal, exit_status, worst
from swaptier_loadgen.cli.table import tables
from swaptier_loadgen.faults.hazards import Hazard
from swaptier_loadgen.host.corpus import CorpusUnreadable, corpus_files, read_corpus
from swaptier_loadgen.host.oracle import Fate
from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.host.settings import RESULTS, flag
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race import report
from swaptier_loadgen.race.closing_sentence import closing_sentence
from swaptier_loadgen.race.metrics import LatestReports, MetricsPortTaken, RaceCollector, serve
from swaptier_loadgen.race.name import claim_name
from swaptier_loadgen.race.race import run_race
from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.server_flags import FlagsRefused
from swaptier_loadgen.race.settings import RaceSettings
from swaptier_loadgen.race.verdict import Verdict
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus

EPILOGUE = f"""Exit status: 0 every policy did what its specification says; 1 a safe policy lost, corrupted or leaked \
a page, whatever else happened; 2 wrong usage, or too little memory for the emulated hosts; 3 tier unreachable, or it \
refused; {ACCIDENTS}. Every flag can be given as a variable, as in SWAPTIER_LOADGEN_RACE_SEED=1; the flag wins.

Examples:

  swaptier-loadgen race --policy exclusive,shared --seed 7
  swaptier-loadgen race --target tier:50051 --json race.json"""

DEFAULTS = RaceSettings()

NO_RESULTS = (Verdict.UNREACHABLE, Verdict.REFUSED, Verdict.OUT_OF_MEMORY, Verdict.STOPPED)
"""What says nothing about a policy."""


def race(
    *,
    settings: Annotated[RaceSettings, Parameter(name="*")] = DEFAULTS,
    era: Era = (),
    json_file: JsonFile = None,
    metrics: Annotated[
        MetricsAddress | None, flag(RESULTS, "Serve Prometheus metrics at HOST:PORT while racing.", metavar="ADDRESS")
    ] = None,
    metrics_token: Annotated[
        Path | None, flag(RESULTS, "File with the token that Prometheus must show for them, and nothing else.")
    ] = None,
) -> int:
    """Run each policy on the same accesses, page contents and injected failures, and say what it did to the data."""
    if era:
        if "policies" in settings.model_fields_set:
            raise Refusal("--era and --policy exclude each other: an era is the policy its kernels had")
        settings = settings.model_copy(update={"policies": era})
    repeat = repeat_command(settings)
    if settings.target is not None and "name" not in settings.model_fields_set:
        settings = settings.model_copy(update={"name": claim_name()})
    latest = LatestReports.of(settings)
    try:
        files = corpus_files(settings.corpus)
        read_corpus(files)
        check_writable(json_file)
        if settings.server_flags:
            settings.server_flags.check()
        if metrics is not None:
            collector = RaceCollector(settings, latest)
            metrics = serve(metrics, collector, metrics_token, is_secured=settings.security != PLAIN)
        elif metrics_token is not None:
            raise Refusal("--metrics-token needs --metrics: there is no port to ask")
    except (FlagsRefused, CorpusUnreadable, MetricsPortTaken) as problem:
        raise Refusal(str(problem)) from None
    configure_logging()
    SIGNALS.has_begun = True
    with Watcher(settings, latest, metrics) as watcher:
        outcome = asyncio.run(run_race(settings, files, watcher))
    summaries = outcome.runs
    statuses = [write_json(json_file, report.document(settings, summaries)), exit_status(summaries)]
    _show(console(json_file), settings, summaries, repeat)
    if outcome.failure is not None:
        again = f". The same again: {repeat}" if outcome.failure.status == ExitStatus.DEFECT else ""
        say(f"{outcome.failure}{again}")
        statuses.append(outcome.failure.status)
    return worst(statuses)


def _show(out: Console, settings: RaceSettings, summaries: Sequence[RunSummary], repeat: str) -> None:
    """Print the tables and the sentences about them; *repeat* is the command that races the same again.

    Where no policy came to anything, one sentence says why: there is nothing to be put into a table.
    """
    if all(summary.verdict in NO_RESULTS and not summary.faults for summary in summaries):
        out.print(_why_nothing(settings, summaries), soft_wrap=True)
        return
    out.print(_headline(settings), soft_wrap=True)
    for table in tables(summaries, out.width):
        out.print(table)
    lines = [
        line
        for summary in summaries
        for line in (
            _fates(summary),
            _words(summary),
            _hazards(summary),
            _outages(summary),
            report.why_out_of_memory(settings, summary),
        )
    ]
    if missing := report.not_raced(settings, summaries):
        lines.append(f"not raced to a result, because the race ended before: {', '.join(missing)}")
    lines.append(report.never_came(settings, summaries))
    lines.append(closing_sentence(summaries, repeat))
    for line in filter(None, lines):
        out.print(line, soft_wrap=True)


def _why_nothing(settings: RaceSettings, summaries: Sequence[RunSummary]) -> str:
    """Return why no policy swapped a page in."""
    if any(summary.ended in (Ended.UNREACHABLE, Ended.REFUSED) for summary in summaries):
        return closing_sentence(summaries)
    memory = [text for summary in summaries if (text := report.why_out_of_memory(settings, summary))]
    return memory[0] if memory else "The race ended before a page was swapped in."


def _headline(settings: RaceSettings) -> str:
    """Return what was raced, with the seed that repeats it."""
    host = settings.host
    amount = f"{host.ops} accesses" if host.ops is not None else f"{host.duration_seconds:g} s"
    return (
        f"seed {host.seed}: {amount} per policy on {settings.hosts} hosts x {host.processes} processes x "
        f"{host.threads} threads, {host.pages} pages a host, {host.resident} resident, "
        f"{sum(host.install_failure_rates.values()):.1%} of installs made to fail"
        f"{'' if host.workload is WorkloadKind.RANDOM else f', workload {host.workload}'}"
        f"{f', faults {settings.faults}' if settings.faults else ''}"
    )


def _fates(summary: RunSummary) -> str:
    """Return what became of the pages whose failed install took the only copy; empty when there were none."""
    fates = summary.owed_fates
    total = sum(fates.values())
    if not total:
        return ""
    words = {
        Fate.WRONG: "read back wrong",
        Fate.RIGHT: "read back right",
        Fate.TOLD: "told lost",
        Fate.ALREADY_LOST: "lost before",
        Fate.DISCARDED: "discarded",
        Fate.NEVER_READ: "never read again",
    }
    told = ", ".join(f"{fates[fate]} {word}" for fate, word in words.items() if fates.get(fate))
    return f"{summary.policy}: {total} failed installs took the only copy of a page that was still needed: {told}"


def _hazards(summary: RunSummary) -> str:
    """Return what went wrong on purpose and which hazard took each page.

    Empty where nothing was to go wrong and no page was lost but by failed installs, which have their own line.
    """
    done = ", ".join(f"{count:,} x {fault}" for fault, count in sorted(summary.injected.items()))
    if not done and not any(count for hazard, count in summary.lost_to.items() if hazard != Hazard.INSTALL_FAILED):
        return ""
    took = ", ".join(f"{count:,} {hazard}" for hazard, count in summary.lost_to.items() if count)
    lost = sum(summary.lost_to.values())
    line = f"{summary.policy}: {done}{'; ' if done else ''}{f'{lost:,} pages lost: {took}' if lost else 'no page lost'}"
    if summary.predicted_losses:
        line += f"; p x loads predicts {summary.predicted_losses:,.0f} with dropped answers"
    return line


def _outages(summary: RunSummary) -> str:
    """Return how often hosts lost a tier and found it again; empty where none did, or where --fault did it."""
    if summary.injected or not summary.reconnects:
        return ""
    return f"{summary.policy}: hosts lost the connection to a tier and found it again {summary.reconnects} times"


def _words(summary: RunSummary) -> str:
    """Return what the kernel's swap race stress would have said; empty where it would have passed."""
    if not summary.counters_wrong and not summary.index_words_wrong:
        return ""
    return (
        f"{summary.policy}: {summary.counters_wrong} pages end with another counter than additions were made (data "
        f"loss), {summary.index_words_wrong} hold another page's words (misload)"
    )
