"""The tier against a plain model of its contract, whatever is asked, ends, fails or starts anew, in any order.

The machine of `tier_machine` drives a tier and the model of `tier_model` side by side; here it is let loose. The
mutants are the negative control: each breaks one rule of the tier on purpose, and the machine must notice.
"""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.server.tier import tier_machine
from tests.server.tier.tier_machine import FileMachine, TierMachine
from tests.server.tier.tier_model import CLAIM, EXCLUSIVE, SHARED

from swaptier_server.tier import free, load, store, write_back
from swaptier_server.tier.account import Account
from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.pool import Lru, Pool
from swaptier_server.tier.slot import DEVICE_STATES, HANDED_OFF_STATES, Slot, SlotEvent, SlotState
from swaptier_server.tier.swap_file import SavedPage
from swaptier_server.tier.tier import Tier
from swaptier_server.tier.write_back import WrittenBack
from swaptier_wire.errors import (
    SwapTierError,
)
from swaptier_wire.types import (
    LoadMode,
    LoadReply,
    Outcome,
    SlotReply,
)

TestTier = TierMachine.TestCase
TestTier.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTierOnAFile = FileMachine.TestCase
TestTierOnAFile.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


# The negative control


def _leave_pool(area: Area, slot: Slot) -> None:
    area.end_page(slot)
    slot.step(SlotEvent.DROPPED_BY_POOL)
    area.device_pages += 1


def _state(area: Area, offset: int) -> SlotState:
    return area.held(offset).state


def _forget_lateness_of_stores(patch: pytest.MonkeyPatch) -> None:
    """A late store is applied: R1 is gone."""
    applied = store._admit
    patch.setattr(
        store, "_admit", lambda area, o, g, *rest: applied(area, o, max(g, area.slot(o).generation + 1), *rest)
    )


def _forget_lateness_of_invalidations(patch: pytest.MonkeyPatch) -> None:
    """A late invalidation destroys the next owner's page: R4 is gone."""
    applied = free.invalidate
    patch.setattr(tier_machine, "invalidate", lambda area, o, g: applied(area, o, max(g, area.slot(o).generation)))


def _forget_tombstones(patch: pytest.MonkeyPatch) -> None:
    """A freed slot does not remember that it was stored to up to here."""
    applied = free.invalidate

    def invalidate(area: Area, offset: int, generation: int) -> SlotReply:
        return applied(area, offset, min(generation, area.slot(offset).generation))

    patch.setattr(tier_machine, "invalidate", invalidate)


def _keep_what_an_exclusive_load_took(patch: pytest.MonkeyPatch) -> None:
    """Every load is shared."""
    applied = load._load_entry
    patch.setattr(load, "_load_entry", lambda area, s, w, _mode, r: applied(area, s, w, SHARED, r))


def _keep_the_older_entry_of_a_refused_store(patch: pytest.MonkeyPatch) -> None:
    """678e54d4bb9a's bug."""
    applied = store._settle_written

    def settle(area: Area, write: store._Write) -> SlotReply:
        reply = applied(area, write)
        if reply.outcome is Outcome.DEVICE and write.slot.generation > 1:
            write.slot.entry = write.stored._replace(generation=write.slot.generation - 1)
        return reply

    patch.setattr(store, "_settle_written", settle)


def _forget_required_generations(patch: pytest.MonkeyPatch) -> None:
    """Safety is asked for in vain."""
    applied = load._load_entry
    patch.setattr(load, "_load_entry", lambda area, s, _wanted, m, r: applied(area, s, None, m, r))


def _forget_the_accept_threshold(patch: pytest.MonkeyPatch) -> None:
    """A full pool takes the next page that fits."""
    applied = Pool.charge

    def charge(pool: Pool, account: Account, length: int) -> bool:
        pool.reached_full = False
        return applied(pool, account, length)

    patch.setattr(Pool, "charge", charge)


def _overshoot_the_limit_by_a_page(patch: pytest.MonkeyPatch) -> None:
    """The kernel's own check: refuse once at the limit."""
    applied = Pool.charge

    def charge(pool: Pool, account: Account, length: int) -> bool:
        fits = applied(pool, account, 0 if pool.bytes < pool.bytes_max else length)
        account.pool_bytes.take(length if fits else 0)
        return fits

    patch.setattr(Pool, "charge", charge)


