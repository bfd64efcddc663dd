"""How long faults take: from a fault's first instruction to the page being mapped, retries included.

Pure. Quantiles come from an HdrHistogram of nanoseconds, which merges over hosts without loss; the buckets for
Prometheus are counted beside it.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

BOUNDS_US = (50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_500, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
             2_500_000)  # fmt: skip  # one glance
"""Inclusive upper bounds of the Prometheus buckets, about doubling; the last bucket has none."""

BUCKETS = (*(f"{bound / 1e6:g}" for bound in BOUNDS_US), "+Inf")
"""Their names: the same bounds in seconds."""

LOWEST_NS = 1
"""What a clock that did not move counts as."""
HIGHEST_NS = 600 * 10**9
"""Longer ones count as this long; deadlines end them well before."""
SIGNIFICANT_DIGITS = 3


@dataclass(frozen=True, slots=True)
class LatencyUs:
    """Quantiles in microseconds; all 0 when nothing was recorded."""

    p50: float
    p99: float
    p999: float
    max: float


def _histogram() -> HdrHistogram:
    return HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)


class LatencyRecorder:
    """Fault latencies of one host."""

    def __init__(self) -> None:
        self._histogram = _histogram()
        self.buckets = dict.fromkeys(BUCKETS, 0)
        self.seconds_sum = 0.0

    def record(self, nanoseconds: int) -> None:
        """Count one fault."""
        self._histogram.record_value(min(max(nanoseconds, LOWEST_NS), HIGHEST_NS))
        self.buckets[BUCKETS[bisect_left(BOUNDS_US, nanoseconds / 1000)]] += 1
        self.seconds_sum += nanoseconds / 1e9

    def encode(self) -> str:
        """Return the histogram in its standard compressed form."""
        encoded: bytes = self._histogram.encode()
        return encoded.decode("ascii")


def merge(encoded: Iterable[str]) -> LatencyUs:
    """Return the quantiles of all recorders together."""
    merged = _histogram()
    for text in encoded:
        merged.decode_and_add(text.encode("ascii"))
    if not merged.get_total_count():
        return LatencyUs(0, 0, 0, 0)
    p50, p99, p999 = (merged.get_value_at_percentile(percent) / 1000 for percent in (50, 99, 99.9))
    return LatencyUs(p50, p99, p999, merged.get_max_value() / 1000)
