"""Exit statuses of all commands, which of two stands, and the exception that ends a command with a line and a status.

Touches nothing.
"""

from collections.abc import Iterable

from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.verdict import Verdict
from swaptier_wire.process.exit_status import ExitStatus

ACCIDENTS = (
    "5 a result could not be written; 6 out of memory or descriptors; 70 a defect of this program; 129 ended by HUP, "
    "what it had by then is written; 130 by INT, likewise; 143 by TERM, likewise"
)
"""What every command can end with besides its own statuses, for its help."""

_BEFORE_SIGNALS = (ExitStatus.VERDICT, ExitStatus.DEFECT, ExitStatus.USAGE, ExitStatus.NOT_WRITTEN)
_AFTER_SIGNALS = (
    *(ExitStatus.NO_RESOURCES, ExitStatus.UNREACHABLE, ExitStatus.CUT_OFF),
    ExitStatus.AS_SPECIFIED,
)


class Refusal(Exception):
    """The command cannot be run, or not to its end. One line that says why and what would be right."""

    def __init__(self, message: str, status: int = ExitStatus.USAGE) -> None:
        super().__init__(message)
        self.status = status


def worst(statuses: Iterable[int]) -> int:
    """Return the status that stands where several would be right.

    A verdict stands whatever else happened. The status of a signal promises that report and result were written, so it
    gives way to NOT_WRITTEN; and what a signal cut off is said by the signal.
    """
    given = set(statuses)
    order = [*_BEFORE_SIGNALS, *sorted(given - set(ExitStatus)), *_AFTER_SIGNALS]
    return next((status for status in order if status in given), ExitStatus.AS_SPECIFIED)


def exit_status(summaries: Iterable[RunSummary]) -> int:
    """Return the exit status of a race that was not interrupted: the worst thing first."""
    summaries = list(summaries)
    verdicts = {summary.verdict for summary in summaries}
    if verdicts & {Verdict.CORRUPTED, Verdict.LOST, Verdict.LEAKED}:
        return ExitStatus.VERDICT
    if any(summary.ended in (Ended.UNREACHABLE, Ended.REFUSED) for summary in summaries):
        return ExitStatus.UNREACHABLE
    if any(summary.ended is Ended.OUT_OF_MEMORY for summary in summaries):
        return ExitStatus.USAGE
    return ExitStatus.AS_SPECIFIED
