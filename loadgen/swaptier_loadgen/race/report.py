"""What is published of a race besides its table: the JSON document and its words.

Pure, but for `versions`, which asks what is installed.
"""

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.race.results import RunSummary, document_of
from swaptier_loadgen.race.settings import RaceSettings

SCHEMA_VERSION = 2
"""Of the JSON document; rises when a field changes its meaning or goes."""


def not_raced(settings: RaceSettings, summaries: Iterable[RunSummary]) -> list[str]:
    """Return the policies that were to race and have no result, because the race ended before."""
    raced = {summary.policy for summary in summaries}
    return [policy for policy in settings.policies if policy not in raced]


def never_came(settings: RaceSettings, summaries: Iterable[RunSummary]) -> str:
    """Return which faults were asked for and never came, because the race was too short; empty where all did."""
    came = {fault for summary in summaries for fault in summary.injected}
    asked = [text.partition("=")[0] for text in settings.fault.split(",") if text]
    missing = [fault for fault in asked if fault not in came]
    return f"{', '.join(missing)}: never came, the race ended before" if missing else ""


def document(settings: RaceSettings, summaries: Sequence[RunSummary]) -> dict[str, object]:
    """Return the JSON document of a race."""
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": settings.host.seed,
        "workload": settings.document(),
        "versions": versions(),
        "runs": [document_of(summary) for summary in summaries],
        "not_raced": not_raced(settings, summaries),
    }


def versions() -> dict[str, str]:
    """Return what took part: our version, Python's, and those of the packages that matter."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in ("swaptier", "grpcio", "protobuf", "lz4"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def why_out_of_memory(settings: RaceSettings, summary: RunSummary) -> str:
    """Return why memory ran out and which flags that were given may be why; empty where it did not."""
    if summary.ended is not Ended.OUT_OF_MEMORY:
        return ""
    flags = []
    if settings.target is not None:
        flags.append(f"--target {settings.target} (its log and swaptier_tier_rejects_total say what it refused)")
    if settings.server_flags.pool_limit is not None:
        flags.append(f"--pool-limit {settings.server_flags.pool_limit} (raise it)")
    if settings.host.zswap_max is not None:
        flags.append(f"--zswap-max {settings.host.zswap_max} (raise it)")
    if not settings.host.zswap_writeback:
        flags.append("--no-zswap-writeback (leave it out, and what the pool refuses goes to the device)")
    advice = f". What a tier refuses stays on the host; look at {', '.join(flags)}" if flags else ""
    return f"{summary.policy}: out of memory: {summary.message}{advice}"
