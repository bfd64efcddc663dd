"""What one tenant does to be in the other's way, each way in a process of its own, and what may come of it.

Touches processes, gRPC and sockets. An attack prepares what it needs, says that it is ready, and works while it may.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Final, NamedTuple

from tests.fairness import raw
from tests.fairness.host import Host, Stream, raise_generations
from tests.fairness.machine import ATTACKER, STOP_SECONDS, be_an_attacker

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.types import BATCH_SLOTS_MAX, LoadMode

STREAMS: Final = 32
WINDOW: Final = 2
"""Messages of a stream that wait for their answer, at most."""
MILLION: Final = 1 << 20
BATCHES: Final = MILLION // BATCH_SLOTS_MAX
AREAS: Final = 4
"""Of a million slots each."""
PREPARE_SECONDS_MAX: Final = 180.0
POLL_SECONDS: Final = 0.5
GOAL: Final = 5.0
FLOOD_GOAL: Final = 10.0

_SPAWN: Final = multiprocessing.get_context("spawn")  # gRPC does not outlive a fork

Messages = Iterator[pb.ExchangeRequest]


class Switch(NamedTuple):
    """What the bench and an attacker's process tell each other."""

    is_ready: Event
    is_on: Event
    done: "Synchronized[int]"
    """What the attacker has done: messages, calls, connections."""

    async def wait_until_on(self) -> None:
        """Wait for the next window."""
        if not self.is_on.is_set():
            await asyncio.to_thread(self.is_on.wait)

    def count(self, more: int = 1) -> None:
        """Count what was done."""
        self.done.value += more


Attacker = Callable[[str, Switch], Awaitable[None]]
"""Attacks the server at an address, for ever."""


class Attack(NamedTuple):
    """One way to be in others' way."""

    name: str
    what: str
    attacker: Attacker
    flags: tuple[str, ...] = ()
    """Of the server. SWAP_FILE stands for the path of one."""
    goal: float = GOAL
    """The neighbour's p99 stays below so many times its quiet one."""


# Batches on streams


async def _work(stream: Stream, switch: Switch, messages: Messages, window: int) -> None:
    """Keep *window* of the *messages* under way while the attack is on."""
    waiting = 0
    while True:
        await switch.wait_until_on()
        while waiting < window:
            await stream.write(next(messages))
            waiting += 1
        answer = await stream.read()
        assert isinstance(answer, pb.ExchangeResponse), "the stream ended"
        switch.count()
        waiting -= 1


