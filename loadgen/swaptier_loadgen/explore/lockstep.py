"""The lock-step driver: several paths through mm, one step at a time, in an order that the caller chooses.

Pure. A step resumes one task with the reply it waits for and runs it to its next yield; nothing else runs meanwhile. A
request is applied to the tier when it is yielded, as on an ordered stream; its reply "arrives" when the task is next
resumed. A schedule is the list of choices, so the same choices give the same run anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from swaptier_client.mm.effects import Acknowledge, Effect, Path, Preempt, Reply, Wait
from swaptier_loadgen.explore.in_process import InProcessTiers
from swaptier_wire.errors import SwapTierError

STEPS_MAX = 10_000_000
"""Steps of one run(): far above any test's need, so that a livelock ends."""


class TaskState(Enum):
    """Where a task stands."""

    READY = "ready"
    WAITING = "waiting"
    """Parked in a wait queue."""
    DONE = "done"


class Deadlock(Exception):
    """Tasks wait and nobody is left to wake them."""


class Task:
    """One path and where it stands. Its driver's `Waiter`."""

    def __init__(self, name: str, path: Path[object]) -> None:
        self.name = name
        self.path = path
        self.state = TaskState.READY
        self.at: Effect | None = None
        """The effect it yielded last: where it stands. None before its first step."""
        self.result: object = None
        self.error: Exception | None = None
        self.reply: Reply = None
        """What it will be resumed with: the answer that is on its way."""
        self.failure: SwapTierError | None = None
        """What will be thrown into it instead."""

    def wake(self) -> None:
        """Make a parked task runnable."""
        assert self.state is TaskState.WAITING
        self.state = TaskState.READY

    def step(self, tiers: InProcessTiers) -> None:
        """Resume to the next yield, and perform what is yielded there."""
        assert self.state is TaskState.READY, f"{self.name} is {self.state.value}"
        try:
            if self.failure is not None:
                error, self.failure = self.failure, None
                effect = self.path.throw(error)
            else:
                effect = self.path.send(self.reply)
        except StopIteration as stop:
            self.state, self.result, self.at = TaskState.DONE, stop.value, None
            return
        except Exception as error:  # noqa: BLE001  a task's end by an error is its result; run() raises it
            self.state, self.error, self.at = TaskState.DONE, error, None
            return
        self.at, self.reply = effect, None
        match effect:
            case Wait():
                self.state = TaskState.WAITING
                effect.queue.park(self)
            case Preempt():
                pass
            case _:
                try:
                    self.reply = tiers.perform(effect)
                except SwapTierError as error:
                    self.failure = error
                if isinstance(effect, Acknowledge):  # nobody waits for what becomes of it
                    self.reply = self.failure = None


class Lockstep:
    """A set of tasks on one host's tiers."""

    def __init__(self, tiers: InProcessTiers) -> None:
        self.tiers = tiers
        self.tasks: list[Task] = []
        self.steps = 0

    def spawn(self, name: str, path: Path[object]) -> Task:
        """Add a task; it has not run yet."""
        task = Task(name, path)
        self.tasks.append(task)
        return task

    def ready(self) -> list[Task]:
        """Return the tasks that can take a step, in the order they were spawned."""
        return [task for task in self.tasks if task.state is TaskState.READY]

    def step(self, task: Task) -> None:
        """Let *task* take one step."""
        self.steps += 1
        task.step(self.tiers)

    def run_until(self, task: Task, reached: Callable[[Effect], bool]) -> None:
        """Step *task* alone until it stands at an effect that *reached* accepts. It must get there."""
        while True:
            self.step(task)
            assert task.state is not TaskState.DONE, f"{task.name} ended before it got there: {task.error!r}"
            assert task.at is not None
            if reached(task.at):
                return

    def finish(self, task: Task) -> object:
        """Step *task* alone to its end and return its result; raises what it raised."""
        while task.state is not TaskState.DONE:
            self.step(task)
        if task.error is not None:
            raise task.error
        return task.result

    def run(self, choose: Callable[[int], int] = lambda _count: 0) -> None:
        """Step tasks until all are done; `choose(n)` picks which of the n ready ones goes next.

        Raises:
            Deadlock: some wait and none is ready.
            Exception: the first error that a task ended with, after all have ended.
        """
        for _ in range(STEPS_MAX):
            ready = self.ready()
            if not ready:
                break
            self.step(ready[choose(len(ready))])
        waiting = [task.name for task in self.tasks if task.state is not TaskState.DONE]
        if waiting:
            raise Deadlock(f"nobody is left to wake {', '.join(waiting)}")
        for task in self.tasks:
            if task.error is not None:
                raise task.error


def at_preempt(point: str) -> Callable[[Effect], bool]:
    """Return a predicate for run_until(): the task stands at Preempt(point)."""
    return lambda effect: isinstance(effect, Preempt) and effect.point == point


def at_wait(effect: Effect) -> bool:
    """Predicate for run_until(): the task sleeps."""
    return isinstance(effect, Wait)
