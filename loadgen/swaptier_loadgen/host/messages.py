"""What the load generator and its host processes say to each other: one JSON document a line.

Pure. A host is given a `HostSpec` on its standard input and answers with `HostReport`s on its standard output: one
every REPORT_SECONDS while it runs, and a last one with `ended` set. A second line on its input, or its end, means stop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from swaptier_client.mm.readahead import ReadaheadMode
from swaptier_loadgen.faults.hazards import LostPage
from swaptier_loadgen.faults.spec import NO_FAULTS, Faults
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_wire.types import AreaOptions

REPORT_SECONDS = 0.5
"""Often enough for a scrape every second; a report costs a host about a millisecond."""

STALL_SECONDS_MAX = 60.0
"""A host that checks no page for so long hangs: a tier that does not answer ends its run well before.

A host that waits for a tier that is gone is given so much longer."""

LINE_BYTES_MAX = 1 << 20
"""A report is some 10 kB; the last one carries a latency histogram of up to 100 kB."""


LOSSES_MAX = 4096
"""In one report: some 100 bytes each. More go into further reports."""


KERNEL_COUNTERS = (
    *("zswpin", "zswpout", "zswpwb", "pswpin", "pswpout"),
    *("swap_ra", "swap_ra_hit", "swpin_zero", "swpout_zero"),
)
"""What /proc/vmstat of the host would say of swap. Models: vm_event_item.h."""


class Target(NamedTuple):
    """A tier that a host has a swap device on."""

    address: str
    """HOST:PORT or unix:PATH."""
    priority: int
    """Of the swap device: higher ones are filled first, equal ones in turn."""


def parse_tiers(target: str) -> tuple[Target, ...]:
    """Return the tiers that *target* names, separated by commas, each perhaps with @PRIORITY; 0 without."""
    tiers = []
    for part in target.split(","):
        address, _, priority = part.rpartition("@")
        if address and priority.removeprefix("-").isdecimal():
            tiers.append(Target(address, int(priority)))
        else:
            tiers.append(Target(part, 0))
    return tuple(tiers)


def device_area(area: str, type_: int) -> str:
    """Return what the area of swap device *type_* of a host is called, whose first device has *area*."""
    return area if type_ == 0 else f"{area}.{type_}"


class Ended(StrEnum):
    """How a host's run ended."""

    FINISHED = "finished"
    """All accesses made, every page read once more."""
    STOPPED = "stopped"
    """Asked to stop; pages not read again since are not known to be right."""
    UNREACHABLE = "unreachable"
    """The tier did not answer, or ended, or started anew; what was read until then was checked."""
    REFUSED = "refused"
    """The tier answered and would not have this host: no token of its, another's area, a bound; the message says."""
    OUT_OF_MEMORY = "out_of_memory"
    """Reclaim could not free a page: the settings leave too little room."""


class HostSpec(BaseModel):
    """What one host process is to do. Fields as in `RaceSettings`, cut down to this host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: int
    policy: str
    target: str
    client_id: str
    client_epoch: int
    area: str
    slots: int
    processes: int
    threads: int
    pages: int
    resident: int
    ops: int | None
    """Of this host, shared by its threads."""
    duration_seconds: float | None
    seed: int
    install_failure_rate: float
    preemption_rate: float
    corpus_files: tuple[str, ...]
    workload: WorkloadKind = WorkloadKind.RANDOM
    install_failures: dict[str, float] = Field(default_factory=dict)
    readahead: ReadaheadMode = ReadaheadMode.NONE
    zeromap: bool = False
    swapoff: bool = False
    require_generation: bool = False
    deadline_seconds: float | None = None
    """For each answer of a tier; the stream's own without."""
    give_up_seconds: float = 0.0
    area_options: AreaOptions = AreaOptions()
    security_files: dict[str, str] = Field(default_factory=dict)
    """Paths by the field of `Security` that they are for."""

    @property
    def survives_restarts(self) -> bool:
        """A tier that ends is waited for, and what it lost is told to processes; else its end is the host's."""
        return self.give_up_seconds > 0

    @property
    def tiers(self) -> tuple[Target, ...]:
        """The tiers of *target*, one for each swap device."""
        return parse_tiers(self.target)

    def priority(self, type_: int) -> int:
        """Return the priority of a swap device."""
        return self.tiers[type_].priority


class Duplicates(BaseModel):
    """Duplication on one host, as of a report. KERNEL.md 6.1."""

    pages: dict[str, int] = Field(default_factory=dict)
    """By cause, now."""
    page_seconds: dict[str, float] = Field(default_factory=dict)
    """By cause, since the start."""
    pages_peak: int = 0
    bytes_now: int = 0
    waste_bytes_now: int = 0


