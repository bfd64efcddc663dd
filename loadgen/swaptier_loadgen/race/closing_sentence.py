"""The closing sentence of a race: what a newcomer should take home from the table.

Pure.
"""

from collections.abc import Iterable

from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.verdict import Verdict


def closing_sentence(summaries: Iterable[RunSummary], repeat: str = "") -> str:
    """Return what a newcomer should take home from the table; *repeat* is the command that races the same again."""
    summaries = list(summaries)
    failed = [s for s in summaries if s.verdict in (Verdict.CORRUPTED, Verdict.LOST, Verdict.LEAKED)]
    if failed:
        return (
            f"{_names(failed)} must never lose, corrupt or leak a page and did: that is a defect of this program. "
            f"The same accesses and failures again: {repeat}"
        )
    gone = [s for s in summaries if s.verdict is Verdict.UNREACHABLE]
    if gone:
        return (
            f"The tier cannot be reached, which says nothing about {_names(gone)}: {gone[0].message}. How long hosts "
            "wait for a tier that is gone is --give-up SECONDS."
        )
    refused = [s for s in summaries if s.verdict is Verdict.REFUSED]
    if refused:
        return f"The tier refused, which says nothing about {_names(refused)}. It said: {refused[0].message}"
    bad = [s for s in summaries if s.verdict is Verdict.AS_SPECIFIED]
    told = [s for s in summaries if s.verdict in (Verdict.LOSES, Verdict.TELLS)]
    telling = [s for s in summaries if s in told or (s in bad and s.detected_losses)]
    good = [s for s in summaries if s.verdict is Verdict.SAFE]
    checked = (
        f"every byte of {sum(s.pages_checked for s in summaries):,} pages read was compared with what was written."
    )
    if telling:
        lost = sum(s.detected_losses for s in telling)
        checked += f" {_pages(lost)} lost under {_names(telling)}, and the programs were told so."
    if unseen := [s for s in summaries if s.verdict is Verdict.NOT_SEEN]:
        checked += f" {_names(unseen)} can corrupt pages, says the specification, and did not in this race."
    wrong = _pages(sum(s.corrupted_pages for s in bad), "came back")
    if bad and good:
        return (
            f"{wrong} to programs with wrong bytes and no error under {_names(bad)}; not one did under "
            f"{_names(good)}: {checked}"
        )
    if bad:
        return f"{wrong} to programs with wrong bytes and no error under {_names(bad)}: {checked}"
    if good or told:
        return f"Not one page came back wrong under {_names(good or told)}: {checked}"
    return f"No page came back wrong, but no policy that promises so ran to its end: {checked}"


def _pages(number: int, verb: str = "") -> str:
    if number == 1:
        return f"1 page {verb or 'was'}"
    return f"{number:,} pages {verb or 'were'}"


def _names(summaries: list[RunSummary]) -> str:
    names = [summary.policy for summary in summaries]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