def _on_streams(
    make: Callable[[Host, int], Messages],
    slots: int = STREAMS * BATCH_SLOTS_MAX,
    areas: int = 1,
    window: int = WINDOW,
) -> Attacker:
    """Return the attack of STREAMS streams in *areas*, each with the messages that *make* makes for its number."""

    async def attack(address: str, switch: Switch) -> None:
        hosts = [Host(address, ATTACKER, f"swap{number}") for number in range(areas)]
        for host in hosts:
            await host.swapon(slots)
        switch.is_ready.set()
        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                host = hosts[number % areas]
                group.create_task(_work(host.stream(), switch, make(host, number // areas), window))

    return attack


def _batch(number: int) -> range:
    return range(number * BATCH_SLOTS_MAX, (number + 1) * BATCH_SLOTS_MAX)


def _stores(host: Host, number: int) -> Messages:
    message = host.stores(_batch(number), 1)
    for generation in count(1):
        yield raise_generations(message, generation)


def _loads(host: Host, number: int) -> Messages:
    yield host.stores(_batch(number), 1)
    message = host.loads(_batch(number))
    while True:
        yield message


def _exclusive(host: Host, number: int) -> Messages:
    store, load = host.stores(_batch(number), 1), host.loads(_batch(number), LoadMode.EXCLUSIVE)
    for generation in count(1):
        yield raise_generations(store, generation)
        yield load


def _growth(host: Host, number: int) -> Messages:
    message = host.zero_stores(_batch(0))
    for turn in count():
        message.store.offsets[:] = list(_batch((turn * STREAMS + number) % BATCHES))
        yield raise_generations(message, turn + 1)


def _frees(host: Host, number: int) -> Messages:
    mine = range(number, BATCHES, STREAMS // AREAS)
    for turn in count():
        yield host.invalidates(_batch(mine[turn % len(mine)]), turn + 1)


# Areas, calls, and what is below them


async def _swapoffs(address: str, switch: Switch) -> None:
    """Fill areas beforehand; close one in each window."""
    hosts = [Host(address, ATTACKER, f"swap{number}") for number in range(AREAS)]
    for host in hosts:
        await host.swapon(MILLION)
        await _fill(host)
    switch.is_ready.set()
    for host in hosts:
        await switch.wait_until_on()
        await host.swapoff()
        switch.count()
        while switch.is_on.is_set():
            await host.see_server()


async def _fill(host: Host) -> None:
    """Let the server know of every slot, by the shortest way."""
    stream = host.stream()
    for number in range(BATCHES + WINDOW):
        if number < BATCHES:
            await stream.write(host.invalidates(_batch(number), 1))
        if number >= WINDOW:
            await stream.read()
    stream.cancel()


async def _calls(address: str, switch: Switch) -> None:
    """Keep many calls under way, each for one slot."""
    host = Host(address, ATTACKER, "swap")
    await host.swapon(1)
    switch.is_ready.set()

    async def ask() -> None:
        while True:
            await switch.wait_until_on()
            await host.look_up()
            switch.count()

    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(ask())


def _below(attack: Callable[[raw.Address], Iterator[int]]) -> Attacker:
    """Return the attack that *attack* makes without gRPC."""

    async def attacker(address: str, switch: Switch) -> None:
        host, _, port = address.rpartition(":")
        switch.is_ready.set()
        switch.is_on.wait()
        for more in attack((host, int(port))):
            switch.count(more)
            switch.is_on.wait()

    return attacker


_WRITE_THROUGH: Final = ("--device", "sqlite:SWAP_FILE", "--durability", "write-through")
_MANY_SLOTS: Final = ("--tenant-slots-max", str(8 * MILLION))

ATTACKS: Final = (
    Attack("stores", "32 streams of stores of 256 pages", _on_streams(_stores)),
    Attack("loads", "32 streams of loads of 256 pages", _on_streams(_loads)),
    Attack("write-through", "the stores, each written to a file", _on_streams(_stores), _WRITE_THROUGH),
    Attack("exclusive", "stores and EXCLUSIVE loads, on a file", _on_streams(_exclusive, window=1), _WRITE_THROUGH),
    Attack("growth", "stores into ever new slots, up to a million", _on_streams(_growth, MILLION)),
    Attack("frees", "4 million slots freed again and again", _on_streams(_frees, MILLION, AREAS), _MANY_SLOTS),
    Attack("swapoff", "an area of a million slots closed", _swapoffs, _MANY_SLOTS),
    Attack("calls", "32 unary calls of one slot at once", _calls, goal=FLOOD_GOAL),
    Attack("churn", "connections made and closed", _below(raw.churn)),
    Attack("frames", "frames of four bytes", _below(raw.small_frames), goal=FLOOD_GOAL),
    Attack("messages", "empty messages on a stream", _below(raw.small_messages), goal=FLOOD_GOAL),
    Attack("resets", "calls that are reset at once", _below(raw.resets), goal=FLOOD_GOAL),
)


@contextmanager
def attacker(name: str, address: str) -> Iterator[Switch]:
    """Have the attack *name* prepared in a process of its own; it can be switched on while the block runs."""
    switch = Switch(_SPAWN.Event(), _SPAWN.Event(), _SPAWN.Value("q", 0))
    process = _SPAWN.Process(target=_attack, args=(name, address, switch), daemon=True)
    process.start()
    try:
        deadline = time.monotonic() + PREPARE_SECONDS_MAX
        while not switch.is_ready.wait(POLL_SECONDS):
            assert process.is_alive() and time.monotonic() < deadline, f"the attack {name} could not be prepared"
        yield switch
    finally:
        process.kill()
        process.join(STOP_SECONDS)


def _attack(name: str, address: str, switch: Switch) -> None:
    """Be the process of an attack."""
    be_an_attacker()
    attack = next(attack for attack in ATTACKS if attack.name == name)
    asyncio.run(_forever(attack.attacker(address, switch)))


async def _forever(attack: Awaitable[None]) -> None:
    await attack
