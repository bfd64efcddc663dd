"""The command `swaptier-loadgen explore`: asks every cell of policies x worlds, and says what came of it.

Touches the terminal, files, and worker processes: a cell is searched by one process, as many at a time as there are
CPUs. Results go to standard output, progress to standard error. Ctrl-C ends every search and prints what was covered.
"""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.output import check_writable, console, say, write_json
from swaptier_loadgen.cli.parameters import JsonFile, Policies, TierAddress, names_of
from swaptier_loadgen.cli.statuses import (
    STATUS_AS_SPECIFIED,
    STATUS_INTERRUPTED,
    STATUS_NOT_AS_SPECIFIED,
    STATUS_UNREACHABLE,
    Refusal,
)
from swaptier_loadgen.explore.cell import Cell, Question, ask
from swaptier_loadgen.explore.failures import Failure
from swaptier_loadgen.explore.search import Bound
from swaptier_loadgen.explore.search import Progress as SearchProgress
from swaptier_loadgen.explore.transcript import KNOWN_BUGS, TABLE_COLUMNS, file_name, matrix, transcript
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.host.settings import RESULTS, RUN, TIERS, flag, switch

GOLDEN_FOLDER = Path("tests/golden")

INTERRUPTED_SECONDS_MAX = 5.0
"""How long to wait, after Ctrl-C, for what the searches covered: each tells it within one replay."""

BOUND_MAX = 16
"""Of each size: far beyond what can be searched, so that a slip of the finger is refused."""

BOUNDS = Group.create_ordered("Bounds, else the world's own")

EPILOGUE = """Exit status: 0 every cell is as its policy's specification says; 1 one is not; 2 wrong usage; 3 the tier \
of --replay is unreachable, or it refused; 130 interrupted, what was covered is printed.

Examples:

  swaptier-loadgen explore --world lost-reply --policy claim
  swaptier-loadgen explore --matrix --json matrix.json"""


class SearchSettings(BaseModel):
    """What limits the search of each world; None leaves it to the world, or unlimited."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threads: Annotated[int | None, flag(BOUNDS, "Faulting threads."), Field(ge=1, le=BOUND_MAX)] = None
    processes: Annotated[int | None, flag(BOUNDS, "Processes that share pages by fork."), Field(ge=1, le=BOUND_MAX)] = (
        None
    )
    slots: Annotated[int | None, flag(BOUNDS, "Slots of a swap device."), Field(ge=1, le=BOUND_MAX)] = None
    swap_outs: Annotated[int | None, flag(BOUNDS, "Passes of reclaim."), Field(ge=0, le=BOUND_MAX)] = None
    install_failures: Annotated[int | None, flag(BOUNDS, "Installs that may fail."), Field(ge=0, le=BOUND_MAX)] = None
    lost_replies: Annotated[int | None, flag(BOUNDS, "Replies that may be lost."), Field(ge=0, le=BOUND_MAX)] = None
    preemptions: Annotated[
        int | None, flag(BOUNDS, "Most switches away from a task that can go on."), Field(ge=0, le=BOUND_MAX)
    ] = None
    seconds: Annotated[
        float | None,
        flag(BOUNDS, "Give up on a cell after so many seconds; else it is searched to its end."),
        Field(gt=0),
    ] = None
    seed: Annotated[int | None, flag(BOUNDS, "Walk at random from this seed; do not search.")] = None

    def question(self, policy: str, world: str) -> Question:
        """Return what to ask of *policy* in *world*."""
        sizes = self.model_dump(exclude={"preemptions", "seconds", "seed"}, exclude_none=True)
        bounds = replace(WORLDS[world].bounds, **sizes)
        return Question(policy, world, bounds, self.preemptions, self.seconds or math.inf, self.seed)


NO_LIMITS = SearchSettings()


def explore(
    *,
    world: Annotated[
        tuple[str, ...],
        flag(RUN, f"Worlds, separated by commas, or all: {', '.join(WORLDS)}.", metavar="NAMES"),
        names_of(WORLDS),
    ] = tuple(WORLDS),
    policy: Policies = tuple(POLICIES),
    settings: Annotated[SearchSettings, Parameter(name="*")] = NO_LIMITS,
    json_file: JsonFile = None,
    show_matrix: Annotated[bool, switch(RESULTS, "Print policies x worlds as a markdown table.", "--matrix")] = False,
    golden: Annotated[bool, switch(RESULTS, "Bring the transcripts of known bugs up to date.")] = False,
    golden_folder: Annotated[Path, flag(RESULTS, "Where those are.")] = GOLDEN_FOLDER,
    replay: Annotated[Path | None, flag(TIERS, "Replay the counterexamples of a --json file over gRPC.")] = None,
    target: Annotated[
        TierAddress | None,
        flag(TIERS, "Tier to replay against, HOST:PORT or unix:PATH.", metavar="ADDRESS"),
    ] = None,
) -> int:
    """Run every schedule of a small world: none loses a page within these bounds, or this is the shortest that does."""
    if replay is not None:
        return _replay(replay, target)
    if target is not None:
        raise Refusal("--target is where --replay goes; without --replay everything runs in this process")
    check_writable(json_file)
    questions = [
        settings.question(one, other) for other in world for one in policy if not golden or (one, other) in KNOWN_BUGS
    ]
    out = console()
    cells: dict[tuple[str, str], Cell] = {}
    for cell in _ask_all(questions):
        cells[cell.question.policy, cell.question.world] = cell
        if not show_matrix and not golden:
            _print_cell(out, cell)
    if show_matrix:
        out.print(matrix(cells, list(policy), list(world)), soft_wrap=True)
    write_json(json_file, {"results": [cell.as_json() for cell in cells.values()]})
    changed = _update_golden(cells, golden_folder) if golden else []
    for path in changed:
        out.print(f"changed: {path}", soft_wrap=True)
    return _close(cells, len(questions), has_changed=bool(changed))


class _Where:
    """Shows where the searches are: a line on standard error, on a terminal only."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
            redirect_stdout=False,
        )
        self._line: TaskID = self._progress.add_task("")

    def show(self, text: str) -> None:
        """Write *text* in place of what was there."""
        self._progress.start()
        self._progress.update(self._line, description=text)

    def clear(self) -> None:
        """Take the line away: results are printed."""
        self._progress.stop()


