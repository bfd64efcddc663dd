"""What is thrown at a server: bytes, frames, messages and requests, each from its seed and its number alone.

Touches nothing. Input *n* of a seed is always the same one, whatever ran before it. Rules:
  - The attacker stores pages of PALETTE only, and loads nothing else: any other page in an answer is somebody else's.
  - Many of the names it says are aimed at the victim's.
"""

import random
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from google.protobuf.message import Message
from tests.server import http2

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

SERVICE = "/swaptier.v1.SwapTierService/"
UNARY: dict[str, type[Message]] = {
    "Swapon": pb.SwaponRequest,
    "Swapoff": pb.SwapoffRequest,
    "Stat": pb.StatRequest,
    "Store": pb.StoreRequest,
    "Load": pb.LoadRequest,
    "Lookup": pb.LookupRequest,
    "Acknowledge": pb.AcknowledgeRequest,
    "Invalidate": pb.InvalidateRequest,
}
BATCHES = ("store", "load", "lookup", "acknowledge", "invalidate")
VICTIM, VICTIM_CLIENT, VICTIM_AREA = "bob", "host", "secrets"
METHOD_WEIGHTS = (3, 0.3, 1, 5, 6, 2, 2, 3)
"""Of UNARY: an area that is closed as often as it is opened never holds anything."""
ERA_INPUTS = 2000
"""A wrong epoch shuts a client's name out for good, so the attacker takes new names now and then."""
OWN_AREAS = 3
VICTIMS_NAMES = (
    (VICTIM_CLIENT, VICTIM_AREA),
    (f"{VICTIM}|{VICTIM_CLIENT}", f"{VICTIM}|{VICTIM_AREA}"),
    (VICTIM_CLIENT, f"{VICTIM}|{VICTIM_AREA}"),
    (f"|{VICTIM_CLIENT}", f"|{VICTIM_AREA}"),
)
"""Clients and areas as an attacker might say them who knows how the server writes names."""
SLOTS = 64
QUOTAS = (0, 1, PAGE_BYTES, 5 * PAGE_BYTES, 2**64 - 1)
EDGES = (0, 1, 2, SLOTS - 1, SLOTS, 255, 256, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

_PALETTE_CHANCE = random.Random("the attacker's pages")
PALETTE = (
    bytes(PAGE_BYTES),
    b"\xff" * PAGE_BYTES,
    b"same-wrd" * (PAGE_BYTES // 8),
    *(b"attacker".ljust(64, bytes((number,))) * (PAGE_BYTES // 64) for number in range(12)),
    *(_PALETTE_CHANCE.randbytes(PAGE_BYTES) for _ in range(4)),
)


class Kind(StrEnum):
    """Of an input."""

    BYTES = "bytes on the port"
    FRAMES = "a preface, then frames"
    MESSAGE = "bytes as a message"
    STREAM_MESSAGE = "bytes as a message of the stream"
    REQUEST = "a valid request"
    STREAM_REQUEST = "a valid message of the stream"


WEIGHTS = {
    Kind.BYTES: 5,
    Kind.FRAMES: 10,
    Kind.MESSAGE: 30,
    Kind.STREAM_MESSAGE: 20,
    Kind.REQUEST: 18,
    Kind.STREAM_REQUEST: 17,
}


class Input(NamedTuple):
    """One thing to throw."""

    number: int
    kind: Kind
    content: bytes
    """What goes over the wire: raw, or as a message."""
    method: str = ""
    """Of a unary message."""
    has_token: bool = True
    is_cancelled: bool = False
    """The call is given up as soon as it is made."""


Chance: TypeAlias = random.Random
Metadata: TypeAlias = tuple[tuple[str, str], ...]


def make(seed: int, number: int, token: Metadata) -> Input:
    """Return input *number* of *seed*; *token* is the metadata of the attacker, where it shows it."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    has_token = chance.random() < 0.95
    match kind:
        case Kind.BYTES:
            return Input(number, kind, chance.randbytes(chance.choice((1, 9, 24, 100, 1000, 5000))))
        case Kind.FRAMES:
            return Input(number, kind, _frames(chance, number, token if has_token else ()))
        case Kind.MESSAGE | Kind.REQUEST:
            method = _method(chance)
            content = _request(chance, method, number).SerializeToString()
            if kind is Kind.MESSAGE:
                content = _mutated(chance, content)
            return Input(number, kind, content, method, has_token, is_cancelled=chance.random() < 0.02)
        case Kind.STREAM_MESSAGE | Kind.STREAM_REQUEST:
            content = _exchange(chance, number).SerializeToString()
            return Input(number, kind, _mutated(chance, content) if kind is Kind.STREAM_MESSAGE else content)


# Messages


def _header(chance: Chance, number: int) -> pb.RequestHeader:
    era, index = number // ERA_INPUTS, chance.randrange(OWN_AREAS)
    client, area = f"client-{era}-{index % 2}", f"area-{era}-{index}"
    if chance.random() < 0.25:
        client, area = chance.choice(VICTIMS_NAMES)
    elif chance.random() < 0.04:
        client = f"client-{era}-{chance.randrange(2)}"
    return pb.RequestHeader(
        client_id=client,
        client_epoch=chance.choice((1, 2, *EDGES)) if chance.random() < 0.005 else 1,
        request_id=chance.choice(EDGES) if chance.random() < 0.1 else chance.randrange(1, 1000),
        area=area,
    )


def _method(chance: Chance) -> str:
    return chance.choices(list(UNARY), METHOD_WEIGHTS)[0]


def _offsets(chance: Chance) -> list[int]:
    count = chance.choice((1, 1, 2, 3, 8, SLOTS))
    return chance.sample(range(SLOTS), count)


def _request_ids(chance: Chance, offsets: list[int]) -> list[int]:
    """Return ids that are mostly a slot's own, so that some acknowledgements meet their claims."""
    return [1 + offset if chance.random() < 0.8 else chance.choice(EDGES) for offset in offsets]


def _generations(chance: Chance, number: int, count: int) -> list[int]:
    """Return generations that rise slowly over an era: most stores are newer than what is there, not all."""
    return [1 + number % ERA_INPUTS // 40 + chance.randrange(8) for _ in range(count)]


def _fill(chance: Chance, batch: Message, offsets: list[int], number: int) -> None:
    """Write a valid batch for *offsets* into the empty *batch*."""
    batch.offsets.extend(offsets)  # type: ignore[attr-defined]  # every batch has them
    if isinstance(batch, pb.StoreBatch | pb.LoadBatch | pb.AcknowledgeBatch | pb.InvalidateBatch):
        batch.generations.extend(_generations(chance, number, len(offsets)))
    if isinstance(batch, pb.StoreBatch):
        pages = [chance.choice(PALETTE) for _ in offsets]
        batch.checksums.extend(map(page_checksum, pages))
        batch.pages = b"".join(pages)
    if isinstance(batch, pb.LoadBatch):
        modes = (pb.LOAD_MODE_SHARED, pb.LOAD_MODE_EXCLUSIVE, pb.LOAD_MODE_CLAIM)
        batch.modes.extend(chance.choices(modes, (5, 3, 3), k=len(offsets)))
        batch.require_generation, batch.pool_only = chance.random() < 0.3, chance.random() < 0.2
    if isinstance(batch, pb.AcknowledgeBatch) or (
        isinstance(batch, pb.LoadBatch) and pb.LOAD_MODE_CLAIM in batch.modes
    ):
        batch.request_ids.extend(_request_ids(chance, offsets))


def _request(chance: Chance, method: str, number: int) -> Message:
    """Return a valid request of a unary *method*."""
    message = UNARY[method]()
    message.header.CopyFrom(_header(chance, number))  # type: ignore[attr-defined]  # every request has one
    if isinstance(message, pb.SwaponRequest):
        message.slots = SLOTS
        # An area is asked for again with the same options, or it would not be found open: they follow from its name.
        its = chance if chance.random() < 0.05 else random.Random(message.header.area)
        _choose_options(its, message.options)
        message.seen_server_epoch = chance.choice((0, 0, *EDGES))
    elif hasattr(message, "batch"):
        _fill(chance, message.batch, _offsets(chance), number)
    return message


def _choose_options(chance: Chance, options: pb.AreaOptions) -> None:
    """Choose among all that an area can be."""
    options.device_free_on_read = chance.random() < 0.1
    if chance.random() < 0.4:
        options.pool_bytes_max = chance.choice(QUOTAS)
    if chance.random() < 0.5:
        options.writeback = chance.random() < 0.5


def _exchange(chance: Chance, number: int) -> pb.ExchangeRequest:
    """Return a valid message of the stream: some batches, no slot twice."""
    message = pb.ExchangeRequest(header=_header(chance, number))
    offsets = _offsets(chance)
    kinds = chance.sample(BATCHES, chance.randrange(1, len(BATCHES) + 1))
    for index, kind in enumerate(kinds):
        mine = offsets[index :: len(kinds)]
        if mine:
            _fill(chance, getattr(message, kind), mine, number)
    return message


# What is wrong with them


def _flip(chance: Chance, content: bytearray) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _insert(chance: Chance, content: bytearray) -> None:
    at = chance.randrange(len(content))
    content[at:at] = chance.randbytes(chance.randrange(1, 12))


def _delete(chance: Chance, content: bytearray) -> None:
    at = chance.randrange(len(content))
    del content[at : at + chance.randrange(1, 40)]


def _repeat(chance: Chance, content: bytearray) -> None:
    at = chance.randrange(len(content))
    content += content[at : at + chance.randrange(1, 4096)]


def _truncate(chance: Chance, content: bytearray) -> None:
    del content[chance.randrange(len(content)) :]


def _overwrite(chance: Chance, content: bytearray) -> None:
    at = chance.randrange(len(content))
    content[at : at + 10] = _varint(chance.choice(EDGES))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


_WRONGS: tuple[Callable[[Chance, bytearray], None], ...] = (_flip, _insert, _delete, _repeat, _truncate, _overwrite)


def _spoil(chance: Chance, content: bytearray, times: int) -> None:
    for _ in range(times):
        if content:
            chance.choice(_WRONGS)(chance, content)


def _mutated(chance: Chance, content: bytes) -> bytes:
    """Return *content* with some things wrong, or nothing right."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.choice((0, 1, 2, 10, 100, 10_000)))
    wrong = bytearray(content)
    _spoil(chance, wrong, chance.choice((1, 1, 1, 2, 3, 8)))
    return bytes(wrong[: BATCH_SLOTS_MAX * PAGE_BYTES])


# Frames


_PATHS = (b"", b"/", b"x", b"/a/b", b"/\xff\xfe/x", b"/\x00/\x7f", b"/grpc.health.v1.Health/Check", b"/" + b"p" * 120)


def _frames(chance: Chance, number: int, metadata: Metadata) -> bytes:
    """Return a preface and some frames: right, wrong, or made up."""
    content = bytearray(http2.hello())
    for index in range(chance.randrange(1, 7)):
        stream = 2 * index + 1
        content += chance.choice(_FRAMES)(chance, stream, number, metadata)
    if chance.random() < 0.3:
        _spoil(chance, content, chance.randrange(1, 4))
    return bytes(content)


def _good_request(chance: Chance, stream: int, number: int, metadata: Metadata) -> bytes:
    method = _method(chance)
    message = _request(chance, method, number).SerializeToString()
    return http2.request(stream, f"{SERVICE}{method}".encode(), message, metadata)


def _bad_request(chance: Chance, stream: int, number: int, metadata: Metadata) -> bytes:
    path = chance.choice((*_PATHS, *(f"{SERVICE}{method}".encode() for method in (*UNARY, "Exchange"))))
    message = _mutated(chance, _exchange(chance, number).SerializeToString()) if chance.random() < 0.7 else None
    return http2.request(stream, path, message, metadata)


def _any_frame(chance: Chance, stream: int, _number: int, _metadata: Metadata) -> bytes:
    payload = chance.randbytes(chance.choice((0, 1, 4, 5, 6, 8, 17, 100, 17_000)))
    return http2.frame(chance.randrange(12), chance.randrange(256), chance.choice((0, stream, 2, 2**31 - 1)), payload)


def _settings(chance: Chance, _stream: int, _number: int, _metadata: Metadata) -> bytes:
    pairs = b"".join(
        chance.randrange(10).to_bytes(2, "big") + chance.choice(EDGES[:9]).to_bytes(4, "big") for _ in range(6)
    )
    return http2.frame(http2.Type.SETTINGS, 0, 0, pairs)


def _flood(chance: Chance, stream: int, _number: int, metadata: Metadata) -> bytes:
    """Return many requests, each given up at once, or many of something small."""
    count = chance.randrange(2, 60)
    if chance.random() < 0.5:
        heads = (
            http2.request(stream + 1000 + 2 * n, f"{SERVICE}Exchange".encode(), None, metadata)
            + http2.frame(http2.Type.RST_STREAM, 0, stream + 1000 + 2 * n, bytes((0, 0, 0, 8)))
            for n in range(count)
        )
        return b"".join(heads)
    kind, size = chance.choice(((http2.Type.PING, 8), (http2.Type.SETTINGS, 0), (http2.Type.WINDOW_UPDATE, 4)))
    return http2.frame(kind, 0, 0, bytes(size)) * count


_FRAMES: tuple[Callable[[Chance, int, int, Metadata], bytes], ...] = (
    _good_request,
    _good_request,
    _bad_request,
    _bad_request,
    _any_frame,
    _any_frame,
    _settings,
    _flood,
)
