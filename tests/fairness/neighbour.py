"""The well-behaved neighbour: asks for little, at fixed times, and notes how late each answer is.

Touches gRPC and the clock. A request's time counts from when it was due, not from when it was sent: one that has to
wait because the server stands still delays those behind it, and each of them waited.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Final, NamedTuple

from tests.fairness.host import Host, Stream
from tests.fairness.machine import NEIGHBOUR

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.types import Outcome

PERIOD_SECONDS: Final = 0.008
"""From one request to the next: some 125 a second, a twentieth of what the server can do of them."""
SLOTS: Final = 1024
FEW, MORE = 1, 16
"""Pages of a request."""
ANSWER_SECONDS_MAX: Final = 60.0

_SERVED: Final = {int(outcome) for outcome in (Outcome.STORED, Outcome.DEVICE, Outcome.HIT)}


class Latencies(NamedTuple):
    """What the neighbour saw in one window."""

    few: list[float]
    """Seconds of each request of FEW pages, stores and loads."""
    more: list[float]
    """Seconds of each request of MORE pages."""


class WrongAnswer(Exception):
    """The neighbour did not get what it asked for."""


class Neighbour:
    """A tenant with one area and one stream. Opened once."""

    def __init__(self, address: str) -> None:
        self._host: Final = Host(address, NEIGHBOUR, "swap")
        self._stream: Stream | None = None
        self._generation = 0
        self._asks: Final = self._forever()

    async def open(self) -> None:
        """Open the area and the stream, and store every page once."""
        await self._host.swapon(SLOTS)
        self._stream = self._host.stream()
        for start in range(0, SLOTS, MORE):
            await self._ask(self._host.stores(range(start, start + MORE), 1))
        self._generation = 1

    async def close(self) -> None:
        """End the connection."""
        await self._host.close()

    async def measure(self, seconds: float) -> Latencies:
        """Ask for so long; return how long each answer took, or has taken, of what could not be asked for in time."""
        seen = Latencies([], [])
        began = time.perf_counter()
        for number in range(round(seconds / PERIOD_SECONDS)):
            due = began + number * PERIOD_SECONDS
            await until(due)
            pages, message = next(self._asks)
            if time.perf_counter() < began + seconds:
                await self._ask(message)
            seen[pages == MORE].append(time.perf_counter() - due)
        return seen

    async def _ask(self, message: pb.ExchangeRequest) -> None:
        assert self._stream is not None, "open() comes first"
        await self._stream.write(message)
        answer = await asyncio.wait_for(self._stream.read(), ANSWER_SECONDS_MAX)
        assert isinstance(answer, pb.ExchangeResponse), "the stream ended"
        outcomes = answer.store.outcomes or answer.load.outcomes
        if not outcomes or not set(outcomes) <= _SERVED:
            raise WrongAnswer(f"the neighbour was answered {answer.error or set(outcomes)}")

    def _forever(self) -> Iterator[tuple[int, pb.ExchangeRequest]]:
        """Yield a store and a load of few pages, then of more, and so on."""
        for start in cycle(range(0, SLOTS, MORE)):
            self._generation += 1
            for pages in (FEW, MORE):
                slots = range(start, start + pages)
                # Both stores would be of the same slots: the second needs a higher generation.
                self._generation += 1
                yield pages, self._host.stores(slots, self._generation)
                yield pages, self._host.loads(slots)


async def until(due: float) -> None:
    """Wait until the clock says *due*."""
    loop = asyncio.get_running_loop()
    come = loop.create_future()
    timer = loop.call_later(max(0.0, due - time.perf_counter()), come.set_result, None)
    try:
        await come
    finally:
        timer.cancel()


def percentile(percent: int, seconds: list[float]) -> float:
    """Return the time that so many of a hundred requests took at most."""
    return sorted(seconds)[len(seconds) * percent // 100]
