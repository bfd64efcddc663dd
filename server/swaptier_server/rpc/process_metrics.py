"""What the process itself takes: CPU, memory, descriptors, under the names that every exporter has for them.

Touches /proc, which it opens once: a scrape opens no file, so it works when no descriptor is left. Elsewhere than on
Linux it has nothing to say, like prometheus_client's own collector, which opens three files at each scrape.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

STAT_BYTES_MAX: Final = 4096
"""Of /proc/self/stat, whose some fifty numbers take a tenth of it."""


class ProcessMetrics(Collector):
    """Reads the numbers of this process at each scrape."""

    def __init__(self) -> None:
        self._began_seconds: float | None = None
        """Since the epoch; None where there is no /proc."""
        try:
            with Path("/proc/stat").open("rb") as system:
                booted = next(int(line.split()[1]) for line in system if line.startswith(b"btime"))
            self._stat: Final = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors: Final = os.open("/proc/self/fd", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._tick_seconds: Final = 1.0 / os.sysconf("SC_CLK_TCK")
        self._began_seconds = booted + int(self._fields()[19]) * self._tick_seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the families, or none where there is no /proc."""
        if self._began_seconds is None:
            return
        fields = self._fields()
        cpu_seconds = (int(fields[11]) + int(fields[12])) * self._tick_seconds
        yield CounterMetricFamily("process_cpu_seconds_total", "Seconds of CPU time, user and system.", cpu_seconds)
        for name, text, value in (
            ("virtual_memory_bytes", "Virtual memory.", int(fields[20])),
            ("resident_memory_bytes", "Resident memory.", int(fields[21]) * resource.getpagesize()),
            ("start_time_seconds", "When the process began, since the epoch.", self._began_seconds),
            ("open_fds", "Open file descriptors.", self._open_descriptors()),
            ("max_fds", "File descriptors that may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ):
            yield GaugeMetricFamily(f"process_{name}", text, value)

    def close(self) -> None:
        """Let go of what is open."""
        if self._began_seconds is not None:
            self._began_seconds = None
            os.close(self._stat)
            os.close(self._descriptors)

    def _fields(self) -> list[bytes]:
        """Return what stat says after the command's name, which may hold anything."""
        return os.pread(self._stat, STAT_BYTES_MAX, 0).rpartition(b")")[2].split()

    def _open_descriptors(self) -> int:
        """Return how many are open. Before Linux 6.2 the folder did not say, and listing it takes another one."""
        return os.fstat(self._descriptors).st_size or len(os.listdir(self._descriptors)) - 1  # noqa: PTH208 - is no path
