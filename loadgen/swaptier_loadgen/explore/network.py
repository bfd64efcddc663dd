"""The network of a world, and the device behind its tier: what may go wrong, as often as the budget allows.

Pure. Every decision is the world's `choices`; before the world starts nothing goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swaptier_client.mm import backing
from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.effects import (
    Batch,
    Invalidate,
    Load,
    Path,
    Preempt,
    Reply,
    Request,
    RequestReply,
    Wait,
    WaitQueue,
)
from swaptier_client.mm.host import Host
from swaptier_loadgen.lockstep.tiers import InProcessTiers
from swaptier_server.tier.area import Area
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.page import StoredPage
from swaptier_wire.errors import DeadlinePassed, TierUnreachable

if TYPE_CHECKING:
    from swaptier_loadgen.explore.world import World


BEFORE_IT_IS_APPLIED = 1
"""The first choice of when a server dies of a request. The second: it has applied it, and has not answered."""


@dataclass(slots=True)
class Budget:
    """What may still go wrong."""

    install_failures: int = 0
    lost_replies: int = 0
    retried_loads: int = 0
    late_invalidates: int = 0
    device_failures: int = 0
    deaths: int = 0
    """How often the server may die of a request, applied or not, and its answer with it."""
    causes: tuple[InstallFailure, ...] = (InstallFailure.LOCK_CONTENDED,)
    """How an install may fail."""

    def left(self) -> tuple[int, ...]:
        """Return what is left, for the state's key."""
        return (
            self.install_failures,
            self.lost_replies,
            self.retried_loads,
            self.late_invalidates,
            self.device_failures,
            self.deaths,
        )


class Network(InProcessTiers):
    """The tier's side of an effect, when replies get lost, requests arrive twice or late, and servers die."""

    def __init__(self, world: World, host: Host, areas: list[Area]) -> None:
        super().__init__(areas)
        self._world = world
        self._host = host
        self.server_epoch = world.tier.epoch
        """Of the server that the host knows."""
        self._asked_of = self.server_epoch
        """Of the server that the host knew when it made the requests that are performed now."""
        self.late: list[Request] = []
        """Copies of requests that have not arrived yet."""
        self.queue = WaitQueue("late request")
        self.prelude: list[tuple[str, Request, RequestReply]] = []
        """What was asked of which area before the world started, and answered."""
        self.beyond: Callable[[str, Request, RequestReply], RequestReply] | None = None
        """Asked in its turn, by area, with the tier's reply; what it returns is what the host gets."""

    def perform(self, effect: Request | Batch) -> Reply:
        """Apply *effect*, as far as the network and the server let it; see InProcessTiers.perform()."""
        self._asked_of = self.server_epoch
        return super().perform(effect)

    def perform_one(self, request: Request) -> RequestReply:
        """Apply one request, not at all, once or twice, and lose its reply, or the server, or neither."""
        budget, choices = self._world.budget, self._world.choices
        self.tell_of_restart()
        if isinstance(request, Load) and self._asked_of != self.server_epoch:
            # As the stream does with every load that waits for it to be opened anew.
            request = request._replace(require_generation=True)
        if not self._world.is_running:
            return self._apply(request)
        death = budget.deaths and choices.choose(
            "the server dies before it applies the request", "the server applies the request and dies before it answers"
        )
        if death == BEFORE_IT_IS_APPLIED:
            raise self._die()
        if budget.retried_loads and isinstance(request, Load) and choices.choose("the load arrives twice"):
            budget.retried_loads -= 1
            self._apply(request)
        reply = self._apply(request)
        if death:
            raise self._die()
        late = budget.late_invalidates and isinstance(request, Invalidate)
        if late and choices.choose("a copy of the invalidation stays on its way"):
            budget.late_invalidates -= 1
            self.late.append(request)
            self.queue.wake_all()
        if budget.lost_replies and choices.choose("the reply is lost"):
            budget.lost_replies -= 1
            raise DeadlinePassed("no reply came in time; the request may have been applied. Ask again")
        return reply

    @property
    def is_server_new(self) -> bool:
        """The server is another than the one that the host knows."""
        return self.server_epoch != self._world.tier.epoch

    def tell_of_restart(self) -> None:
        """Tell the host that the server is another, if it is: the stream had to be opened anew."""
        if self.is_server_new:
            if not self._world.has_swap_file:
                self._world.model.note_restart_told(self._host)
            self.server_epoch = self._world.tier.epoch
            backing.tier_restarted(self._host, 0)

    def _die(self) -> TierUnreachable:
        """Let the server die and start anew; return what the host gets instead of its answer."""
        self._world.budget.deaths -= 1
        self._world.restart_tier()
        return TierUnreachable("the server died; whether it had applied the request is unknown. Ask again")

    def _apply(self, request: Request) -> RequestReply:
        reply = super().perform_one(request)
        area = self.areas[request.entry.type]
        if not self._world.is_running:
            self.prelude.append((area.name, request, reply))
        return reply if self.beyond is None else self.beyond(area.name, request, reply)

    def deliver_late(self) -> Path[None]:
        """Deliver each late copy at some later time. Never ends while there may be one."""
        while self._world.budget.late_invalidates or self.late:
            if self.late:
                self._apply(self.late.pop(0))
                yield Preempt("network.delivered")
            else:
                yield Wait(self.queue)


class FailingDevice(MemoryDevice):
    """A device that may refuse a write, as often as the budget allows."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Write, or fail without a trace.

        Raises:
            DeviceError: by choice.
        """
        world = self._world
        if world.is_running and world.budget.device_failures and world.choices.choose("the device refuses"):
            world.budget.device_failures -= 1
            raise DeviceError
        super().write(pages)
