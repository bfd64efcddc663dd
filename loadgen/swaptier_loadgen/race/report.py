"""What came of a race: one summary per policy, its verdict, the exit status and the JSON document.

Pure, but for `versions`, which asks what is installed. `table.py` draws it. Counts are sums over the hosts;
`duplicate_pages_peak` is the sum of each host's own peak, since two hosts' clocks are not compared.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.host.latency import LatencyUs, merge
from swaptier_loadgen.host.messages import Ended, HostReport, PolicyRun
from swaptier_loadgen.host.oracle import Corruption, Fate
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race.settings import RaceSettings

SCHEMA_VERSION = 1
"""Of the JSON document; rises when a field changes its meaning or goes."""

STATUS_AS_SPECIFIED = 0
STATUS_SAFE_POLICY_FAILED = 1
STATUS_USAGE = 2
STATUS_UNREACHABLE = 3
STATUS_DEFECT = 70
"""A defect of ours: sysexits' EX_SOFTWARE."""
STATUS_INTERRUPTED = 130

EXAMPLES_MAX = 3
"""Findings told in words, per policy."""


class Verdict(StrEnum):
    """What a policy did, against what its specification says."""

    SAFE = "safe"
    AS_SPECIFIED = "corrupts (as specified)"
    LOSES = "loses (as specified)"
    """It lost pages and said so, as its specification says it can."""
    TELLS = "tells (none silent)"
    """Pages were lost that no policy could keep, and said to be: their tier died with them in memory, or was gone, or
    another host on the same area had taken them."""
    NOT_SEEN = "unsafe (not seen)"
    """The specification says that it can lose pages; this run did not make it."""
    CORRUPTED = "CORRUPTED"
    """A policy that must not."""
    LOST = "LOST PAGES"
    """A policy that must not lost pages, and said so."""
    LEAKED = "LEAKED"
    """Every process had ended and the tier still held pages."""
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    """The tier answered, and would not serve this host."""
    OUT_OF_MEMORY = "out of memory"
    STOPPED = "stopped early"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One policy's row. The fields up to `latency_us` are the JSON document's contract; the rest may grow."""

    policy: str
    verdict: Verdict
    faults: int
    install_failures: int
    install_failures_owed: int
    """Of these, where the process still needed the data."""
    silent_stale_reads: int
    lost_updates: int
    detected_losses: int
    discarded: int
    """Loads thrown away because nobody needed the page any more. Not a corruption."""
    duplicate_pages_peak: int
    duplicate_page_seconds: float
    double_loads: int
    wasted_recompressions: int
    stores: int
    loads: int
    faults_per_second: float
    latency_us: LatencyUs
    is_safe_by_specification: bool
    ended: Ended
    message: str
    corruptions_by_kind: Mapping[str, int]
    corruptions_without_install_failure: int
    owed_fates: Mapping[str, int]
    """What became of the pages whose failed install took the only copy."""
    detected_losses_by_reason: Mapping[str, int]
    duplicate_page_seconds_by_cause: Mapping[str, float]
    counters: Mapping[str, int]
    """The hosts' counters, "name" or "name.cause"."""
    ops: int
    pages_checked: int
    leaked_pages: int
    race_seconds: float
    examples: tuple[str, ...]
    first_corruption_seconds: float | None
    """From the workload's first access to the first wrong page on any host; None when there was none."""
    kernel_counters: tuple[Mapping[str, int], ...]
    """One for each host: what its /proc/vmstat would say of swap, under the kernel's names."""
    counters_wrong: int
    index_words_wrong: int
    """What the kernel's swap race stress calls data loss and misload; 0 in other workloads."""
    lost_to: Mapping[str, int]
    """What took the pages that were lost or read wrong, by `hazards.Hazard`."""
    injected: Mapping[str, int]
    """What was done on purpose while this policy ran, by the name that --fault has for it."""
    tiers_are_durable: bool
    """Its tiers said that a store is answered only once the page outlives them: then none is excused by a restart."""
    reconnects: int
    """Times a host had lost a tier and found it again."""
    predicted_losses: float
    """Pages that dropped answers take along: p x loads of KERNEL.md 6.4. 0 where not every load takes its page."""

    @property
    def corrupted_pages(self) -> int:
        """Pages with wrong bytes, each counted once."""
        return self.silent_stale_reads + self.lost_updates


