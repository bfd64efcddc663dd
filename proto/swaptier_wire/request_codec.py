"""Translates requests to and from the messages of `swaptier.v1`: encoded by the client, decoded by the server.

Touches protobuf and nothing else: no gRPC, no clock, no tier, no host. Replies: `swaptier_wire.reply_codec`; errors and
gRPC status: `swaptier_wire.status`. This is the hot path of both sides, so a column crosses in one call, never
slot by slot: a slice out of a repeated field, an extend into one, one join of pages. Batches are written in place:
handing a constructor a ready submessage copies it, which for 1 MiB of pages costs more than all the rest.

Rules for this file's editors: what a client sent is never trusted, and is refused whole with InvalidRequest before
anything of it is applied. What our own side passes in is asserted. Messages name columns and numbers, never the
content of a page.
"""

from collections.abc import Sequence
from typing import cast

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.batches import (
    NOTHING_APPLIED,
    Acknowledges,
    Header,
    Invalidates,
    Loads,
    Lookups,
    RequestBatches,
    Stores,
    check_column,
    check_generations,
    check_name,
    check_offsets,
    check_size,
    split_pages,
)
from swaptier_wire.errors import InvalidRequest
from swaptier_wire.types import PAGE_BYTES, AreaOptions, LoadMode

_MODES = {int(mode): mode for mode in LoadMode}


def encode_header(header: Header) -> pb.RequestHeader:
    """Return *header* as a message."""
    return pb.RequestHeader(
        client_id=header.client_id,
        client_epoch=header.client_epoch,
        request_id=header.request_id,
        area=header.area,
    )


def decode_header(message: pb.RequestHeader) -> Header:
    """Return who asks; a header that was not sent is refused for its empty names.

    Raises:
        InvalidRequest: a name is empty or too long. Definite.
    """
    check_name("client_id", message.client_id)
    check_name("area", message.area)
    return Header(message.client_id, message.client_epoch, message.request_id, message.area)


def encode_options(options: AreaOptions) -> pb.AreaOptions:
    """Return *options* as a message."""
    return pb.AreaOptions(
        device_free_on_read=options.device_free_on_read,
        pool_bytes_max=options.pool_bytes_max,
        writeback=options.writeback,
    )


def decode_options(message: pb.AreaOptions) -> AreaOptions:
    """Return the options of an area; what was not sent is its default."""
    return AreaOptions(
        device_free_on_read=message.device_free_on_read,
        pool_bytes_max=message.pool_bytes_max if message.HasField("pool_bytes_max") else None,
        writeback=message.writeback if message.HasField("writeback") else True,
    )


def encode_stores(stores: Stores, message: pb.StoreBatch) -> None:
    """Write *stores* into the empty *message*. Every page must be PAGE_BYTES long."""
    pages = b"".join(stores.pages)
    assert len(pages) == len(stores.offsets) * PAGE_BYTES, (len(pages), len(stores.offsets))
    message.offsets.extend(stores.offsets)
    message.generations.extend(stores.generations)
    message.checksums.extend(stores.checksums)
    message.pages = pages


def decode_stores(message: pb.StoreBatch) -> Stores:
    """Return the slots to store.

    Raises:
        InvalidRequest: the batch is not acceptable. Definite.
    """
    kind = "store batch"
    offsets = _decode_offsets(kind, message.offsets)
    generations = _decode_generations(kind, offsets, message.generations)
    check_column(kind, "checksums", len(message.checksums), len(offsets))
    pages = message.pages
    if len(pages) != len(offsets) * PAGE_BYTES:
        raise InvalidRequest(
            f"{kind}: {len(pages)} bytes of pages for {len(offsets)} offsets, must be {len(offsets) * PAGE_BYTES} "
            f"({PAGE_BYTES} each). {NOTHING_APPLIED}"
        )
    return Stores(offsets, generations, split_pages(pages), message.checksums[:])


def encode_loads(loads: Loads, message: pb.LoadBatch) -> None:
    """Write *loads* into the empty *message*; request ids travel only where there is a CLAIM."""
    message.offsets.extend(loads.offsets)
    message.generations.extend(loads.generations)
    message.modes.extend(cast("list[pb.LoadMode.ValueType]", loads.modes))
    if LoadMode.CLAIM in loads.modes:
        message.request_ids.extend(loads.request_ids)
    message.require_generation = loads.require_generation
    message.pool_only = loads.pool_only


