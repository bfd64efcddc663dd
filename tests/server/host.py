"""A host that keeps books of what was acknowledged to it, so that a test can ask for all of it again."""

import random
from collections import Counter
from collections.abc import Iterable

from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.rpc.server import channel_options
from swaptier_wire import reply_codec, request_codec
from swaptier_wire.batches import Header, Loads, Stores
from swaptier_wire.channels import open_channel
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES, LoadMode, LoadReply, Outcome, Reason

SLOTS = 1 << 16
ACKNOWLEDGED = (Outcome.STORED, Outcome.DEVICE)
LOAD_SLOTS = 128

Answers = Counter[tuple[Outcome, Reason]]


def noise(offset: int, generation: int) -> bytes:
    """Return the page that a host stores there: one that does not compress."""
    return random.Random(f"{offset}/{generation}").randbytes(PAGE_BYTES)


def channel_to(address: str) -> aio.Channel:
    """Return a channel of its own: one that another test left reconnecting is not taken."""
    options = [*channel_options(BATCH_SLOTS_MAX), ("grpc.use_local_subchannel_pool", 1)]
    return open_channel(address, options=options)


class Host:
    """One area of one server after the other. Owed are the pages whose store was acknowledged and not overwritten."""

    def __init__(self, area: str = "swap", slots: int = SLOTS) -> None:
        self.owed: dict[int, tuple[int, Outcome]] = {}
        """By offset: generation, and how it was acknowledged."""
        self.server_epoch = 0
        self._slots = slots
        self._header = request_codec.encode_header(Header("host", 1, 5, area))

    def meet(self, channel: aio.Channel) -> None:
        """Talk to the server of *channel* from now on."""
        self._stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)

    async def swapon(self) -> pb.SwaponResponse:
        """Open the area, or find it open."""
        request = pb.SwaponRequest(header=self._header, slots=self._slots, seen_server_epoch=self.server_epoch)
        answer = await self._stub.Swapon(request)
        self.server_epoch = answer.server_epoch
        return answer

    async def swapoff(self) -> None:
        """Close the area."""
        await self._stub.Swapoff(pb.SwapoffRequest(header=self._header))
        self.owed.clear()

    async def store(self, offsets: Iterable[int], generation: int = 1) -> Answers:
        """Store noise in one batch, note what is owed now, and return how often each answer came."""
        slots = list(offsets)
        pages = [noise(offset, generation) for offset in slots]
        request = pb.StoreRequest(header=self._header)
        batch = Stores(slots, [generation] * len(slots), pages, [page_checksum(page) for page in pages])
        request_codec.encode_stores(batch, request.batch)
        replies = reply_codec.decode_store_replies((await self._stub.Store(request)).result, len(slots))
        for offset, reply in zip(slots, replies, strict=True):
            self.owed.pop(offset, None)
            if reply.outcome in ACKNOWLEDGED:
                self.owed[offset] = generation, reply.outcome
        return Counter((reply.outcome, reply.reason) for reply in replies)

    async def load(self, offsets: Iterable[int]) -> dict[int, LoadReply]:
        """Load the pages that are owed there, of exactly the generation that is."""
        slots = list(offsets)
        replies: list[LoadReply] = []
        for start in range(0, len(slots), LOAD_SLOTS):
            some = slots[start : start + LOAD_SLOTS]
            request = pb.LoadRequest(header=self._header)
            generations = [self.owed[offset][0] for offset in some]
            modes = [LoadMode.SHARED] * len(some)
            request_codec.encode_loads(
                Loads(some, generations, modes, [0] * len(some), require_generation=True), request.batch
            )
            replies += reply_codec.decode_load_replies((await self._stub.Load(request)).result, len(some))
        return dict(zip(slots, replies, strict=True))

    async def missing(self) -> dict[int, LoadReply]:
        """Load everything that is owed; return the answers that are not the page. Other bytes than it are a failure."""
        answers = await self.load(self.owed)
        for offset, reply in answers.items():
            assert reply.content() in (None, noise(offset, self.owed[offset][0])), f"other bytes came back for {offset}"
        return {offset: reply for offset, reply in answers.items() if reply.content() is None}