def summarise(run: PolicyRun) -> RunSummary:
    """Add up what the hosts of one policy reported and judge it."""
    reports = run.reports
    corruptions = _sum(report.corruptions for report in reports)
    told = _sum(report.told_lost for report in reports)
    counters = _sum(
        {f"{name}.{cause}" if cause else name: value for name, cause, value in report.counters} for report in reports
    )
    page_seconds: dict[str, float] = {}
    for report in reports:
        for cause, seconds in report.duplicates.page_seconds.items():
            page_seconds[cause] = page_seconds.get(cause, 0.0) + seconds
    race_seconds = max((report.race_seconds for report in reports), default=0.0)
    race_faults = sum(report.race_faults for report in reports)
    lost_updates = corruptions.get(Corruption.LOST_UPDATE, 0)
    firsts = [r.first_corruption_seconds for r in reports if r.first_corruption_seconds is not None]
    examples = [example for report in reports for example in report.examples]
    return RunSummary(
        policy=run.policy,
        verdict=_verdict(run, corruptions, told),
        faults=_counter(reports, "faults"),
        install_failures=_counter(reports, "install_failures"),
        install_failures_owed=_counter(reports, "install_failures_owed"),
        silent_stale_reads=sum(corruptions.values()) - lost_updates,
        lost_updates=lost_updates,
        detected_losses=sum(told.values()),
        discarded=_counter(reports, "discarded"),
        duplicate_pages_peak=sum(report.duplicates.pages_peak for report in reports),
        duplicate_page_seconds=sum(page_seconds.values()),
        double_loads=_counter(reports, "double_loads"),
        wasted_recompressions=_counter(reports, "wasted_recompress"),
        stores=_counter(reports, "stores"),
        loads=_counter(reports, "loads"),
        faults_per_second=race_faults / race_seconds if race_seconds else 0.0,
        latency_us=merge(report.latency_histogram for report in reports),
        is_safe_by_specification=is_safe(run.policy, run),
        ended=run.ended,
        message=next((report.message for report in reports if report.message), ""),
        corruptions_by_kind=corruptions,
        corruptions_without_install_failure=sum(report.unexplained for report in reports),
        owed_fates=_sum(report.owed_fates for report in reports),
        detected_losses_by_reason=told,
        duplicate_page_seconds_by_cause=page_seconds,
        counters=counters,
        ops=sum(report.ops_done for report in reports),
        pages_checked=sum(report.pages_checked for report in reports),
        leaked_pages=sum(report.leaked_pages for report in reports),
        race_seconds=race_seconds,
        examples=tuple(examples[:EXAMPLES_MAX]),
        first_corruption_seconds=min(firsts, default=None),
        kernel_counters=tuple(report.kernel_counters() for report in reports),
        counters_wrong=sum(report.counters_wrong for report in reports),
        index_words_wrong=sum(report.index_words_wrong for report in reports),
        lost_to=_sum(report.lost_to for report in reports),
        injected=run.injected,
        tiers_are_durable=run.tiers_are_durable,
        reconnects=sum(report.reconnects for report in reports),
        predicted_losses=_predicted_losses(run, counters.get("zswpin", 0)),
    )


def _predicted_losses(run: PolicyRun, loads_answered: int) -> float:
    """Return p x loads: those that were answered are the share 1 - p of the loads that took a page."""
    share = run.faults.drop_reply
    return loads_answered * share / (1 - share) if POLICIES[run.policy].takes_at_every_load else 0.0


def is_safe(name: str, race: PolicyRun | RaceSettings) -> bool:
    """Tell whether the policy *name* must not lose a page in this *race*, by its specification."""
    policy = POLICIES[name]
    # Where two hosts share an area, each frees and takes what the other needs: pages are left behind, and only the
    # tier can keep a loss from being silent.
    is_told = policy.requires_generation or race.require_generation
    is_shared = race.workload is WorkloadKind.TWO_HOSTS
    has_broken = race.has_broken if isinstance(race, PolicyRun) else bool(race.faults)
    return policy.is_safe and (is_told or not is_shared) and not (has_broken and policy.takes_at_load)


