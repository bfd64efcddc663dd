"""Throws inputs at a real server process while a victim works on it, and says what came of it.

Touches a process, the network and the clock. Rules of conduct:
  - Every answer is judged, and every call has to end: one that does not within HANG_SECONDS is a hang.
  - The victim's pages are checked all along and counted at the end: nobody read, freed or even counted them.
  - What the server logs as an error is wrong, whatever it answered.
"""

import asyncio
import contextlib
import json
import resource
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.message import Message
from grpc import aio
from tests.fuzz.inputs import SERVICE, SLOTS, UNARY, VICTIM, VICTIM_AREA, VICTIM_CLIENT, Input, Kind, make
from tests.fuzz.judge import Wrong, check_answer, check_status, outcomes_of, parse
from tests.server.pki import bearer, write_tokens

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_wire.channels import open_channel
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES

HANG_SECONDS = 20.0
QUIET_ATTEMPTS = 100
WORKERS = 12
INPUTS_PER_CHECK = 50
"""Of the victim's pages."""
SAMPLES = 50
"""Of the server's memory, over the whole campaign."""
SETTLED = 0.4
"""After this part of the inputs every area, slot and buffer has been used, and memory must not grow any more."""
ATTACKER = "alice"
POOL_LIMIT = "32KiB"
"""So little that it is full all the time: pages are refused, written back, and read from the device."""
PROGRAM = ("-m", "swaptier_server")
"""The server, as Python is told."""
LOOPBACKS = 200
"""Source addresses, so that closed connections do not use up the ports of one."""


VICTIMS_COUNTERS = {
    *(("tier_stores", "stored"), ("tier_stores", "device"), ("tier_rejects", "pool_limit")),
    *(("tier_loads", "shared/hit"), ("tier_loads", "shared/device"), ("tier_device_reads", "current")),
    ("tier_written_back_pages", ""),
}
"""Whose pool is shared and full has its pages written back. All else that is counted somebody must have done."""


@dataclass
class Outcome:
    """What came of a campaign."""

    thrown: Counter[Kind] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of slots, with reasons: which of the contract's words the server said."""
    pages: int = 0
    """That came back to the attacker, all its own."""
    victim_loads: int = 0
    victim_slowest_seconds: float = 0.0
    seconds: float = 0.0
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Inputs thrown, and the server's resident bytes then."""
    wrongs: list[str] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Bytes that the server grew per input once it had settled, by least squares."""
        total = max((thrown for thrown, _ in self.memory), default=0)
        points = [(thrown, size) for thrown, size in self.memory if thrown >= SETTLED * total]
        if len(points) < 3:
            return 0.0
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class ServerProcess:
    """A server with two tenants, its log, and what it takes."""

    def __init__(self, folder: Path, program: Sequence[str]) -> None:
        tokens = write_tokens(folder / "tokens", ATTACKER, VICTIM)
        self._log = (folder / "log").open("w+", errors="replace")  # gRPC's own lines may be anything
        command = [sys.executable, *program, "--listen", "127.0.0.1:0", "--metrics", "off"]
        limits = [
            "--pool-limit",
            POOL_LIMIT,
            "--area-idle-seconds",
            "2",
            "--log-format",
            "json",
            "--log-level",
            "warning",
        ]
        self.process = subprocess.Popen(
            [*command, *limits, "--tokens", str(tokens)], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        self.address = str(json.loads(self.process.stdout.readline())["listening"])

    @property
    def resident_bytes(self) -> int:
        """What it takes of memory now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def end(self) -> tuple[int, list[str]]:
        """Stop it; return its status and what it logged as an error."""
        self.process.terminate()
        try:
            status = self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.seek(0)
        lines = self._log.read().splitlines()
        self._log.close()
        return status, [line for line in lines if '"warning"' not in line]


