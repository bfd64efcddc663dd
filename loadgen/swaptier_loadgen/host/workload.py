"""What the emulated threads do: seeded streams of reads, read-modify-writes, page-outs and discards.

Pure. Threads of one process share a focus: a few pages that all of them are likely to touch next, moving through the
whole memory of the process. A page that comes into focus was swapped out long ago, so several threads fault on it
at once, which is what the races of KERNEL.md section 1 need; the rest of the accesses go anywhere. A page that was
written and paged out at once takes the slot that was freed last, which is what makes a slot come back under a fault.
Models: the reproducer of 13ddaf26be32 (threads that count up in every page of one mapping, one that pages out), with a
seed.
"""

import random
from collections.abc import Iterator
from enum import Enum, StrEnum
from typing import NamedTuple

THREADS_MAX = 1024
"""Emulated threads of one process; each is a task of the host's event loop."""


class WorkloadKind(StrEnum):
    """What the emulated threads do."""

    RANDOM = "random"
    """Reads, writes, page-outs and discards anywhere, with a shared focus."""
    FORKS = "forks"
    """As random, and now and then a process forks, lets its child work and exit, or moves a page."""
    STRESS_RACE = "stress-race"
    """All threads of a process add one to every page, in opposite directions, while everything is paged out."""
    TWO_HOSTS = "two-hosts"
    """As random, on each host and on a clone of it with the same memory image: both believe the area is theirs."""


class AccessKind(Enum):
    """What a thread does to one page."""

    READ = "read"
    WRITE = "write"
    """Read, check, and write the next version."""
    PAGEOUT = "pageout"
    """Read, check, write the next version, and page it out. Models: MADV_PAGEOUT."""
    DISCARD = "discard"
    """Drop the page: it reads zeros from then on. Models: MADV_DONTNEED."""
    FORK = "fork"
    """Fork the whole process; the child accesses its pages for a while, then exits."""
    MOVE = "move"
    """Move the page, if it is swapped out, and read it where it is now. Models: UFFDIO_MOVE."""


class MemoryAccess(NamedTuple):
    """One access of an emulated thread."""

    address: int
    """Virtual page number, below the process's page count."""
    kind: AccessKind


class AccessPattern(NamedTuple):
    """How threads go about their pages. The defaults make faults collide; they imitate no program."""

    pages: int
    """Of one process."""
    write_percent: int = 50
    pageout_percent: int = 10
    discard_percent: int = 1
    fork_percent: int = 0
    move_percent: int = 0
    """The rest of the accesses reads."""
    read_share: float | None = None
    """Share of the accesses that read; the others keep their proportions. None: what the percentages leave."""
    focus_percent: int = 75
    """Accesses that go to the shared focus."""
    focus_pages: int = 4
    """Width of the focus."""
    focus_ops: int = 2
    """Accesses each thread makes before the focus moves on by its width."""


def stream(pattern: AccessPattern, seed: int, host: int, process: int, thread: int) -> Iterator[MemoryAccess]:
    """Yield the accesses of one thread, without end; the same arguments give the same accesses."""
    chance = random.Random(f"{seed}/{host}/{process}/{thread}")
    width = min(pattern.focus_pages, pattern.pages)
    number = 0
    while True:
        focus = number // pattern.focus_ops * width
        in_focus = chance.randrange(100) < pattern.focus_percent
        address = focus + chance.randrange(width) if in_focus else chance.randrange(pattern.pages)
        yield MemoryAccess(address % pattern.pages, _kind(pattern, chance))
        number += 1


def _kind(pattern: AccessPattern, chance: random.Random) -> AccessKind:
    """Draw what an access does."""
    percents = (
        (AccessKind.DISCARD, pattern.discard_percent),
        (AccessKind.PAGEOUT, pattern.pageout_percent),
        (AccessKind.WRITE, pattern.write_percent),
        (AccessKind.FORK, pattern.fork_percent),
        (AccessKind.MOVE, pattern.move_percent),
    )
    total = 100
    if pattern.read_share is not None:
        if chance.random() < pattern.read_share:
            return AccessKind.READ
        total = sum(percent for _, percent in percents)
    rank = chance.randrange(total)
    for kind, percent in percents:
        if rank < percent:
            return kind
        rank -= percent
    return AccessKind.READ


def share(total: int, parts: int, index: int) -> int:
    """Return how many of *total* the part *index* of *parts* gets; the shares differ by at most one."""
    return total // parts + (index < total % parts)
