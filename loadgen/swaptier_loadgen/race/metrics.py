"""/metrics of the load generator: what only hosts and the oracle can see, alive while the race runs.

Touches a port. A collector reads the hosts' latest reports at each scrape; nothing is counted here. Every series of
every policy in the race exists from the start, at 0, so that increase() sees the first event. KERNEL.md 6 defines them;
labels are the policy and the area, both bounded by the race.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from swaptier_client.mm.counters import HostCounters
from swaptier_loadgen.faults.spec import FAULTS
from swaptier_loadgen.host.latency import BUCKETS
from swaptier_loadgen.host.oracle import Corruption
from swaptier_loadgen.host.report import HostReport
from swaptier_loadgen.host.report_field import Metric, declarations
from swaptier_loadgen.race.report import versions
from swaptier_loadgen.race.scrapers import WhoHasTheToken
from swaptier_loadgen.race.settings import RaceSettings, area_name
from swaptier_loadgen.race.verdict import is_safe
from swaptier_wire.addresses import Address
from swaptier_wire.metrics_port import MetricsPort
from swaptier_wire.process.small_file import FileUnusable


class MetricsPortTaken(Exception):
    """The metrics cannot be served where, and as, it was asked. The message says why."""


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
        return cls({(policy, host): HostReport() for policy in settings.policies for host in range(settings.hosts)})

    def put(self, policy: str, host: int, report: HostReport) -> None:
        """Replace one host's report."""
        self.reports[policy, host] = report


class _Series(NamedTuple):
    """One metric of every host, and where its values are, by the value of its label."""

    metric: Metric
    read: Callable[[HostReport], Mapping[str, float]]


def _of_field(name: str, metric: Metric) -> _Series:
    """Return the series of one field of a report."""

    def read(report: HostReport) -> Mapping[str, float]:
        value = getattr(report, name)
        return value if metric.label else {"": value}

    return _Series(metric._replace(name=metric.name or name), read)


def _of_counter(name: str, text: str, causes: Iterable[str]) -> _Series:
    """Return the series of one of the hosts' counters."""
    if not causes:
        return _Series(Metric(text, name=name), lambda report: {"": report.counter(name)})
    return _Series(
        Metric(text, "cause", causes, name),
        lambda report: {
            key.partition(".")[2]: count for key, count in report.counters.items() if key.partition(".")[0] == name
        },
    )


_STALE = [str(corruption) for corruption in Corruption if corruption is not Corruption.LOST_UPDATE]

SERIES = (
    *(
        _of_counter(name, text, getattr(HostCounters(), name) or ())
        for name, declared in declarations(HostCounters).items()
        for text in declared
        if isinstance(text, str)
    ),
    *(
        _of_field(name, metric)
        for name, declared in declarations(HostReport).items()
        for metric in declared
        if isinstance(metric, Metric)
    ),
    _Series(
        Metric(
            "Pages mapped with wrong bytes and no error, each counted once when first read, by where they came from.",
            *("source", _STALE, "silent_stale_reads"),
        ),
        lambda report: {source: report.corruptions_by_kind.get(source, 0) for source in _STALE},
    ),
    _Series(
        Metric(
            "Pages whose newer version was mapped over by an older one (slot reuse, ABA).",
            name="lost_updates",
        ),
        lambda report: {"": report.lost_updates},
    ),
    _Series(
        Metric("Pages stored again after a failed install, by result.", "result", name="storeback"),
        lambda report: {result: report.counter(f"storeback_{result}") for result in ("stored", "rejected")},
    ),
)
"""All that is declared with a metric, and three that are made of what is declared."""


class RaceCollector(Collector):
    """Turns the latest reports into metric families at each scrape."""

    def __init__(self, settings: RaceSettings, latest: LatestReports) -> None:
        self._settings = settings
        self._latest = latest

    def collect(self) -> Iterator[Family]:
        """Yield every family, whatever has run so far."""
        for series in SERIES:
            yield self._family(series)
        yield self._latency()
        yield self._faults()
        yield self._race_info()

    def _family(self, series: _Series) -> CounterMetricFamily | GaugeMetricFamily:
        metric = series.metric
        kind = GaugeMetricFamily if metric.is_gauge else CounterMetricFamily
        labels = ["policy", "area", *([metric.label] if metric.label else [])]
        family = kind(f"swaptier_{metric.name}", metric.help, labels=labels)
        for (policy, host), report in self._latest.reports.items():
            area = area_name(self._settings.name, policy, host)
            for key, value in (dict.fromkeys(map(str, metric.keys), 0.0) | dict(series.read(report))).items():
                family.add_metric([policy, area, *([key] if metric.label else [])], value)
        return family

    def _latency(self) -> HistogramMetricFamily:
        """Return the fault latencies of each policy, all hosts together."""
        metric = HistogramMetricFamily(
            "swaptier_fault_seconds", "From a fault's first instruction to its page being mapped.", labels=["policy"]
        )
        for policy in self._settings.policies:
            total = sum((report for (of, _), report in self._latest.reports.items() if of == policy), HostReport())
            cumulative = zip(BUCKETS, accumulate(total.latency_buckets.values()), strict=True)
            metric.add_metric([policy], list(cumulative), total.latency_seconds_sum)
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
            safe = is_safe(
                policy,
                self._settings.host.workload,
                requires_generation=self._settings.host.require_generation,
                loses_answers=bool(self._settings.faults),
            )
            metric.add_metric([policy, str(safe).lower(), str(self._settings.host.seed), version], 1)
        return metric


def serve(address: str, collector: RaceCollector, token: Path | None = None, *, is_secured: bool = False) -> str:
    """Serve /metrics at HOST:PORT until this process ends, to those who have *token*; return the address it got.

    *is_secured*: the tiers ask who calls, so their areas are not for everybody to know.

    Raises:
        MetricsPortTaken: the address cannot be bound, or must not be, or the file of the token cannot be used.
    """
    where = Address.parse(address, allows_unix=False)
    if is_secured and token is None and not where.is_local:
        raise MetricsPortTaken(
            f"--metrics {address} can be reached from other machines, and names areas of a tier that asks who calls to "
            "anyone there: give --metrics-token, or serve at 127.0.0.1"
        )
    try:
        scrapers = None if token is None else WhoHasTheToken(token)
    except FileUnusable as error:
        raise MetricsPortTaken(f"--metrics-token: {error}") from error
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        port = MetricsPort(where.host, where.port, registry, scrapers).port
    except OSError as error:
        raise MetricsPortTaken(f"--metrics {address} cannot be bound: {error.strerror or error}") from error
    return where.with_port(port)
