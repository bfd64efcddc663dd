"""Random walks: schedules drawn from a seed, for worlds that are too large to search. They prove nothing and reach far.

Pure. The same seed gives the same walks on every machine.
"""

import random
from collections.abc import Callable

from swaptier_loadgen.explore.search import (
    DEPTH_MAX,
    REPORT_EVERY,
    STATES_MAX,
    Bound,
    Found,
    Progress,
    Result,
    Transition,
)
from swaptier_loadgen.explore.state_key import state_key
from swaptier_loadgen.explore.violation import Violation
from swaptier_loadgen.explore.world import World


def walk(
    build: Callable[[], World],
    seed: int,
    walks: int,
    *,
    now: Callable[[], float],
    report: Callable[[Progress], None] = lambda _progress: None,
    is_asked_to_end: Callable[[], bool] = lambda: False,
) -> Result:
    """Run *walks* schedules drawn from *seed*; stop at the first violation. Proves nothing, reaches far.

    *is_asked_to_end*, asked before each, ends it with what was covered.
    """
    result = Result(bound=Bound.WALKS)
    started = now()
    met: set[int] = set()
    for index in range(walks):
        if is_asked_to_end():
            result.bound = Bound.INTERRUPTED
            break
        result.replays += 1
        result.found = _walk_once(build, random.Random(seed * walks + index), met, result)
        if result.found is not None:
            break
        if result.replays % REPORT_EVERY == 0:
            report(Progress(len(met), result.depth, result.schedules, now() - started))
    result.states, result.seconds = len(met), now() - started
    return result


def _walk_once(build: Callable[[], World], draw: random.Random, met: set[int], result: Result) -> Found | None:
    world = build()
    world.start()
    schedule: list[Transition] = []
    try:
        for _ in range(DEPTH_MAX):
            enabled = world.enabled()
            if not enabled:
                break
            task = draw.choice(enabled)
            world.choices.begin((), draw)
            schedule.append(Transition(task))
            try:
                world.step(task)
            finally:
                schedule[-1] = Transition(task, world.choices.taken())
            world.check()
            if len(met) < STATES_MAX:
                met.add(state_key(world))
            result.depth = max(result.depth, len(schedule))
        result.schedules += 1
        world.finish()
    except Violation as violation:
        return Found(violation, tuple(schedule))
    return None
