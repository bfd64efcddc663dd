"""The op streams: seeded, within bounds, and made to collide."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from swaptier_loadgen.host.workload import AccessKind, AccessPattern, MemoryAccess, share, stream


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


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_add_up_and_differ_by_at_most_one(total: int, parts: int) -> None:
    """Splitting loses nothing and is even."""
    shares = [share(total, parts, index) for index in range(parts)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