def _verdict(run: PolicyRun, corruptions: Mapping[str, int], told: Mapping[str, int]) -> Verdict:
    """Judge a policy by what its hosts found and were told."""
    reports = run.reports
    lost_by_nobody = _lost_by_nobody(run, told)
    leaked = sum(report.leaked_pages for report in reports)
    # A restart forgets which slots are free, and a late request may fill one again.
    has_restarted = any(report.tier_restarts for report in reports)
    return judge(
        is_safe=is_safe(run.policy, run),
        ended=run.ended,
        corrupted=sum(corruptions.values()) + sum(r.counters_wrong + r.index_words_wrong for r in reports),
        lost=sum(told.values()) - lost_by_nobody,
        leaked=0 if run.workload is WorkloadKind.TWO_HOSTS or has_restarted else leaked,
        lost_by_nobody=lost_by_nobody,
    )


def _lost_by_nobody(run: PolicyRun, told: Mapping[str, int]) -> int:
    """Return how many of the losses that processes were *told* no policy could have prevented."""
    is_shared = run.workload is WorkloadKind.TWO_HOSTS
    # Nobody took the page that `store-back` had to give back: KERNEL.md 6.4.
    pages = told.get(DetectedLoss.STOREBACK_REJECTED, 0)
    if not run.tiers_are_durable:
        # Of two hosts on one area, each loses with the tier what the other left there.
        with_tier = sum(report.lost_with_tier for report in run.reports)
        pages += told.get(DetectedLoss.EPOCH, 0) if is_shared else with_tier
    is_gone = run.ended is not Ended.FINISHED or any(report.tiers_dead for report in run.reports)
    if not run.tiers_are_durable or is_gone:
        # A durable tier that was there to the end was out of nobody's reach.
        pages += told.get(DetectedLoss.UNREACHABLE, 0)
    if is_shared:
        pages += told.get(DetectedLoss.MISS_MUST_EXIST, 0)
    return pages


def judge(*, is_safe: bool, ended: Ended, corrupted: int, lost: int, leaked: int, lost_by_nobody: int = 0) -> Verdict:
    """Return the verdict on a policy: what was found counts first, then how the run ended."""
    if corrupted:
        return Verdict.CORRUPTED if is_safe else Verdict.AS_SPECIFIED
    if lost:
        return Verdict.LOST if is_safe else Verdict.LOSES
    if ended is Ended.UNREACHABLE:
        return Verdict.UNREACHABLE
    if ended is Ended.REFUSED:
        return Verdict.REFUSED
    if ended is Ended.OUT_OF_MEMORY:
        return Verdict.OUT_OF_MEMORY
    if ended is Ended.STOPPED:
        return Verdict.STOPPED
    if leaked:
        return Verdict.LEAKED
    if lost_by_nobody:
        return Verdict.TELLS
    return Verdict.SAFE if is_safe else Verdict.NOT_SEEN


def exit_status(summaries: Iterable[RunSummary]) -> int:
    """Return the exit status of a race that was not interrupted: the worst thing first."""
    summaries = list(summaries)
    verdicts = {summary.verdict for summary in summaries}
    if verdicts & {Verdict.CORRUPTED, Verdict.LOST, Verdict.LEAKED}:
        return STATUS_SAFE_POLICY_FAILED
    if any(summary.ended in (Ended.UNREACHABLE, Ended.REFUSED) for summary in summaries):
        return STATUS_UNREACHABLE
    if any(summary.ended is Ended.OUT_OF_MEMORY for summary in summaries):
        return STATUS_USAGE
    return STATUS_AS_SPECIFIED


def not_raced(settings: RaceSettings, summaries: Iterable[RunSummary]) -> list[str]:
    """Return the policies that were to race and have no result, because the race ended before."""
    raced = {summary.policy for summary in summaries}
    return [policy for policy in settings.policies if policy not in raced]


def document(settings: RaceSettings, summaries: Sequence[RunSummary]) -> dict[str, object]:
    """Return the JSON document of a race."""
    workload = asdict(settings)
    del workload["security"]  # where whose files are is nobody else's business
    workload["corpus"] = None if settings.corpus is None else str(settings.corpus)
    workload["faults"] = str(settings.faults)
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": settings.seed,
        "workload": workload,
        "versions": versions(),
        "runs": [_run_document(summary) for summary in summaries],
        "not_raced": not_raced(settings, summaries),
    }


