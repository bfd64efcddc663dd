"""The command `swaptier-loadgen explore`: asks every cell of policies x worlds, and says what came of it.

Touches the terminal, files, and worker processes: a cell is searched by one process, as many at a time as there are
CPUs. Results go to standard output, progress to standard error. Ctrl-C ends every search and prints what was covered.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.flag_values import parse_endpoint
from swaptier_loadgen.explore.cell import Cell, Question, ask, interrupted
from swaptier_loadgen.explore.failures import Failure
from swaptier_loadgen.explore.search import Progress
from swaptier_loadgen.explore.transcript import KNOWN_BUGS, TABLE_COLUMNS, file_name, matrix, transcript
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.race.report import (
    STATUS_AS_SPECIFIED,
    STATUS_INTERRUPTED,
    STATUS_UNREACHABLE,
    STATUS_USAGE,
)
from swaptier_loadgen.race.report import (
    STATUS_SAFE_POLICY_FAILED as STATUS_NOT_AS_SPECIFIED,
)
from swaptier_loadgen.race.settings import UsageProblem, did_you_mean

GOLDEN_FOLDER = Path("tests/golden")
GOLDEN_COLUMNS = TABLE_COLUMNS
LINE_CLEAR = "\r\x1b[K"

INTERRUPTED_SECONDS_MAX = 5.0
"""How long to wait, after Ctrl-C, for what the searches covered: each tells it within one replay."""

BOUND_MAX = 16
"""Of each size: far beyond what can be searched, so that a slip of the finger is refused."""


def explore(
    world: Annotated[str, typer.Option(help=f"Worlds, separated by commas, or all: {', '.join(WORLDS)}.")] = "all",
    policy: Annotated[str, typer.Option(help=f"Policies, separated by commas, or all: {', '.join(POLICIES)}.")] = "all",
    threads: Annotated[int | None, typer.Option(help="Faulting threads. Default: the world's.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes that share pages by fork.")] = None,
    slots: Annotated[int | None, typer.Option(help="Slots of a swap device.")] = None,
    swap_outs: Annotated[int | None, typer.Option(help="Passes of reclaim.")] = None,
    install_failures: Annotated[int | None, typer.Option(help="Installs that may fail.")] = None,
    lost_replies: Annotated[int | None, typer.Option(help="Replies that may be lost.")] = None,
    preemptions: Annotated[int | None, typer.Option(help="Most switches away from a task that can go on.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Give up on a cell after so many seconds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Walk at random from this seed; do not search.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
    show_matrix: Annotated[bool, typer.Option("--matrix", help="Print policies x worlds as a markdown table.")] = False,
    golden: Annotated[bool, typer.Option("--golden", help="Bring the transcripts of known bugs up to date.")] = False,
    golden_folder: Annotated[Path, typer.Option(help="Where those are.")] = GOLDEN_FOLDER,
    replay: Annotated[Path | None, typer.Option(help="Replay the counterexamples of a --json file over gRPC.")] = None,
    target: Annotated[str | None, typer.Option(help="Tier to replay against, HOST:PORT or unix:PATH.")] = None,
) -> None:
    """Run every schedule of a small world: none loses a page within these bounds, or this is the shortest that does."""
    if replay is not None:
        _replay(replay, target)
    if target is not None:
        _fail("--target is where --replay goes; without --replay everything runs in this process")
    sizes = {
        "threads": threads,
        "processes": processes,
        "slots": slots,
        "swap_outs": swap_outs,
        "install_failures": install_failures,
        "lost_replies": lost_replies,
    }
    given = {name: value for name, value in sizes.items() if value is not None}
    _check_sizes({**given, "preemptions": preemptions or 0})
    policies, worlds = _names("--policy", policy, POLICIES), _names("--world", world, WORLDS)
    questions = [
        Question(one, other, replace(WORLDS[other].bounds, **given), preemptions, seconds or math.inf, seed)
        for other in worlds
        for one in policies
        if not golden or (one, other) in KNOWN_BUGS
    ]
    if seconds is not None and not seconds > 0:
        _fail(f"--seconds {seconds:g} is not above 0; without --seconds a cell is searched to its end")
    if json_file is not None and json_file.is_dir():
        _fail(f"--json {json_file} is a folder, not a file")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        _fail(f"--json {json_file} cannot be written: no such folder")
    cells: dict[tuple[str, str], Cell] = {}
    for cell in _ask_all(questions):
        cells[cell.question.policy, cell.question.world] = cell
        if not show_matrix and not golden:
            _print_cell(cell)
    if show_matrix:
        typer.echo(matrix(cells, policies, worlds))
    if json_file is not None:
        document = {"results": [cell.as_json() for cell in cells.values()]}
        json_file.write_text(json.dumps(document, indent=2) + "\n")
    changed = _update_golden(cells, golden_folder) if golden else False
    _close(cells, len(questions), changed=changed)


def _ask_all(questions: list[Question]) -> Iterator[Cell]:
    """Yield the answers in the order of the questions; after Ctrl-C only what was covered."""
    if len(questions) == 1:
        yield ask(questions[0], now=time.monotonic, report=_progress_line(questions[0]))
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(min(len(questions), os.cpu_count() or 1), mp_context=context) as workers:
        futures = [workers.submit(_ask_in_worker, question) for question in questions]
        told = 0
        try:
            for number, future in enumerate(futures, 1):
                cell = future.result()
                told = number
                if sys.stderr.isatty():
                    sys.stderr.write(
                        f"{LINE_CLEAR}{number} of {len(futures)} cells; {cell.question.policy} in {cell.question.world}"
                        f": {cell.states} states, depth {cell.depth}{LINE_CLEAR if number == len(futures) else ''}"
                    )
                    sys.stderr.flush()
                yield cell
        except KeyboardInterrupt:
            begun = [future for future in futures[told:] if not future.cancel()]
            for future in wait(begun, timeout=INTERRUPTED_SECONDS_MAX).done:
                if future.exception() is None:
                    yield future.result()


def _ask_in_worker(question: Question) -> Cell:
    """Answer in a process of its own; Ctrl-C reaches it as well, and ends the search with what was covered."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return ask(question, now=time.monotonic)