def decode_loads(message: pb.LoadBatch) -> Loads:
    """Return the slots to load.

    Raises:
        InvalidRequest: the batch is not acceptable, a mode is unspecified or unknown, or a CLAIM has no request id.
            Definite.
    """
    kind = "load batch"
    offsets = _decode_offsets(kind, message.offsets)
    generations = _decode_generations(kind, offsets, message.generations)
    check_column(kind, "modes", len(message.modes), len(offsets))
    try:
        modes = list(map(_MODES.__getitem__, message.modes))
    except KeyError:
        slot, number = next((slot, number) for slot, number in enumerate(message.modes) if number not in _MODES)
        raise InvalidRequest(
            f"{kind}: mode {number} for offset {offsets[slot]}, must be one of "
            f"{', '.join(f'{mode.value} ({mode.name})' for mode in LoadMode)}. {NOTHING_APPLIED}"
        ) from None
    if message.request_ids or LoadMode.CLAIM in modes:
        check_column(kind, "request_ids", len(message.request_ids), len(offsets))
    return Loads(
        offsets,
        generations,
        modes,
        message.request_ids[:] or [0] * len(offsets),
        message.require_generation,
        message.pool_only,
    )


def encode_lookups(lookups: Lookups, message: pb.LookupBatch) -> None:
    """Write *lookups* into the empty *message*."""
    message.offsets.extend(lookups.offsets)


def decode_lookups(message: pb.LookupBatch) -> Lookups:
    """Return the slots to look up.

    Raises:
        InvalidRequest: the batch is not acceptable. Definite.
    """
    return Lookups(_decode_offsets("lookup batch", message.offsets))


def encode_acknowledges(acknowledges: Acknowledges, message: pb.AcknowledgeBatch) -> None:
    """Write *acknowledges* into the empty *message*."""
    message.offsets.extend(acknowledges.offsets)
    message.generations.extend(acknowledges.generations)
    message.request_ids.extend(acknowledges.request_ids)


def decode_acknowledges(message: pb.AcknowledgeBatch) -> Acknowledges:
    """Return the hand-offs to end.

    Raises:
        InvalidRequest: the batch is not acceptable. Definite.
    """
    kind = "acknowledge batch"
    offsets = _decode_offsets(kind, message.offsets)
    generations = _decode_generations(kind, offsets, message.generations)
    check_column(kind, "request_ids", len(message.request_ids), len(offsets))
    return Acknowledges(offsets, generations, message.request_ids[:])


def encode_invalidates(invalidates: Invalidates, message: pb.InvalidateBatch) -> None:
    """Write *invalidates* into the empty *message*."""
    message.offsets.extend(invalidates.offsets)
    message.generations.extend(invalidates.generations)


def decode_invalidates(message: pb.InvalidateBatch) -> Invalidates:
    """Return the slots that became free.

    Raises:
        InvalidRequest: the batch is not acceptable. Definite.
    """
    kind = "invalidate batch"
    offsets = _decode_offsets(kind, message.offsets)
    return Invalidates(offsets, _decode_generations(kind, offsets, message.generations))


def encode_exchange_request(request: RequestBatches) -> pb.ExchangeRequest:
    """Return *request* as one message of the stream."""
    message = pb.ExchangeRequest(header=encode_header(request.header))
    if request.store is not None:
        encode_stores(request.store, message.store)
    if request.load is not None:
        encode_loads(request.load, message.load)
    if request.lookup is not None:
        encode_lookups(request.lookup, message.lookup)
    if request.acknowledge is not None:
        encode_acknowledges(request.acknowledge, message.acknowledge)
    if request.invalidate is not None:
        encode_invalidates(request.invalidate, message.invalidate)
    return message


def decode_exchange_request(message: pb.ExchangeRequest) -> RequestBatches:
    """Return what one message of the stream asks for.

    Raises:
        InvalidRequest: the header or a batch is not acceptable, or the batches together are not. Definite.
    """
    request = RequestBatches(
        header=decode_header(message.header),
        store=decode_stores(message.store) if message.HasField("store") else None,
        load=decode_loads(message.load) if message.HasField("load") else None,
        lookup=decode_lookups(message.lookup) if message.HasField("lookup") else None,
        acknowledge=decode_acknowledges(message.acknowledge) if message.HasField("acknowledge") else None,
        invalidate=decode_invalidates(message.invalidate) if message.HasField("invalidate") else None,
    )
    batches = (request.store, request.load, request.lookup, request.acknowledge, request.invalidate)
    columns = [batch.offsets for batch in batches if batch is not None]
    if len(columns) != 1:  # one batch alone has been checked
        check_size("message", sum(map(len, columns)))
        check_offsets("message", *columns)
    return request


def _decode_offsets(kind: str, column: Sequence[int]) -> list[int]:
    check_size(kind, len(column))
    offsets = list(column[:])
    check_offsets(kind, offsets)
    return offsets


def _decode_generations(kind: str, offsets: list[int], column: Sequence[int]) -> list[int]:
    check_column(kind, "generations", len(column), len(offsets))
    generations = list(column[:])
    check_generations(kind, offsets, generations)
    return generations