def _run_document(summary: RunSummary) -> dict[str, object]:
    run = {name: getattr(summary, name) for name in RunSummary.__dataclass_fields__}
    run["damage"] = run.pop("injected")
    run["latency_us"] = summary.latency_us._asdict()
    run["never_read_again"] = summary.owed_fates.get(Fate.NEVER_READ, 0)
    return run


def versions() -> dict[str, str]:
    """Return what took part: our version, Python's, and those of the packages that matter."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in ("swaptier", "grpcio", "protobuf", "lz4"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def closing_sentence(summaries: Iterable[RunSummary], repeat: str = "") -> str:
    """Return what a newcomer should take home from the table; *repeat* is the command that races the same again."""
    summaries = list(summaries)
    failed = [s for s in summaries if s.verdict in (Verdict.CORRUPTED, Verdict.LOST, Verdict.LEAKED)]
    if failed:
        return (
            f"{_names(failed)} must never lose, corrupt or leak a page and did: that is a defect of this program. "
            f"The same accesses and failures again: {repeat}"
        )
    gone = [s for s in summaries if s.verdict is Verdict.UNREACHABLE]
    if gone:
        return (
            f"The tier cannot be reached, which says nothing about {_names(gone)}: {gone[0].message}. How long hosts "
            "wait for a tier that is gone is --give-up SECONDS."
        )
    refused = [s for s in summaries if s.verdict is Verdict.REFUSED]
    if refused:
        return f"The tier refused, which says nothing about {_names(refused)}. It said: {refused[0].message}"
    bad = [s for s in summaries if s.verdict is Verdict.AS_SPECIFIED]
    told = [s for s in summaries if s.verdict in (Verdict.LOSES, Verdict.TELLS)]
    telling = [s for s in summaries if s in told or (s in bad and s.detected_losses)]
    good = [s for s in summaries if s.verdict is Verdict.SAFE]
    checked = (
        f"every byte of {sum(s.pages_checked for s in summaries):,} pages read was compared with what was written."
    )
    if telling:
        lost = sum(s.detected_losses for s in telling)
        checked += f" {_pages(lost)} lost under {_names(telling)}, and the programs were told so."
    wrong = _pages(sum(s.corrupted_pages for s in bad), "came back")
    if bad and good:
        return (
            f"{wrong} to programs with wrong bytes and no error under {_names(bad)}; not one did under "
            f"{_names(good)}: {checked}"
        )
    if bad:
        return f"{wrong} to programs with wrong bytes and no error under {_names(bad)}: {checked}"
    if good or told:
        return f"Not one page came back wrong under {_names(good or told)}: {checked}"
    return f"No page came back wrong, but no policy that promises so ran to its end: {checked}"


def why_out_of_memory(settings: RaceSettings, summary: RunSummary) -> str:
    """Return why memory ran out and which flags that were given may be why; empty where it did not."""
    if summary.ended is not Ended.OUT_OF_MEMORY:
        return ""
    flags = []
    if settings.server_flags.pool_limit is not None:
        flags.append(f"--pool-limit {settings.server_flags.pool_limit} (raise it)")
    if settings.area_options.pool_bytes_max is not None:
        flags.append(f"--zswap-max {settings.area_options.pool_bytes_max} (raise it)")
    if not settings.area_options.writeback:
        flags.append("--no-zswap-writeback (leave it out, and what the pool refuses goes to the device)")
    advice = f". What a tier refuses stays on the host; look at {', '.join(flags)}" if flags else ""
    return f"{summary.policy}: out of memory: {summary.message}{advice}"


def _pages(number: int, verb: str = "") -> str:
    if number == 1:
        return f"1 page {verb or 'was'}"
    return f"{number:,} pages {verb or 'were'}"


def _names(summaries: list[RunSummary]) -> str:
    names = [summary.policy for summary in summaries]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _counter(reports: Iterable[HostReport], name: str) -> int:
    return sum(report.counter(name) for report in reports)


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)
