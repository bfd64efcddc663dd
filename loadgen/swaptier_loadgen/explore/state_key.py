"""The key of a state: equal keys have equal futures. A canonical serialisation, hashed to 128 bits.

Pure. Objects are numbered in the order in which they are met, never by id() or hash(), so two runs that reach the same
state by different ways, or on different machines, give the same key. What is met: first the shared state (page tables,
slots, swapcache, clock list, the tier's slots and devices), then each task: its generators from the outermost in, with
instruction, local variables and the iterators on their stacks, and the reply that it waits for.

Rules of conduct:
  - Left out is only what no branch reads: counters, ledgers, clocks, lengths. A type that is not known here is an
    error, so that nothing new is left out by accident.
  - Generations are kept relative to the slot's, and request ids by their first appearance: only their order and
    equality are ever asked for.
  - Tasks of one class are sorted by what they are, so that symmetric states have one key. Where two still differ only
    in objects that no other task holds, a symmetry may be missed; two different states never get one key for it.
  - Which tasks sleep in a queue is written with each task, not with the queue: all are woken at once, in any order.
"""

from __future__ import annotations

import gc
import marshal
from collections.abc import Callable
from operator import attrgetter
from types import GeneratorType
from typing import ClassVar

import xxhash

from swaptier_client.mm.effects import Acknowledge, Invalidate, Load, Store, Wait, WaitQueue
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host
from swaptier_client.mm.readahead import ReadaheadMode
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_loadgen.explore.cpu import Cpu
from swaptier_loadgen.explore.pages import page_token
from swaptier_loadgen.explore.value_writer import ITERATORS, Atom, ValueWriter, frame_shape
from swaptier_loadgen.explore.world import World
from swaptier_loadgen.lockstep.driver import TaskState
from swaptier_wire.types import NO_GENERATION, LoadReply, SlotReply

MARSHAL_VERSION = 0
"""The oldest: newer ones write references, which depend on who else holds an object."""


def state_key(world: World, *, last: int = -1, spent: int = 0) -> int:
    """Return the 128-bit key of the world's state.

    Where it matters who ran *last* and how many preemptions were *spent*, they are part of the state.
    """
    return xxhash.xxh3_128_intdigest(state_bytes(world, last=last, spent=spent))


def state_bytes(world: World, *, last: int = -1, spent: int = 0) -> bytes:
    """Return what is hashed."""
    writer = _Writer(world, world.tasks[last] if last >= 0 else None)
    atoms = writer.world()
    atoms.append(spent)
    return marshal.dumps(atoms, MARSHAL_VERSION)


_DEVICE = attrgetter("is_dying", "is_dead", "unanswered", "restarts")
_SLOT = attrgetter("count", "has_cache", "in_pool", "on_device", "in_doubt", "is_freeing", "is_zero")
_FOLIO = attrgetter("uptodate", "is_locked", "dirty", "refs", "referenced", "readahead")


