"""The command line: `swaptier-loadgen race`. Results go to standard output, progress and logs to standard error.

Touches the terminal and the result file. Everything that can be refused is refused before anything is started, with one
line that says what is wrong and status 2. The statuses are in `report.py` and in `race --help`.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from swaptier_client.mm.readahead import ReadaheadMode
from swaptier_loadgen.cli import budget as budget_cli
from swaptier_loadgen.cli import flag_values, flags
from swaptier_loadgen.cli import specification as specification_cli
from swaptier_loadgen.cli.explore import explore
from swaptier_loadgen.cli.progress import Watcher, configure_logging
from swaptier_loadgen.cli.repeat import repeat_command
from swaptier_loadgen.cli.table import ALL_COLUMNS, tables
from swaptier_loadgen.host.corpus import CorpusUnreadable, corpus_files, read_corpus
from swaptier_loadgen.host.oracle import Fate
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race import report
from swaptier_loadgen.race import settings as config
from swaptier_loadgen.race.closing_sentence import closing_sentence
from swaptier_loadgen.race.metrics import LatestReports, MetricsPortTaken, RaceCollector, serve
from swaptier_loadgen.race.race import RaceOutcome, run_race
from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.server_flags import FlagsRefused, ServerFlags
from swaptier_loadgen.race.server_process import ServerNotStarted
from swaptier_loadgen.race.settings import RaceSettings, UsageProblem

PROGRAM = "swaptier-loadgen"

PIPE_COLUMNS = ALL_COLUMNS
"""Width of the result where there is no terminal to ask and COLUMNS says nothing."""

app = typer.Typer(
    name=PROGRAM,
    help="Races emulated hosts against a remote swap tier and checks every byte of every page.",
    no_args_is_help=True,
    rich_markup_mode=None,  # its table cuts off names that its columns have no room for
    add_completion=False,
    pretty_exceptions_enable=False,  # it prints local variables, and those hold pages
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:  # typer calls it with the flag's value
    if is_asked:
        typer.echo(f"{PROGRAM} {report.versions()['swaptier']}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Race emulated hosts against a remote swap tier and check every byte of every page."""
    for variable in flags.unknown_variables(os.environ):
        typer.echo(f"{PROGRAM}: a variable that is not known, and ignored: {variable}", err=True)


@app.command(
    epilog="Exit status: 0 every policy did what its specification says; 1 a safe policy lost, corrupted or leaked a "
    "page; 2 wrong usage or out of memory; 3 tier unreachable, or it refused; 130 interrupted, the report covers "
    f"what ran. Every flag can be given as a variable, as in {flags.VARIABLES}SEED=1; the flag wins."
)
def race(
    context: typer.Context,
    policy: flags.Policy = None,
    era: flags.Era = None,
    target: flags.Target = None,
    servers: flags.Servers = 1,
    hosts: flags.Hosts = 2,
    processes: flags.Processes = 2,
    threads: flags.Threads = 8,
    pages: flags.Pages = 512,
    resident: flags.Resident = 96,
    ops: flags.Ops = None,
    duration: flags.Duration = None,
    seed: flags.Seed = 1,
    workload: flags.Workload = WorkloadKind.RANDOM,
    install_failure_rate: flags.InstallFailureRate = None,
    install_failure: flags.InstallFailure = None,
    preemption_rate: flags.PreemptionRate = 0.1,
    readahead: flags.Readahead = ReadaheadMode.NONE,
    zeromap: flags.Zeromap = False,
    swapoff: flags.Swapoff = False,
    require_generation: flags.RequireGeneration = False,
    fault: flags.Fault = None,
    give_up: flags.GiveUp = None,
    zswap_max: flags.ZswapMax = None,
    zswap_writeback: flags.ZswapWriteback = True,
    pool_limit: flags.PoolLimit = None,
    device: flags.Device = None,
    durability: flags.Durability = None,
    tls_ca: flags.TlsCa = None,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    token_file: flags.TokenFile = None,
    corpus: flags.Corpus = None,
    json_file: flags.JsonFile = None,
    metrics: flags.Metrics = None,
    name: flags.Name = config.DEFAULT_NAME,
) -> None:
    """Run each policy on the same accesses, page contents and injected failures, and say what it did to the data."""
    with _refusing():
        settings = RaceSettings(
            policies=flag_values.choose_policies(policy, era),
            target=target and flag_values.parse_target(target),
            name=name,
            servers=servers,
            hosts=hosts,
            processes=processes,
            threads=threads,
            pages=pages,
            resident=resident,
            ops=config.DEFAULT_OPS if ops is None and duration is None else ops,
            duration_seconds=duration,
            seed=seed,
            install_failure_rate=flag_values.lock_contended_rate(install_failure_rate, install_failure or ()),
            install_failures=flag_values.parse_install_failures(install_failure or ()),
            workload=flag_values.choose("--workload", workload, WorkloadKind),
            readahead=flag_values.choose("--readahead", readahead, ReadaheadMode),
            zeromap=zeromap,
            swapoff=swapoff,
            preemption_rate=preemption_rate,
            corpus=corpus,
            require_generation=require_generation,
            faults=flag_values.parse_faults(fault),
            give_up_seconds=give_up,
            area_options=flag_values.area_options(zswap_max, writeback=zswap_writeback),
            server_flags=ServerFlags(pool_limit, device, durability),
            security=flag_values.security(tls_ca, tls_cert, tls_key, token_file),
        )
    _race(settings, json_file, metrics, repeat_command(context))


