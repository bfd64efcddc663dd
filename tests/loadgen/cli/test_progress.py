"""What is said while a race goes on."""

import dataclasses

from structlog.testing import capture_logs
from tests.loadgen.builders import race_settings

from swaptier_loadgen.cli.progress import Watcher
from swaptier_loadgen.host.report import Ended, HostReport
from swaptier_loadgen.race.metrics import LatestReports
from swaptier_loadgen.race.settings import RaceSettings

WAITING = race_settings(give_up_seconds=7.0)

HERE, GONE = HostReport(), HostReport(tiers_gone=["tier:1"])

IS_GONE, IS_BACK = ("warning", "a tier is gone"), ("info", "the tier is back")


def said(settings: RaceSettings, *reports: tuple[int, HostReport]) -> list[tuple[str, str]]:
    """Return level and event of what is logged about a tier when hosts, by number, report so one after the other."""
    with capture_logs() as lines:
        watcher = Watcher(settings, LatestReports.of(settings), None)
        for host, report in reports:
            watcher.on_report("shared", host, report)
    return [(line["log_level"], line["event"]) for line in lines if line.get("tier") == "tier:1"]


def test_an_outage_is_one_warning_and_one_line_when_it_is_over() -> None:
    """For all hosts together: it begins with the first that has no connection and ends with the last that has."""
    assert said(WAITING, (0, HERE), (0, GONE), (1, GONE), (0, GONE), (0, HERE)) == [IS_GONE]
    assert said(WAITING, (0, GONE), (1, GONE), (0, HERE), (1, HERE)) == [IS_GONE, IS_BACK]
    assert said(WAITING, (0, GONE), (0, HERE), (0, GONE)) == [IS_GONE, IS_BACK, IS_GONE]


def test_a_tier_that_hosts_gave_up_is_not_said_to_be_back() -> None:
    """The last report of a host ends its waiting and not the outage."""
    assert said(WAITING, (0, GONE), (0, dataclasses.replace(GONE, ended=Ended.UNREACHABLE))) == [IS_GONE]


def test_connections_that_are_cut_on_purpose_are_no_outage() -> None:
    """They are counted in the report; here they would fill the screen."""
    assert said(race_settings(give_up_seconds=7.0, fault="disconnect=1/s"), (0, GONE), (0, HERE)) == []
