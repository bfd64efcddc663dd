"""The command line: `swaptier-loadgen race`. Results go to standard output, progress and logs to standard error.

Touches the terminal and the result file. Everything that can be refused is refused before anything is started, with one
line that says what is wrong and status 2. The statuses are in `report.py` and in `race --help`.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen import config, report
from swaptier_loadgen.conduct import Conducted, conduct
from swaptier_loadgen.config import RaceSettings, UsageProblem
from swaptier_loadgen.corpus import CorpusUnreadable, corpus_files, read_corpus
from swaptier_loadgen.explore_cli import explore
from swaptier_loadgen.metrics import LatestReports, MetricsPortTaken, RaceCollector, serve
from swaptier_loadgen.oracle import Fate
from swaptier_loadgen.progress import Watcher, configure_logging
from swaptier_loadgen.report import RunSummary, summarise
from swaptier_loadgen.server_process import ServerNotStarted
from swaptier_loadgen.table import tables

PROGRAM = "swaptier-loadgen"

PIPE_COLUMNS = 120
"""Width of the result where there is no terminal to ask and COLUMNS says nothing."""

app = typer.Typer(
    name=PROGRAM,
    help="Races emulated hosts against a remote swap tier and checks every byte of every page.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it prints local variables, and those hold pages
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SWAPTIER_LOADGEN"},
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


@app.command(
    epilog="Exit status: 0 every policy did what its specification says; 1 a safe policy lost or corrupted a page; "
    "2 wrong usage; 3 tier unreachable; 130 interrupted, the report covers what ran."
)
def race(
    policy: Annotated[
        str, typer.Option(help=f"Policies to race, separated by commas, or all: {', '.join(POLICIES)}.")
    ] = "all",
    target: Annotated[
        str | None, typer.Option(help="Tier to race against, HOST:PORT or unix:PATH. Without it, starts its own.")
    ] = None,
    hosts: Annotated[int, typer.Option(help="Emulated hosts, an OS process each.")] = 2,
    processes: Annotated[int, typer.Option(help="Emulated processes of each host.")] = 2,
    threads: Annotated[int, typer.Option(help="Emulated threads of each process.")] = 8,
    pages: Annotated[int, typer.Option(help="Pages of each host, shared evenly by its processes.")] = 512,
    resident: Annotated[int, typer.Option(help="Pages each host may hold uncompressed.")] = 96,
    ops: Annotated[int | None, typer.Option(help="Accesses per policy, all threads together. [default: 30000]")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds per policy, instead of --ops.")] = None,
    seed: Annotated[int, typer.Option(help="Of accesses, page contents, injected failures and preemptions.")] = 1,
    install_failure_rate: Annotated[
        float, typer.Option(help="Share of pages read whose mapping is made to fail once.")
    ] = 0.02,
    preemption_rate: Annotated[
        float, typer.Option(help="Share of unlocked points of a fault at which another thread gets the CPU.")
    ] = 0.1,
    corpus: Annotated[
        Path | None,
        typer.Option(help="File or folder to take page contents from. Without it, the interpreter and its libraries."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Serve Prometheus metrics at HOST:PORT while racing.")] = None,
    name: Annotated[
        str, typer.Option(help="Name of this race on a shared tier; the same name takes an older race's areas over.")
    ] = config.DEFAULT_NAME,
) -> None:
    """Run each policy on the same accesses, page contents and injected failures, and say what it did to the data."""
    try:
        settings = RaceSettings(
            policies=config.parse_policies(policy),
            target=target and config.parse_endpoint("--target", target, unix=True),
            name=name,
            hosts=hosts,
            processes=processes,
            threads=threads,
            pages=pages,
            resident=resident,
            ops=config.DEFAULT_OPS if ops is None and duration is None else ops,
            duration_seconds=duration,
            seed=seed,
            install_failure_rate=install_failure_rate,
            preemption_rate=preemption_rate,
            corpus=corpus,
        )
        files = corpus_files(corpus)
        read_corpus(files)
        _check_writable(json_file)
        latest = LatestReports.of(settings)
        if metrics is not None:
            metrics = serve(config.parse_endpoint("--metrics", metrics, unix=False), RaceCollector(settings, latest))
    except (UsageProblem, CorpusUnreadable, MetricsPortTaken) as problem:
        _fail(str(problem), report.STATUS_USAGE)
    configure_logging()
    try:
        with Watcher(settings, latest, metrics) as watcher:
            conducted = asyncio.run(conduct(settings, files, watcher))
    except ServerNotStarted as problem:
        _fail(str(problem), report.STATUS_UNREACHABLE)
    status = _publish(settings, conducted, json_file)
    if conducted.defect:
        _fail(conducted.defect, report.STATUS_DEFECT)
    raise typer.Exit(status)


app.command(
    epilog="Exit status: 0 every cell is as its policy's specification says; 1 one is not; 2 wrong usage; "
    "130 interrupted, what was covered is printed."
)(explore)


def _fail(message: str, status: int) -> NoReturn:
    """Say what is wrong on standard error and exit."""
    typer.echo(f"{PROGRAM}: {message}", err=True)
    raise typer.Exit(status)


def _check_writable(path: Path | None) -> None:
    """Refuse a result file that could not be written at the end.

    Raises:
        UsageProblem: why not.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageProblem(f"--json {path} is a folder, not a file")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageProblem(f"--json {path} cannot be written: no such folder, or no permission")


def _publish(settings: RaceSettings, conducted: Conducted, json_file: Path | None) -> int:
    """Print the result, write the JSON document, and return the exit status."""
    summaries = [summarise(run) for run in conducted.runs]
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    console = Console(width=width, highlight=False, markup=False)
    console.print(_headline(settings), soft_wrap=True)
    for table in tables(summaries, console.width):
        console.print(table)
    for summary in summaries:
        if line := _fates(summary):
            console.print(line, soft_wrap=True)
    console.print(report.closing_sentence(summaries), soft_wrap=True)
    if json_file is not None:
        json_file.write_text(json.dumps(report.document(settings, summaries), indent=2) + "\n")
    status = report.exit_status(summaries)
    if conducted.signal is not None and status != report.STATUS_SAFE_POLICY_FAILED:
        return 128 + conducted.signal
    return status


def _headline(settings: RaceSettings) -> str:
    """Return what was raced, with the seed that repeats it."""
    amount = f"{settings.ops} accesses" if settings.ops is not None else f"{settings.duration_seconds:g} s"
    return (
        f"seed {settings.seed}: {amount} per policy on {settings.hosts} hosts x {settings.processes} processes x "
        f"{settings.threads} threads, {settings.pages} pages a host, {settings.resident} resident, "
        f"{settings.install_failure_rate:.1%} of installs made to fail"
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
