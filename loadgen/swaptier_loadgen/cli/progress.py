"""Tells how a race goes: a progress bar on a terminal, log lines elsewhere. Writes to standard error only."""

import logging
import sys
from types import TracebackType
from typing import Self

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from swaptier_loadgen.host.report import HostReport
from swaptier_loadgen.race.metrics import LatestReports
from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.settings import RaceSettings
from swaptier_loadgen.race.tiers import RaceTiers


def configure_logging() -> None:
    """Send log lines to standard error: for people on a terminal, JSON elsewhere."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class Watcher:
    """Keeps the latest reports for /metrics, and moves the bar or logs. Entered for the length of a race."""

    def __init__(self, settings: RaceSettings, latest: LatestReports, metrics: str | None) -> None:
        """Tell about *settings*; *metrics* is where they are served."""
        self._settings = settings
        self._latest = latest
        self._metrics = metrics
        self._begun: set[str] = set()
        self._gone: dict[str, set[int]] = {}
        """Hosts that have no connection to a tier, by its address."""
        self._log = structlog.get_logger("swaptier_loadgen")
        self._is_terminal = sys.stderr.isatty()
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:<31}"),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[faults]:>7} faults  {task.fields[wrong]:>5} wrong"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not self._is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Show the bar, if there is one."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_tiers(self, tiers: RaceTiers) -> None:
        """Say where everything is."""
        self._latest.injected = tiers.injected.counts
        self._say(
            "race begins",
            target=tiers.target,
            name=self._settings.name,
            own_server_pid=tiers.own_pids[0] if tiers.own_pids else None,
            own_server_pids=list(tiers.own_pids),
            metrics=self._metrics,
            seed=self._settings.host.seed,
        )

    def on_report(self, policy: str, host: int, report: HostReport) -> None:
        """Keep the report and move the bar."""
        self._latest.put(policy, host, report)
        if policy not in self._begun:
            self._begun.add(policy)
            self._say("policy begins", policy=policy)
        if not self._settings.faults:  # there it is done on purpose, all the time, and counted
            self._tell_outages(host, report)
        if not self._is_terminal:
            return
        if policy not in self._bars:
            self._bars[policy] = self._progress.add_task(policy, total=self._total(), faults=0, wrong=0)
        reports = [self._latest.reports[policy, index] for index in range(self._settings.hosts)]
        done = sum(one.race_seconds if self._settings.host.ops is None else one.ops for one in reports)
        self._progress.update(
            self._bars[policy],
            completed=done,
            faults=sum(one.counter("faults") for one in reports),
            wrong=sum(sum(one.corruptions_by_kind.values()) for one in reports),
        )

    def _tell_outages(self, host: int, report: HostReport) -> None:
        """Say once for all hosts that a tier is gone, and once that it is back; on a terminal too."""
        is_over = report.ended is not None
        gone = set() if is_over else set(report.tiers_gone)
        for address in sorted(gone):
            if address not in self._gone:
                self._gone[address] = set()
                self._log.warning("a tier is gone", tier=address, hosts_wait_seconds=self._settings.patience_seconds)
            self._gone[address].add(host)
        for address in [address for address, hosts in self._gone.items() if host in hosts and address not in gone]:
            self._gone[address].discard(host)
            if not self._gone[address]:
                del self._gone[address]
                if not is_over or address not in report.tiers_gone:
                    self._log.info("the tier is back", tier=address)

    def on_run(self, summary: RunSummary) -> None:
        """Log what came of a policy."""
        self._say(
            "policy done",
            policy=summary.policy,
            verdict=str(summary.verdict),
            faults=summary.faults,
            stale=summary.silent_stale_reads,
            lost_updates=summary.lost_updates,
            ended=str(summary.ended),
            **({"message": summary.message} if summary.message else {}),
        )

    def on_older_clock(self, name: str, epoch: int) -> None:
        """Say that the clock was set back, and what that comes to; on a terminal too."""
        self._log.warning(
            "the tier knows hosts of this name in a later epoch than the clock gives: they start above that",
            name=name,
            epoch=epoch,
            advice="if another race of this name runs, it ends now: give one of them another --name",
        )

    def on_signal(self, name: str) -> None:
        """Say that the race stops; on a terminal too, so that the wait for the hosts is understood."""
        self._log.warning("stopping after what is under way; again to stop at once", signal=name)

    def _total(self) -> float:
        host = self._settings.host
        if host.ops is not None:
            return host.ops
        assert host.duration_seconds is not None, "one of the two is given"
        return host.duration_seconds * self._settings.hosts

    def _say(self, event: str, **facts: object) -> None:
        if not self._is_terminal:
            self._log.info(event, **facts)
