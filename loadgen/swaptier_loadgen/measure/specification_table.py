"""What the specification says of every policy in the four workloads of `specification.py`, and how to measure it.

Pure. KERNEL.md 6.4 is where the values come from: M pages are swapped out once and F of them fail their first install
(W1); K forked pages are read by their first sharer (W2), N of them reclaimed unmodified (W3); a slot is reused under a
fault (W4). Every value is exact, but how often W4 corrupts without a pin, which is only known to be more than never.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.host import Host
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_loadgen.lockstep.driver import Lockstep
from swaptier_loadgen.lockstep.tiers import one_area
from swaptier_loadgen.measure.specification import (
    ArmedFailures,
    Measures,
    Workload,
    first_install_fails,
    first_sharer_reads,
    slot_reused_under_a_fault,
)

M, F, K, N = 12, 5, 7, 7
SLOTS = 64
POOL_BYTES = 1 << 20

SECOND_NS = 1_000_000_000

Build: TypeAlias = Callable[[Host, ArmedFailures], Workload]

BUILDS: dict[str, Build] = {
    "W1": lambda host, failures: first_install_fails(host, failures, M, F),
    "W2": lambda host, _failures: first_sharer_reads(host, K),
    "W3": lambda host, _failures: first_sharer_reads(host, N, reclaim_after=True),
    "W4": lambda host, _failures: slot_reused_under_a_fault(host),
}
"""The workloads by name."""

W1 = {
    #                              stale storebacks decompr double misses in-flight
    "free-on-read":                    (F, 0, M, 0, F, 0),
    "shared-unpinned":                 (0, 0, M + F, F, 0, 0),
    "exclusive-unpinned":              (F, 0, M, 0, F, 0),
    "exclusive":                       (F, 0, M, 0, F, 0),
    "cache-on-hit-early":              (0, 0, M, 0, 0, 0),
    "cache-on-hit":                    (0, 0, M, 0, 0, 0),
    "store-back":                      (0, F, M + F, F, 0, 0),
    "shared":                          (0, 0, M + F, F, 0, 1),
    "exclusive-if-swapcache-unpinned": (0, 0, M + F, F, 0, 0),
    "exclusive-if-swapcache":          (0, 0, M + F, F, 0, 1),
    "no-bypass":                       (0, 0, M, 0, 0, 0),
    "claim":                           (0, 0, M + F, F, 0, 1),
}  # fmt: skip
"""By policy."""

TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE = ("shared", "shared-unpinned")

SOME = -1
"""More than none; how many is the schedule's."""


class Measure(NamedTuple):
    """One column of the table."""

    workload: str
    name: str
    read: Callable[[Measures], int]
    specified: Callable[[Policy], int]
    """SOME, or the exact value."""


def _w1(index: int) -> Callable[[Policy], int]:
    return lambda policy: W1[policy.name][index]


def _by_sharing(shared: int, exclusive: int) -> Callable[[Policy], int]:
    return lambda policy: shared if policy.name in TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE else exclusive


MEASURES = (
    Measure("W1", "stale reads", lambda m: m.silent_stale_reads, _w1(0)),
    Measure("W1", "stored back", lambda m: m.storebacks, _w1(1)),
    Measure("W1", "pool loads", lambda m: m.decompressions, _w1(2)),
    Measure("W1", "double loads", lambda m: m.double_loads, _w1(3)),
    Measure("W1", "device reads", lambda m: m.misses_read_from_device, _w1(4)),
    Measure("W1", "dup. in flight", lambda m: m.duplicates_in_flight, _w1(5)),
    Measure("W1", "dup. at rest", lambda m: m.duplicates_at_rest, lambda _policy: 0),
    Measure("W2", "stale reads", lambda m: m.silent_stale_reads, lambda _policy: 0),
    Measure("W2", "pool loads", lambda m: m.decompressions, lambda _policy: K),
    Measure("W2", "dup. at rest", lambda m: m.duplicates_at_rest, _by_sharing(K, 0)),
    Measure("W3", "dup. at rest", lambda m: m.duplicates_at_rest, lambda _policy: 0),
    Measure("W3", "wasted recomp.", lambda m: m.wasted_recompressions, _by_sharing(0, N)),
    Measure(
        "W4",
        "lost or stale",
        lambda m: m.lost_updates + m.silent_stale_reads,
        lambda policy: 0 if policy.pins else SOME,
    ),
)
"""The columns of the table."""


@dataclass(frozen=True, slots=True)
class SpecifiedCell:
    """What one policy came to in one measure, beside what its specification says."""

    policy: str
    workload: str
    measure: str
    measured: int
    specified: int
    """SOME, or the exact value."""

    @property
    def is_as_specified(self) -> bool:
        """The two agree."""
        return self.measured > 0 if self.specified == SOME else self.measured == self.specified

    @property
    def specified_text(self) -> str:
        """The specified value as people write it."""
        return ">0" if self.specified == SOME else str(self.specified)


def cells_of(policy: Policy, measured: dict[str, Measures]) -> list[SpecifiedCell]:
    """Return *policy*'s row of the table, given what each workload of BUILDS measured."""
    return [
        SpecifiedCell(
            policy.name,
            measure.workload,
            measure.name,
            measure.read(measured[measure.workload]),
            measure.specified(policy),
        )
        for measure in MEASURES
    ]


class SlowFaults(ArmedFailures):
    """A clock that stands still, but for one second between each fault's load and its install."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0

    def __call__(self, pid: int, address: int) -> InstallFailure | None:
        """Let the second pass, then answer as armed."""
        self.now_ns += SECOND_NS
        return super().__call__(pid, address)


def begin(policy: Policy, build: Build) -> Workload:
    """Return the paths of a workload on a new host of *policy*; any driver can run them."""
    failures = SlowFaults()
    host = Host(
        policy,
        [SwapDevice(0, SLOTS)],
        resident_pages_max=SLOTS,
        now_ns=lambda: failures.now_ns,
        install_failure=failures,
    )
    return build(host, failures)


def run_in_process(policy: Policy, build: Build) -> Measures:
    """Run a workload to its end on a tier in this process and return what it measured."""
    workload = begin(policy, build)
    lockstep = Lockstep(one_area(policy.name, SLOTS, POOL_BYTES, device_free_on_read=policy.device_free_on_read))
    for name, path in workload.paths.items():
        lockstep.spawn(name, path)
    lockstep.run()
    return workload.measure()
