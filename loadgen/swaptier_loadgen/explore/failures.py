"""What may still go wrong in a world, and the decisions inside a step: does it, this time? Every combination is run.

Pure. A step asks `choose()` whenever more than one thing may happen. Its first run answers 0 everywhere;
`alternatives()` then names the scripts that, run in turn, take every other branch. So the code that chooses is straight
code and need not know how often it asks. What happened is spent: how much is left is part of the state.

Models: TigerBeetle's exhaustigen, per step instead of per run.
"""

import random
from enum import StrEnum
from typing import NamedTuple

from swaptier_client.mm.counters import InstallFailure

CHOICES_MAX = 16
"""In one step: far above what a step asks, so that a loop of choices ends."""

UNUSUAL_ONE_IN = 3
"""How often a random walk lets something unusual happen, where it may."""


class Choice(NamedTuple):
    """One decision that was made."""

    taken: int
    """0 is always "nothing unusual happens"."""
    of: int
    what: str
    """What the decision meant, in plain words; empty when nothing unusual happened."""


class Choices:
    """The decisions of one step: scripted ones first, then 0."""

    def __init__(self) -> None:
        self.begin(())

    def begin(self, script: tuple[int, ...], draw: random.Random | None = None) -> None:
        """Start a step whose first decisions are *script*; *draw* makes one in UNUSUAL_ONE_IN of the others unusual."""
        self._script = script
        self._draw = draw
        self.made: list[Choice] = []

    def choose(self, *unusual: str) -> int:
        """Decide: 0, or i for the i-th of the *unusual* things that may happen."""
        position = len(self.made)
        assert position < CHOICES_MAX, "a step that never stops choosing"
        taken = self._script[position] if position < len(self._script) else 0
        if self._draw is not None and self._draw.randrange(UNUSUAL_ONE_IN) == 0:
            taken = self._draw.randint(1, len(unusual))
        self.made.append(Choice(taken, len(unusual) + 1, unusual[taken - 1] if taken else ""))
        return taken

    def taken(self) -> tuple[int, ...]:
        """Return the decisions of this step as a script, without the zeros at its end."""
        script = [choice.taken for choice in self.made]
        while script and script[-1] == 0:
            script.pop()
        return tuple(script)

    def alternatives(self) -> list[tuple[int, ...]]:
        """Return the scripts that differ from the one just run first at a decision that it did not prescribe."""
        prefix = [choice.taken for choice in self.made]
        return [
            (*prefix[:position], other)
            for position in range(len(self._script), len(self.made))
            for other in range(1, self.made[position].of)
        ]


class Failure(StrEnum):
    """What a world can let go wrong."""

    INSTALL = "a fault cannot install its page"
    LOST_REPLY = "a reply is lost"
    REPEATED_LOAD = "a load arrives twice"
    LATE_INVALIDATE = "a copy of an invalidation arrives late"
    DEVICE = "the device refuses a write"
    DEATH = "the server dies of a request"


REPEATS_REQUESTS = (Failure.LOST_REPLY, Failure.REPEATED_LOAD, Failure.LATE_INVALIDATE, Failure.DEATH)
"""Where one of these may happen, a request may reach the tier twice."""


class Failures:
    """How often each failure may still happen, and the choice to spend one."""

    def __init__(self) -> None:
        self.choices = Choices()
        self.left = dict.fromkeys(Failure, 0)
        self.causes: tuple[InstallFailure, ...] = (InstallFailure.LOCK_CONTENDED,)
        """How an install may fail."""
        self.is_on = False
        """Nothing goes wrong before a world starts, nor after its end."""

    def happens(self, failure: Failure, *ways: str) -> int:
        """Decide whether *failure* happens now, and spend it: 0, or i for the i-th of the *ways*."""
        if not self.is_on or not self.left[failure]:
            return 0
        way = self.choices.choose(*ways)
        self.left[failure] -= way > 0
        return way
