"""What every page must be, and whether it still can be: the oracle of the explorer.

Pure. Accesses are atomic and the scheduler orders them, so a page's content is its last write in the order of the
schedule; zap and exit discard it. `check()` is asked in every state, not when a read later notices:

  - a mapped page has exactly the expected bytes;
  - the expected bytes of a swapped-out page exist somewhere that can still deliver them: its swapcache folio, the folio
    of a fault that is installing it, a reply on its way, the pool's entry or the device's page of this generation.

Models: nothing of the kernel's; KERNEL.md 6.2 names what it finds.
"""

from collections.abc import Iterator, Sequence

from swaptier_client.mm.effects import Load
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host
from swaptier_client.mm.swap_cache import ReadFolio
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_loadgen.explore.cpu import Cpu
from swaptier_loadgen.explore.network import WorldHost
from swaptier_loadgen.explore.pages import checksum_of, is_version_of, page_name, page_token
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_server.tier.slot import SlotState
from swaptier_wire.types import ZERO_PAGE, LoadReply


class PageModel:
    """The expected content of every page of every process of a world."""

    def __init__(self) -> None:
        self.allows_known_loss = False
        """Processes may be told that a page is gone: the policy's specification says so for this world."""
        self.has_twins = False
        """Two hosts share an area: what one believes of a slot, the other may change."""
        self.pages: dict[tuple[Process, int], bytes] = {}
        """Pages that were written and not discarded. Any other address reads as zeros."""
        self.hosts: dict[Process, WorldHost] = {}
        self.protected: list[tuple[Process, int]] = []
        """Pages that userfaultfd protects from being written."""
        self.at_risk: set[tuple[Process, int]] = set()
        """Pages that no folio had when their host heard that the tier had died with its memory, nor has had since."""

    def expected(self, process: Process, address: int) -> bytes:
        """Return what a read of the page must give now."""
        return self.pages.get((process, address), ZERO_PAGE)

    def note_written(self, process: Process, address: int, page: bytes) -> None:
        """The page was written; whatever was lost before is replaced."""
        self.pages[process, address] = page
        self.at_risk.discard((process, address))

    def note_discarded(self, process: Process, address: int) -> None:
        """The owner gave the page up."""
        self.pages.pop((process, address), None)
        self.at_risk.discard((process, address))
        if (process, address) in self.protected:
            self.protected.remove((process, address))

    def note_forked(self, parent: Process, child: Process) -> None:
        """The child has what the parent has."""
        self.hosts[child] = self.hosts[parent]
        self.note_copied(parent, child)

    def note_copied(self, parent: Process, child: Process) -> None:
        """Every page of one process is now also the other's."""
        for (process, address), page in list(self.pages.items()):
            if process is parent:
                self.pages[child, address] = page
                if (parent, address) in self.at_risk:
                    self.at_risk.add((child, address))

    def note_restart_told(self, host: Host) -> None:
        """A host hears that its tier died with its memory: what no folio has may be gone, and is no fault of its.

        Until now it could drop a folio that it believed the tier had. A swap file outlives the tier.
        """
        for page in self.pages:
            there = self.hosts[page[0]]
            if there.host is host and not there.network.server.has_swap_file and not self._is_in_a_folio(*page):
                self.at_risk.add(page)

    def note_kept(self) -> None:
        """Call after every step: what a folio has now is the host's to keep, whatever becomes of the tier."""
        if self.at_risk:
            self.at_risk = {page for page in self.at_risk if not self._is_in_a_folio(*page)}

    def _is_in_a_folio(self, process: Process, address: int) -> bool:
        """Tell whether the page is mapped, or uptodate in the swapcache."""
        pte = process.page_table.get(address)
        if not isinstance(pte, SwapPte):
            return isinstance(pte, PresentPte)
        folio = self.hosts[process].host.slot(pte.entry).folio
        return folio is not None and folio.uptodate

    def check_read(self, process: Process, address: int, content: bytes | None) -> None:
        """Check what an access was given.

        Raises:
            Violation: it is not the expected page.
        """
        expected = self.expected(process, address)
        if content != expected:
            raise self._wrong_bytes(address, content, expected)

    def allows_loss(self, process: Process, address: int) -> bool:
        """Tell whether a page may be gone, so long as its process is told: it was in a memory that died, or any may."""
        network = self.hosts[process].network
        is_unheard_of = network.is_server_new and not network.server.has_swap_file
        return self.allows_known_loss or is_unheard_of or (process, address) in self.at_risk

    def check(self, tasks: Sequence[Cpu]) -> None:
        """Check every page of every process; *tasks* may hold one on its way.

        Raises:
            Violation: the first that is not as it must be.
        """
        for (process, address), expected in self.pages.items():
            pte = process.page_table.get(address)
            if isinstance(pte, PresentPte):
                if pte.folio.content is not expected and pte.folio.content != expected:
                    raise self._wrong_bytes(address, pte.folio.content, expected)
            elif isinstance(pte, SwapPte):
                self._check_swapped_out(tasks, process, address, expected, pte)
            else:
                raise Violation(
                    Kind.LOST_PAGE, f"page {address} of process {process.pid} has no page table entry any more"
                )
        for process, address in self.protected:
            pte = process.page_table.get(address)
            if isinstance(pte, PresentPte) and pte.writable:
                raise Violation(Kind.PROTECTION, f"page {address} is write-protected and mapped writable")

    def _check_swapped_out(
        self, tasks: Sequence[Cpu], process: Process, address: int, expected: bytes, pte: SwapPte
    ) -> None:
        if self.has_twins:
            # There is one page for two hosts: what matters is what each is given for it.
            return
        there = self.hosts[process]
        slot = there.host.slot(pte.entry)
        folio = slot.folio
        if folio is not None and folio.content == expected:
            return
        area = there.network.areas[pte.entry.type]
        held = area.held(pte.entry.offset)
        checksum = checksum_of(expected)
        if held.entry is not None:
            if held.entry.checksum == checksum and held.generation == slot.generation:
                return
        elif (
            held.state in (SlotState.ON_DEVICE, SlotState.DEVICE_HANDED_OFF)
            and held.generation == slot.generation
            and area.device.read(pte.entry.offset).checksum == checksum
        ):
            return
        if slot.is_zero and expected == ZERO_PAGE:
            return
        if slot.reader is not None and slot.reader.content == expected:
            return
        if any(content == expected for content in _in_flight(tasks, slot)):
            return
        # A host that requires its generation, doubts the slot, or will hear of a restart before its load is applied, is
        # told at its next fault, and the policy is not to blame.
        will_be_told = there.host.policy.requires_generation or slot.in_doubt or there.network.is_server_new
        if self.allows_loss(process, address) and (slot.lost is not None or will_be_told):
            return
        if slot.lost is not None:
            raise Violation(Kind.TOLD, f"{page_name(expected)} is gone, and faults on page {address} get SIGBUS")
        raise Violation(
            Kind.LOST_PAGE,
            f"{page_name(expected)} is nowhere any more: not in the pool, not on the device, and no folio holds it",
        )

    def _wrong_bytes(self, address: int, content: bytes | None, expected: bytes) -> Violation:
        given = content if content is not None else ZERO_PAGE
        if given == ZERO_PAGE:
            kind = Kind.STALE_ZEROS
        elif expected != ZERO_PAGE and is_version_of(page_token(given), page_token(expected)):
            kind = Kind.LOST_UPDATE
        else:
            kind = Kind.FOREIGN_BYTES
        return Violation(
            kind, f"page {address} is mapped as {page_name(given)}; its last write was {page_name(expected)}"
        )


def _in_flight(tasks: Sequence[Cpu], slot: SwapSlot) -> Iterator[bytes | None]:
    """Yield what tasks of the slot's host hold of it: replies on their way, private folios not yet installed."""
    for task in tasks:
        if task.at is None or task.there is None or task.there.host.slot(slot.entry) is not slot:
            continue
        for request, reply in task.on_its_way():
            if isinstance(request, Load) and request.entry == slot.entry and isinstance(reply, LoadReply):
                yield reply.content()
        yield from _private_folios(task.frames_locals(), slot)


def _private_folios(frames: Iterator[dict[str, object]], slot: SwapSlot) -> Iterator[bytes | None]:
    """Yield the contents of folios in the locals of a fault's frames: no other object refers to an unpinned fault."""
    for names in frames:
        if names.get("slot") is not slot:
            continue
        for held in names.values():
            folio = held.folio if isinstance(held, ReadFolio) else held
            if isinstance(folio, Folio):
                yield folio.content
