"""What each policy must come to in each world: the specification as one table.

Pure. KERNEL.md section 2 says what each policy loses and why, section 5 what a network adds. Each row is a world within
its own bounds; a policy that is not named keeps every page there. Where a result surprises, the world's docstring
explains it.
"""

from enum import StrEnum

from swaptier_client.mm.policy import POLICIES, Policy
from swaptier_loadgen.explore.world import Bounds
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_wire.types import LoadMode


class Expected(StrEnum):
    """What a cell must be."""

    SAFE = "safe"
    LOSES = "loses"
    TELLS = "tells"
    """Never silent: the process is told that its page is gone."""
    MAY_TELL = "may tell"
    """As TELLS, where within other bounds than the world's own it need not come to that."""
    MAY_LOSE = "may lose"
    """Within other bounds than the world's own, a policy that is known to lose need not."""


_NO_PIN_AND_TAKES = ("free-on-read", "exclusive-unpinned")
_TAKES_AND_DROPS = (*_NO_PIN_AND_TAKES, "exclusive")
_NO_PIN = (*_NO_PIN_AND_TAKES, "shared-unpinned", "exclusive-if-swapcache-unpinned")
_LOSES_REUSE = (*_NO_PIN, "exclusive")
_TAKES_FIRST = (*_TAKES_AND_DROPS, "cache-on-hit-early", "cache-on-hit", "store-back", "no-bypass")

LOSES: dict[str, tuple[str, ...]] = {
    "double-fault": _NO_PIN_AND_TAKES,
    "aborted-install": _TAKES_AND_DROPS,
    "slot-reuse": _LOSES_REUSE,
    "reclaim-vs-fault": (*_LOSES_REUSE, "cache-on-hit-early"),
    "zap-vs-fault": _LOSES_REUSE,
    "fork-share": _TAKES_AND_DROPS,
    "readahead-race": (*_TAKES_AND_DROPS, "exclusive-if-swapcache-unpinned", "cache-on-hit-early"),
    "swapoff-vs-fault": (*_LOSES_REUSE, "cache-on-hit-early"),
    "store-back-rejected": _TAKES_AND_DROPS,
    "writeback-vs-load": (*_LOSES_REUSE, "cache-on-hit-early"),
    "early-lookup": (*_LOSES_REUSE, "cache-on-hit-early"),
    "two-hosts": tuple(name for name, policy in POLICIES.items() if not policy.requires_generation),
    "lost-reply": _TAKES_FIRST,
    "retried-load": _TAKES_FIRST,
    "lease-end": _TAKES_FIRST,
    "delayed-invalidate": _TAKES_AND_DROPS,
    "server-restart": _TAKES_FIRST,
    "server-killed": (),
}
"""Who loses a page, by world.

`cache-on-hit-early` needs the pool to be without the page when it looks: the tier wrote it back, or it was read
into the swapcache (another fault, readahead, swapoff) and reclaim stores it again before the pin.

`slot-reuse` and others without an injected failure still undo `exclusive`: reclaim holds the lock of the
private folio when the fault comes back for it, row 1 of KERNEL.md 1.3.
"""

TELLS: dict[str, tuple[str, ...]] = {
    "store-back-rejected": ("store-back",),
    "two-hosts": tuple(name for name, policy in POLICIES.items() if policy.requires_generation),
    "server-killed": tuple(POLICIES),
}
"""Who must say that a page is gone, by world."""


def expected(policy: Policy, world: str, bounds: Bounds) -> Expected:
    """Return what *policy* must come to in *world* within *bounds*."""
    if bounds == WORLDS[world].bounds:
        if policy.name in LOSES[world]:
            return Expected.LOSES
        return Expected.TELLS if policy.name in TELLS.get(world, ()) else Expected.SAFE
    asked = [world]
    if bounds.install_failures:
        asked.append("aborted-install")
    if bounds.swap_outs:
        asked += ["slot-reuse", "early-lookup"]
    if bounds.lost_replies:
        asked.append("lost-reply")
    loses = any(policy.name in LOSES[one] for one in asked)
    # Into the swapcache it loads exclusively too, and there goes every page that several processes share.
    is_answer_lost = bounds.lost_replies > 0 or world == "server-restart"
    loses |= is_answer_lost and bounds.processes > 1 and policy.swapcache_mode is LoadMode.EXCLUSIVE
    if loses:
        return Expected.MAY_LOSE
    return Expected.MAY_TELL if policy.name in TELLS.get(world, ()) else Expected.SAFE
