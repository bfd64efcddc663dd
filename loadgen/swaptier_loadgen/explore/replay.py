"""Replays a counterexample over real gRPC: the same order, forced, against a running tier.

Touches the network and a result file. The tasks are those of the explorer and take their steps in the order of the
schedule; each request goes over the host's real stream to the real server, and the next step waits for its reply, so
a step is a barrier. What a decision injects (a lost reply, a repeat, a failed install) is injected the same way.

Beside it runs the explorer's own tier, given the same requests. Every reply of the server must be the one that the tier
gives in process; mm gets the server's bytes, and the oracle must find the same violation at the same step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, ValidationError

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.mm.access import access_page
from swaptier_client.mm.effects import Request, RequestReply
from swaptier_client.mm.errors import PageLost
from swaptier_client.mm.policy import POLICIES
from swaptier_client.transport import TierStream
from swaptier_loadgen.explore.cell import BOUND_MAX, Question
from swaptier_loadgen.explore.pages import page_name
from swaptier_loadgen.explore.search import Transition
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_wire.epochs import new_epoch
from swaptier_wire.errors import SwapTierError
from swaptier_wire.process.small_file import FileUnusable, read_small_file
from swaptier_wire.types import AreaOptions, LoadReply

ONLY_IN_PROCESS = ("writeback-vs-load", "early-lookup", "store-back-rejected", "server-restart", "server-killed")
"""Worlds in which the tier does what no request asks of it: no server can be made to do it in step."""

FILE_BYTES_MAX = 1 << 26
"""Of a --json file: many times what all cells take."""

STEPS_TO_THE_END_MAX = 1_000
"""Steps after the violation: far above what any world's tasks still need."""


class NotReplayable(Exception):
    """The file holds nothing that can be replayed."""


class TierNotAsked(Exception):
    """The tier cannot be reached, or refused. One line; nothing is said about a counterexample."""


class Diverged(Exception):
    """The server answered otherwise than the tier in this process."""


class RemoteTiers:
    """The streams of one replay, on an event loop that runs only while a reply is waited for."""

    def __init__(self, target: str, question: Question) -> None:
        self._target = target
        self._slots = question.bounds.slots
        self._options = AreaOptions(device_free_on_read=POLICIES[question.policy].device_free_on_read)
        self._loop = asyncio.new_event_loop()
        self._streams: dict[str, TierStream] = {}
        self._name = f"replay-{new_epoch()}"

    def perform(self, area: str, request: Request, expected: RequestReply) -> RequestReply:
        """Send *request* for *area*, which is opened on first use, and return the server's reply.

        Raises:
            Diverged: it is not what was *expected*.
        """
        given = self._loop.run_until_complete(self._perform(area, request))
        same = given.outcome is expected.outcome
        if isinstance(given, LoadReply) and isinstance(expected, LoadReply):
            same = same and given.content() == expected.content() and given.generation == expected.generation
        if not same:
            what = type(request).__name__.lower()
            raise Diverged(f"a {what} was answered {given.outcome.name}, in process it is {expected.outcome.name}")
        return given

    async def _perform(self, area: str, request: Request) -> RequestReply:
        stream = self._streams.get(area)
        if stream is None:
            there = HostArea(f"{self._name}-{area}", 1, f"{self._name}-{area}", self._slots, self._options)
            stream = await TierStream(self._target, there, StreamSettings(give_up_seconds=0)).__aenter__()
            self._streams[area] = stream
        return await stream.submit(request)

    def close(self) -> None:
        """Close every area and stream."""
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        for stream in self._streams.values():
            await stream.swapoff()
            await stream.__aexit__(None, None, None)


class ReplayedStep(BaseModel):
    """One step of a counterexample."""

    task: NonNegativeInt
    choices: tuple[NonNegativeInt, ...]


class ReplayedResult(BaseModel):
    """What a result of `explore --json` says of one cell, as far as a replay needs it."""

    policy: Annotated[str, AfterValidator(lambda name: POLICIES[name].name)]
    world: Annotated[str, AfterValidator(lambda name: WORLDS[name].name)]
    bounds: dict[str, Annotated[int, Field(ge=0, le=BOUND_MAX)]]
    kind: str | None
    trace: tuple[ReplayedStep, ...]

    @property
    def question(self) -> Question:
        """What the cell asked."""
        return Question(self.policy, self.world, Bounds(**self.bounds))

    @property
    def schedule(self) -> list[Transition]:
        """The schedule that loses."""
        return [Transition(step.task, step.choices) for step in self.trace]


