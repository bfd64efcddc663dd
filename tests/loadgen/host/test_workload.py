"""The op streams: seeded, within bounds, and made to collide."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_loadgen.host.workload import AccessKind, AccessPattern, MemoryAccess, share, stream

BEFORE = [
    (2, "write"),
    (3, "write"),
    (4, "write"),
    (39, "read"),
    (46, "pageout"),
    (11, "write"),
    (12, "write"),
    (61, "read"),
    (16, "write"),
    (18, "write"),
    (23, "write"),
    (14, "write"),
]
"""The first accesses of thread 3 of the first process, seed 7, as drawn since the first version."""


def ops(pattern: AccessPattern, seed: int, process: int, thread: int, count: int) -> list[MemoryAccess]:
    return list(islice(stream(pattern, seed, 0, process, thread), count))


@given(st.integers(1, 300), st.integers(), st.integers(0, 3), st.integers(0, 3))
def test_the_same_seed_gives_the_same_accesses_all_within_the_process(
    pages: int, seed: int, process: int, thread: int
) -> None:
    """A stream is a function of its arguments and stays below the page count."""
    pattern = AccessPattern(pages)
    first = ops(pattern, seed, process, thread, 200)
    assert first == ops(pattern, seed, process, thread, 200)
    assert all(0 <= op.address < pages for op in first)


def test_threads_differ_and_so_do_processes_and_seeds() -> None:
    """Each thread has a stream of its own."""
    pattern = AccessPattern(100)
    streams = [ops(pattern, seed, process, thread, 100) for seed in (1, 2) for process in (0, 1) for thread in (0, 1)]
    assert len({tuple(one) for one in streams}) == len(streams)


def test_threads_of_one_process_meet_on_pages() -> None:
    """Within a few accesses two threads touch a common page far more often than chance alone would have it."""
    pattern = AccessPattern(1000)
    one, other = (ops(pattern, 1, 0, thread, 1000) for thread in (0, 1))
    window = 4
    meetings = sum(
        bool({op.address for op in one[i : i + window]} & {op.address for op in other[i : i + window]})
        for i in range(0, 1000, window)
    )
    assert meetings > 100  # by chance alone: about 4 of 250


def test_every_kind_of_access_occurs_and_every_page_is_visited() -> None:
    """No page of the process is left out, and reads, writes and discards come in the shares asked for."""
    done = ops(AccessPattern(64), 1, 0, 0, 5000)
    assert {op.address for op in done} == set(range(64))
    share_of = {kind: sum(op.kind is kind for op in done) / len(done) for kind in AccessKind}
    assert 0.5 < share_of[AccessKind.WRITE] < 0.7
    assert 0.3 < share_of[AccessKind.READ] < 0.5
    assert 0 < share_of[AccessKind.DISCARD] < 0.03


@pytest.mark.parametrize("read_share", [0.0, 0.39, 0.9, 1.0])
def test_as_many_accesses_read_as_asked_and_the_others_keep_their_proportions(read_share: float) -> None:
    """A change of the share takes nothing from one kind of access only."""
    done = ops(AccessPattern(64, read_share=read_share), 1, 0, 0, 5000)
    count = {kind: sum(op.kind is kind for op in done) for kind in AccessKind}
    assert count[AccessKind.READ] / 5000 == pytest.approx(read_share, abs=0.02)
    changes = 5000 - count[AccessKind.READ]
    assert count[AccessKind.WRITE] == pytest.approx(changes * 50 / 61, rel=0.1)
    assert count[AccessKind.PAGEOUT] == pytest.approx(changes * 10 / 61, rel=0.25)


def test_without_a_share_the_accesses_are_those_of_every_version_before() -> None:
    """A seed in an old report still repeats its race."""
    first = ops(AccessPattern(64), 7, 0, 3, 12)
    assert [(op.address, op.kind.value) for op in first] == BEFORE


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_add_up_and_differ_by_at_most_one(total: int, parts: int) -> None:
    """Splitting loses nothing and is even."""
    shares = [share(total, parts, index) for index in range(parts)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
