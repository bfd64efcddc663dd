"""Which clients are alive, and whose areas have been idle for so long that they can be forgotten.

Pure: the time comes in as an argument, or as a clock. A client is alive while it has an open stream, and for the idle
time after its last request. An entry exists only for a client that owned an area or has a stream, so the table is
bounded by the server's limits on both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from swaptier_server.tier.swap_file import Client


@dataclass(slots=True)
class _Activity:
    last_request_ns: int
    open_streams: int = 0


class ClientActivity:
    """Last request and open streams of each client."""

    def __init__(self) -> None:
        self._clients: dict[Client, _Activity] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def touch(self, client: Client, now_ns: int) -> None:
        """Note a request of *client*."""
        activity = self._clients.get(client)
        if activity is None:
            self._clients[client] = _Activity(now_ns)
        else:
            activity.last_request_ns = now_ns

    def open_stream(self, client: Client, now_ns: int) -> None:
        """Note that a stream speaks for *client* from now on."""
        self.touch(client, now_ns)
        self._clients[client].open_streams += 1

    def close_stream(self, client: Client, now_ns: int) -> None:
        """Note that one of its streams ended or speaks for another client now."""
        self.touch(client, now_ns)
        activity = self._clients[client]
        activity.open_streams -= 1
        assert activity.open_streams >= 0, f"{client} closed more streams than it opened"

    def is_idle(self, client: Client, now_ns: int, idle_ns: int) -> bool:
        """Tell whether *client* has no stream and asked nothing for at least *idle_ns*."""
        activity = self._clients.get(client)
        if activity is None:
            return True
        return activity.open_streams == 0 and now_ns - activity.last_request_ns >= idle_ns

    def expired_areas(self, owners: Mapping[str, Client], now_ns: int, idle_ns: int) -> list[str]:
        """Return the names of the areas, of those in *owners*, whose client is idle."""
        return [name for name, client in owners.items() if self.is_idle(client, now_ns, idle_ns)]

    def forget_strangers(self, owners: Mapping[str, Client]) -> None:
        """Drop the entries of clients that own none of the areas in *owners* and have no stream."""
        alive = set(owners.values())
        for client in [c for c, a in self._clients.items() if a.open_streams == 0 and c not in alive]:
            del self._clients[client]


class StreamActivity:
    """The client that one open stream speaks for, which is alive as long as the stream is."""

    def __init__(self, activity: ClientActivity, now_ns: Callable[[], int]) -> None:
        """Speak for nobody yet."""
        self._activity = activity
        self._now_ns = now_ns
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._activity.close_stream(self._client, self._now_ns())

    def speak_for(self, client: Client) -> None:
        """Note that the stream's latest message was of *client*."""
        if client == self._client:
            return
        now_ns = self._now_ns()
        if self._client is not None:
            self._activity.close_stream(self._client, now_ns)
        self._activity.open_stream(client, now_ns)
        self._client = client