class Victim:
    """Holds pages with a secret in them and reads them again and again."""

    def __init__(self, channel: aio.Channel, outcome: Outcome) -> None:
        self.secret = secrets.token_bytes(16)
        self._stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
        self._outcome = outcome
        self._header = pb.RequestHeader(client_id=VICTIM_CLIENT, client_epoch=1, request_id=1, area=VICTIM_AREA)
        self._metadata = bearer(VICTIM)
        self._turn = asyncio.Lock()
        # Every other page does not compress, so that they are in the pool and on the device, and move between the two.
        self._pages = [
            (self.secret + bytes((slot,)) + (secrets.token_bytes(PAGE_BYTES) if slot % 2 else b"v" * PAGE_BYTES))
            for slot in range(SLOTS)
        ]
        self._pages = [page[:PAGE_BYTES] for page in self._pages]

    async def begin(self) -> None:
        """Store the pages."""
        await self._stub.Swapon(pb.SwaponRequest(header=self._header, slots=SLOTS), metadata=self._metadata)
        batch = pb.StoreBatch(
            offsets=range(SLOTS),
            generations=[1] * SLOTS,
            checksums=map(page_checksum, self._pages),
            pages=b"".join(self._pages),
        )
        answer = await self._stub.Store(pb.StoreRequest(header=self._header, batch=batch), metadata=self._metadata)
        assert set(answer.result.outcomes) == {pb.OUTCOME_STORED, pb.OUTCOME_DEVICE}
        # Its area is kept for as long as a stream speaks for it, while those that the attacker leaves behind expire.
        self._stream = self._stub.Exchange(metadata=self._metadata)
        lookup = pb.LookupBatch(offsets=[0])
        await self._stream.write(pb.ExchangeRequest(header=self._header, lookup=lookup))
        assert isinstance(await self._stream.read(), pb.ExchangeResponse)

    async def check_all(self) -> None:
        """Read all pages, once, on the stream: under a flood gRPC refuses new calls before it is known whose they are.

        Raises:
            Wrong: one is not there, or not as it was.
        """
        began = time.monotonic()
        batch = pb.LoadBatch(
            offsets=range(SLOTS),
            generations=[1] * SLOTS,
            modes=[pb.LOAD_MODE_SHARED] * SLOTS,
            require_generation=True,
        )
        try:
            async with self._turn, asyncio.timeout(HANG_SECONDS):
                await self._stream.write(pb.ExchangeRequest(header=self._header, load=batch))
                answer = await self._stream.read()
        except TimeoutError:
            raise Wrong(f"the victim got no answer within {HANG_SECONDS:g} s") from None
        except (aio.AioRpcError, asyncio.InvalidStateError):
            raise Wrong(f"the victim got {(await self._stream.code()).name}: {await self._stream.details()}") from None
        if not isinstance(answer, pb.ExchangeResponse) or answer.load.pages != b"".join(self._pages):
            raise Wrong("the victim's pages are not what it stored")
        self._outcome.victim_loads += 1
        self._outcome.victim_slowest_seconds = max(self._outcome.victim_slowest_seconds, time.monotonic() - began)

    async def check_counters(self) -> None:
        """Make sure that nobody else did anything to them.

        Raises:
            Wrong: somebody did.
        """
        for _ in range(QUIET_ATTEMPTS):
            with contextlib.suppress(aio.AioRpcError):  # the flood may still be ebbing away
                answer = await self._stub.Stat(pb.StatRequest(header=self._header), metadata=self._metadata)
                break
        else:
            raise Wrong("the victim cannot call any more")
        counters = {(row.name, row.cause): row.value for row in answer.counters if row.value}
        loads, stores = SLOTS * self._outcome.victim_loads, ("stored", "device")
        is_untouched = (
            counters.keys() <= VICTIMS_COUNTERS
            and sum(counters.get(("tier_stores", what), 0) for what in stores) == SLOTS
            and sum(counters.get(("tier_loads", f"shared/{what}"), 0) for what in ("hit", "device")) == loads
        )
        if not is_untouched:
            raise Wrong(
                f"the victim's counters are {counters}, and it stored {SLOTS} pages and loaded them "
                f"{self._outcome.victim_loads} times"
            )


