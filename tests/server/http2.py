"""HTTP/2 by hand, for what no gRPC client would send."""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
HEAD_BYTES = 9
_STRING_BYTES_MAX = 126
"""Of a header's name or value: longer ones have a longer length, which is not needed here."""


class Type(IntEnum):
    """Of a frame."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Frame(NamedTuple):
    """As it was read."""

    type: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame in bytes."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def hello() -> bytes:
    """Return how a client begins."""
    return PREFACE + frame(Type.SETTINGS, 0, 0)


def header(name: bytes, value: bytes) -> bytes:
    """Return a header, not indexed and not compressed."""
    assert max(len(name), len(value)) <= _STRING_BYTES_MAX
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def request(stream: int, path: bytes, message: bytes | None, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return a whole gRPC request: its head, and *message* if it has one."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"tier"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *((name.encode(), value.encode()) for name, value in metadata),
    ]
    head = frame(Type.HEADERS, END_HEADERS, stream, b"".join(header(*field) for field in fields))
    if message is None:
        return head
    return head + frame(Type.DATA, END_STREAM, stream, b"\x00" + struct.pack(">I", len(message)) + message)


def frames(received: bytes) -> list[Frame]:
    """Return the whole frames in *received*."""
    found = []
    while len(received) >= HEAD_BYTES:
        length = int.from_bytes(received[:3], "big")
        if len(received) < HEAD_BYTES + length:
            break
        stream = int.from_bytes(received[5:HEAD_BYTES], "big")
        found.append(Frame(received[3], received[4], stream, received[HEAD_BYTES : HEAD_BYTES + length]))
        received = received[HEAD_BYTES + length :]
    return found
