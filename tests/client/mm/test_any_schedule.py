"""Any program under any schedule: contents as a model that knows nothing of swap says, and books that always agree.

A program is a few threads of random operations on a few processes. A schedule is a seeded choice of who takes the next
step, with threads that are held up for long. The network may lose requests, and replies whose loss costs no page.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.mm.stage import Stage, TierFault, no_fault

from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.counters import INJECTABLE, InstallFailure
from swaptier_client.mm.effects import Load, Path, Reply, Request
from swaptier_client.mm.errors import NotMapped, OutOfMemory, PageLost
from swaptier_client.mm.folio import Process
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, move, zap
from swaptier_client.mm.readahead import Readahead, ReadaheadMode
from swaptier_client.mm.reclaim import pageout, swap_out
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_client.mm.swapoff import swapoff
from swaptier_loadgen.lockstep.driver import Task, TaskState
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import ZERO_PAGE, LoadMode

SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]
UNSAFE = [name for name, policy in POLICIES.items() if not policy.is_safe]

ADDRESSES = 4
PROCESSES_MAX = 4
SLOTS = 2 * ADDRESSES * PROCESSES_MAX
"""Enough for every page of every process, and as many slots that are on their way to being free."""
STEPS_MAX = 50_000
"""Far above what any of these programs takes, so that a livelock ends."""
SEEDS_MAX = 400
"""Schedules that an unsafe policy gets to fail in."""


class Op(Enum):
    """What a thread can do next."""

    READ = "read"
    WRITE = "write"
    SWAP_OUT = "swap out"
    PAGEOUT = "page out"
    ZAP = "zap"
    MOVE = "move"
    FORK = "fork"
    EXIT = "exit"
    SWAPOFF = "swap off"


WEIGHTS = {
    Op.READ: 9,
    Op.WRITE: 8,
    Op.SWAP_OUT: 4,
    Op.PAGEOUT: 3,
    Op.ZAP: 1,
    Op.MOVE: 1,
    Op.FORK: 1,
    Op.EXIT: 0.3,
    Op.SWAPOFF: 0.3,
}

Step = tuple[Op, int, int, int]
"""An operation, which process (of those alive), which address, and one more number."""
Thread = list[Step]


class Stale(Exception):
    """A page was read that is not what was written last."""


@dataclass
class Program:
    """Threads on one stage, and the model: what each page of each process was last written."""

    stage: Stage
    tolerates: tuple[type[Exception], ...]
    """Errors that a thread may meet and go on; that its process ended is always one of them."""
    pages: dict[tuple[int, int], bytes] = field(default_factory=dict)
    version: int = 0

    def thread(self, steps: Thread) -> Path[None]:
        """Run one thread's operations."""
        for op, which, address, extra in steps:
            alive = list(self.stage.host.processes.values())
            if not alive:
                return
            with suppress(NotMapped, *self.tolerates):
                yield from self.do(op, alive[which % len(alive)], address, extra)

    def do(self, op: Op, process: Process, address: int, extra: int) -> Path[None]:
        """Take one step of the program."""
        host = self.stage.host
        match op:
            case Op.READ:
                content = yield from self.stage.read(process, address)
                if content != self.pages.get((process.pid, address), ZERO_PAGE):
                    raise Stale(f"page {address} of process {process.pid}")
            case Op.WRITE:
                yield from access_page(host, process, address, write=True)
                self.version += 1
                page = ZERO_PAGE if extra == 0 else page_version(process.pid * ADDRESSES + address, self.version)
                write_page(host, process, address, page)
                self.pages[process.pid, address] = page
            case Op.SWAP_OUT:
                yield from swap_out(host, 1 + extra)
            case Op.PAGEOUT:
                yield from pageout(host, process, [address])
            case Op.ZAP:
                yield from self.noting_what_goes(process, zap(host, process, [address]))
            case Op.MOVE:
                if move(host, process, address, extra % ADDRESSES):
                    self.pages[process.pid, extra % ADDRESSES] = self.pages.pop((process.pid, address), ZERO_PAGE)
            case Op.FORK if len(host.processes) < PROCESSES_MAX:
                child = yield from fork(host, process)
                for at in range(ADDRESSES):
                    self.pages[child.pid, at] = self.pages.get((process.pid, at), ZERO_PAGE)
            case Op.EXIT if len(host.processes) > 1:
                yield from exit_process(host, process)
            case Op.SWAPOFF if len(host.devices) > 1 and not any(device.is_dying for device in host.devices):
                device = host.devices[extra % len(host.devices)]
                with suppress(OutOfMemory):  # what does not fit stays, and the device with it
                    yield from swapoff(host, device)
                device.is_dying = False  # swapped on again

    def noting_what_goes(self, process: Process, path: Path[None]) -> Path[None]:
        """Run *path*, and when a step of it takes an entry from the page table, take the page from the model."""
        reply: Reply = None
        error: SwapTierError | None = None
        while True:
            before = set(process.page_table)
            try:
                effect = path.send(reply) if error is None else path.throw(error)
            except StopIteration:
                return
            finally:
                for address in before - set(process.page_table):
                    self.pages.pop((process.pid, address), None)
            reply = error = None
            try:
                reply = yield effect
            except SwapTierError as thrown:
                error = thrown


