"""The verdict on a policy: what it did to the data, against what its specification says.

Pure.
"""

from enum import StrEnum

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.host.workload import WorkloadKind


class Verdict(StrEnum):
    """What a policy did, against what its specification says."""

    SAFE = "safe"
    AS_SPECIFIED = "corrupts (as specified)"
    LOSES = "loses (as specified)"
    """It lost pages and said so, as its specification says it can."""
    TELLS = "tells (none silent)"
    """Pages were lost that no policy could keep, and said to be: their tier died with them in memory, or was gone, or
    another host on the same area had taken them."""
    NOT_SEEN = "unsafe (not seen)"
    """The specification says that it can lose pages; this run did not make it."""
    CORRUPTED = "CORRUPTED"
    """A policy that must not."""
    LOST = "LOST PAGES"
    """A policy that must not lost pages, and said so."""
    LEAKED = "LEAKED"
    """Every process had ended and the tier still held pages."""
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    """The tier answered, and would not serve this host."""
    OUT_OF_MEMORY = "out of memory"
    STOPPED = "stopped early"


def is_safe(policy: str, workload: WorkloadKind, *, requires_generation: bool, loses_answers: bool) -> bool:
    """Tell whether *policy* must not lose a page in such a race, by its specification."""
    specified = POLICIES[policy]
    # Where two hosts share an area, each frees and takes what the other needs: pages are left behind, and only the
    # tier can keep a loss from being silent.
    is_told = specified.requires_generation or requires_generation
    is_shared = workload is WorkloadKind.TWO_HOSTS
    return specified.is_safe and (is_told or not is_shared) and not (loses_answers and specified.takes_at_load)


def judge(*, is_safe: bool, ended: Ended, corrupted: int, lost: int, leaked: int, unpreventable: int = 0) -> Verdict:
    """Return the verdict on a policy: what was found counts first, then how the run ended."""
    if corrupted:
        return Verdict.CORRUPTED if is_safe else Verdict.AS_SPECIFIED
    if lost:
        return Verdict.LOST if is_safe else Verdict.LOSES
    if ended is Ended.UNREACHABLE:
        return Verdict.UNREACHABLE
    if ended is Ended.REFUSED:
        return Verdict.REFUSED
    if ended is Ended.OUT_OF_MEMORY:
        return Verdict.OUT_OF_MEMORY
    if ended is Ended.STOPPED:
        return Verdict.STOPPED
    if leaked:
        return Verdict.LEAKED
    if unpreventable:
        return Verdict.TELLS
    return Verdict.SAFE if is_safe else Verdict.NOT_SEEN
