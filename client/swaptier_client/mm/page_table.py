"""Page table entries. Equality of swap entries compares every bit, as pte_same() does.

Pure. No entry at an address is pte_none: never touched, or zapped.
"""

from typing import NamedTuple, TypeAlias

from swaptier_client.mm.effects import SwapEntry
from swaptier_client.mm.folio import Folio


class SwapPte(NamedTuple):
    """A page that is swapped out. A value: two are the same when every field is. Models: swp_pte."""

    entry: SwapEntry
    exclusive: bool
    """This process was the only one to map the page: it may be mapped writable again. Models: pte_swp_exclusive()."""
    soft_dirty: bool = False
    uffd_wp: bool = False


class PresentPte:
    """A mapped page. An identity: two mappings are never the same one."""

    __slots__ = ("dirty", "exclusive", "folio", "soft_dirty", "uffd_wp", "writable")

    def __init__(self, folio: Folio, *, writable: bool, exclusive: bool, dirty: bool) -> None:
        self.folio = folio
        self.writable = writable
        self.exclusive = exclusive
        """Nobody else may see writes to it. Models: PageAnonExclusive()."""
        self.dirty = dirty
        """Written through this mapping since it was made."""
        self.soft_dirty = False
        self.uffd_wp = False


Pte: TypeAlias = SwapPte | PresentPte


def pte_same(current: Pte | None, orig: Pte) -> bool:
    """Tell whether the entry is still the one that was read before the lock was dropped: all bits, not only the slot.

    The slot alone cannot tell a slot that was freed and given to the same page again (ABA); nor can this. Only a
    pin, or the generation, can.
    """
    return current == orig
