"""The results of one host of a policy, for tests of what is made of them."""

from swaptier_loadgen.host.report import Ended, HostReport
from swaptier_loadgen.race.results import RunSummary, summarise


def run(policy: str, ended: Ended = Ended.FINISHED, **facts: object) -> RunSummary:
    """Return what a policy comes to whose only host reports *facts* last."""
    report = HostReport(ended=ended, **{"race_seconds": 2.0, **facts})  # type: ignore[arg-type]  # each test has its own
    return summarise(policy, [report])
