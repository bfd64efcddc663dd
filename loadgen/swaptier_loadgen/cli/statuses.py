"""Exit statuses of all commands, and the exception that ends one with a line and a status.

Touches nothing.
"""

from collections.abc import Iterable

from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.verdict import Verdict

STATUS_AS_SPECIFIED = 0
STATUS_NOT_AS_SPECIFIED = 1
"""A safe policy lost, corrupted or leaked a page; a check failed."""
STATUS_USAGE = 2
STATUS_UNREACHABLE = 3
"""The tier does not answer, or it refused."""
STATUS_DEFECT = 70
"""EX_SOFTWARE of sysexits.h: a host ended without a result, or our own server ended by itself."""
STATUS_INTERRUPTED = 130


class Refusal(Exception):
    """The command cannot be run, or not to its end. One line that says why and what would be right."""

    def __init__(self, message: str, status: int = STATUS_USAGE) -> None:
        super().__init__(message)
        self.status = status


def exit_status(summaries: Iterable[RunSummary]) -> int:
    """Return the exit status of a race that was not interrupted: the worst thing first."""
    summaries = list(summaries)
    verdicts = {summary.verdict for summary in summaries}
    if verdicts & {Verdict.CORRUPTED, Verdict.LOST, Verdict.LEAKED}:
        return STATUS_NOT_AS_SPECIFIED
    if any(summary.ended in (Ended.UNREACHABLE, Ended.REFUSED) for summary in summaries):
        return STATUS_UNREACHABLE
    if any(summary.ended is Ended.OUT_OF_MEMORY for summary in summaries):
        return STATUS_USAGE
    return STATUS_AS_SPECIFIED