class _progress_line:  # noqa: N801  used as a function
    """Writes where a search is, on a terminal only."""

    def __init__(self, question: Question) -> None:
        self._what = f"{question.policy} in {question.world}"
        self._is_shown = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Write it over the last one."""
        if self._is_shown:
            rate = progress.states / progress.seconds if progress.seconds else 0
            sys.stderr.write(
                f"{LINE_CLEAR}{self._what}: {progress.states} states, depth {progress.depth}, {rate:.0f} states/s\r"
            )
            sys.stderr.flush()


def _print_cell(cell: Cell) -> None:
    question = cell.question
    mark = "" if cell.is_as_expected else "   NOT AS SPECIFIED"
    typer.echo(
        f"{question.world}, {question.policy}: {cell.verdict}, {cell.schedules} schedules, {cell.seconds:.2f} s{mark}"
    )
    if cell.is_lost:
        columns = max(shutil.get_terminal_size((TABLE_COLUMNS, 0)).columns, TABLE_COLUMNS)
        typer.echo()
        typer.echo(transcript(cell, columns=columns))
    elif cell.bound is not None:
        typer.echo(f"  cut off by: {cell.bound}. Nothing was found in what was covered; nothing is proved")
    elif question.preemptions is None:
        nothing = "none"
        if cell.has_told:
            nothing = "in some schedules a process is told that its page is gone; none is given other bytes"
        typer.echo(f"  {nothing}, exhaustively, within: {_bounds(question)}")


def _bounds(question: Question) -> str:
    """Return the bounds of a world, and how often its server dies if it does."""
    bounds = {name.replace("_", " "): value for name, value in asdict(question.bounds).items()}
    world = question.build()
    # It dies of a request as often as the budget says, and between requests when its own task runs.
    if deaths := world.failures.left[Failure.DEATH]:
        bounds["server deaths"] = deaths + sum(task.name == "server" for task in world.tasks)
    return ", ".join(f"{name} {value}" for name, value in bounds.items())


def _update_golden(cells: dict[tuple[str, str], Cell], folder: Path) -> bool:
    """Write the transcripts that changed, name them, and tell whether there were any."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = False
    for cell in cells.values():
        path = folder / file_name(cell)
        text = transcript(cell, columns=GOLDEN_COLUMNS, with_lines=False)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            typer.echo(f"changed: {path}")
            changed = True
    return changed


def _close(cells: dict[tuple[str, str], Cell], asked: int, *, changed: bool) -> NoReturn:
    """Say what does not agree with the specification, and exit."""
    wrong = [cell for cell in cells.values() if not cell.is_as_expected]
    for cell in wrong:
        where = f"{cell.question.policy} in {cell.question.world}"
        typer.echo(f"not as specified: {where} {cell.verdict}, expected: {cell.expected}", err=True)
    if wrong or changed:
        raise typer.Exit(STATUS_NOT_AS_SPECIFIED)
    if len(cells) < asked or any(interrupted(cell) for cell in cells.values()):
        typer.echo(f"interrupted: {len(cells)} of {asked} cells were asked", err=True)
        raise typer.Exit(STATUS_INTERRUPTED)
    raise typer.Exit(STATUS_AS_SPECIFIED)


def _replay(path: Path, target: str | None) -> NoReturn:
    from swaptier_loadgen.explore.replay import NotReplayable, TierNotAsked, replay_file

    if target is None:
        _fail("--replay needs --target HOST:PORT or unix:PATH: the tier to replay against")
    try:
        parse_endpoint("--target", target, unix=True)
        typer.echo(f"replaying against the tier at {target}", err=True)
        lines, is_same = replay_file(path, target)
    except (NotReplayable, UsageProblem) as problem:
        _fail(str(problem))
    except TierNotAsked as problem:
        _fail(str(problem), STATUS_UNREACHABLE)
    for line in lines:
        typer.echo(line)
    raise typer.Exit(STATUS_AS_SPECIFIED if is_same else STATUS_NOT_AS_SPECIFIED)


def _check_sizes(sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        least = 1 if name in ("threads", "processes", "slots") else 0
        if not least <= value <= BOUND_MAX:
            _fail(f"--{name.replace('_', '-')} {value} is not within {least} and {BOUND_MAX}")


def _names(option: str, given: str, known: Mapping[str, object]) -> list[str]:
    if given == "all":
        return list(known)
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            _fail(f"{option} {name!r} is not known{did_you_mean(name, known)} Choose from: all, {', '.join(known)}")
    return list(dict.fromkeys(names))


def _fail(message: str, status: int = STATUS_USAGE) -> NoReturn:
    typer.echo(f"swaptier-loadgen: {message}", err=True)
    raise typer.Exit(status)
