"""The server's /metrics: what the tier holds and counts, read when Prometheus asks.

Touches a thread and a port. Rules of conduct:
  - A request costs nothing here: the tier counts in plain integers, and a scrape reads them.
  - The scrape runs on the exporter's own thread and never looks at the tier: it asks the event loop for a snapshot
    (see `snapshot`), so it cannot meet a dictionary that changes or two counters that disagree. The exporter holds no
    lock that the loop could wait for.
  - When the loop does not answer, the tier's families are left out and `swaptier_tier_ready` is 0: an old number
    would be a lie, and RPC and process metrics are still true.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from swaptier_server.rpc.area_labels import AreaLabels
from swaptier_server.rpc.process_metrics import ProcessMetrics
from swaptier_server.rpc.snapshot import AreaSnapshot, TierSnapshot
from swaptier_server.tier.counters import AreaCounters
from swaptier_server.tier.device import DeviceFault
from swaptier_wire.addresses import Address
from swaptier_wire.metrics_port import MetricsPort, Scrapers
from swaptier_wire.version import program_version

AREA_GAUGES: Final[dict[str, tuple[str, Callable[[AreaSnapshot], int]]]] = {
    "pool_bytes": ("Bytes the area's entries take in the pool.", lambda area: area.pool_bytes),
    "stored_pages": ("Pages the pool holds for the area, same-filled ones included.", lambda area: area.stored_pages),
    "same_filled_pages": (
        "Of the stored pages, those that are one repeated word.",
        lambda area: area.same_filled_pages,
    ),
    "handed_off_pages": ("Pages claimed and not yet acknowledged.", lambda area: area.handed_off_pages),
    "device_pages": ("Slots whose current page is on the area's device.", lambda area: area.device_pages),
}
"""Gauges of one area, by name without prefix."""

AREA_COUNTERS: Final[dict[str, str]] = {
    "tier_stores": "Stores answered, by outcome; repeats are counted apart.",
    "tier_repeated_stores": "Stores that repeated one already applied.",
    "tier_rejects": "Pages refused, by cause: by the pool, then by the device (zswap: pool_limit_hit, reject_*).",
    "tier_duplicate_entries": "Stores that replaced a live entry of an older page (zswap: duplicate_entry).",
    "tier_loads": "Loads answered, by mode and outcome.",
    "tier_load_errors": "Loads answered ERROR, by cause (zswap: decompress_fail).",
    "tier_lost": "Loads that asked for a generation the tier does not have, by what became of it.",
    "tier_invalidates": "Slots told to be free, by outcome.",
    "tier_device_errors": "Reads and writes that the device failed, by why.",
    "tier_replayed_claims": "Claims asked again while their lease ran, answered with the same bytes.",
    "tier_leases_begun": "Pages handed off to a claimant.",
    "tier_leases_ended": "Hand-offs that are over, by what ended them.",
    "tier_acknowledges": "Acknowledgements answered, by outcome; repeats are counted apart.",
    "tier_repeated_acknowledges": "Acknowledgements that repeated one already applied.",
    "tier_written_back_pages": "Entries the pool gave up for the device (zswap: written_back_pages; vmstat: zswpwb).",
    "tier_reject_reclaim_fail": "Entries that could not be written back (zswap: reject_reclaim_fail).",
    "tier_device_reads": "Loads answered from the device; stale: an older page than the slot's, unwritten: zeros.",
}
"""Help of each counter that `AreaCounters.rows()` yields, by its name there."""


class TierCollector(Collector):
    """Turns snapshots into metric families."""

    def __init__(self, take: Callable[[], TierSnapshot | None], labels: AreaLabels) -> None:
        self._take = take
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """Yield the tier's families, as of one moment."""
        info = GaugeMetricFamily(
            "swaptier_build_info", "What runs here; always 1.", labels=["version", "python", "grpcio"]
        )
        info.add_metric([program_version(), platform.python_version(), grpc.__version__], 1)
        yield info
        snapshot = self._take()
        is_ready = snapshot is not None and snapshot.is_ready
        yield GaugeMetricFamily("swaptier_tier_ready", "1 while new requests are taken.", value=int(is_ready))
        if snapshot is None:
            return
        yield GaugeMetricFamily("swaptier_tier_areas", "Areas that are open.", value=len(snapshot.areas))
        yield GaugeMetricFamily(
            "swaptier_tier_pool_limit_bytes", "Bytes the pool may hold.", value=snapshot.pool_bytes_max
        )
        yield GaugeMetricFamily(
            "swaptier_tier_pool_accepting",
            "1 while the pool takes pages; 0 from its limit down to its accept threshold.",
            value=int(snapshot.is_accepting),
        )
        yield CounterMetricFamily(
            "swaptier_tier_pool_limit_hits_total",
            "Stores that met the pool's limit (zswap: pool_limit_hit).",
            value=snapshot.pool_limit_hits,
        )
        yield CounterMetricFamily(
            "swaptier_tier_areas_expired_total",
            "Areas forgotten because their client was silent for too long.",
            value=snapshot.areas_expired,
        )
        refusing = GaugeMetricFamily(
            "swaptier_tier_device_refusing", "1 while the device takes no pages, by why.", labels=["fault"]
        )
        for fault in DeviceFault:
            refusing.add_metric([fault], int(fault is snapshot.device_fault))
        yield refusing
        areas = self._labels.merged(snapshot.areas, time.monotonic_ns())
        yield from _area_gauges(areas)
        yield from _area_counters(areas)


def _area_gauges(areas: Iterable[AreaSnapshot]) -> Iterator[Metric]:
    for name, (help_text, read) in AREA_GAUGES.items():
        family = GaugeMetricFamily(f"swaptier_tier_{name}", help_text, labels=["area"])
        for area in areas:
            family.add_metric([area.name], read(area))
        yield family


def _area_counters(areas: Iterable[AreaSnapshot]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    # A fresh area's rows name every family, so that all are there before the first area is.
    for row in AreaCounters().rows():
        if row.name not in families:
            labels = ["area", *(label for label, _ in row.labels)]
            families[row.name] = CounterMetricFamily(f"swaptier_{row.name}", AREA_COUNTERS[row.name], labels=labels)
    for area in areas:
        for row in area.counters:
            families[row.name].add_metric([area.name, *(value for _, value in row.labels)], row.value)
    yield from families.values()


class MetricsServer:
    """Serves a registry, with what the process takes, over HTTP. Made serving; `stop()` ends it."""

    def __init__(self, address: Address, registry: CollectorRegistry, scrapers: Scrapers) -> None:
        """Start to serve *scrapers*.

        Raises:
            OSError: the address cannot be had.
        """
        self._port: Final = MetricsPort(address.host, address.port, registry, scrapers)
        self._process: Final = ProcessMetrics()
        registry.register(self._process)
        self.address: Final[Address] = address.with_port(self._port.port)

    def stop(self) -> None:
        """Stop serving and close the port. Blocks while a scrape is answered."""
        self._port.stop()
        self._process.close()


def make_registry() -> CollectorRegistry:
    """Return a registry of our own, without `_created` series."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left its types out
    return CollectorRegistry()
