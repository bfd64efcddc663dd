"""The search: every schedule of a world within its bounds, breadth first by state, so the first violation is shortest.

Pure: the clock is given. Paths are generators and cannot be copied, so a state is reached again by building
the world anew and replaying its choices; equal states are met once. From each new state the search runs ahead in place
along the first choice, and remembers what it met: that spares the replay of every first choice.

Bounds: STATES_MAX, DEPTH_MAX, the caller's seconds and preemptions. Where one cuts something off, the result names it,
and is not exhaustive. Memory: about 300 bytes a state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from swaptier_loadgen.explore.endless import Edges
from swaptier_loadgen.explore.state_key import state_key
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.explore.world import World

STATES_MAX = 2_000_000
"""About 600 MB."""

DEPTH_MAX = 2_000
"""Steps of one schedule: far above any world's, so that a path that never ends does."""

RUN_AHEAD_MAX = 64
"""Steps run ahead of the search from one new state."""

REPORT_EVERY = 256
"""Replays between two calls of the progress report."""

NO_TASK = -1
"""Before the first step no task ran."""


class Bound(StrEnum):
    """What can cut a search off."""

    STATES = "states"
    DEPTH = "depth"
    SECONDS = "seconds"
    PREEMPTIONS = "preemptions"
    WALKS = "walks"
    """Random walks prove nothing."""
    INTERRUPTED = "interrupted"


class Transition(NamedTuple):
    """One step of a schedule: who runs, and what is decided inside the step."""

    task: int
    script: tuple[int, ...] = ()


Schedule = tuple[Transition, ...]


class Found(NamedTuple):
    """A violation, and a shortest schedule that leads to it."""

    violation: Violation
    schedule: Schedule


class Progress(NamedTuple):
    """Where a search is."""

    states: int
    depth: int
    schedules: int
    seconds: float


@dataclass(slots=True)
class Result:
    """What a search came to."""

    states: int = 0
    """Different states met."""
    schedules: int = 0
    """Schedules that were run to their end."""
    replays: int = 0
    """Worlds built: what the search costs."""
    depth: int = 0
    """Steps of the longest of the shortest schedules, one to each state."""
    seconds: float = 0.0
    bound: Bound | None = None
    """What cut the search off; None: everything was met."""
    found: Found | None = None
    has_told: bool = False
    """In some schedule a process is told that a page is gone, where its policy's specification says so."""

    @property
    def is_exhaustive(self) -> bool:
        """Every schedule within the world's bounds was covered."""
        return self.bound is None and self.found is None


@dataclass(slots=True)
class Limits:
    """When a search gives up."""

    states_max: int = STATES_MAX
    depth_max: int = DEPTH_MAX
    seconds_max: float = float("inf")
    preemptions: int | None = None
    """Switches away from a task that could have gone on; None: as many as there are."""


class _Met(NamedTuple):
    """What one transition led to."""

    key: int
    enabled: tuple[int, ...]
    others: tuple[Transition, ...]
    """The same task's other decisions."""
    violation: Violation | None


