"""/metrics of the load generator: what only hosts and the oracle can see, alive while the race runs.

Touches a port. A collector reads the hosts' latest reports at each scrape; nothing is counted here. Every series of
every policy in the race exists from the start, at 0, so that increase() sees the first event. KERNEL.md 6 defines them;
labels are the policy and the area, both bounded by the race.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from swaptier_client.mm.counters import DetectedLoss, HostCounters
from swaptier_client.mm.duplication import DuplicationCause
from swaptier_loadgen.faults.hazards import Hazard
from swaptier_loadgen.faults.spec import FAULTS
from swaptier_loadgen.host.latency import BOUNDS_US
from swaptier_loadgen.host.messages import Duplicates, HostReport
from swaptier_loadgen.host.oracle import Corruption, Fate
from swaptier_loadgen.race.report import is_safe, versions
from swaptier_loadgen.race.settings import RaceSettings, area_name


class MetricsPortTaken(Exception):
    """The metrics address cannot be bound. The message says why."""


_STALE = [str(corruption) for corruption in Corruption if corruption is not Corruption.LOST_UPDATE]
_CAUSES = [cause.name.lower() for cause in DuplicationCause]

EMPTY_REPORT = HostReport(
    counters=list(HostCounters().rows()),
    corruptions=dict.fromkeys(map(str, Corruption), 0),
    told_lost=dict.fromkeys(map(str, DetectedLoss), 0),
    owed_fates=dict.fromkeys(map(str, Fate), 0),
    duplicates=Duplicates(pages=dict.fromkeys(_CAUSES, 0), page_seconds=dict.fromkeys(_CAUSES, 0.0)),
    latency_buckets=[0] * (len(BOUNDS_US) + 1),
)
"""What a host that has not started has done: everything that can be counted, at 0."""


@dataclass
class LatestReports:
    """The last report of every host of the race. Written by the event loop, read by scrapes in other threads.

    Invariant: the keys never change after the start, and a value is replaced whole, so a reader needs no lock.
    """

    reports: dict[tuple[str, int], HostReport] = field(default_factory=dict)
    injected: Mapping[str, int] = field(default_factory=dict)
    """What was done on purpose so far, by the name that --fault has for it. Another's: read only."""

    @classmethod
    def of(cls, settings: RaceSettings) -> "LatestReports":
        """Return the empty reports of a race about to start."""
        return cls({(policy, host): EMPTY_REPORT for policy in settings.policies for host in range(settings.hosts)})

    def put(self, policy: str, host: int, report: HostReport) -> None:
        """Replace one host's report."""
        self.reports[policy, host] = report


class _Series(NamedTuple):
    """One metric of every host: name, help, the label that tells causes apart or "", and where its values are."""

    name: str
    help: str
    label: str
    values: Callable[[HostReport], dict[str, float]]


def _counter(*names: str) -> Callable[[HostReport], dict[str, float]]:
    """Return a reader of the sum of host counters over all causes, without a label."""
    return lambda report: {"": float(sum(report.counter(name) for name in names))}


def _by_cause(name: str) -> Callable[[HostReport], dict[str, float]]:
    """Return a reader of a host counter by cause."""
    return lambda report: {cause: float(value) for row, cause, value in report.counters if row == name}


def _one(read: Callable[[HostReport], float]) -> Callable[[HostReport], dict[str, float]]:
    """Return a reader of a single value."""
    return lambda report: {"": float(read(report))}


def _told_lost(report: HostReport) -> dict[str, float]:
    return {str(reason): float(report.told_lost.get(str(reason), 0)) for reason in DetectedLoss}


def _storeback(report: HostReport) -> dict[str, float]:
    return {result: float(report.counter(f"storeback_{result}")) for result in ("stored", "rejected")}