def _forget_to_give_bytes_back(patch: pytest.MonkeyPatch) -> None:
    """The pool leaks."""
    patch.setattr(Pool, "uncharge", lambda _pool, _account, _length: None)


def _keep_the_areas_of_a_past_life(patch: pytest.MonkeyPatch) -> None:
    """A rebooted host finds the pages of its past life."""
    patch.setattr(Tier, "_refuse_replaced", lambda _tier, _client: None)


def _let_a_freed_device_page_stay_current(patch: pytest.MonkeyPatch) -> None:
    """A slot that was freed on the device still counts there."""
    applied = Area.end_page
    patch.setattr(Area, "end_page", lambda area, slot: applied(area, slot) if slot.entry else None)


def _hand_off_without_keeping(patch: pytest.MonkeyPatch) -> None:
    """A claim takes the page at once, as an exclusive load does: a lost reply loses it."""
    applied = Area.begin_lease

    def begin(area: Area, slot: Slot, request_id: int) -> None:
        if slot.state is SlotState.POOLED:
            area.end_page(slot)
            slot.step(SlotEvent.TAKEN_BY_LOAD)
            area.counters.loads[EXCLUSIVE][Outcome.HIT] += 1
        else:
            applied(area, slot, request_id)

    patch.setattr(Area, "begin_lease", begin)


def _answer_every_claimant(patch: pytest.MonkeyPatch) -> None:
    """A second claimant gets the page too: R6 is gone."""
    applied = load.load

    def answer(area: Area, offset: int, generation: int, mode: LoadMode, **options: int) -> LoadReply:
        if mode is CLAIM and _state(area, offset) in HANDED_OFF_STATES:
            options["request_id"] = area.held(offset).claimant or 0
        return applied(area, offset, generation, mode, **options)

    patch.setattr(tier_machine, "load", answer)


def _copy_what_is_handed_off(patch: pytest.MonkeyPatch) -> None:
    """A shared load is answered while a lease runs."""
    applied = load.load

    def answer(area: Area, offset: int, generation: int, mode: LoadMode, **options: int) -> LoadReply:
        slot = area.known_slots.get(offset)
        if mode is SHARED and slot and slot.state is SlotState.HANDED_OFF and slot.entry:
            return load._read_entry(area, slot.entry)
        return applied(area, offset, generation, mode, **options)

    patch.setattr(tier_machine, "load", answer)