def _race(settings: RaceSettings, json_file: Path | None, metrics: str | None, repeat: str) -> NoReturn:
    """Check what is outside the settings, race, publish, and exit; *repeat* is the command that does it again."""
    with _refusing():
        files = corpus_files(settings.corpus)
        read_corpus(files)
        config.check_writable(json_file)
        if settings.server_flags:
            settings.server_flags.check()
        latest = LatestReports.of(settings)
        if metrics is not None:
            metrics = serve(
                flag_values.parse_endpoint("--metrics", metrics, unix=False), RaceCollector(settings, latest)
            )
    configure_logging()
    try:
        with Watcher(settings, latest, metrics) as watcher:
            outcome = asyncio.run(run_race(settings, files, watcher))
    except ServerNotStarted as problem:
        _fail(str(problem), report.STATUS_UNREACHABLE)
    status = _publish(settings, outcome, json_file, repeat)
    if outcome.defect:
        _fail(f"{outcome.defect}. The same again: {repeat}", report.STATUS_DEFECT)
    raise typer.Exit(status)


app.command(
    epilog="Exit status: 0 every cell is as its policy's specification says; 1 one is not; 2 wrong usage; "
    "3 the tier of --replay is unreachable, or it refused; 130 interrupted, what was covered is printed."
)(explore)
app.command(epilog=specification_cli.EPILOG)(specification_cli.specification)
app.command(epilog=budget_cli.EPILOG)(budget_cli.budget)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """End with one line and status 2 if what the block looks at cannot be used."""
    try:
        yield
    except (UsageProblem, FlagsRefused, CorpusUnreadable, MetricsPortTaken) as problem:
        _fail(str(problem), report.STATUS_USAGE)


def _fail(message: str, status: int) -> NoReturn:
    """Say what is wrong on standard error and exit."""
    typer.echo(f"{PROGRAM}: {message}", err=True)
    raise typer.Exit(status)


def _publish(settings: RaceSettings, outcome: RaceOutcome, json_file: Path | None, repeat: str) -> int:
    """Print the result, write the JSON document, and return the exit status."""
    summaries = outcome.runs
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    console = Console(width=width, highlight=False, markup=False)
    console.print(_headline(settings), soft_wrap=True)
    for table in tables(summaries, console.width):
        console.print(table)
    for summary in summaries:
        for line in (
            _fates(summary),
            _words(summary),
            _hazards(summary),
            _outages(summary),
            report.why_out_of_memory(settings, summary),
        ):
            if line:
                console.print(line, soft_wrap=True)
    if missing := report.not_raced(settings, summaries):
        console.print(f"not raced to a result, because the race ended before: {', '.join(missing)}", soft_wrap=True)
    console.print(closing_sentence(summaries, repeat), soft_wrap=True)
    if json_file is not None:
        json_file.write_text(json.dumps(report.document(settings, summaries), indent=2) + "\n")
    status = report.exit_status(summaries)
    if outcome.signal is not None and status != report.STATUS_SAFE_POLICY_FAILED:
        return 128 + outcome.signal
    return status


def _headline(settings: RaceSettings) -> str:
    """Return what was raced, with the seed that repeats it."""
    amount = f"{settings.ops} accesses" if settings.ops is not None else f"{settings.duration_seconds:g} s"
    return (
        f"seed {settings.seed}: {amount} per policy on {settings.hosts} hosts x {settings.processes} processes x "
        f"{settings.threads} threads, {settings.pages} pages a host, {settings.resident} resident, "
        f"{settings.install_failure_rate + sum(settings.install_failures.values()):.1%} of installs made to fail"
        f"{'' if settings.workload is WorkloadKind.RANDOM else f', workload {settings.workload}'}"
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
    """Return what went wrong on purpose and which hazard took each page; empty where nothing was to go wrong."""
    if not summary.injected:
        return ""
    done = ", ".join(f"{count:,} x {fault}" for fault, count in sorted(summary.injected.items()))
    took = ", ".join(f"{count:,} {hazard}" for hazard, count in summary.lost_to.items() if count)
    lost = sum(summary.lost_to.values())
    line = f"{summary.policy}: {done}; {f'{lost:,} pages lost: {took}' if lost else 'no page lost'}"
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
