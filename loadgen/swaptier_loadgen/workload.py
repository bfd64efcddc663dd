"""What the emulated threads do: seeded streams of reads and read-modify-writes over their process's pages.

Pure. Threads of one process share a focus: a few pages that all of them are likely to touch next, moving through the
whole memory of the process. A page that comes into focus was swapped out long ago, so several threads fault on it
at once, which is what the races of KERNEL.md section 1 need; the rest of the accesses go anywhere. Models: the
reproducer of 13ddaf26be32 (threads that count up in every page of one mapping), with a seed.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple


class Op(NamedTuple):
    """One access of an emulated thread."""

    address: int
    """Virtual page number, below the process's page count."""
    is_write: bool
    """Read-modify-write; otherwise a read."""


class Shape(NamedTuple):
    """How threads go about their pages. The defaults make faults collide; they imitate no program."""

    pages: int
    """Of one process."""
    write_percent: int = 60
    """Accesses that write."""
    focus_percent: int = 75
    """Accesses that go to the shared focus."""
    focus_pages: int = 4
    """Width of the focus."""
    focus_ops: int = 2
    """Accesses each thread makes before the focus moves on by its width."""


def stream(shape: Shape, seed: int, host: int, process: int, thread: int) -> Iterator[Op]:
    """Yield the accesses of one thread, without end; the same arguments give the same accesses."""
    chance = random.Random(f"{seed}/{host}/{process}/{thread}")
    width = min(shape.focus_pages, shape.pages)
    number = 0
    while True:
        focus = number // shape.focus_ops * width
        in_focus = chance.randrange(100) < shape.focus_percent
        address = focus + chance.randrange(width) if in_focus else chance.randrange(shape.pages)
        yield Op(address % shape.pages, chance.randrange(100) < shape.write_percent)
        number += 1


def share(total: int, parts: int, index: int) -> int:
    """Return how many of *total* the part *index* of *parts* gets; the shares differ by at most one."""
    return total // parts + (index < total % parts)