def _let_a_late_acknowledgement_delete(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement that comes after its lease takes the page from whoever has it."""
    applied = free.acknowledge

    def acknowledge(area: Area, offset: int, generation: int, request_id: int) -> SlotReply:
        slot = area.known_slots.get(offset)
        if slot and slot.generation == generation and slot.state in (SlotState.POOLED, SlotState.ON_DEVICE):
            area.begin_lease(slot, request_id)
        return applied(area, offset, generation, request_id)

    patch.setattr(tier_machine, "acknowledge", acknowledge)


def _let_anybody_acknowledge(patch: pytest.MonkeyPatch) -> None:
    """The request id of an acknowledgement is not looked at."""
    applied = free.acknowledge

    def acknowledge(area: Area, offset: int, generation: int, request_id: int) -> SlotReply:
        return applied(area, offset, generation, area.held(offset).claimant or request_id)

    patch.setattr(tier_machine, "acknowledge", acknowledge)


def _acknowledge_any_generation(patch: pytest.MonkeyPatch) -> None:
    """The generation of an acknowledgement is not looked at."""
    applied = free.acknowledge
    patch.setattr(
        tier_machine, "acknowledge", lambda area, o, _generation, r: applied(area, o, area.held(o).generation or 1, r)
    )


def _forget_who_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """A repeated acknowledgement is told that it came too late."""
    applied = Area.end_lease

    def end(area: Area, slot: Slot, ended_by: LeaseEnd) -> None:
        applied(area, slot, ended_by)
        slot.claimant = None

    patch.setattr(Area, "end_lease", end)


def _remember_who_did_not_acknowledge(patch: pytest.MonkeyPatch) -> None:
    """Who let a lease end, or lost its page to an invalidation, is told later that the page is his."""
    applied = Area.end_lease

    def end(area: Area, slot: Slot, ended_by: LeaseEnd) -> None:
        claimant = slot.claimant
        applied(area, slot, ended_by)
        slot.claimant = claimant

    patch.setattr(Area, "end_lease", end)


def _let_repeats_keep_their_lease(patch: pytest.MonkeyPatch) -> None:
    """A claim that is asked again does not begin its lease anew."""
    applied = Leases.begin
    patch.setattr(Leases, "begin", lambda leases, slot: None if slot in leases else applied(leases, slot))


def _end_leases_late(patch: pytest.MonkeyPatch) -> None:
    """A lease lasts a nanosecond more than was said."""
    applied = Leases.overdue
    patch.setattr(Leases, "overdue", lambda leases, _now: applied(leases, leases._now_ns() - 1))


def _forget_the_limit_of_leases(patch: pytest.MonkeyPatch) -> None:
    """Any number of pages can be handed off."""
    patch.setattr(tier_machine, "check_load", lambda area, offsets, _modes: area.check_offsets(offsets))


def _lose_pages_whose_lease_ended(patch: pytest.MonkeyPatch) -> None:
    """They do not come back to the LRU: R5 is half gone."""
    applied = Area.take_back

    def take_back(area: Area, slot: Slot, ended_by: LeaseEnd) -> None:
        applied(area, slot, ended_by)
        area.lru.discard(slot)

    patch.setattr(Area, "take_back", take_back)


def _write_back_what_is_handed_off(patch: pytest.MonkeyPatch) -> None:
    """Writeback does not ask whether the page is anybody's."""
    applied = write_back.write_back

    def move(area: Area, offset: int) -> bool:
        slot = area.known_slots.get(offset)
        if slot and slot.state in HANDED_OFF_STATES:
            area.take_back(slot, LeaseEnd.EXPIRED)
        return applied(area, offset)

    patch.setattr(tier_machine, "write_back", move)


def _drop_claimed_pages_from_a_device_that_frees_on_read(patch: pytest.MonkeyPatch) -> None:
    """e914d8f00391 with a lost reply."""
    applied = Area.begin_lease

    def begin(area: Area, slot: Slot, request_id: int) -> None:
        applied(area, slot, request_id)
        if area.options.device_free_on_read and slot.state in DEVICE_STATES:
            area.device.drop(slot.offset)

    patch.setattr(Area, "begin_lease", begin)


def _forget_the_quota(patch: pytest.MonkeyPatch) -> None:
    """An area takes what the pool gives."""
    patch.setattr(store, "_make_room", lambda _area, _length, _quota: True)


def _refuse_at_the_quota_at_once(patch: pytest.MonkeyPatch) -> None:
    """An area that has used up its quota does not make room."""
    patch.setattr(store, "_make_room", lambda _area, _length, _quota: False)


def _give_no_second_chance(patch: pytest.MonkeyPatch) -> None:
    """Who was looked at goes like any other."""
    applied = Lru.take_victims

    def take(lru: Lru, bytes_wanted: int, pages_max: int) -> list[Slot]:
        for slot in lru:
            slot.is_referenced = False
        return applied(lru, bytes_wanted, pages_max)

    patch.setattr(Lru, "take_victims", take)


def _shrink_to_the_limit_only(patch: pytest.MonkeyPatch) -> None:
    """The accept threshold is not the goal."""
    applied = Tier.shrink

    def shrink(tier: Tier) -> int:
        tier.pool.wants_shrink &= tier.pool.bytes > tier.pool.bytes_max
        return applied(tier)

    patch.setattr(Tier, "shrink", shrink)


def _lose_what_a_device_refuses_at_writeback(patch: pytest.MonkeyPatch) -> None:
    """The entry is dropped although nobody has the page."""
    applied = write_back._write_back_slots

    def move(area: Area, slots: list[Slot], *, is_last: bool = False) -> WrittenBack:
        done = applied(area, slots, is_last=is_last)
        for slot in slots if done.failed else ():
            slot.device_generation = slot.generation
            _leave_pool(area, slot)
        return done

    patch.setattr(write_back, "_write_back_slots", move)


def _answer_before_the_device_has_it(patch: pytest.MonkeyPatch) -> None:
    """A write-through store is answered whatever the device said."""
    patch.setattr(store, "_settle_refused", store._settle_written)


def _let_an_older_page_on_the_device_come_back(patch: pytest.MonkeyPatch) -> None:
    """A refused store leaves what the device had."""
    patch.setattr(Area, "drop_from_device", lambda _area, _slot: None)


def _forget_that_the_server_restarted(patch: pytest.MonkeyPatch) -> None:
    """What only the earlier server had is said to have never been stored, or to be of another generation."""
    applied = Area.restore

    def restore(area: Area, pages: Iterable[SavedPage]) -> None:
        area.is_restored = False
        applied(area, pages)

    patch.setattr(Area, "restore", restore)


def _refuse_repeats_across_a_restart(patch: pytest.MonkeyPatch) -> None:
    """A store whose answer died with the server is refused when it is sent again."""
    applied = Area.restore

    def restore(area: Area, pages: Iterable[SavedPage]) -> None:
        applied(area, pages)
        for slot in area.known_slots.values():
            slot.store_reply = None

    patch.setattr(Area, "restore", restore)


def _leave_on_the_device_what_was_written_through(patch: pytest.MonkeyPatch) -> None:
    """An exclusive load takes the pool's entry only, and its repeat gets the device's copy."""
    applied = load._load_entry

    def load_entry(area: Area, slot: Slot, wanted: int | None, mode: LoadMode, request_id: int) -> LoadReply:
        if mode is not LoadMode.EXCLUSIVE or not slot.is_backed:
            return applied(area, slot, wanted, mode, request_id)
        reply = applied(area, slot, wanted, LoadMode.SHARED, request_id)
        if reply.content() is not None:
            _leave_pool(area, slot)
        return reply

    patch.setattr(load, "_load_entry", load_entry)


def _let_leases_outlive_a_drain(patch: pytest.MonkeyPatch) -> None:
    """What is handed off when the server stops is not ended before."""
    patch.setattr(Leases, "next_to_end", lambda _leases: None)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    mutant
    for name, mutant in list(globals().items())
    if callable(mutant) and name.startswith("_") and "patch" in getattr(mutant, "__annotations__", {})
]


