"""The one place where a call to a tier gets its channel: what the environment says does not change the way there.

Touches gRPC; nothing is sent before the channel is used. `http_proxy`, `https_proxy`, `grpc_proxy` and `no_proxy` are
meant for the web. A proxy on the way would see every page, hold every stream up, and end it when it likes.
"""

from collections.abc import Sequence
from typing import Final

import grpc
from grpc import aio

DIRECT: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),  # else GRPC_ADDRESS_HTTP_PROXY counts in spite of the other
)


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None = None, options: Sequence[tuple[str, int | str]] = ()
) -> aio.Channel:
    """Return a channel to *address*, HOST:PORT or unix:PATH, in plain text without *credentials*; use connects it."""
    if credentials is None:
        return aio.insecure_channel(address, options=[*options, *DIRECT])
    return aio.secure_channel(address, credentials, options=[*options, *DIRECT])
