"""The swap-in policies, as data: one frozen record each, no subclasses. KERNEL.md section 2 is where they come from.

Pure. A policy says what a fault does at six points of do_swap_page(): whether it bypasses the swapcache, whether it
reads ahead if it does not, whether it pins the slot meanwhile, how it loads, what it does on a hit, and what it does
when the page cannot be installed. The fault path (`fault.py`) reads these fields and never a policy's name.
"""

from dataclasses import dataclass
from enum import Enum

from swaptier_wire.types import LoadMode


class PoolLookup(Enum):
    """When a bypassing fault asks whether the pool holds the page."""

    NEVER = "never"
    BEFORE_PIN = "before-pin"
    AFTER_PIN = "after-pin"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a swap-in does. Names are the public interface: CLI, metric label, report."""

    name: str
    origin: str
    """Who proposed or shipped it, and where."""
    effect: str
    """What is known of it, in one line."""
    is_safe: bool
    """The specification: it never loses or corrupts a page, whatever races and install failures happen."""
    bypass_mode: LoadMode
    """How a bypassing fault loads."""
    swapcache_mode: LoadMode
    """How a load into the swapcache loads."""
    bypasses_swapcache: bool = True
    """A slot with one user is read into a private folio (SWP_SYNCHRONOUS_IO and __swap_count() == 1)."""
    reads_ahead_synchronous: bool = True
    """A fault that reads through the swapcache of a synchronous device reads neighbours ahead, whatever the slot's
    count. Until f1879e8a0c60 only the bypass skipped readahead; since then no such fault reads ahead."""
    pins: bool = True
    """The bypass takes HAS_CACHE first (swapcache_prepare()): the slot cannot be freed, reused or read by another."""
    pool_lookup: PoolLookup = PoolLookup.NEVER
    """When a bypassing fault looks into the pool; on a hit its folio goes into the swapcache before the load."""
    stores_back: bool = False
    """A page taken exclusively that cannot be installed is stored again before the pin is dropped."""
    frees_swapcache_eagerly: bool = False
    """After mapping, the swapcache folio of a synchronous device is freed if nothing else needs it."""
    requires_generation: bool = False
    """Loads ask for the bytes of their own generation or none: a page that is gone is known to be gone."""
    device_free_on_read: bool = False
    """The device itself drops what it reads out."""

    @property
    def takes_at_load(self) -> bool:
        """Some load takes the page before its host has it: over a network a lost answer is a lost page.

        KERNEL.md section 5, hazards 1 and 2; what the policy is otherwise does not matter.
        """
        return LoadMode.EXCLUSIVE in (self.bypass_mode, self.swapcache_mode)

    @property
    def takes_at_every_load(self) -> bool:
        """No load leaves the page, whichever way the fault goes."""
        return self.swapcache_mode is LoadMode.EXCLUSIVE and (
            self.bypass_mode is LoadMode.EXCLUSIVE or not self.bypasses_swapcache
        )


SHARED_UNPINNED = Policy(
    name="shared-unpinned",
    origin="Linux 4.15 to 6.7 with shared zswap loads or zram: 0bcac06f27d7, before 13ddaf26be32",
    effect="lost update: the slot is freed and reused between read and install, and the PTE looks unchanged",
    is_safe=False,
    bypass_mode=LoadMode.SHARED,
    swapcache_mode=LoadMode.SHARED,
    pins=False,
)

EXCLUSIVE_UNPINNED = Policy(
    name="exclusive-unpinned",
    origin="Linux 6.5 to 6.7 with exclusive_loads=Y over zram: b9c91c43412f on 0bcac06f27d7",
    effect="the second of two faults misses the page the first one took, and reads the device: stale",
    is_safe=False,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
    pins=False,
)

EXCLUSIVE = Policy(
    name="exclusive",
    origin="Linux 6.8 with exclusive_loads=Y, 6.9-rc: b9c91c43412f with the pin of 13ddaf26be32",
    effect="the bug of March 2024: a fault that cannot install its page takes the only copy with it",
    is_safe=False,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
)

FREE_ON_READ = Policy(
    name="free-on-read",
    origin="zram 2013 to 2022: b430e9d1c6d4, undone by e914d8f00391 (Minchan Kim)",
    effect="as exclusive-unpinned, but the device itself drops what was read: the second reader maps zeros",
    is_safe=False,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
    pins=False,
    device_free_on_read=True,
)

CACHE_ON_HIT = Policy(
    name="cache-on-hit",
    origin="Chengming Zhou, the RFC of 22 March 2024, with the lookup under the pin",
    effect="right: a page found in the pool goes into the swapcache before it is taken; one lookup more per fault",
    is_safe=True,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
    pool_lookup=PoolLookup.AFTER_PIN,
)

CACHE_ON_HIT_EARLY = Policy(
    name="cache-on-hit-early",
    origin="the same RFC, had it looked before it pinned: Yosry Ahmed's objection",
    effect="loses the page when the pool changes between the look and the pin",
    is_safe=False,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
    pool_lookup=PoolLookup.BEFORE_PIN,
)

STORE_BACK = Policy(
    name="store-back",
    origin="Yosry Ahmed, 22 March 2024: write the folio back to zswap if it could not be installed",
    effect="right while the tier takes the page back; if it does not, the loss is known, never silent",
    is_safe=True,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
    stores_back=True,
)

SHARED = Policy(
    name="shared",
    origin="Barry Song, 2024: like zram, the copy is freed at swap_free()",
    effect="always right; two copies while a page sits in the swapcache",
    is_safe=True,
    bypass_mode=LoadMode.SHARED,
    swapcache_mode=LoadMode.SHARED,
)

EXCLUSIVE_IF_SWAPCACHE = Policy(
    name="exclusive-if-swapcache",
    origin="Johannes Weiner, merged as 25cd241408a2, Linux 6.9",
    effect="always right: a read that does not transfer ownership leaves the tier's copy alone",
    is_safe=True,
    bypass_mode=LoadMode.SHARED,
    swapcache_mode=LoadMode.EXCLUSIVE,
)

EXCLUSIVE_IF_SWAPCACHE_UNPINNED = Policy(
    name="exclusive-if-swapcache-unpinned",
    origin="25cd241408a2 on a kernel without 13ddaf26be32: never shipped, must not be backported alone",
    effect="lost update by slot reuse, as shared-unpinned: the fix needs the pin",
    is_safe=False,
    bypass_mode=LoadMode.SHARED,
    swapcache_mode=LoadMode.EXCLUSIVE,
    pins=False,
)

NO_BYPASS = Policy(
    name="no-bypass",
    origin="Kairui Song, swap table phase II: f1879e8a0c60 and 4b34f1d82c65, the cycle after 6.19",
    effect="always right: every load is into a locked swapcache folio, freed after mapping",
    is_safe=True,
    bypass_mode=LoadMode.EXCLUSIVE,
    swapcache_mode=LoadMode.EXCLUSIVE,
    bypasses_swapcache=False,
    reads_ahead_synchronous=False,
    frees_swapcache_eagerly=True,
)

CLAIM = Policy(
    name="claim",
    origin="ours: exclusive made safe for a network that loses replies",
    effect="right: the tier keeps what it handed off until the host has it safe; one acknowledgement more per page",
    is_safe=True,
    bypass_mode=LoadMode.CLAIM,
    swapcache_mode=LoadMode.CLAIM,
    requires_generation=True,
)

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        FREE_ON_READ,
        SHARED_UNPINNED,
        EXCLUSIVE_UNPINNED,
        EXCLUSIVE,
        CACHE_ON_HIT_EARLY,
        CACHE_ON_HIT,
        STORE_BACK,
        SHARED,
        EXCLUSIVE_IF_SWAPCACHE_UNPINNED,
        EXCLUSIVE_IF_SWAPCACHE,
        NO_BYPASS,
        CLAIM,
    )
}
"""Every policy by name, in the order of their history."""

DEFAULT_POLICY = EXCLUSIVE_IF_SWAPCACHE

ERAS: dict[str, Policy] = {
    "6.4": SHARED_UNPINNED,
    "6.5": EXCLUSIVE_UNPINNED,
    "6.8": EXCLUSIVE,
    "6.9": EXCLUSIVE_IF_SWAPCACHE,
    "next": NO_BYPASS,
}
"""What a kernel of that version did on a synchronous device with zswap in front, exclusive loads on where optional.

6.4 is shared-only and unpinned; 6.5 made exclusive loads possible, 6.8 added the pin, 6.9 the swapcache test; next is
the cycle that always goes through the swapcache.
"""
