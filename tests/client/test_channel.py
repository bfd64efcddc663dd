"""What a channel does by itself, against a server of a few bytes: nothing twice."""

import asyncio
import struct

import pytest
from grpc import aio
from tests.server.http2 import HEAD_BYTES, PREFACE, Type, frame

from swaptier_client.channel import connect

REFUSED_STREAM = struct.pack(">I", 7)
NOTHING_SEEN = struct.pack(">II", 0, 0)
"""GOAWAY: the last stream that was looked at is 0."""


class Refuser:
    """Speaks as much HTTP/2 as it takes to refuse every call before any handler could have seen it."""

    def __init__(self, refusal: Type) -> None:
        self.refusal = refusal
        self.calls = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            await reader.readexactly(len(PREFACE))
            writer.write(frame(Type.SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(HEAD_BYTES)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind in (Type.SETTINGS, Type.PING) and not flags:
                    writer.write(frame(kind, 1, 0, payload if kind == Type.PING else b""))
                elif kind == Type.HEADERS:
                    self.calls += 1
                    if self.refusal is Type.GOAWAY:
                        writer.write(frame(Type.GOAWAY, 0, 0, NOTHING_SEEN))
                        return
                    writer.write(frame(Type.RST_STREAM, 0, stream, REFUSED_STREAM))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


async def call(channel: aio.Channel, *, is_stream: bool) -> None:
    if is_stream:
        async for _ in channel.stream_stream("/a/Stream")(iter([b""]), timeout=5.0):
            pass
    else:
        await channel.unary_unary("/a/Unary")(b"", timeout=5.0)


@pytest.mark.parametrize("refusal", [Type.GOAWAY, Type.RST_STREAM])
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "unary"])
async def test_grpc_repeats_no_call_by_itself(refusal: Type, is_stream: bool) -> None:
    """Not even one that no handler can have seen, which gRPC would else send again over a new connection."""
    refuser = Refuser(refusal)
    server = await asyncio.start_server(refuser, "127.0.0.1", 0)
    channel = await connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 5.0)
    with pytest.raises(aio.AioRpcError):
        await call(channel, is_stream=is_stream)
    await channel.close()
    server.close()
    assert refuser.calls == 1
