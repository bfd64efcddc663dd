"""What callers do too much of: named in the log and counted on /metrics, with bounds that no caller can widen.

Touches a prometheus registry and the log. Labels are of our own making: no name of a caller is one, since it would stay
for as long as the server runs.
"""

from collections.abc import Callable
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge

from swaptier_server.line_budget import name_of
from swaptier_server.logs import CallerLog
from swaptier_server.rpc.floods import LIMITS, Floods, Kind

PEERS_MAX: Final = 16_384
"""Connections that are remembered: as many as there can be. The oldest makes room, and counts as new if it calls."""


class Callers:
    """Watches all callers of a server."""

    def __init__(self, registry: CollectorRegistry, now_ns: Callable[[], int]) -> None:
        """Watch them by the monotonic clock *now_ns*."""
        self.log: Final = CallerLog(now_ns)
        self._now_ns: Final = now_ns
        self._floods: Final = Floods(now_ns())
        self._peers: Final[dict[str, None]] = {}
        self._new_peers = 0
        self._left_out = 0
        self._lines = Counter(
            "swaptier_log_lines_left_out_total",
            "Log lines that callers caused and that were not written, as too many of their kind were.",
            registry=registry,
        )
        self._begun = Counter(
            "swaptier_floods_total",
            "Floods by one caller that began, by what it did too much of; the log names the caller.",
            ["kind"],
            registry=registry,
        )
        self._under_way = Gauge(
            "swaptier_floods_under_way",
            "Floods that are under way, by what there is too much of.",
            ["kind"],
            registry=registry,
        )
        for kind in Kind:
            self._begun.labels(kind)
            self._under_way.labels(kind).set(0)

    def called(self, peer: str, tenant: str | None, code: grpc.StatusCode, *, is_health: bool = False) -> None:
        """Note a call of *tenant*, None if it is not known, from *peer* as gRPC names it, and how it ended."""
        self._floods.count(Kind.HEALTH if is_health else Kind.CALLS, tenant)
        if code is grpc.StatusCode.CANCELLED:
            self._floods.count(Kind.RESETS, tenant)
        elif code is not grpc.StatusCode.OK:
            self._floods.count(Kind.REFUSED, tenant)
        if peer not in self._peers:
            if len(self._peers) >= PEERS_MAX:
                del self._peers[next(iter(self._peers))]
            self._peers[peer] = None
            self._new_peers += 1
            self._floods.count(Kind.CONNECTIONS, tenant)

    def refused(self, tenant: str | None) -> None:
        """Note that a message of a stream of *tenant* was refused."""
        self._floods.count(Kind.REFUSED, tenant)

    def look(self, handshakes: int = 0) -> None:
        """Say which floods have begun and ended, and what the log left out.

        *handshakes* is how many connections began with TLS since the last look: those that never called are nobody's.
        """
        self._floods.count(Kind.CONNECTIONS, None, max(0, handshakes - self._new_peers))
        self._new_peers = 0
        for flood in self._floods.look(self._now_ns()):
            who = name_of(flood.caller)
            if flood.is_over:
                self.log.of(flood.caller, "flood_ended").info(
                    "flood_ended", of=flood.kind, caller=who, per_second=flood.per_second, seconds=round(flood.seconds)
                )
                continue
            self._begun.labels(flood.kind).inc()
            self.log.of(flood.caller, "flood").warning(
                "flood",
                of=flood.kind,
                caller=who,
                per_second=flood.per_second,
                limit=LIMITS[flood.kind],
                meaning="one caller does so much of this that it is named; it is served all the same, in its turn",
            )
        for kind in Kind:
            self._under_way.labels(kind).set(self._floods.under_way(kind))
        self.log.say_what_was_left_out()
        self._lines.inc(self.log.left_out - self._left_out)
        self._left_out = self.log.left_out
