"""The lock-step driver: several paths through mm, one step at a time, in an order that the caller chooses.

Pure. A step resumes one task with the reply it waits for and runs it to its next yield; nothing else runs meanwhile. A
request is applied to the tier when it is yielded, as on an ordered stream; its reply "arrives" when the task is next
resumed. A schedule is the list of choices, so the same choices give the same run anywhere.
"""

from __future__ import annotations

from enum import Enum

from swaptier_client.mm.effects import Acknowledge, Effect, Path, Preempt, Reply, Wait
from swaptier_loadgen.lockstep.tiers import InProcessTiers
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
    """Tasks wait and no task is left to wake them."""


class Task:
    """One path and where it stands."""

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
                effect.queue.park(self.wake)
            case Preempt():
                pass
            case _:
                try:
                    self.reply = tiers.perform(effect)
                except SwapTierError as error:
                    self.failure = error
                if isinstance(effect, Acknowledge):  # no path waits for its outcome
                    self.reply = self.failure = None


class Lockstep:
    """A set of tasks on one host's tiers."""

    def __init__(self, tiers: InProcessTiers) -> None:
        self.tiers = tiers
        self.tasks: list[Task] = []

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
        task.step(self.tiers)

    def finish(self, task: Task) -> object:
        """Step *task* alone to its end and return its result; raises what it raised."""
        while task.state is not TaskState.DONE:
            self.step(task)
        if task.error is not None:
            raise task.error
        return task.result

    def run(self) -> None:
        """Step tasks until all are done, the first ready one each time.

        Raises:
            Deadlock: some wait and none is ready.
            Exception: the first error that a task ended with, after all have ended.
        """
        for _ in range(STEPS_MAX):
            ready = self.ready()
            if not ready:
                break
            self.step(ready[0])
        waiting = [task.name for task in self.tasks if task.state is not TaskState.DONE]
        if waiting:
            raise Deadlock(f"no task is left to wake {', '.join(waiting)}")
        for task in self.tasks:
            if task.error is not None:
                raise task.error
