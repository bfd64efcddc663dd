"""What may take milliseconds, in slices: a generator that yields after each of them how many slots it was about.

Pure. Code between two yields is atomic; after a yield, what was read before it is stale. Rules of conduct:
  - A message checks everything before its first yield, and its area is `is_in_message` until its end: no other message
    of the area begins meanwhile, and no area is closed under it. So it is atomic to every other message, and what it
    checked stays so: leases that end leave room for what it may begin.
  - What nobody asked for in a message may come between: leases end, pages are written back, other areas change.
  - One that has begun is run to its end, whatever happens to who waits for it.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeAlias, TypeVar

_T = TypeVar("_T")

Slices: TypeAlias = Generator[int, None, _T]
"""Work that yields what each slice was about, and returns what came of it."""

SLICE_SLOTS: Final = 32
"""Slots of a slice: some 0.3 ms of stores, which are the slowest."""


def in_slices(answer: Callable[..., _T], *columns: Sequence[object]) -> Slices[list[_T]]:
    """Return what *answer* says to each row of the parallel *columns*, SLICE_SLOTS at a time."""
    answers: list[_T] = []
    slots = len(columns[0])
    for start in range(0, slots, SLICE_SLOTS):
        answers += map(answer, *(column[start : start + SLICE_SLOTS] for column in columns))
        yield min(SLICE_SLOTS, slots - start)
    return answers


def to_its_end(slices: Slices[_T]) -> _T:
    """Run *slices* in one go; return what they return."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: _T = end.value
            return result