COUNTERS = (
    _Series("faults", "Swap faults that mapped their page.", "", _counter("faults")),
    _Series("fault_retries", "Swap faults that had to be taken again.", "", _counter("fault_retries")),
    _Series("minor_faults", "First touches of a page: zeros, no swap.", "", _counter("minor_faults")),
    _Series(
        "install_failures", "Pages read that could not be mapped, by cause.", "cause", _by_cause("install_failures")
    ),
    _Series(
        "install_failures_owed",
        "Install failures whose data was still needed.",
        "",
        _counter("install_failures_owed"),
    ),
    _Series(
        "silent_stale_reads",
        "Pages mapped with wrong bytes and no error, each counted once when first read, by where they came from.",
        "source",
        lambda report: {source: float(report.corruptions[source]) for source in _STALE},
    ),
    _Series(
        "lost_updates",
        "Pages whose newer version was mapped over by an older one (slot reuse, ABA).",
        "",
        _one(lambda report: report.corruptions[Corruption.LOST_UPDATE]),
    ),
    _Series("detected_loss", "Pages a process was told are gone (SIGBUS), by reason.", "reason", _told_lost),
    _Series(
        "lost_pages",
        "Pages that were lost or read wrong, by the hazard that took them.",
        "hazard",
        lambda report: {str(hazard): float(report.lost_to.get(str(hazard), 0)) for hazard in Hazard},
    ),
    _Series("discarded", "Loads thrown away because nobody needed the page any more.", "", _counter("discarded")),
    _Series(
        "owed_fates",
        "What became of pages whose failed install took the only copy.",
        "fate",
        lambda report: {fate: float(count) for fate, count in report.owed_fates.items()},
    ),
    _Series(
        "dup_page_seconds",
        "Integral of swaptier_dup_pages over time, by cause.",
        "cause",
        lambda report: report.duplicates.page_seconds,
    ),
    _Series("double_loads", "Loads of a page version that had been loaded before.", "", _counter("double_loads")),
    _Series("wasted_recompress", "Stores of bytes the tier had been given before.", "", _counter("wasted_recompress")),
    _Series(
        "tier_miss_must_exist",
        "Loads answered from the device although the pool had been given the page.",
        "",
        _counter("tier_miss_must_exist"),
    ),
    _Series("storeback", "Pages stored again after a failed install, by result.", "result", _storeback),
    _Series("pin_waits", "Faults that found the slot pinned (-EEXIST) and waited.", "", _counter("pin_waits")),
    _Series("pin_enoent", "Faults that found the slot free (-ENOENT).", "", _counter("pin_enoent")),
    _Series("stores", "Store requests answered.", "", _counter("stores")),
    _Series("loads", "Load requests answered.", "", _counter("loads")),
    _Series("store_rescued", "Folios taken back while reclaim wrote them.", "", _counter("store_rescued")),
    _Series("zswpin", "Pages read from the pool, as the kernel's zswpin.", "", _counter("zswpin")),
    _Series("zswpout", "Pages the pool took, as the kernel's zswpout.", "", _counter("zswpout")),
    _Series("pswpin", "Pages read from the device, as the kernel's pswpin.", "", _counter("pswpin")),
    _Series("pswpout", "Pages written to the device, as the kernel's pswpout.", "", _counter("pswpout")),
    _Series("zswpwb", "Pages the tier wrote back from the pool, as the kernel's zswpwb.", "", _one(lambda r: r.zswpwb)),
    _Series("swap_ra", "Pages read ahead, as the kernel's swap_ra.", "", _counter("swap_ra")),
    _Series(
        "swap_ra_hit",
        "Of these, pages a fault then asked for, as the kernel's swap_ra_hit.",
        "",
        _counter("swap_ra_hit"),
    ),
    _Series(
        "swpin_zero",
        "Pages of zeros restored without asking the tier, as the kernel's swpin_zero.",
        "",
        _counter("swpin_zero"),
    ),
    _Series(
        "swpout_zero",
        "Pages of zeros noted on the host instead of stored, as the kernel's swpout_zero.",
        "",
        _counter("swpout_zero"),
    ),
    _Series("pages_checked", "Pages compared with what had been written.", "", _one(lambda r: r.pages_checked)),
    _Series("ops", "Accesses of the workload made.", "", _one(lambda r: r.ops_done)),
)
"""Counters of the hosts, without prefix and suffix."""