def install_failures(chance: random.Random, probability: float) -> Callable[[int, int], InstallFailure | None]:
    """Let installs fail by chance, for any cause that leaves the page at its address."""
    causes = [cause for cause in INJECTABLE if cause not in (InstallFailure.MOVED, InstallFailure.ZAPPED)]
    return lambda _pid, _address: chance.choice(causes) if chance.random() < probability else None


Network = Callable[[random.Random, Request], TierFault | None]


def delivers(_chance: random.Random, _request: Request) -> TierFault | None:
    """Lose nothing."""
    return None


def loses_what_it_may(chance: random.Random, request: Request) -> TierFault | None:
    """Lose one request in ten, or its reply, but no reply that carries the only copy of a page."""
    if chance.random() >= 0.1:
        return None
    takes_the_page = isinstance(request, Load) and request.mode is LoadMode.EXCLUSIVE
    return TierFault.REQUEST_LOST if takes_the_page or chance.random() < 0.5 else TierFault.REPLY_LOST


def fails(chance: random.Random, _request: Request) -> TierFault | None:
    """Fail one request in five, in any way."""
    return chance.choice(list(TierFault)) if chance.random() < 0.2 else None


class Surroundings(NamedTuple):
    """What a program runs on."""

    resident_pages_max: int = 6
    devices: tuple[bool, ...] = (True,)
    """For each swap device, whether it is synchronous."""
    readahead: ReadaheadMode = ReadaheadMode.NONE
    pool_bytes_max: int = 1 << 20
    has_zeromap: bool = False
    failing: float = 0.0
    """Probability that an install fails."""
    network: Network = delivers


def run(
    policy: str,
    threads: list[Thread],
    seed: int,
    where: Surroundings,
    *,
    checked: bool = True,
    tolerates: tuple[type[Exception], ...] = (),
) -> Stage:
    """Run *threads* to their ends under the schedule that *seed* stands for.

    Raises:
        Stale: a page was not what was written last.
    """
    chance = random.Random(seed)
    stage = Stage(
        POLICIES[policy],
        devices=[SwapDevice(at, SLOTS, is_synchronous=is_fast) for at, is_fast in enumerate(where.devices)],
        resident_pages_max=where.resident_pages_max,
        readahead=Readahead(where.readahead),
        pool_bytes_max=where.pool_bytes_max,
        has_zeromap=where.has_zeromap,
    )
    stage.host.install_failure = install_failures(chance, where.failing)
    stage.fault = lambda request: where.network(chance, request)
    program = Program(stage, tolerates)
    for _ in range(2):
        stage.host.spawn()
    for number, steps in enumerate(threads):
        stage.spawn(f"T{number}", program.thread(steps))
    held_up: Task | None = None
    for _ in range(STEPS_MAX):
        ready = stage.lockstep.ready()
        if not ready:
            break
        if chance.random() < 0.08:
            held_up = chance.choice([None, *ready])
        stage.lockstep.step(chance.choice([task for task in ready if task is not held_up] or ready))
        if checked:
            stage.check()
    for task in stage.lockstep.tasks:
        assert task.state is TaskState.DONE, f"{task.name} is {task.state.value} and will be for ever"
        if task.error is not None:
            raise task.error
    return stage