class Attacker:
    """Throws inputs, one after the other."""

    def __init__(self, address: str, channel: aio.Channel, secret: bytes, outcome: Outcome) -> None:
        self._address = address
        self._channel = channel
        self._secret = secret
        self._outcome = outcome
        self._stream: aio.StreamStreamCall[bytes, bytes] | None = None

    async def throw(self, thrown: Input) -> None:
        """Throw one input and judge what comes back.

        Raises:
            Wrong: the server did what it must not do.
        """
        try:
            async with asyncio.timeout(HANG_SECONDS):
                if thrown.kind in {Kind.BYTES, Kind.FRAMES}:
                    await self._on_the_port(thrown)
                elif thrown.kind in {Kind.MESSAGE, Kind.REQUEST}:
                    await self._unary(thrown)
                else:
                    await self._on_the_stream(thrown)
        except TimeoutError:
            self._stream = None
            raise Wrong(f"no end within {HANG_SECONDS:g} s") from None
        except ConnectionRefusedError:
            raise Wrong("nobody listens any more") from None

    async def _on_the_port(self, thrown: Input) -> None:
        host, _, port = self._address.rpartition(":")
        source = f"127.0.0.{2 + thrown.number % LOOPBACKS}"
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
        received = b""
        with contextlib.suppress(OSError):  # the server may end the connection at any byte
            writer.write(thrown.content)
            writer.write_eof()
            received = await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._outcome.statuses["closed"] += 1
        if self._secret in received:
            raise Wrong("bytes came back that hold what the victim stored")

    async def _unary(self, thrown: Input) -> None:
        metadata = bearer(ATTACKER) if thrown.has_token else ()
        method: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"{SERVICE}{thrown.method}")
        call = method(thrown.content, metadata=metadata)
        if thrown.is_cancelled:
            call.cancel()
            self._outcome.statuses["given up"] += 1
            return
        try:
            raw = await call
        except aio.AioRpcError as error:
            self._note(thrown, error.code())
            return
        self._note(thrown, grpc.StatusCode.OK)
        response = getattr(pb, UNARY[thrown.method].DESCRIPTOR.name.replace("Request", "Response"))
        self._judge(response.FromString(raw))

    async def _on_the_stream(self, thrown: Input) -> None:
        if self._stream is None:
            self._stream = self._channel.stream_stream(f"{SERVICE}Exchange")(metadata=bearer(ATTACKER))
        message = parse(pb.ExchangeRequest, thrown.content)
        try:
            await self._stream.write(thrown.content)
            raw = await self._stream.read()
        except (aio.AioRpcError, asyncio.InvalidStateError):  # the latter: it had ended before
            code = await self._stream.code()
            self._stream = None
            self._note(thrown, code)
            if message is not None and code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Wrong(f"the stream ended over a message, with {code.name}") from None
            return
        if not isinstance(raw, bytes):
            raise Wrong("the stream ended without a status")
        if message is None:
            raise Wrong("bytes that are no message were answered")
        answer = pb.ExchangeResponse.FromString(raw)
        self._outcome.statuses[answer.error.reason or "OK"] += 1
        if answer.error.reason == "SERVER_DEFECT":
            raise Wrong("a defect of the server")
        assert isinstance(message, pb.ExchangeRequest)
        if answer.request_id != message.header.request_id:
            raise Wrong("an answer came to another message")
        self._judge(answer)

    def _judge(self, answer: Message) -> None:
        self._outcome.pages += check_answer(answer, self._secret)
        self._outcome.outcomes.update(outcomes_of(answer))

    def _note(self, thrown: Input, code: grpc.StatusCode) -> None:
        self._outcome.statuses[code.name] += 1
        check_status(thrown, code)

    def end(self) -> None:
        """Give the stream up."""
        if self._stream is not None:
            self._stream.cancel()


async def run(
    folder: Path,
    seed: int,
    numbers: range,
    progress: Iterator[None] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Outcome:
    """Throw inputs *numbers* of *seed* at a server of its own, with files in *folder*; return what came of it.

    *progress* is advanced with every sample; *program* is the server, as Python is told. Ends early at the first thing
    that is wrong.
    """
    outcome = Outcome()
    server = ServerProcess(folder, program)
    began = time.monotonic()
    try:
        async with open_channel(server.address) as attackers, open_channel(server.address) as channel:
            victim = Victim(channel, outcome)
            await victim.begin()
            await _throw_all(server, victim, attackers, seed, numbers, outcome, progress)
            with _noting(outcome, "at the end"):
                await victim.check_all()
                await victim.check_counters()
    finally:
        outcome.seconds = time.monotonic() - began
        status, errors = server.end()
    if status != 0:
        outcome.wrongs.append(f"the server ended with status {status}")
    outcome.wrongs += [f"the server logged {line}" for line in errors[:3]]
    return outcome


async def _throw_all(
    server: ServerProcess,
    victim: Victim,
    channel: aio.Channel,
    seed: int,
    numbers: range,
    outcome: Outcome,
    progress: Iterator[None] | None,
) -> None:
    todo = iter(numbers)
    every = max(1, len(numbers) // SAMPLES)

    async def work() -> None:
        attacker = Attacker(server.address, channel, victim.secret, outcome)
        for number in todo:
            thrown = make(seed, number, bearer(ATTACKER))
            with _noting(outcome, f"input {number}, {thrown.kind}"):
                await attacker.throw(thrown)
                outcome.thrown[thrown.kind] += 1
                if outcome.thrown.total() % INPUTS_PER_CHECK == 0:
                    await victim.check_all()
                if outcome.thrown.total() % every == 0:
                    outcome.memory.append((outcome.thrown.total(), server.resident_bytes))
                    if progress is not None:
                        next(progress)
            if outcome.wrongs:
                break
        attacker.end()

    await asyncio.gather(*(work() for _ in range(WORKERS)))


@contextlib.contextmanager
def _noting(outcome: Outcome, where: str) -> Iterator[None]:
    """Note what goes wrong in the block."""
    try:
        yield
    except Wrong as wrong:
        outcome.wrongs.append(f"{where}: {wrong}")