def _ask_all(questions: list[Question]) -> Iterator[Cell]:
    """Yield the answers in the order of the questions; after Ctrl-C only what was covered."""
    where = _Where()
    if len(questions) == 1:
        what = f"{questions[0].policy} in {questions[0].world}"

        def report(progress: SearchProgress) -> None:
            rate = progress.states / progress.seconds if progress.seconds else 0
            where.show(f"{what}: {progress.states} states, depth {progress.depth}, {rate:.0f} states/s")

        cell = ask(questions[0], now=time.monotonic, report=report)
        where.clear()
        yield cell
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(min(len(questions), os.cpu_count() or 1), mp_context=context) as workers:
        futures = [workers.submit(_ask_in_worker, question) for question in questions]
        answered = 0
        try:
            for number, future in enumerate(futures, 1):
                where.show(
                    f"{answered} of {len(futures)} cells; {questions[answered].policy} in {questions[answered].world}"
                )
                cell = future.result()
                answered = number
                where.clear()
                yield cell
        except KeyboardInterrupt:
            where.clear()
            begun = [future for future in futures[answered:] if not future.cancel()]
            for future in wait(begun, timeout=INTERRUPTED_SECONDS_MAX).done:
                if future.exception() is None:
                    yield future.result()


def _ask_in_worker(question: Question) -> Cell:
    """Answer in a process of its own; Ctrl-C reaches it as well, and ends the search with what was covered."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return ask(question, now=time.monotonic)


def _print_cell(out: Console, cell: Cell) -> None:
    question, result = cell.question, cell.result
    mark = "" if cell.is_as_expected else "   NOT AS SPECIFIED"
    spent = f"{result.schedules} schedules, {result.seconds:.2f} s"
    lines = [f"{question.world}, {question.policy}: {cell.verdict}, {spent}{mark}"]
    if cell.violation is not None:
        columns = max(shutil.get_terminal_size((TABLE_COLUMNS, 0)).columns, TABLE_COLUMNS)
        lines += ["", transcript(cell, columns=columns)]
    elif result.bound is not None:
        lines.append(f"  cut off by: {result.bound}. Nothing was found in what was covered; nothing is proved")
    elif question.preemptions is None:
        nothing = "none"
        if result.has_told:
            nothing = "in some schedules a process is told that its page is gone; none is given other bytes"
        lines.append(f"  {nothing}, exhaustively, within: {_bounds(question)}")
    for line in lines:
        out.print(line, soft_wrap=True)


def _bounds(question: Question) -> str:
    """Return the bounds of a world, and how often its server dies if it does."""
    bounds = {name.replace("_", " "): value for name, value in asdict(question.bounds).items()}
    world = question.build()
    # It dies of a request as often as the budget says, and between requests when its own task runs.
    if deaths := world.failures.left[Failure.DEATH]:
        bounds["server deaths"] = deaths + sum(task.name == "server" for task in world.tasks)
    return ", ".join(f"{name} {value}" for name, value in bounds.items())


def _update_golden(cells: dict[tuple[str, str], Cell], folder: Path) -> list[Path]:
    """Write the transcripts that changed and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for cell in cells.values():
        path = folder / file_name(cell)
        text = transcript(cell, columns=TABLE_COLUMNS, with_lines=False)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    return changed


def _close(cells: dict[tuple[str, str], Cell], asked: int, *, has_changed: bool) -> int:
    """Say what does not agree with the specification, and return the exit status."""
    wrong = [cell for cell in cells.values() if not cell.is_as_expected]
    for cell in wrong:
        where = f"{cell.question.policy} in {cell.question.world}"
        say(f"not as specified: {where} {cell.verdict}, expected: {cell.expected}")
    if wrong or has_changed:
        return STATUS_NOT_AS_SPECIFIED
    if len(cells) < asked or any(cell.result.bound is Bound.INTERRUPTED for cell in cells.values()):
        say(f"interrupted: {len(cells)} of {asked} cells were asked")
        return STATUS_INTERRUPTED
    return STATUS_AS_SPECIFIED


def _replay(path: Path, target: str | None) -> int:
    from swaptier_loadgen.explore.replay import NotReplayable, TierNotAsked, replay_file

    if target is None:
        raise Refusal("--replay needs --target HOST:PORT or unix:PATH: the tier to replay against")
    say(f"replaying against the tier at {target}")
    try:
        lines, is_same = replay_file(path, target)
    except NotReplayable as problem:
        raise Refusal(str(problem)) from None
    except TierNotAsked as problem:
        raise Refusal(str(problem), STATUS_UNREACHABLE) from None
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)
    return STATUS_AS_SPECIFIED if is_same else STATUS_NOT_AS_SPECIFIED
