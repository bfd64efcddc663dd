"""The command `swaptier-loadgen explore`: asks every cell of policies x worlds, and says what came of it.

Touches the terminal and files. Several cells are searched by processes of their own. Results go to standard output,
progress to standard error. A signal ends every search, and what was covered is printed.
"""

import contextlib
import itertools
import math
import shutil
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.output import console, say
from swaptier_loadgen.cli.parameters import JsonFile, Policies, TierAddress, names_of
from swaptier_loadgen.cli.result_file import check_writable, write_json, write_whole
from swaptier_loadgen.cli.search_processes import ask_in_processes
from swaptier_loadgen.cli.statuses import ACCIDENTS, Refusal, worst
from swaptier_loadgen.explore.cell import BOUND_MAX, Cell, Question, ask
from swaptier_loadgen.explore.failures import Failure
from swaptier_loadgen.explore.search import Bound
from swaptier_loadgen.explore.search import Progress as SearchProgress
from swaptier_loadgen.explore.transcript import KNOWN_BUGS, TABLE_COLUMNS, file_name, matrix, transcript
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.host.settings import RESULTS, RUN, TIERS, flag, switch
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.process.standard_streams import output_failure

GOLDEN_FOLDER = Path("tests/golden")

BOUNDS = Group.create_ordered("Bounds, else the world's own")

EPILOGUE = f"""Exit status: 0 every cell is as its policy's specification says; 1 one is not; 2 wrong usage; 3 the \
tier of --replay is unreachable, or it refused; 7 a search was cut off by a bound and proves nothing; {ACCIDENTS}.

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
    out = console(json_file)
    cells: dict[tuple[str, str], Cell] = {}
    statuses: list[int] = []
    SIGNALS.has_begun = True
    try:
        with contextlib.closing(_ask_all(questions)) as answers:
            for cell in answers:
                cells[cell.question.policy, cell.question.world] = cell
                if not show_matrix and not golden:
                    _print_cell(out, cell)
                if json_file is None and output_failure() is not None:  # nobody would see the rest
                    break
    except Refusal as failure:
        say(str(failure))
        statuses.append(failure.status)
    statuses.append(write_json(json_file, {"results": [cell.as_json() for cell in cells.values()]}))
    if show_matrix:
        out.print(matrix(cells, list(policy), list(world)), soft_wrap=True)
    if golden:
        statuses.append(_update_golden(out, cells, golden_folder))
    return worst([*statuses, _close(cells, len(questions))])


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


def _ask_all(questions: list[Question]) -> Generator[Cell, None, None]:
    """Yield the answers in the order of the questions; after a signal only what was covered.

    Raises:
        Refusal: a search process ended, or could not be started.
    """
    where = _Where()
    if len(questions) != 1:
        answered = itertools.count()
        for cell in ask_in_processes(
            questions,
            lambda question: where.show(
                f"{next(answered)} of {len(questions)} cells; {question.policy} in {question.world}"
            ),
        ):
            where.clear()
            yield cell
        where.clear()
        return
    what = f"{questions[0].policy} in {questions[0].world}"

    def report(progress: SearchProgress) -> None:
        rate = progress.states / progress.seconds if progress.seconds else 0
        where.show(f"{what}: {progress.states} states, depth {progress.depth}, {rate:.0f} states/s")

    try:
        with SIGNALS.looked_for():
            cell = ask(questions[0], now=time.monotonic, report=report, is_asked_to_end=SIGNALS.is_asked_to_end)
    finally:
        where.clear()
    yield cell


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


def _update_golden(out: Console, cells: Mapping[tuple[str, str], Cell], folder: Path) -> int:
    """Write the transcripts that changed, and name them; return the exit status."""
    status = ExitStatus.AS_SPECIFIED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for cell in cells.values():
            path = folder / file_name(cell)
            text = transcript(cell, columns=TABLE_COLUMNS, with_lines=False)
            if not path.exists() or path.read_text() != text:
                write_whole(path, text.encode())
                out.print(f"changed: {path}", soft_wrap=True)
                status = ExitStatus.VERDICT
    except OSError as error:
        say(f"--golden-folder {folder} could not be written: {error.strerror}")
        return ExitStatus.NOT_WRITTEN
    return status


def _close(cells: Mapping[tuple[str, str], Cell], asked: int) -> int:
    """Say what does not agree with the specification, and return the exit status."""
    wrong = [cell for cell in cells.values() if not cell.is_as_expected]
    for cell in wrong:
        where = f"{cell.question.policy} in {cell.question.world}"
        say(f"not as specified: {where} {cell.verdict}, expected: {cell.expected}")
    is_interrupted = any(cell.result.bound is Bound.INTERRUPTED for cell in cells.values())
    if SIGNALS.received is not None and (len(cells) < asked or is_interrupted):
        say(f"interrupted: {len(cells)} of {asked} cells were asked")
    if wrong:
        return ExitStatus.VERDICT
    is_cut_off = any(cell.violation is None and cell.result.bound is not None for cell in cells.values())
    return ExitStatus.CUT_OFF if is_cut_off else ExitStatus.AS_SPECIFIED


def _replay(path: Path, target: str | None) -> int:
    from swaptier_loadgen.explore.replay import NotReplayable, TierNotAsked, read_results, replay_results

    if target is None:
        raise Refusal("--replay needs --target HOST:PORT or unix:PATH: the tier to replay against")
    try:
        results = read_results(path)
    except NotReplayable as problem:
        raise Refusal(f"--replay {problem}") from None
    say(f"replaying against the tier at {target}")
    SIGNALS.has_begun = True
    out = console(None)
    is_same = True
    try:
        with SIGNALS.looked_for():
            for line, is_one_same in replay_results(results, target, _end_if_asked):
                out.print(line, soft_wrap=True)
                is_same = is_same and is_one_same
    except KeyboardInterrupt:
        say("interrupted: not all counterexamples were replayed")
    except TierNotAsked as problem:
        raise Refusal(str(problem), ExitStatus.UNREACHABLE) from None
    return ExitStatus.AS_SPECIFIED if is_same else ExitStatus.VERDICT


def _end_if_asked() -> None:
    if SIGNALS.is_asked_to_end():
        raise KeyboardInterrupt