class HostReport(BaseModel):
    """What one host has done and found so far."""

    ops_done: int = 0
    race_seconds: float = 0.0
    """Time spent in the accesses of the workload, without the first writes and the final sweep."""
    race_faults: int = 0
    """Swap faults in that time."""
    counters: list[tuple[str, str, int]] = Field(default_factory=list)
    """Of the host, as `HostCounters.rows()`."""
    pages_checked: int = 0
    corruptions: dict[str, int] = Field(default_factory=dict)
    """By `oracle.Corruption`."""
    told_lost: dict[str, int] = Field(default_factory=dict)
    """By `DetectedLoss`."""
    lost_with_tier: int = 0
    """Of these, pages that a tier had alone when it started anew."""
    owed_fates: dict[str, int] = Field(default_factory=dict)
    """By `oracle.Fate`."""
    unexplained: int = 0
    """Corruptions that no failed install explains."""
    first_corruption_seconds: float | None = None
    """From the workload's first access to the first wrong page; None while there is none."""
    counters_wrong: int = 0
    """stress-race: pages whose counter is not the number of additions made to it."""
    index_words_wrong: int = 0
    """stress-race: pages that hold another page's words."""
    examples: list[str] = Field(default_factory=list)
    """The first findings, in words."""
    duplicates: Duplicates = Field(default_factory=Duplicates)
    resident_pages: int = 0
    swapcache_pages: int = 0
    orphan_entries: int = 0
    leaked_pages: int = 0
    """Pages the pool still held after every process had ended and every slot had been freed: must be 0."""
    tiers_are_durable: bool | None = None
    """All its tiers said that a store is answered only once the page outlives them; None: it never got to them."""
    tiers_dead: int = 0
    """Tiers that do not answer any more."""
    tier_restarts: int = 0
    """Times a tier started anew, or forgot an area, while this host used it."""
    tiers_gone: list[str] = Field(default_factory=list)
    """Addresses of tiers that this host has no connection to now."""
    reconnects: int = 0
    """Connections made after one had broken."""
    new_losses: list[LostPage] = Field(default_factory=list)
    """Pages lost or read wrong since the report before; LOSSES_MAX at most."""
    lost_to: dict[str, int] = Field(default_factory=dict)
    """By `hazards.Hazard`, what took the pages of this report and all before it. The race fills it in: it has the
    ledger of the links."""
    zswpwb: int = 0
    """Pages the tier wrote back from the pool to its device; the tier's count, as of its last answer to Stat."""
    latency_buckets: list[int] = Field(default_factory=list)
    """Faults per bucket of `latency.BOUNDS_US`, not cumulative."""
    latency_seconds_sum: float = 0.0
    ended: Ended | None = None
    """Set in the last report only, with what follows."""
    message: str = ""
    """Why it ended early."""
    latency_histogram: str = ""
    """HdrHistogram of nanoseconds, encoded."""

    def kernel_counters(self) -> dict[str, int]:
        """Return the host's counters that the kernel has too, under the kernel's names."""
        return {name: self.zswpwb if name == "zswpwb" else self.counter(name) for name in KERNEL_COUNTERS}

    def counter(self, name: str) -> int:
        """Return the sum over all causes of one of the host's counters."""
        return sum(value for row, _, value in self.counters if row == name)


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """What the hosts of one policy reported last."""

    policy: str
    reports: tuple[HostReport, ...]
    workload: WorkloadKind = WorkloadKind.RANDOM
    faults: Faults = NO_FAULTS
    """What went wrong on purpose."""
    injected: Mapping[str, int] = field(default_factory=dict)
    """How often, by the name that --fault has for it."""
    require_generation: bool = False
    """Loads asked for their generation, whatever the policy."""

    @property
    def tiers_are_durable(self) -> bool:
        """A store was answered when it survived the tier, on all hosts."""
        said = [report.tiers_are_durable for report in self.reports if report.tiers_are_durable is not None]
        return bool(said) and all(said)

    @property
    def has_broken(self) -> bool:
        """Connections broke, on purpose or not, and with them answers got lost."""
        return bool(self.faults) or any(report.reconnects for report in self.reports)

    @property
    def ended(self) -> Ended:
        """How it ended: the worst of its hosts."""
        ends = {report.ended for report in self.reports}
        for end in (Ended.OUT_OF_MEMORY, Ended.REFUSED, Ended.UNREACHABLE, Ended.STOPPED):
            if end in ends:
                return end
        return Ended.FINISHED