class ReplayedFile(BaseModel):
    """The file."""

    results: tuple[ReplayedResult, ...]


def read_results(path: Path) -> list[ReplayedResult]:
    """Return the counterexamples of a --json file, which is read once.

    Raises:
        NotReplayable: there are none, or it is no such file.
    """
    try:
        results = ReplayedFile.model_validate_json(read_small_file(path, FILE_BYTES_MAX).content).results
        for result in results:
            Bounds(**result.bounds)
    except FileUnusable as problem:
        raise NotReplayable(str(problem)) from None
    except (ValidationError, KeyError, TypeError):
        raise NotReplayable(f"{path} is not a result of this version's `explore --json`") from None
    lost = [result for result in results if result.trace]
    if not lost:
        raise NotReplayable(f"{path} holds no counterexample; nothing was lost there")
    for result in lost:
        if why := _why_impossible(result):
            raise NotReplayable(f"{path} is not of this version: {why} of {result.policy} in {result.world}")
    return lost


def _why_impossible(result: ReplayedResult) -> str:
    """Return which step of the counterexample its world does not have, by taking them all in this process."""
    try:
        world = result.question.build()
    except (AssertionError, IndexError, ValueError):
        return "it has not the bounds"
    world.start()
    for number, (task, script) in enumerate(result.schedule, 1):
        if task not in world.enabled():
            return f"no step {number}"
        world.choices.begin(script)
        try:
            world.step(task)
            world.check()
        except Violation:
            break
        except IndexError:
            return f"no choice {script} in step {number}"
    return ""


def replay_results(
    results: Sequence[ReplayedResult], target: str, look: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, bool]]:
    """Replay every counterexample; yield what to print of each, and whether it did as it did in process.

    *look* is called before each step; what it raises ends the replay.

    Raises:
        NotReplayable, TierNotAsked: as said.
    """
    for result in results:
        question = result.question
        name = f"{question.policy} in {question.world}"
        if question.world in ONLY_IN_PROCESS:
            yield f"{name}: not replayed, because no request can make a server do what its tier does there", True
            continue
        try:
            with closing(RemoteTiers(target, question)) as remote:
                kind, after = replay_schedule(question, result.schedule, remote, look)
        except Diverged as divergence:
            yield f"{name}: DIVERGED after the schedule began: {divergence}", False
            continue
        except SwapTierError as error:
            raise TierNotAsked(f"the tier at {target} could not be asked: {error}") from error
        is_same = kind == result.kind
        found = kind or "nothing lost"
        steps = len(result.trace)
        yield f"{name}: {found} after {steps} steps over gRPC{'' if is_same else '; NOT as in process'}{after}", is_same


def replay_schedule(
    question: Question, schedule: list[Transition], remote: RemoteTiers, look: Callable[[], None]
) -> tuple[str | None, str]:
    """Force the schedule against the real server.

    Returns the kind of what was violated, or None, and what a later read of a lost page gets from the server.
    """
    world = question.build()
    for there in world.hosts:
        for area, request, reply in there.network.prelude:
            remote.perform(area, request, reply)
        there.network.beyond = remote.perform
    world.start()
    try:
        for task, script in schedule:
            look()
            world.choices.begin(script)
            world.step(task)
            world.check()
        if not world.enabled():
            world.finish()
    except Violation as violation:
        lost = violation.kind is Kind.LOST_PAGE
        return str(violation.kind), _read_back(world) if lost else ""
    return None, ""


def _read_back(world: World) -> str:
    """Let every task end and read what was lost, as its owner would."""
    world.failures.is_on = False
    for _ in range(STEPS_TO_THE_END_MAX):
        enabled = world.enabled()
        if not enabled:
            break
        world.choices.begin(())
        with suppress(Violation):  # the task that reads the page says so too
            world.step(enabled[0])
    for (process, address), page in list(world.model.pages.items()):
        there = world.model.hosts[process]
        try:
            folio = world.run_alone(there, access_page(there.host, process, address, write=False))
        except PageLost as told:
            return f"; then whoever reads page {address} is told ({told.reason})"
        if folio.content is not None and folio.content != page:
            return f"; then page {address} reads as {page_name(folio.content)}, and it was {page_name(page)}"
    return "; then it reads right"
