"""The results of one policy: its hosts' reports added up, what follows from them, and the verdict.

Pure. This record is what a race hands over, what the table shows and, dumped, the policy's entry in the JSON document:
its fields and computed fields, but those declared UNPUBLISHED. A count is declared where it is made (`HostCounters`,
the oracle's `Tally`, `HostReport`) and reaches all of these from there.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Annotated

from pydantic import Field, TypeAdapter, computed_field
from pydantic.dataclasses import dataclass

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.faults.spec import NO_FAULTS, Faults
from swaptier_loadgen.host.latency import LatencyUs, merge
from swaptier_loadgen.host.oracle import Fate, Tally
from swaptier_loadgen.host.report import Ended, HostReport
from swaptier_loadgen.host.report_field import UNPUBLISHED, declarations
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race.verdict import Verdict, is_safe, judge


def _counter(name: str) -> "cached_property[int]":
    """Declare a counter of the hosts that the JSON document has at its top as well, summed over its causes."""
    return computed_field(return_type=int)(cached_property(lambda run: run.counter(name)))


@dataclass(kw_only=True)
class RunSummary(HostReport):
    """What the hosts of one policy did and found together."""

    policy: str
    ended: Ended = Ended.FINISHED
    tiers_are_durable: bool = False
    """On all hosts that got to their tiers: then no loss is excused by a restart."""
    kernel_counters: list[dict[str, int]]
    """One for each host: what its /proc/vmstat would say of swap, under the kernel's names."""
    injected: dict[str, int] = Field(default_factory=dict, serialization_alias="damage")
    """Faults injected while this policy ran, by the name that --fault has for it."""
    workload: Annotated[WorkloadKind, UNPUBLISHED] = WorkloadKind.RANDOM
    fault_settings: Annotated[Faults, UNPUBLISHED] = NO_FAULTS
    require_generation: Annotated[bool, UNPUBLISHED] = False
    """Loads asked for their generation, whatever the policy."""

    faults = _counter("faults")
    install_failures = _counter("install_failures")
    install_failures_owed = _counter("install_failures_owed")
    discarded = _counter("discarded")
    double_loads = _counter("double_loads")
    wasted_recompressions = _counter("wasted_recompress")
    stores = _counter("stores")
    loads = _counter("loads")
    silent_stale_reads = computed_field(Tally.silent_stale_reads)
    lost_updates = computed_field(Tally.lost_updates)

    @cached_property
    def corrupted_pages(self) -> int:
        """Pages with wrong bytes, each counted once."""
        return sum(self.corruptions_by_kind.values())

    @computed_field
    @cached_property
    def detected_losses(self) -> int:
        """Pages that are gone and whose process got an error (SIGBUS)."""
        return sum(self.detected_losses_by_reason.values())

    @computed_field
    @cached_property
    def duplicate_page_seconds(self) -> float:
        """Of all causes."""
        return sum(self.duplicate_page_seconds_by_cause.values())

    @computed_field
    @cached_property
    def never_read_again(self) -> int:
        """Pages whose failed install took the only copy, and that no process read again."""
        return self.owed_fates.get(Fate.NEVER_READ, 0)

    @computed_field
    @cached_property
    def faults_per_second(self) -> float:
        """Of all hosts together."""
        return self.race_faults / self.race_seconds if self.race_seconds else 0.0

    @computed_field
    @cached_property
    def latency_us(self) -> LatencyUs:
        """Of all faults of all hosts."""
        return merge(self.latency_histograms)

    @computed_field
    @cached_property
    def predicted_losses(self) -> float:
        """Pages that dropped answers take along: p x loads of KERNEL.md 6.4. 0 where not every load takes its page."""
        share = self.fault_settings.drop_reply  # loads that were answered are the share 1 - p of all
        answered = self.counter("zswpin")
        return answered * share / (1 - share) if POLICIES[self.policy].takes_at_every_load else 0.0

    @computed_field
    @cached_property
    def is_safe_by_specification(self) -> bool:
        """Whether the policy must not lose a page in such a race."""
        return is_safe(
            self.policy,
            self.workload,
            requires_generation=self.require_generation,
            loses_answers=bool(self.fault_settings or self.reconnects),
        )

    @computed_field
    @cached_property
    def verdict(self) -> Verdict:
        """On what the hosts found and what they detected as lost."""
        is_shared = self.workload is WorkloadKind.TWO_HOSTS
        unpreventable = self._unpreventable
        return judge(
            is_safe=self.is_safe_by_specification,
            ended=self.ended,
            corrupted=self.corrupted_pages + self.counters_wrong + self.index_words_wrong,
            lost=self.detected_losses - unpreventable,
            # A restart forgets which slots are free, and a late request may fill one again.
            leaked=0 if is_shared or self.tier_restarts else self.leaked_pages,
            unpreventable=unpreventable,
        )

    @cached_property
    def _unpreventable(self) -> int:
        """Detected losses that no policy could have prevented."""
        losses = self.detected_losses_by_reason
        is_shared = self.workload is WorkloadKind.TWO_HOSTS
        # The pool refused the page that `store-back` had to give back: KERNEL.md 6.4.
        pages = losses.get(DetectedLoss.STOREBACK_REJECTED, 0)
        if not self.tiers_are_durable:
            # Of two hosts on one area, each loses with the tier what the other left there.
            pages += losses.get(DetectedLoss.EPOCH, 0) if is_shared else self.lost_with_tier
        is_gone = self.ended is not Ended.FINISHED or self.tiers_dead
        if not self.tiers_are_durable or is_gone:
            # A durable tier that was there to the end was within reach of all hosts.
            pages += losses.get(DetectedLoss.UNREACHABLE, 0)
        if is_shared:
            pages += losses.get(DetectedLoss.MISS_MUST_EXIST, 0)
        return pages


def summarise(
    policy: str,
    reports: Sequence[HostReport],
    *,
    workload: WorkloadKind = WorkloadKind.RANDOM,
    fault_settings: Faults = NO_FAULTS,
    injected: dict[str, int] | None = None,
    require_generation: bool = False,
) -> RunSummary:
    """Add up what the hosts of one policy reported last."""
    total = sum(reports, HostReport())
    facts = asdict(total) | {"ended": total.ended or Ended.FINISHED, "tiers_are_durable": bool(total.tiers_are_durable)}
    return RunSummary(
        **facts,
        policy=policy,
        kernel_counters=[report.vmstat() for report in reports],
        workload=workload,
        fault_settings=fault_settings,
        injected=injected or {},
        require_generation=require_generation,
    )


_RUN = TypeAdapter(RunSummary)
_UNPUBLISHED = {name for name, declared in declarations(RunSummary).items() if UNPUBLISHED in declared}


def document_of(run: RunSummary) -> dict[str, object]:
    """Return *run* as the JSON document has it."""
    dumped: dict[str, object] = _RUN.dump_python(run, mode="json", by_alias=True, exclude=_UNPUBLISHED)
    return dumped