@dataclass(slots=True)
class _Search:
    build: Callable[[], World]
    limits: Limits
    now: Callable[[], float]
    report: Callable[[Progress], None]
    is_asked_to_end: Callable[[], bool]
    result: Result = field(default_factory=Result)
    numbers: dict[int, int] = field(default_factory=dict)
    """Number of each key met, in the order of meeting."""
    parents: list[int] = field(default_factory=list)
    last_steps: list[Transition] = field(default_factory=list)
    """How each was reached from its parent."""
    spent: list[int] = field(default_factory=list)
    """Preemptions in the schedule to each."""
    enabled: list[tuple[int, ...] | None] = field(default_factory=list)
    """Who can go on from each; None once expanded."""
    ahead: dict[int, list[_Met]] = field(default_factory=dict)
    """What was met by running ahead from a state, by the state's number; the next last. Only for the very schedule
    that is remembered for it: another one may lead to the same state with symmetric tasks in other roles."""
    covered: set[int] = field(default_factory=set)
    """Keys of the states from which the search ran ahead."""
    interned: dict[Transition, Transition] = field(default_factory=dict)
    edges: Edges = field(default_factory=Edges)
    ended: list[int] = field(default_factory=list)
    """Numbers of the states in which no task has anything left to do."""
    started: float = 0.0
    report_at: int = REPORT_EVERY

    def run(self) -> Result:
        result = self.result
        self.started = self.now()
        self._search()
        if result.is_exhaustive:
            self._find_livelock()
        result.seconds = self.now() - self.started
        result.states = len(self.numbers)
        return result

    def _search(self) -> None:
        world = self.build()
        world.start()
        try:
            world.check()
        except Violation as violation:
            self.result.found = Found(violation, ())
            return
        key = self._key(world, NO_TASK, 0)
        self._meet(_Met(key, tuple(world.enabled()), (), None), NO_TASK, Transition(NO_TASK), 0)
        self.ahead[0] = self._run_ahead(world, key, NO_TASK, 0)
        layer = [0]
        while layer and self.result.found is None and self.result.bound in (None, Bound.PREEMPTIONS):
            following: list[int] = []
            for number in layer:
                self._expand(number, following)
                if self.result.found is not None or self._is_cut():
                    return
            layer = following
            self.result.depth += bool(layer)
            if self.result.depth >= self.limits.depth_max:
                self.result.bound = Bound.DEPTH
                return

    def _find_livelock(self) -> None:
        """Everything was met: is there a state from which no schedule ends?"""
        number = self.edges.first_without_end(len(self.last_steps), self.ended)
        if number is not None:
            what = "from here on the tasks go on for ever: no schedule ends"
            self.result.found = Found(Violation(Kind.LIVELOCK, what), self._schedule_to(number))

    def _is_cut(self) -> bool:
        if self.is_asked_to_end():
            self.result.bound = Bound.INTERRUPTED
            return True
        if len(self.numbers) >= self.limits.states_max:
            self.result.bound = Bound.STATES
            return True
        if self.result.replays >= self.report_at:
            self.report_at = self.result.replays + REPORT_EVERY
            seconds = self.now() - self.started
            self.report(Progress(len(self.numbers), self.result.depth, self.result.schedules, seconds))
            if seconds > self.limits.seconds_max:
                self.result.bound = Bound.SECONDS
                return True
        return False

    def _expand(self, number: int, following: list[int]) -> None:
        """Meet every state one transition away from state *number*."""
        enabled = self.enabled[number]
        assert enabled is not None, "a state is expanded once"
        self.enabled[number] = None
        schedule = self._schedule_to(number)
        last, spent = self.last_steps[number].task, self.spent[number]
        pending = [Transition(task) for task in enabled if self._is_allowed(enabled, last, spent, task)]
        if len(pending) < len(enabled):
            self.result.bound = Bound.PREEMPTIONS
        ahead = self.ahead.pop(number, [])
        while pending:
            transition = pending.pop(0)
            now_spent = spent + self._is_preemption(enabled, last, transition.task)
            world: World | None = None
            following_ahead: list[_Met] = []
            if ahead:
                met, following_ahead, ahead = ahead[-1], ahead[:-1], []
            else:
                self.result.replays += 1
                world = replay(self.build, schedule)
                met = self._take(world, transition, now_spent)
            pending[:0] = met.others
            if met.violation is not None:
                self.result.found = Found(met.violation, (*schedule, transition))
                return
            self.edges.add(number, self.numbers.get(met.key, len(self.last_steps)))
            if met.key not in self.numbers:
                reached = len(self.last_steps)
                following.append(reached)
                self._meet(met, number, transition, now_spent)
                if world is not None:
                    following_ahead = self._run_ahead(world, met.key, transition.task, now_spent)
                if following_ahead:
                    self.ahead[reached] = following_ahead

    def _run_ahead(self, world: World, start: int, last: int, spent: int) -> list[_Met]:
        """Take first choices in place from the state with key *start* and return what was met, the next last.

        It ends where a state was met before, or the search ran ahead from it. Where a task is the only one that can run
        and has nothing to decide, coming back to where it was is a livelock.
        """
        ahead: list[_Met] = []
        forced = {start}
        key = start
        while len(ahead) < RUN_AHEAD_MAX and key not in self.covered:
            enabled = tuple(world.enabled())
            task = next((task for task in enabled if self._is_allowed(enabled, last, spent, task)), None)
            if task is None:
                break
            self.covered.add(key)
            spent += self._is_preemption(enabled, last, task)
            last = task
            met = self._take(world, Transition(task), spent)
            if len(enabled) > 1 or met.others:
                forced.clear()
            elif met.key in forced:
                what = f"{world.tasks[task].name} alone can run, and comes back to where it was"
                met = met._replace(violation=Violation(Kind.LIVELOCK, what))
            ahead.append(met)
            if met.violation is not None or met.key in self.numbers:
                break
            key = met.key
            forced.add(key)
        ahead.reverse()
        return ahead

    def _take(self, world: World, transition: Transition, spent: int) -> _Met:
        """Take one transition and look at where it led."""
        world.choices.begin(transition.script)
        violation: Violation | None = None
        try:
            world.step(transition.task)
        except Violation as caught:
            violation = caught
        others = tuple(self._intern(Transition(transition.task, script)) for script in world.choices.alternatives())
        if violation is None:
            try:
                world.check()
            except Violation as caught:
                violation = caught
        if violation is not None:
            return _Met(0, (), others, violation)
        self.result.has_told |= world.has_told
        enabled = tuple(world.enabled())
        key = self._key(world, transition.task, spent)
        if not enabled and key not in self.numbers:
            self.result.schedules += 1
            try:
                world.finish()
            except Violation as caught:
                violation = caught
        return _Met(key, enabled, others, violation)

    def _meet(self, met: _Met, parent: int, step: Transition, spent: int) -> None:
        if not met.enabled:
            self.ended.append(len(self.last_steps))
        self.numbers[met.key] = len(self.last_steps)
        self.parents.append(parent)
        self.last_steps.append(self._intern(step))
        self.spent.append(spent)
        self.enabled.append(met.enabled)

    def _intern(self, transition: Transition) -> Transition:
        return self.interned.setdefault(transition, transition)

    def _schedule_to(self, number: int) -> Schedule:
        """Return the schedule that leads to a state that was met."""
        schedule: list[Transition] = []
        while number > 0:
            schedule.append(self.last_steps[number])
            number = self.parents[number]
        return tuple(reversed(schedule))

    def _key(self, world: World, last: int, spent: int) -> int:
        """Return the state's key; where preemptions are bounded, what is left of them is part of the state."""
        if self.limits.preemptions is None:
            return state_key(world)
        return state_key(world, last=last, spent=spent)

    def _is_preemption(self, enabled: tuple[int, ...], last: int, task: int) -> bool:
        """Tell whether running *task* takes the CPU from one that could have gone on."""
        return task != last and last in enabled

    def _is_allowed(self, enabled: tuple[int, ...], last: int, spent: int, task: int) -> bool:
        bound = self.limits.preemptions
        return bound is None or spent + self._is_preemption(enabled, last, task) <= bound


def explore(
    build: Callable[[], World],
    limits: Limits | None = None,
    *,
    now: Callable[[], float],
    report: Callable[[Progress], None] = lambda _progress: None,
    is_asked_to_end: Callable[[], bool] = lambda: False,
) -> Result:
    """Search every schedule of the world that *build* builds; stop at the first violation, which is a shortest one.

    *now* gives seconds from any start. *is_asked_to_end*, asked at each state, ends it with what was covered.
    """
    return _Search(build, limits or Limits(), now, report, is_asked_to_end).run()


def replay(build: Callable[[], World], schedule: Schedule) -> World:
    """Build the world and take the steps of *schedule*, none of which may violate anything."""
    world = build()
    world.start()
    for task, script in schedule:
        world.choices.begin(script)
        world.step(task)
    return world