def end(stage: Stage, *, was_told: bool = True) -> None:
    """End every process; afterwards the host has no page, and the tier has none of this host's.

    Unless the tier *was_told* of every slot that became free, it is told now, as swapoff does.
    """
    stage.fault = no_fault
    for process in list(stage.host.processes.values()):
        stage.do(exit_process(stage.host, process))
    stage.do(swap_out_everything(stage.host))
    for device in () if was_told else stage.host.devices:
        stage.do(swapoff(stage.host, device))
    stage.check()
    assert stage.host.resident_pages == 0
    assert not any(device.slots_in_use for device in stage.host.devices)
    assert not any(area.stored_pages for area in stage.areas)


steps = st.tuples(
    st.sampled_from([op for op, weight in WEIGHTS.items() for _ in range(max(1, int(weight)))]),
    st.integers(0, PROCESSES_MAX - 1),
    st.integers(0, ADDRESSES - 1),
    st.integers(0, 7),
)
programs = st.lists(st.lists(steps, min_size=1, max_size=16), min_size=2, max_size=4)


surroundings = st.builds(
    Surroundings,
    resident_pages_max=st.sampled_from([5, 8, 64]),
    devices=st.sampled_from([(True,), (False,), (True, False)]),
    readahead=st.sampled_from(ReadaheadMode),
    pool_bytes_max=st.sampled_from([1 << 20, 100, 0]),
    has_zeromap=st.booleans(),
    failing=st.sampled_from([0.0, 0.3]),
)


@pytest.mark.parametrize("policy", SAFE)
@settings(max_examples=50, deadline=None)
@given(threads=programs, seed=st.integers(0, 2**32), where=surroundings)
def test_safe_policies_are_right_whatever_runs_and_in_whatever_order(
    policy: str, threads: list[Thread], seed: int, where: Surroundings
) -> None:
    """Every read sees the last write, the books agree at every step, everything ends, the tier is left with nothing."""
    end(run(policy, threads, seed, where._replace(network=loses_what_it_may if seed % 2 else delivers)))


@pytest.mark.parametrize("policy", SAFE)
@settings(max_examples=30, deadline=None)
@given(threads=programs, seed=st.integers(0, 2**32), where=surroundings)
def test_safe_policies_lose_no_page_silently_when_the_tier_fails(
    policy: str, threads: list[Thread], seed: int, where: Surroundings
) -> None:
    """Errors and known losses, but never another page's bytes or an older version; and still nothing is left behind."""
    tolerates = (SwapTierError, PageLost, OutOfMemory)
    end(run(policy, threads, seed, where._replace(network=fails), tolerates=tolerates), was_told=False)


def random_program(seed: int) -> list[Thread]:
    """Return a program of four threads, long enough to meet a race now and then."""
    chance = random.Random(seed)
    ops, weights = list(WEIGHTS), list(WEIGHTS.values())
    return [
        [
            (op, chance.randrange(PROCESSES_MAX), chance.randrange(ADDRESSES), chance.randrange(8))
            for op in chance.choices(ops, weights, k=24)
        ]
        for _ in range(4)
    ]


@pytest.mark.parametrize("policy", SAFE)
def test_safe_policies_are_right_in_long_programs_too(policy: str) -> None:
    """As above, with the programs in which the unsafe policies fail."""
    for seed in range(10):
        end(run(policy, random_program(seed), seed, Surroundings(failing=0.2, network=loses_what_it_may)))


@pytest.mark.parametrize("policy", UNSAFE)
def test_unsafe_policies_fail_in_the_same_programs(policy: str) -> None:
    """The negative control: a property that no policy can break would prove nothing."""
    for seed in range(SEEDS_MAX):
        try:
            run(policy, random_program(seed), seed, Surroundings(failing=0.2), checked=False)
        except Stale:
            return
    pytest.fail(f"{policy} was right in {SEEDS_MAX} programs")
