"""One cell of the matrix: a policy in a world, searched and judged.

Pure: the clock is given. Everything here can be sent between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.expectation import Expected, expected
from swaptier_loadgen.explore.search import Bound, Limits, Progress, Result, explore
from swaptier_loadgen.explore.trace import Step, trace
from swaptier_loadgen.explore.walk import walk
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds import WORLDS

WALKS = 2_000
"""Random schedules for each cell when a seed is given."""

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


class Question(NamedTuple):
    """What one cell asks."""

    policy: str
    world: str
    bounds: Bounds
    preemptions: int | None = None
    seconds_max: float = float("inf")
    seed: int | None = None
    """Walk at random from this seed instead of searching everything."""

    def build(self) -> World:
        """Build the world anew."""
        return WORLDS[self.world].build(POLICIES[self.policy], self.bounds)

    def command(self) -> str:
        """Return the command that asks it again."""
        parts = [f"swaptier-loadgen explore --world {self.world} --policy {self.policy}"]
        default = WORLDS[self.world].bounds
        for name, value in asdict(self.bounds).items():
            if value != getattr(default, name):
                parts.append(f"--{name.replace('_', '-')} {value}")
        if self.preemptions is not None:
            parts.append(f"--preemptions {self.preemptions}")
        if self.seed is not None:
            parts.append(f"--seed {self.seed}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of it."""

    question: Question
    expected: Expected
    states: int
    schedules: int
    depth: int
    seconds: float
    bound: str | None
    kind: str | None
    what: str
    """What was lost, in words; empty when nothing was."""
    has_told: bool
    steps: tuple[Step, ...]

    @property
    def is_lost(self) -> bool:
        """A schedule violates something."""
        return self.kind is not None

    @property
    def is_exhaustive(self) -> bool:
        """Everything within the bounds was searched, and nothing was found."""
        return self.bound is None and not self.is_lost

    @property
    def is_as_expected(self) -> bool:
        """The cell does not contradict the specification; a search that was cut off contradicts nothing."""
        match self.expected:
            case Expected.SAFE | Expected.MAY_TELL:
                return not self.is_lost
            case Expected.LOSES:
                return self.is_lost or self.bound is not None
            case Expected.TELLS:
                return not self.is_lost and (self.has_told or self.bound is not None)
            case Expected.MAY_LOSE:
                return True

    @property
    def verdict(self) -> str:
        """Return "safe (n states)", "loses (k steps)", "tells (n states)" or what cut it off."""
        if self.is_lost:
            return f"loses ({len(self.steps)} steps)"
        if self.bound is not None:
            return f"bound ({self.bound}, {self.states} states)"
        return f"{'tells' if self.has_told else 'safe'} ({self.states} states)"

    def as_json(self) -> dict[str, JsonValue]:
        """Return the cell as the JSON document holds it."""
        question = self.question
        return {
            "world": question.world,
            "policy": question.policy,
            "threads": question.bounds.threads,
            "exhaustive": self.is_exhaustive,
            "bound": self.bound,
            "states": self.states,
            "schedules": self.schedules,
            "seconds": round(self.seconds, 3),
            "violations": int(self.is_lost),
            "kind": self.kind,
            "steps": len(self.steps) if self.is_lost else None,
            "trace": [
                {
                    "cpu": step.cpu,
                    "step": "; ".join((*step.does, *(f"tier {change}" for change in step.tier))),
                    "where": step.where,
                    "task": step.transition.task,
                    "choices": list(step.transition.script),
                }
                for step in self.steps
            ],
            "bounds": asdict(question.bounds),
            "expected": str(self.expected),
            "what": self.what or None,
            "repeat": question.command(),
        }


def ask(
    question: Question, *, now: Callable[[], float], report: Callable[[Progress], None] = lambda _progress: None
) -> Cell:
    """Search for the answer. An interrupt ends the search with what was covered."""
    if question.seed is None:
        limits = Limits(preemptions=question.preemptions, seconds_max=question.seconds_max)
        result = explore(question.build, limits, now=now, report=report)
    else:
        result = walk(question.build, question.seed, WALKS, now=now, report=report)
    return _judge(question, result)


def _judge(question: Question, result: Result) -> Cell:
    found = result.found
    return Cell(
        question=question,
        expected=expected(POLICIES[question.policy], question.world, question.bounds),
        states=result.states,
        schedules=result.schedules,
        depth=result.depth,
        seconds=result.seconds,
        bound=None if found is not None or result.bound is None else str(result.bound),
        kind=None if found is None else str(found.violation.kind),
        what="" if found is None else found.violation.what,
        has_told=result.has_told,
        steps=() if found is None else tuple(trace(question.build, found.schedule)),
    )


def interrupted(cell: Cell) -> bool:
    """Tell whether the user ended the search."""
    return cell.bound == Bound.INTERRUPTED