class _Writer(ValueWriter):
    """One serialisation."""

    def __init__(self, world: World, last: Cpu | None) -> None:
        super().__init__()
        self._world = world
        self._last = last
        self._numbers |= {id(world): -1, id(world.model): -2, id(world.policy): -3, id(world.server): -4}
        self._requests: dict[int, int] = {}
        self._host: Host = world.hosts[0].host

    def world(self) -> list[Atom]:
        """Serialise the whole world."""
        world, out, numbers = self._world, self._out, self._numbers
        out += world.failures.left.values()
        for there in world.hosts:
            numbers[id(there)] = numbers[id(there.host)] = numbers[id(there.network)] = -10 - there.index
            numbers[id(there.network.queue)] = -20 - there.index
            for device in there.host.devices:
                for slot in device.slots:
                    numbers[id(slot)] = len(numbers)
        for there in world.hosts:
            self._shared(there.host)
            for device, area in zip(there.host.devices, there.network.areas, strict=True):
                for slot in device.slots:
                    held = area.held(slot.entry.offset)
                    on_device = area.device.read(slot.entry.offset)
                    out += (
                        held.state.value,
                        self._relative(slot, held.generation),
                        None if held.entry is None else held.entry.checksum,
                        on_device.checksum,
                        self._relative(slot, on_device.generation),
                    )
                    if held.store_reply is not None and world.repeats_requests:
                        out += (held.store_reply.outcome.value, held.store_checksum)
                    # Of the claims that it may be, the host's own was numbered above.
                    claim = held.claimant
                    out.append(None if claim is None else self._id(claim))
            out.append(there.network.server_epoch)
            if there.network.late:
                self._put(there.network.late)
        out.append(world.server.tier.epoch)
        out.append(world.server.tier.pool.reached_full)
        if world.writes_back:
            for lru_slot in world.server.tier.pool.oldest_first():
                out += (lru_slot.area, lru_slot.offset)
        self._model()
        self._tasks()
        return out

    def _model(self) -> None:
        model = self._world.model
        for (process, address), page in sorted(
            model.pages.items(), key=lambda item: (model.hosts[item[0][0]].index, item[0][0].pid, item[0][1])
        ):
            self._out += (process.pid, address, page_token(page), (process, address) in model.at_risk)
        for process, address in model.protected:
            self._out += (process.pid, address)

    def _shared(self, host: Host) -> None:
        """Serialise what the tasks of a host share."""
        self._host = host
        out = self._out
        for device in host.devices:
            self._numbers[id(device)] = -100 - device.type
            out += _DEVICE(device)
            out += (len(device.free_offsets), *device.free_offsets)
            for slot in device.slots:
                out += _SLOT(slot)
                out += (slot.generation == NO_GENERATION, None if slot.lost is None else slot.lost.value)
                # A claim is named by the request that made it; only whether two are the same request matters.
                out.append(self._id(slot.claim_id) if slot.claim_id else None)
                self._put(slot.folio)
                self._put(slot.reader)
                if slot.queue is not None:
                    self._numbers[id(slot.queue)] = -1000 - self._numbers[id(slot)]
        for pid, process in sorted(host.processes.items()):
            out.append(pid)
            self._put(process)
        out.append("lru")
        for folio in host.lru.folios:
            self._put(folio)
        out.append(host.is_reclaiming)
        self._numbers[id(host.memory_queue)] = -50
        readahead = host.readahead
        if readahead.mode is not ReadaheadMode.NONE:
            out += readahead.state()

    def _tasks(self) -> None:
        """Serialise the tasks; those that are alike in the order of what they are."""
        alike: dict[str, list[Cpu]] = {}
        for index, task in enumerate(self._world.tasks):
            alike.setdefault(task.alike or f"#{index}", []).append(task)
        for tasks in alike.values():
            if len(tasks) == 1:
                self._task(tasks[0])
                continue
            alone = [self._alone(task) for task in tasks]
            # Sorted by bytes; a stable sort, so what cannot be told apart keeps its order.
            for index in sorted(
                range(len(tasks)), key=[marshal.dumps(out, MARSHAL_VERSION) for out, _ in alone].__getitem__
            ):
                out, is_private = alone[index]
                if is_private:
                    self._task(tasks[index])
                else:
                    self._out += out

    def _alone(self, task: Cpu) -> tuple[list[Atom], bool]:
        """Return what *task* is, numbered as if it came next, and whether it numbers anything that only tasks hold."""
        kept, numbers, requests = self._out, len(self._numbers), len(self._requests)
        self._out = []
        self._task(task)
        out, self._out = self._out, kept
        is_private = len(self._numbers) > numbers or len(self._requests) > requests
        while len(self._numbers) > numbers:
            self._numbers.popitem()
        while len(self._requests) > requests:
            self._requests.popitem()
        return out, is_private

    def _task(self, task: Cpu) -> None:
        out = self._out
        out += ("task", task is self._last)
        if task.state is TaskState.DONE:
            out.append(None)
            return
        if task.there is not None:
            self._host = task.there.host
        out.append(task.state is TaskState.WAITING)
        for path in task.frames():
            self._frame(path)
        at = task.at
        if isinstance(at, Wait):
            self._put(at.queue)
        for request, reply in task.on_its_way():
            if isinstance(reply, LoadReply):
                slot = self._host.slot(request.entry)
                self._load_reply(reply, self._relative(slot, reply.generation))
            else:
                self._put(reply)
        if task.failure is not None:
            self._put(task.failure)

    def _frame(self, path: GeneratorType[object, object, object]) -> None:
        frame = path.gi_frame
        out = self._out
        if frame is None:
            out.append(None)
            return
        code = frame.f_code
        names = frame.f_locals
        shape = frame_shape(code)
        out += (shape.name, frame.f_lasti)
        if len(names) != shape.variables:
            out.append("|".join(names))
        numbers = self._numbers
        for name, value in names.items():
            number = numbers.get(id(value))
            if number is not None:
                out.append(number)
                out.append("@")
            elif name == "generation" and type(value) is int:
                slot = names.get("slot")
                out.append(self._relative(slot, value) if isinstance(slot, SwapSlot) else value)
            elif value is not path:
                self._put(value)
        if shape.has_loops:
            # What the frame has on its stack and not in a variable: the iterators of its for loops.
            for value in gc.get_referents(path):
                if type(value) in ITERATORS:
                    self._put(value.__reduce__())

    def _relative(self, slot: SwapSlot, generation: int) -> int | None:
        return None if generation == NO_GENERATION else generation - slot.generation

    def _folio(self, folio: Folio) -> None:
        self._number(folio)
        content = folio.content
        self._out += ("folio", None if content is None else page_token(content), *_FOLIO(folio))
        self._out += (
            None if folio.source is None else folio.source.value,
            None if folio.read_error is None else folio.read_error.value,
            -1 if folio.entry is None else folio.entry.offset,
            len(folio.mappings),
        )
        for process, address in folio.mappings:
            self._out += (process.pid, address)
        if folio.lock_queue is not None:
            self._numbers[id(folio.lock_queue)] = -2000 - self._numbers[id(folio)]

    def _process(self, process: Process) -> None:
        self._number(process)
        lock = process.mmap_lock
        self._numbers[id(lock)] = -10_000 - self._numbers[id(process)]
        self._numbers[id(lock.queue)] = -20_000 - self._numbers[id(process)]
        self._out += (process.is_alive, lock.readers, lock.is_written, lock.writers_waiting, len(process.page_table))
        for address, pte in sorted(process.page_table.items()):
            self._out.append(address)
            self._put(pte)

    def _swap_pte(self, pte: SwapPte) -> None:
        entry = pte.entry
        self._out += ("swap", entry.type, entry.offset, pte.exclusive, pte.soft_dirty, pte.uffd_wp)

    def _present_pte(self, pte: PresentPte) -> None:
        self._number(pte)
        self._out += ("present", pte.writable, pte.exclusive, pte.dirty, pte.soft_dirty, pte.uffd_wp)
        self._put(pte.folio)

    def _request(self, request: Load | Store | Invalidate | Acknowledge, *more: Atom) -> None:
        entry = request.entry
        generation = self._relative(self._host.slot(entry), request.generation)
        self._out += (type(request).__name__, entry.type, entry.offset, generation, *more)

    def _load(self, load: Load) -> None:
        self._request(load, load.mode.value, self._id(load.request_id), load.require_generation)

    def _store(self, store: Store) -> None:
        self._request(store, page_token(store.page))

    def _acknowledge(self, claim: Acknowledge) -> None:
        self._request(claim, self._id(claim.request_id))

    def _id(self, request_id: int) -> int:
        """Return the number of a request by its first appearance."""
        return self._requests.setdefault(request_id, len(self._requests))

    def _load_reply(self, reply: LoadReply, generation: int | None) -> None:
        page = reply.page
        self._out += (
            "reply",
            reply.outcome.value,
            reply.reason.value,
            generation,
            None if page is None else page_token(page),
            reply.fill_word,
        )

    def _any_load_reply(self, reply: LoadReply) -> None:
        self._load_reply(reply, reply.generation)

    def _slot_reply(self, reply: SlotReply) -> None:
        self._out += ("answer", reply.outcome.value, reply.reason.value)

    def _queue(self, queue: WaitQueue) -> None:
        raise TypeError(f"the queue {queue.name!r} belongs to no object that state_key knows")

    BY_TYPE: ClassVar[dict[type, Callable[..., None]]] = {
        Folio: _folio,
        Process: _process,
        SwapPte: _swap_pte,
        PresentPte: _present_pte,
        Acknowledge: _acknowledge,
        Load: _load,
        Store: _store,
        Invalidate: _request,
        LoadReply: _any_load_reply,
        SlotReply: _slot_reply,
        WaitQueue: _queue,
    }
