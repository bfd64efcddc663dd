"""Fault latencies: quantiles, buckets and merging."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_loadgen.host.latency import BOUNDS_US, HIGHEST_NS, LatencyRecorder, LatencyUs, merge

samples = st.lists(st.integers(0, 10**10), min_size=1, max_size=50)


@given(samples, samples)
def test_merged_hosts_have_the_quantiles_of_all_their_faults(one: list[int], other: list[int]) -> None:
    """The median and the maximum of two recorders are those of the joined samples, to three digits."""
    recorders = []
    for part in (one, other):
        recorders.append(LatencyRecorder())
        for nanoseconds in part:
            recorders[-1].record(nanoseconds)
    merged = merge(recorder.encode() for recorder in recorders)
    joined = sorted([*one, *other])
    median_us = joined[(len(joined) + 1) // 2 - 1] / 1000
    assert merged.p50 == pytest.approx(median_us, rel=0.002, abs=0.001)
    assert merged.max == pytest.approx(joined[-1] / 1000, rel=0.002, abs=0.001)
    assert merged.p50 <= merged.p99 <= merged.p999 <= merged.max


@given(samples)
def test_every_fault_is_in_exactly_one_bucket(one: list[int]) -> None:
    """Buckets add up to the faults recorded; a fault on a bound counts below it."""
    recorder = LatencyRecorder()
    for nanoseconds in one:
        recorder.record(nanoseconds)
    counts = list(recorder.buckets.values())
    assert sum(counts) == len(one)
    for index, bound in enumerate(BOUNDS_US):
        assert sum(counts[: index + 1]) == sum(nanoseconds <= bound * 1000 for nanoseconds in one)


def test_nothing_recorded_is_zero_and_absurd_values_are_clamped() -> None:
    """No faults give zeros; a clock gone mad gives the largest value."""
    assert merge([]) == LatencyUs(0, 0, 0, 0)
    recorder = LatencyRecorder()
    recorder.record(10**18)
    assert merge([recorder.encode()]).max == pytest.approx(HIGHEST_NS / 1000, rel=0.002)
