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
_SHORT_BYTES_MAX = 126
"""Of a string whose length is one byte; a longer one's has more, of seven bits each (RFC 7541, 5.1)."""


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
    return b"\x00" + _string(name) + _string(value)


def _string(content: bytes) -> bytes:
    if len(content) <= _SHORT_BYTES_MAX:
        return bytes((len(content),)) + content
    length, rest = bytearray((127,)), len(content) - 127
    while rest > 127:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + content


def request(stream: int, path: bytes, message: bytes | None, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return a whole gRPC request: its head, and *message* if it has one.

    What of *metadata* is no text stands there as Python has it in names of files, by surrogates.
    """
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"tier"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *((name.encode(), value.encode(errors="surrogateescape")) for name, value in metadata),
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