FINDING = settings(
    max_examples=2000,  # the slowest to be found took 630, over three seeds
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # finding is enough: shrinking would only cost time
)


SEEDS = {
    _forget_tombstones: 7,
    _forget_required_generations: 1,
    _answer_every_claimant: 1,
    _copy_what_is_handed_off: 1,
    _let_anybody_acknowledge: 3,
    _acknowledge_any_generation: 1,
    _forget_who_acknowledged: 3,
    _let_repeats_keep_their_lease: 3,
    _refuse_at_the_quota_at_once: 1,
    _give_no_second_chance: 3,
    _let_an_older_page_on_the_device_come_back: 0,
    _refuse_repeats_across_a_restart: 3,
    _leave_on_the_device_what_was_written_through: 2,
}
"""Where the search from the usual seed takes seconds, one that finds the mutant at once.

It saves time only: where it no longer does so, because the machine changed, the usual search comes after it."""


def search(from_seed: int | None) -> None:
    """Search shortly from a seed, if there is one, then as long as any mutant needs."""
    if from_seed is not None:
        run_state_machine_as_test(
            seed(from_seed)(type("Seeded", (TierMachine,), {})), settings=settings(FINDING, max_examples=60)
        )
    run_state_machine_as_test(TierMachine, settings=FINDING)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__.strip("_"))
def test_a_tier_that_breaks_a_rule_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    # `Failed` is what pytest raises where a refusal was expected and none came.
    with pytest.raises((AssertionError, SwapTierError, pytest.fail.Exception)):
        search(SEEDS.get(mutate))


def test_the_same_search_finds_nothing_in_the_tier_as_it_is() -> None:
    run_state_machine_as_test(TierMachine, settings=settings(FINDING, max_examples=100))
