"""A schedule in words: who did what, in which line, and what changed on the host and in the tier.

Pure. The schedule is replayed once more, looking before and after each step. A step is described by the effect that
it reached, the decisions inside it, and the difference between the two looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from swaptier_client.mm.effects import Invalidate, Load, Lookup, Preempt, Request, RequestReply, Store, Wait
from swaptier_client.mm.folio import PresentPte, SwapPte
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_loadgen.explore.cpu import Cpu
from swaptier_loadgen.explore.network import WorldHost
from swaptier_loadgen.explore.pages import page_name
from swaptier_loadgen.explore.search import Schedule, Transition
from swaptier_loadgen.explore.violation import Violation
from swaptier_loadgen.explore.world import World
from swaptier_loadgen.lockstep.driver import TaskState
from swaptier_server.tier.area import Area
from swaptier_server.tier.page import UNWRITTEN, DecodeError, StoredPage, decode
from swaptier_server.tier.slot import SlotState
from swaptier_wire.types import LoadReply, SlotReply

POINTS = {
    "swap_in.cache_missed": "has missed the swapcache; holds nothing",
    "swap_in.allocated": "has allocated a private folio; holds nothing else",
    "swap_in.read": "has its folio; holds no lock",
    "swap_out.isolated": "has isolated and locked what it will write",
    "swap_out.written": "has unlocked what it wrote",
    "tier.write_back": "",
    "tier.restarted": "dies and starts anew, with what its device has",
    "network.delivered": "delivers the late copy",
}
"""What standing at a Preempt means, in plain words; a point that is not here is called by its name."""


class Step(NamedTuple):
    """One step of a schedule, described."""

    cpu: str
    """The task's name."""
    where: str
    """The line it came to, as module:function:line; the one it left, when it ended."""
    does: tuple[str, ...]
    """What it did and what changed on its host."""
    tier: tuple[str, ...]
    """What changed in the tier."""
    transition: Transition


def trace(build: Callable[[], World], schedule: Schedule) -> list[Step]:
    """Describe every step of *schedule*; the last one may end in a violation."""
    world = build()
    world.start()
    return [_describe(world, transition) for transition in schedule]


def _describe(world: World, transition: Transition) -> Step:
    task = world.tasks[transition.task]
    left = task.where()
    host_before, tier_before = _look_at_hosts(world), _look_at_tier(world)
    world.choices.begin(transition.script)
    failed = ""
    try:
        world.step(transition.task)
    except Violation as violation:
        failed = violation.what
    does = [_reached(world, task, failed)]
    does += (choice.what for choice in world.choices.made if choice.taken)
    does += _changes(host_before, _look_at_hosts(world))
    return Step(
        task.name,
        task.where() or left or "starts",
        tuple(word for word in does if word),
        tuple(_changes(tier_before, _look_at_tier(world))),
        transition,
    )


def _reached(world: World, task: Cpu, failed: str) -> str:
    """Say what the task stands at now."""
    if failed:
        return failed
    if task.state is TaskState.DONE:
        return "ends" if task.error is None else f"ends: {type(task.error).__name__}"
    at = task.at
    if isinstance(at, Preempt):
        return POINTS.get(at.point, at.point)
    if isinstance(at, Wait):
        return f"sleeps: {at.queue.name}"
    return "; ".join(_asked(world, task, request, reply) for request, reply in _asked_and_answered(task))


def _asked_and_answered(task: Cpu) -> list[tuple[Request, RequestReply | BaseException | None]]:
    answered: list[tuple[Request, RequestReply | BaseException | None]] = [*task.on_its_way()]
    if not answered and isinstance(task.at, Load | Store | Lookup | Invalidate):
        answered.append((task.at, task.failure))
    return answered


def _asked(world: World, task: Cpu, request: Request, reply: RequestReply | BaseException | None) -> str:
    offset = request.entry.offset
    match request:
        case Load():
            asked = f"load {request.mode.name} slot {offset}"
        case Store():
            asked = f"store {page_name(request.page)} to slot {offset}"
        case Lookup():
            asked = f"look up slot {offset}"
        case Invalidate():
            asked = f"invalidate slot {offset}"
        case _:
            asked = type(request).__name__.lower()
    return f"{asked}: {_answered(reply)}"


def _answered(reply: RequestReply | BaseException | None) -> str:
    if isinstance(reply, LoadReply):
        content = reply.content()
        bytes_ = "" if content is None else f" {page_name(content)}"
        return f"{reply.outcome.name}{bytes_}"
    if isinstance(reply, SlotReply):
        return reply.outcome.name
    return "no reply"


def _changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Say what is different, as "thing: now"."""
    return [
        f"{thing}: {after.get(thing, 'gone')}"
        for thing in dict.fromkeys((*before, *after))
        if before.get(thing) != after.get(thing)
    ]


def _look_at_hosts(world: World) -> dict[str, str]:
    look: dict[str, str] = {}
    several = len(world.hosts) > 1
    for there in world.hosts:
        prefix = f"host {there.index} " if several else ""
        for process in there.host.processes.values():
            name = f"{prefix}process {process.pid} " if len(there.host.processes) > 1 else prefix
            for address, pte in sorted(process.page_table.items()):
                look[f"{name}page {address}"] = _pte(pte)
        for slot in there.host.devices[0].slots:
            look[f"{prefix}slot {slot.entry.offset}"] = _slot(there, slot)
    return look


def _pte(pte: SwapPte | PresentPte) -> str:
    if isinstance(pte, SwapPte):
        bits = "".join(f", {bit}" for bit in ("soft_dirty", "uffd_wp") if getattr(pte, bit))
        return f"swap entry {pte.entry.offset}{bits}"
    content = pte.folio.content
    return f"mapped {'?' if content is None else page_name(content)}"


def _slot(there: WorldHost, slot: SwapSlot) -> str:
    if slot.lost is not None:
        return f"lost ({slot.lost})"
    if slot.folio is not None:
        content = slot.folio.content
        dirty = ", dirty" if slot.folio.dirty else ""
        return f"in the swapcache ({'being read' if content is None else page_name(content)}{dirty})"
    if slot.is_pinned:
        return "pinned" if slot.count else "pinned, being freed"
    return "in use" if slot.count else "free"


def _look_at_tier(world: World) -> dict[str, str]:
    look: dict[str, str] = {}
    several = len(world.hosts) > 1
    for there in world.hosts:
        for area in there.network.areas:
            for offset in range(area.slots):
                prefix = f"{area.name} " if several else ""
                look[f"{prefix}slot {offset}"] = _held(area, offset)
    return look


def _held(area: Area, offset: int) -> str:
    held = area.held(offset)
    if held.entry is not None:
        is_backed = held.device_generation == held.generation
        return f"{_page(held.entry)} in the pool{' and on the device' if is_backed else ''}"
    if held.state in (SlotState.ON_DEVICE, SlotState.DEVICE_HANDED_OFF):
        return f"{_page(area.device.read(offset))} on the device"
    on_device = area.device.read(offset)
    behind = "zeros" if on_device is UNWRITTEN else f"an old {_page(on_device)}"
    return f"{held.state.name.lower()}; the device has {behind}"


def _page(stored: StoredPage) -> str:
    try:
        return page_name(decode(stored))
    except DecodeError:
        return "a damaged page"
