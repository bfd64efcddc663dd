"""What many tests build, built in one place: pages, and the requests for them that a path makes."""

import random

from swaptier_client.mm.effects import Load, Lookup, Store, SwapEntry
from swaptier_wire.types import PAGE_BYTES, LoadMode


def page_of(number: int) -> bytes:
    """Return a page that compresses to a few dozen bytes, another for each number."""
    return (f"this is page {number}; ".encode() * PAGE_BYTES)[:PAGE_BYTES]


def noise_of(seed: int | str) -> bytes:
    """Return a page that does not compress, another for each seed."""
    return random.Random(seed).randbytes(PAGE_BYTES)


def store(offset: int, generation: int = 1) -> Store:
    """Return the store of a page that is known by slot and generation."""
    return Store(SwapEntry(0, offset), generation, page_of(offset * 1000 + generation))


def load(offset: int, mode: LoadMode = LoadMode.SHARED, generation: int = 1, *, exact: bool = False) -> Load:
    """Return a load, of this generation or of none when it is to be *exact*."""
    return Load(SwapEntry(0, offset), generation, mode, 0, require_generation=exact)


def lookup(offset: int) -> Lookup:
    """Return the question whether the pool has a page."""
    return Lookup(SwapEntry(0, offset))
