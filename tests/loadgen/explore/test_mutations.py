"""Breaking mm or the tier on purpose is found, and the unbroken code is not accused.

Each mutation is one mistake that somebody could make, named as the reviewer would name it. It is put in place of the
real function for one search of the smallest world in which it matters.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from swaptier_client.mm import backing, fault, folio
from swaptier_client.mm.effects import Load
from swaptier_client.mm.folio import Folio, MmapLock, Pte, SwapPte
from swaptier_client.mm.host import Host
from swaptier_client.mm.swap_map import PrepareResult, SwapDevice, SwapSlot
from swaptier_loadgen.explore.cell import Question, ask
from swaptier_loadgen.explore.world import Bounds
from swaptier_loadgen.explore.worlds import WORLDS, paths
from swaptier_loadgen.lockstep import tiers
from swaptier_server.tier import load
from swaptier_server.tier.area import Area
from swaptier_server.tier.device import MemoryDevice
from swaptier_server.tier.slot import Slot, SlotEvent
from swaptier_wire.types import LoadMode, LoadReply, Outcome, SlotReply


class Mutation(NamedTuple):
    """One mistake and where it must be noticed."""

    mistake: str
    policy: str
    world: str
    apply: Callable[[pytest.MonkeyPatch], None]
    bounds: Bounds | None = None

    def question(self) -> Question:
        """Return the search that must notice it."""
        return Question(self.policy, self.world, self.bounds or WORLDS[self.world].bounds)


def replace(owner: object, name: str, wrap: Callable[[Callable[..., object]], object]) -> Callable[..., None]:
    """Put wrap(real) in place of owner.name."""
    return lambda patch: patch.setattr(owner, name, wrap(getattr(owner, name)))


def pin_is_dropped_at_once(real: Callable[..., PrepareResult]) -> object:
    def prepare(device: SwapDevice, slot: SwapSlot) -> PrepareResult:
        result = real(device, slot)
        if result is PrepareResult.OK:
            slot.has_cache = False
        return result

    return prepare


def pin_keeps_nobody_out(real: Callable[..., PrepareResult]) -> object:
    def prepare(device: SwapDevice, slot: SwapSlot) -> PrepareResult:
        result = real(device, slot)
        return PrepareResult.OK if result is PrepareResult.EXISTS and slot.is_pinned and slot.count else result

    return prepare


def dirty_is_forgotten(real: Callable[..., None]) -> object:
    def take_load_reply(host: Host, slot: SwapSlot, into: Folio, asked: Load, reply: LoadReply) -> None:
        real(host, slot, into, asked, reply)
        into.dirty = False

    return take_load_reply


def any_entry_will_do(_real: object) -> object:
    return lambda _current, _orig: True


def only_the_entry_is_compared(_real: object) -> object:
    def pte_same(current: Pte | None, orig: Pte) -> bool:
        return isinstance(current, SwapPte) and isinstance(orig, SwapPte) and current.entry == orig.entry

    return pte_same


def nothing(_real: object) -> object:
    return lambda *_arguments: None


def only_the_slots_are_doubted(real: Callable[..., None]) -> object:
    def tier_restarted(host: Host, type_: int) -> None:
        clean = [one for one in host.lru.folios if not one.dirty]
        real(host, type_)
        for one in clean:
            one.dirty = False

    return tier_restarted


def lock_is_dropped_silently(_real: object) -> object:
    def unlock(one: Folio) -> None:
        one.is_locked = False

    return unlock


def reused_before_told(real: Callable[..., object]) -> object:
    def put(device: SwapDevice, slot: SwapSlot) -> bool:
        last = real(device, slot)
        if last:
            # Free for everybody, before the tier has heard of it.
            slot.has_cache = False
            device.free_offsets.append(slot.entry.offset)
            return False
        return False

    return put


def freed_while_pinned(real: Callable[..., bool]) -> object:
    def put(device: SwapDevice, slot: SwapSlot) -> bool:
        return bool(real(device, slot)) or (slot.count == 0 and slot.is_pinned)

    return put


def late_invalidations_count(real: Callable[..., SlotReply]) -> object:
    return lambda area, offset, generation: real(area, offset, max(generation, area.held(offset).generation))


def shared_takes(real: Callable[..., LoadReply]) -> object:
    def load_entry(area: Area, slot: Slot, wanted: int | None, _mode: LoadMode, request_id: int) -> LoadReply:
        return real(area, slot, wanted, LoadMode.EXCLUSIVE, request_id)

    return load_entry


def exclusive_keeps(real: Callable[..., LoadReply]) -> object:
    def load_entry(area: Area, slot: Slot, wanted: int | None, _mode: LoadMode, request_id: int) -> LoadReply:
        return real(area, slot, wanted, LoadMode.SHARED, request_id)

    return load_entry


def refused_is_called_stored(real: Callable[..., SlotReply]) -> object:
    def store(area: Area, offset: int, generation: int, page: bytes, checksum: int) -> SlotReply:
        reply = real(area, offset, generation, page, checksum)
        return SlotReply(Outcome.STORED) if reply.outcome is Outcome.REJECTED else reply

    return store


def written_back_to_nowhere(_real: object) -> object:
    def write_back(area: Area, offset: int) -> bool:
        slot = area.known_slots.get(offset)
        if slot is None or slot.entry is None:
            return False
        area.end_page(slot)
        slot.step(SlotEvent.STORED_ON_DEVICE)
        area.device_pages += 1
        area.counters.written_back_pages += 1
        return True

    return write_back


def pool_forgets_to_uncharge(real: Callable[..., None]) -> object:
    def end_page(area: Area, slot: Slot) -> None:
        before = area.pool_bytes
        real(area, slot)
        area.pool_bytes = before

    return end_page


def last_folio_is_found_by_nobody(real: Callable[..., object]) -> object:
    def isolate(lru: folio.ClockList, wanted: int) -> object:
        isolated = real(lru, wanted)
        for one in isolated:  # type: ignore[attr-defined]  # a list of folios
            one.refs -= 1
        return isolated

    return isolate


MUTATIONS = [
    Mutation(
        "the pin is dropped before the read",
        "shared",
        "slot-reuse",
        replace(SwapDevice, "prepare", pin_is_dropped_at_once),
    ),
    Mutation(
        "the pin keeps nobody out",
        "exclusive-if-swapcache",
        "slot-reuse",
        replace(SwapDevice, "prepare", pin_keeps_nobody_out),
    ),
    Mutation(
        "no dirty mark after an exclusive load",
        "no-bypass",
        "fork-share",
        replace(backing, "take_load_reply", dirty_is_forgotten),
    ),
    Mutation(
        "the page table entry is not rechecked", "shared", "zap-vs-fault", replace(fault, "pte_same", any_entry_will_do)
    ),
    Mutation(
        "only the entry is compared, not its bits",
        "shared",
        "aborted-install",
        replace(fault, "pte_same", only_the_entry_is_compared),
    ),
    Mutation("who waits for a pin is not woken", "shared", "slot-reuse", replace(SwapSlot, "wake", nothing)),
    Mutation(
        "who waits for a folio's lock is not woken",
        "no-bypass",
        "double-fault",
        replace(Folio, "unlock", lock_is_dropped_silently),
    ),
    Mutation(
        "a slot is reusable before the tier is told",
        "shared",
        "fork-share",
        replace(SwapDevice, "put", reused_before_told),
    ),
    Mutation("a slot is freed under a pin", "shared", "zap-vs-fault", replace(SwapDevice, "put", freed_while_pinned)),
    Mutation(
        "the tier applies late invalidations",
        "shared",
        "delayed-invalidate",
        replace(tiers, "invalidate", late_invalidations_count),
    ),
    Mutation("the tier's shared load takes", "shared", "aborted-install", replace(load, "_load_entry", shared_takes)),
    Mutation(
        "the tier's exclusive load keeps", "no-bypass", "double-fault", replace(load, "_load_entry", exclusive_keeps)
    ),
    Mutation(
        "a refused store is called stored",
        "shared",
        "store-back-rejected",
        replace(tiers, "store", refused_is_called_stored),
    ),
    Mutation(
        "writeback writes nothing",
        "shared",
        "writeback-vs-load",
        replace(paths, "write_back", written_back_to_nowhere),
    ),
    Mutation(
        "the pool does not give bytes back",
        "shared",
        "double-fault",
        replace(Area, "end_page", pool_forgets_to_uncharge),
    ),
    Mutation(
        "reclaim holds no reference",
        "shared",
        "reclaim-vs-fault",
        replace(folio.ClockList, "isolate", last_folio_is_found_by_nobody),
    ),
    Mutation(
        "the host does not mind that the server is another",
        "shared",
        "server-killed",
        replace(backing, "tier_restarted", nothing),
    ),
    Mutation(
        "an answer is believed although its server died",
        "shared",
        "server-killed",
        replace(backing, "doubt_if_restarted", nothing),
    ),
    Mutation(
        "what the host has is left clean when the server dies",
        "no-bypass",
        "server-killed",
        replace(backing, "tier_restarted", only_the_slots_are_doubted),
    ),
    Mutation(
        "a server does not look for what the last one left",
        "claim",
        "server-restart",
        replace(Area, "restore", nothing),
    ),
    Mutation(
        "a store is answered before the device has it",
        "claim",
        "server-restart",
        replace(MemoryDevice, "write", nothing),
    ),
    Mutation("a reader does not lock the mmap", "shared", "zap-vs-fault", replace(MmapLock, "read_done", nothing)),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.mistake for mutation in MUTATIONS])
def test_a_mistake_in_mm_or_tier_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the world's own bounds."""
    mutation.apply(monkeypatch)
    cell = ask(mutation.question(), now=time.monotonic)
    assert cell.violation is not None, (
        f"{mutation.mistake}: not found in {cell.result.states} states of {mutation.world}"
    )