GAUGES = (
    _Series(
        "dup_pages",
        "Pages held compressed in the tier and uncompressed on the host, by cause.",
        "cause",
        lambda report: {cause: float(pages) for cause, pages in report.duplicates.pages.items()},
    ),
    _Series("dup_bytes", "Memory duplicated pages take, both copies.", "", _one(lambda r: r.duplicates.bytes_now)),
    _Series(
        "dup_waste_bytes",
        "Compressed bytes of duplicated pages: what exclusive loads would free.",
        "",
        _one(lambda r: r.duplicates.waste_bytes_now),
    ),
    _Series("dup_pages_peak", "Most pages duplicated at once.", "", _one(lambda r: r.duplicates.pages_peak)),
    _Series(
        "orphan_entries",
        "Pool entries of freed slots the tier was not yet told of.",
        "",
        _one(lambda r: r.orphan_entries),
    ),
    _Series("resident_pages", "Uncompressed pages on the host.", "", _one(lambda r: r.resident_pages)),
    _Series("swapcache_pages", "Of these, in the swapcache.", "", _one(lambda r: r.swapcache_pages)),
)
"""Gauges of the hosts, without prefix."""


class RaceCollector(Collector):
    """Turns the latest reports into metric families at each scrape."""

    def __init__(self, settings: RaceSettings, latest: LatestReports) -> None:
        self._settings = settings
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Yield every family, whatever has run so far."""
        for family, kind in ((COUNTERS, CounterMetricFamily), (GAUGES, GaugeMetricFamily)):
            for series in family:
                yield self._family(series, kind)
        yield self._latency()
        yield self._faults()
        yield self._race_info()

    def _family(
        self, series: _Series, kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    ) -> CounterMetricFamily | GaugeMetricFamily:
        labels = ["policy", "area", *([series.label] if series.label else [])]
        metric = kind(f"swaptier_{series.name}", series.help, labels=labels)
        for (policy, host), report in self._latest.reports.items():
            area = area_name(self._settings.name, policy, host)
            for cause, value in series.values(report).items():
                metric.add_metric([policy, area, *([cause] if series.label else [])], value)
        return metric

    def _latency(self) -> HistogramMetricFamily:
        """Return the fault latencies of each policy, all hosts together."""
        metric = HistogramMetricFamily(
            "swaptier_fault_seconds", "From a fault's first instruction to its page being mapped.", labels=["policy"]
        )
        bounds = [*(f"{bound / 1e6:g}" for bound in BOUNDS_US), "+Inf"]
        for policy in self._settings.policies:
            reports = [report for (of, _), report in self._latest.reports.items() if of == policy]
            counts = [sum(bucket) for bucket in zip(*(report.latency_buckets for report in reports), strict=True)]
            buckets = list(zip(bounds, _cumulative(counts), strict=True))
            metric.add_metric([policy], buckets, sum(report.latency_seconds_sum for report in reports))
        return metric

    def _faults(self) -> CounterMetricFamily:
        """Return what was done on purpose, whatever policy ran."""
        metric = CounterMetricFamily(
            "swaptier_faults_injected", "What went wrong on purpose on the way to a tier or with it.", labels=["fault"]
        )
        for fault in FAULTS:
            metric.add_metric([fault], self._latest.injected.get(fault, 0))
        return metric

    def _race_info(self) -> GaugeMetricFamily:
        """Return what is being raced."""
        metric = GaugeMetricFamily(
            "swaptier_race_info",
            "Policies in this race, and whether their specification says that they lose no page.",
            labels=["policy", "safe", "seed", "version"],
        )
        version = versions()["swaptier"]
        for policy in self._settings.policies:
            safe = "true" if is_safe(policy, self._settings) else "false"
            metric.add_metric([policy, safe, str(self._settings.seed), version], 1)
        return metric


def _cumulative(counts: Sequence[int]) -> Iterable[int]:
    total = 0
    for count in counts:
        total += count
        yield total


def serve(address: str, collector: RaceCollector) -> str:
    """Serve /metrics at HOST:PORT until this process ends, and return the address it got.

    Raises:
        MetricsPortTaken: the address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise MetricsPortTaken(f"--metrics {address} cannot be bound: {error.strerror or error}") from error
    return f"{host}:{server.server_port}"
