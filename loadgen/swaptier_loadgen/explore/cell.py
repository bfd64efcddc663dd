"""One cell of the matrix: a policy in a world, searched and judged.

Pure: the clock is given. Everything here can be sent between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.expectation import Expected, expected
from swaptier_loadgen.explore.search import Limits, Progress, Result, explore
from swaptier_loadgen.explore.trace import Step, trace
from swaptier_loadgen.explore.violation import Violation
from swaptier_loadgen.explore.walk import walk
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds import WORLDS

WALKS = 2_000
"""Random schedules for each cell when a seed is given."""

BOUND_MAX = 16
"""Of each size: far beyond what can be searched, so that a slip of the finger is refused."""

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
    result: Result
    steps: tuple[Step, ...]
    """Of the violation; none where nothing was found."""

    @property
    def violation(self) -> Violation | None:
        """What was found, if anything was."""
        return None if self.result.found is None else self.result.found.violation

    @property
    def is_as_expected(self) -> bool:
        """The cell does not contradict the specification; a search that was cut off contradicts nothing."""
        is_lost, is_cut_off = self.violation is not None, self.result.bound is not None
        match self.expected:
            case Expected.SAFE | Expected.MAY_TELL:
                return not is_lost
            case Expected.LOSES:
                return is_lost or is_cut_off
            case Expected.TELLS:
                return not is_lost and (self.result.has_told or is_cut_off)
            case Expected.MAY_LOSE:
                return True

    @property
    def verdict(self) -> str:
        """Return "safe (n states)", "loses (k steps)", "tells (n states)" or what cut it off."""
        result = self.result
        if self.violation is not None:
            return f"loses ({len(self.steps)} steps)"
        if result.bound is not None:
            return f"bound ({result.bound}, {result.states} states)"
        return f"{'tells' if result.has_told else 'safe'} ({result.states} states)"

    def as_json(self) -> dict[str, JsonValue]:
        """Return the cell as the JSON document holds it."""
        question, result, violation = self.question, self.result, self.violation
        return {
            "world": question.world,
            "policy": question.policy,
            "threads": question.bounds.threads,
            "exhaustive": result.is_exhaustive,
            "bound": result.bound if violation is None else None,
            "states": result.states,
            "schedules": result.schedules,
            "seconds": round(result.seconds, 3),
            "violations": int(violation is not None),
            "kind": None if violation is None else violation.kind,
            "steps": None if violation is None else len(self.steps),
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
            "expected": self.expected,
            "what": None if violation is None else violation.what,
            "repeat": question.command(),
        }


def ask(
    question: Question,
    *,
    now: Callable[[], float],
    report: Callable[[Progress], None] = lambda _progress: None,
    is_asked_to_end: Callable[[], bool] = lambda: False,
) -> Cell:
    """Search for the answer; see `explore()` and `walk()`."""
    if question.seed is None:
        limits = Limits(preemptions=question.preemptions, seconds_max=question.seconds_max)
        result = explore(question.build, limits, now=now, report=report, is_asked_to_end=is_asked_to_end)
    else:
        result = walk(question.build, question.seed, WALKS, now=now, report=report, is_asked_to_end=is_asked_to_end)
    steps = () if result.found is None else tuple(trace(question.build, result.found.schedule))
    return Cell(question, expected(POLICIES[question.policy], question.world, question.bounds), result, steps)
