"""What is decided inside a step: does an install fail, is a reply lost. Every combination, one run at a time.

Pure. A step asks `choose(n, what)` whenever more than one thing may happen. The first run of a step answers 0
everywhere; `alternatives()` then names the scripts that, run in turn, take every other way. So the code that chooses
is straight code, and nobody has to know in advance how often it will ask.

Models: TigerBeetle's exhaustigen, per step instead of per run.
"""

import random
from typing import NamedTuple

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
        self._script: tuple[int, ...] = ()
        self._draw: random.Random | None = None
        self.made: list[Choice] = []

    def begin(self, script: tuple[int, ...]) -> None:
        """Start a step whose first decisions are *script*."""
        self._script = script
        self._draw = None
        self.made = []

    def begin_at_random(self, draw: random.Random) -> None:
        """Start a step that decides by *draw*, unusually one time in UNUSUAL_ONE_IN."""
        self._script = ()
        self._draw = draw
        self.made = []

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
