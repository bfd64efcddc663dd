"""A host of a world and the network between it and the server: what may go wrong there, as often as failures are left.

Pure. Before the world starts nothing goes wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

from swaptier_client.mm import backing
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
from swaptier_loadgen.explore.failures import Failure, Failures
from swaptier_loadgen.explore.server import Server
from swaptier_loadgen.lockstep.tiers import InProcessTiers
from swaptier_server.tier.area import Area
from swaptier_wire.errors import DeadlinePassed, TierUnreachable

BEFORE_IT_IS_APPLIED = 1
"""The first choice of when a server dies of a request. The second: it has applied it, and has not answered."""


class Network(InProcessTiers):
    """The tier's side of an effect, when replies get lost, requests arrive twice or late, and servers die."""

    def __init__(
        self, host: Host, server: Server, areas: list[Area], failures: Failures, on_restart: Callable[[Host], None]
    ) -> None:
        super().__init__(areas)
        self._host = host
        self._on_restart = on_restart
        """Called before the host hears of a restart."""
        self._failures = failures
        self.server = server
        self.server_epoch = server.tier.epoch
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
        happens = self._failures.happens
        self.tell_of_restart()
        if isinstance(request, Load) and self._asked_of != self.server_epoch:
            # As the stream does with every load that waits for it to be opened anew.
            request = request._replace(require_generation=True)
        death = happens(
            Failure.DEATH,
            "the server dies before it applies the request",
            "the server applies the request and dies before it answers",
        )
        if death == BEFORE_IT_IS_APPLIED:
            raise self._die()
        if isinstance(request, Load) and happens(Failure.REPEATED_LOAD, "the load arrives twice"):
            self._apply(request)
        reply = self._apply(request)
        if death:
            raise self._die()
        if isinstance(request, Invalidate) and happens(
            Failure.LATE_INVALIDATE, "a copy of the invalidation stays on its way"
        ):
            self.late.append(request)
            self.queue.wake_all()
        if happens(Failure.LOST_REPLY, "the reply is lost"):
            raise DeadlinePassed("no reply came in time; the request may have been applied. Ask again")
        return reply

    @property
    def is_server_new(self) -> bool:
        """The server is another than the one that the host knows."""
        return self.server_epoch != self.server.tier.epoch

    def tell_of_restart(self) -> None:
        """Tell the host that the server is another, if it is: the stream had to be opened anew."""
        if self.is_server_new:
            self._on_restart(self._host)
            self.server_epoch = self.server.tier.epoch
            backing.tier_restarted(self._host, 0)

    def _die(self) -> TierUnreachable:
        """Let the server die and start anew; return what the host gets instead of its answer."""
        self.server.restart()
        return TierUnreachable("the server died; whether it had applied the request is unknown. Ask again")

    def _apply(self, request: Request) -> RequestReply:
        reply = super().perform_one(request)
        area = self.areas[request.entry.type]
        if not self._failures.is_on:
            self.prelude.append((area.name, request, reply))
        return reply if self.beyond is None else self.beyond(area.name, request, reply)

    def deliver_late(self) -> Path[None]:
        """Deliver each late copy at some later time. Never ends while there may be one."""
        while self._failures.left[Failure.LATE_INVALIDATE] or self.late:
            if self.late:
                self._apply(self.late.pop(0))
                yield Preempt("network.delivered")
            else:
                yield Wait(self.queue)


@dataclass(frozen=True, slots=True, eq=False)
class WorldHost:
    """A host of a world, and the network behind it."""

    index: int
    host: Host
    network: Network
