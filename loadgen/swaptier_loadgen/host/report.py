"""What one host has done and found so far: each count declared once, with its meaning.

Pure. A host writes a report as one line of JSON; the reports of all hosts of a policy are added up (`report_field.py`)
to that policy's results (`race/results.py`). What the oracle counts is declared there, what mm counts in
`HostCounters`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import TypeAdapter

from swaptier_client.mm.counters import HostCounters
from swaptier_client.mm.duplication import DuplicationCause
from swaptier_loadgen.faults.hazards import Hazard, LostPage
from swaptier_loadgen.host.latency import BUCKETS
from swaptier_loadgen.host.oracle import Tally
from swaptier_loadgen.host.report_field import UNPUBLISHED, AddedBy, Gauge, Metric, add_reports

EXAMPLES_MAX = 3
"""Findings in words, of a host and of a policy; the rest are counted."""

KERNEL_COUNTERS = (
    *("zswpin", "zswpout", "zswpwb", "pswpin", "pswpout"),
    *("swap_ra", "swap_ra_hit", "swpin_zero", "swpout_zero"),
)
"""What /proc/vmstat of the host would say of swap. Models: vm_event_item.h."""

_CAUSES = [cause.name.lower() for cause in DuplicationCause]


class Ended(StrEnum):
    """How a host's run ended, from the best end to the worst."""

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


@dataclass
class HostReport(Tally):
    """What one host has done and found, or several added up."""

    ops: Annotated[int, Metric("Accesses of the workload made.")] = 0
    race_seconds: Annotated[float, AddedBy(max)] = 0.0
    """Time spent in the accesses of the workload, without the first writes and the final sweep."""
    race_faults: Annotated[int, UNPUBLISHED] = 0
    """Swap faults in that time."""
    counters: dict[str, int] = field(default_factory=dict)
    """`HostCounters`: "name", or "name.cause"."""
    lost_with_tier: Annotated[int, UNPUBLISHED] = 0
    """Of the detected losses, pages that a tier had alone when it started anew."""
    lost_to: Annotated[
        dict[str, int],
        Metric("Pages that were lost or read wrong, by the hazard that took them.", "hazard", Hazard, "lost_pages"),
    ] = field(default_factory=dict)
    """By `Hazard`. The race fills it in: it knows what the links saw."""
    new_losses: Annotated[list[LostPage], UNPUBLISHED] = field(default_factory=list)
    """Pages lost or read wrong since the report before; LOSSES_MAX at most."""
    first_corruption_seconds: Annotated[float | None, AddedBy(min)] = None
    """From the workload's first access to the first wrong page; None while there is none."""
    counters_wrong: int = 0
    """stress-race: pages whose counter is not the number of additions made to it ("data loss")."""
    index_words_wrong: int = 0
    """stress-race: pages that hold another page's words ("misload")."""
    examples: Annotated[list[str], AddedBy(lambda one, other: [*one, *other][:EXAMPLES_MAX])] = field(
        default_factory=list
    )
    """The first findings, in words."""
    leaked_pages: int = 0
    """Pages the pool still held after every process had ended and every slot had been freed: must be 0."""

    duplicate_pages: Annotated[
        dict[str, int],
        Gauge(
            "Pages held compressed in the tier and uncompressed on the host, by cause.", "cause", _CAUSES, "dup_pages"
        ),
        UNPUBLISHED,
    ] = field(default_factory=dict)
    """Now. KERNEL.md 6.1."""
    duplicate_page_seconds_by_cause: Annotated[
        dict[str, float],
        Metric("Integral of swaptier_dup_pages over time, by cause.", "cause", _CAUSES, "dup_page_seconds"),
    ] = field(default_factory=dict)
    duplicate_pages_peak: Annotated[int, Gauge("Most pages duplicated at once.", name="dup_pages_peak")] = 0
    """Of several hosts, the sum of each host's own peak: two hosts' clocks are not compared."""
    duplicate_bytes: Annotated[
        int, Gauge("Memory duplicated pages take, both copies.", name="dup_bytes"), UNPUBLISHED
    ] = 0
    duplicate_waste_bytes: Annotated[
        int,
        Gauge("Compressed bytes of duplicated pages: what exclusive loads would free.", name="dup_waste_bytes"),
        UNPUBLISHED,
    ] = 0
    resident_pages: Annotated[int, Gauge("Uncompressed pages on the host."), UNPUBLISHED] = 0
    swapcache_pages: Annotated[int, Gauge("Of these, in the swapcache."), UNPUBLISHED] = 0
    orphan_entries: Annotated[int, Gauge("Pool entries of freed slots the tier was not yet told of."), UNPUBLISHED] = 0
    zswpwb: Annotated[int, Metric("Pages the tier wrote back from the pool, as the kernel's zswpwb."), UNPUBLISHED] = 0
    """The tier's count, as of its last answer to Stat."""

    tiers_are_durable: Annotated[bool | None, AddedBy(lambda one, other: one and other)] = None
    """All its tiers said that a store is answered only once the page outlives them; None: it never got to them."""
    tiers_dead: Annotated[int, UNPUBLISHED] = 0
    """Tiers that do not answer any more."""
    tier_restarts: Annotated[int, UNPUBLISHED] = 0
    """Times a tier started anew, or forgot an area, while this host used it."""
    tiers_gone: Annotated[list[str], UNPUBLISHED] = field(default_factory=list)
    """Addresses of tiers that this host has no connection to now."""
    reconnects: int = 0
    """Connections made after one had broken."""

    latency_buckets: Annotated[dict[str, int], UNPUBLISHED] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    """Faults by upper bound in seconds, not cumulative."""
    latency_seconds_sum: Annotated[float, UNPUBLISHED] = 0.0
    latency_histograms: Annotated[list[str], UNPUBLISHED] = field(default_factory=list)
    """HdrHistograms of nanoseconds, encoded; one of each host, in its last report."""

    ended: Annotated[Ended | None, AddedBy(lambda one, other: max(one, other, key=list(Ended).index))] = None
    """Set in the last report only. Of several hosts, the worst end."""
    message: Annotated[str, AddedBy(lambda one, other: one or other)] = ""
    """Why it ended early."""

    def __add__(self, other: "HostReport") -> "HostReport":
        """Return the report of both."""
        return add_reports(self, other)

    def counter(self, name: str) -> int:
        """Return the sum over all causes of one of `HostCounters`."""
        return sum(value for key, value in self.counters.items() if key.partition(".")[0] == name)

    def vmstat(self) -> dict[str, int]:
        """Return the counters that the kernel has too, under the kernel's names."""
        return {name: self.zswpwb if name == "zswpwb" else self.counter(name) for name in KERNEL_COUNTERS}


HOST_REPORT = TypeAdapter(HostReport)
"""Reads and writes a report as one line of JSON."""


def by_name(counters: HostCounters) -> dict[str, int]:
    """Return *counters* by "name", or "name.cause"."""
    return {f"{name}.{cause}" if cause else name: value for name, cause, value in counters.rows()}
