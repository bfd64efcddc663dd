"""The soak of the edges: what the outside world does to a durable server, all in one, while `claim` races against it.

`make soak` runs it for SOAK_SECONDS, `make test` for some seconds. A server that writes through has 64 descriptors, a
small disk and a wall clock of its own (libfaketime). Edges strike it in an order that SOAK_SEED decides. Two judge:
the races' oracles, and a witness whose area lives through it all, and that asks for all it was promised after each
edge. What a server refuses stays with a host, which then runs out of memory: such a race ends so, and has lost nothing.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tests.server.disks import MIB, Disk, tmpfs
from tests.server.host import ACKNOWLEDGED, Answers, Host, channel_to
from tests.server.test_main import COMMAND, TIMEOUT_SECONDS, Running, environment, run

from swaptier_server.swapfile.medium import ROOM_BYTES
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.types import Outcome, Reason

SECONDS = int(os.environ.get("SOAK_SECONDS", "120"))
SEED = os.environ.get("SOAK_SEED", "1")

DESCRIPTORS = 64
"""`ulimit -n` of the server."""
DISK_BYTES = ROOM_BYTES + 64 * MIB
LEASE_SECONDS = 1
STOPPED_SECONDS = 1.5
RACE = ["race", "--policy", "claim", "--processes", "1", "--threads", "8", "--pages", "256", "--corpus", __file__]
RACE_SECONDS = 8.0
SLOTS = 2048
"""Of the witness."""
BATCH = 64
STORED = Outcome.STORED, Reason.NONE
REFUSED = Outcome.REJECTED, Reason.DEVICE_ERROR
REFUSED_AFTER_MAX = 200
"""Batches that a full disk may still take in place of others."""

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where libfaketime has it
NOW, FUTURE, PAST = "+0", "@2030-01-01 00:00:00", "@2001-01-01 00:00:00"

Run = dict[str, Any]  # JSON

needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="no libfaketime here: apt-get install faketime")


class Server:
    """A durable server on a disk, and its successors on the same ports and the same wall clock."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.disk = disk
        self.swap = disk.folder / "swap"
        self.log_file = folder / "server.log"
        self.clock = folder / "clock"
        self.set_clock(NOW)
        self._flags: list[str] = []

    def set_clock(self, moment: str) -> None:
        """Let the server's wall clock jump; it is looked at once a second."""
        self.clock.write_text(f"{moment}\n")

    def start(self) -> None:
        """Start it, where it was before."""
        listen = self._flags or ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        device = ["--device", f"sqlite:{self.disk.mount_point}/swap", "--durability", "write-through"]
        more = ["--lease-seconds", str(LEASE_SECONDS), "--area-idle-seconds", "30", "--log-format", "json"]
        limited = ["sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh"]
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen(
                [*self.disk.inside, *limited, *COMMAND, *listen, *device, *more],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(
                    LD_PRELOAD=str(LIBRARY),
                    FAKETIME_TIMESTAMP_FILE=str(self.clock),
                    FAKETIME_CACHE_DURATION="1",
                    FAKETIME_DONT_FAKE_MONOTONIC="1",
                ),
            )
        ready = Running(self.process).ready
        self.listening, self.metrics = str(ready["listening"]), str(ready["metrics"])
        self._flags = ["--listen", self.listening, "--metrics", self.metrics]

    def kill(self) -> None:
        """Kill it, and remove what libfaketime then leaves in memory that is shared."""
        self.process.kill()
        self.process.communicate()
        for left in ("faketime_shm_", "sem.faketime_sem_"):
            (SHARED_MEMORY / f"{left}{self.process.pid}").unlink(missing_ok=True)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return what it logged as *event* so far. All it ever says is a line of JSON."""
        lines = [json.loads(line) for line in self.log_file.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        return [line for line in lines if line["event"] == event]

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """Have clients at both ports who say half a word and wait. Those that are one too many may be sent away."""
        with ExitStack() as crowd:
            for address, clients in ((self.metrics, DESCRIPTORS), (self.listening, DESCRIPTORS // 8)):
                host, port = address.split(":")
                for _ in range(clients):
                    client = crowd.enter_context(socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS))
                    client.sendall(b"GET /metr" if address == self.metrics else b"PRI * HT")
            yield


class Witness:
    """A host that stores, overwrites and asks, for the whole life of the disk."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._host = Host(slots=SLOTS)
        self._generation = 0
        self._channel: aio.Channel | None = None
        self.answers: Answers = Counter()
        self.asked = 0
        self.lost = 0
        self.epochs: list[int] = []
        """Of the servers that it met."""

    async def meet(self, server: Server) -> None:
        """Talk to *server* as it is now."""
        await self.leave()
        self._channel = channel_to(server.listening)
        self._host.meet(self._channel)
        await self._host.swapon()
        self.epochs.append(self._host.server_epoch)

    async def leave(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()

    async def store(self) -> Answers:
        """Store a batch anywhere, over what is there."""
        self._generation += 1
        answers = await self._host.store(self._chance.sample(range(SLOTS), BATCH), self._generation)
        self.answers += answers
        return answers

    async def ask_for_all(self) -> None:
        """See that every page that was acknowledged and not overwritten is served, with its bytes."""
        self.asked += len(self._host.owed)
        missing = await self._host.missing()
        assert not missing, f"{len(missing)} of {len(self._host.owed)} pages that were acknowledged are gone: {missing}"

    async def ask_who_is_told(self) -> None:
        """See that of a file that is gone for good no page comes back as something else; `missing()` looks."""
        self.lost += len(await self._host.missing())
        self._host.owed.clear()

    @property
    def acknowledged(self) -> int:
        """Stores that were."""
        return sum(count for (outcome, _), count in self.answers.items() if outcome in ACKNOWLEDGED)


class Bout:
    """One race, and what strikes its server meanwhile."""

    def __init__(self, soak: "Soak", race: asyncio.subprocess.Process, result: Path) -> None:
        self._soak = soak
        self._end = asyncio.ensure_future(race.communicate())
        self._race = race
        self._result = result

    async def work(self, seconds: float) -> None:
        """Have the witness store for so long; as many batches as the server takes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self._soak.witness.store()
            await self.wait(0.02)

    async def wait(self, seconds: float) -> None:
        """Let so much time pass, or less if the race ends."""
        await asyncio.wait([self._end], timeout=seconds)

    async def begun(self) -> None:
        """Wait until all hosts have opened their areas."""
        name = f"race-soak-{self._soak.races}-"
        while (
            len([line for line in self._soak.server.logged("area_opened") if line["area"].startswith(name)])
            < self._soak.hosts
        ):
            assert not self._end.done(), (await self._end)[1].decode()
            await self._soak.witness.store()
            await self.wait(0.1)

    async def come_to_its_end(self) -> tuple[int, Run]:
        """Return the race's status and its result."""
        _, errors = await asyncio.wait_for(self._end, SECONDS + TIMEOUT_SECONDS)
        status = self._race.returncode
        assert status is not None and self._result.exists(), f"status {status}: {errors.decode()}"
        assert b"Traceback" not in errors, errors.decode()
        (run_,) = json.loads(self._result.read_text())["runs"]
        return status, run_


class Soak:
    """A server, a witness, races one after the other, and a count of everything."""

    def __init__(self, server: Server, folder: Path, hosts: int) -> None:
        self.hosts = hosts
        """Of each race."""
        self.chance = random.Random(SEED)
        self.server = server
        self.witness = Witness(self.chance)
        self.folder = folder
        self.races = 0
        self.struck: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.pages_checked = self.reconnects = 0
        self.told = 0
        """Pages that were lost with the file, and whose process got an error."""
        self.refusals = 0
        """In the log when the last edge struck."""

    async def restart(self) -> None:
        """Start it again, in 2001; its epoch rises."""
        self.server.set_clock(PAST)
        await asyncio.to_thread(self.server.start)
        await self.witness.meet(self.server)

    @asynccontextmanager
    async def race(self, seconds: float) -> AsyncIterator[Bout]:
        """Race for the block, which begins when the hosts do."""
        self.races += 1
        result = self.folder / f"race-{self.races}.json"
        command = [sys.executable, "-m", "swaptier_loadgen", *RACE, "--target", self.server.listening]
        command += ["--name", f"race-soak-{self.races}", "--duration", str(seconds), "--give-up", "60"]
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--hosts", str(self.hosts), "--seed", str(self.chance.randrange(1 << 30)), "--json", str(result)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        try:
            bout = Bout(self, process, result)
            await bout.begun()
            yield bout
        finally:
            if process.returncode is None:
                process.kill()

    async def bout(self, edges: Sequence[str], seconds: float) -> None:
        """Race while *edges* strike. All that was acknowledged is there after each, and nobody is accused of a thing.

        Where the server has refused, the race may have run out of memory; else it does not notice.
        """
        async with self.race(seconds) as bout:
            await bout.work(self.chance.uniform(0.3, 0.8))
            for edge in edges:
                self.struck[edge] += 1
                self.refusals = len(self.server.logged("swap_file_refuses"))
                await EDGES[edge](self, bout)
                await self.witness.ask_for_all()
                answers = await self.witness.store()
                assert set(answers) == {STORED}, f"after {edge}: {answers}"
            status, found = await bout.come_to_its_end()
        endings = ("safe", "out of memory") if HARSH & set(edges) else ("safe",)
        self.take(found, *endings)
        assert status != ExitStatus.VERDICT and (status == 0) == (found["verdict"] == "safe"), status

    async def lose_the_file(self) -> None:
        """Have the file deleted and its server killed at once: what is gone is told, and nothing else comes instead."""
        async with self.race(RACE_SECONDS / 2) as bout:
            await bout.work(1.0)
            self.server.kill()
            self.clear_away()
            await self.restart()
            await self.witness.ask_who_is_told()
            _, found = await bout.come_to_its_end()
        self.told = found["detected_losses"]
        self.ended[found["verdict"]] += 1
        assert found["silent_stale_reads"] == found["lost_updates"] == 0, found["examples"]
        assert self.told > 0 and found["tiers_are_durable"]

    def take(self, found: Run, *verdicts: str) -> None:
        """Count a race, and see that it lost nothing and accused nobody."""
        bad = {name: found[name] for name in ("silent_stale_reads", "lost_updates", "detected_losses") if found[name]}
        assert not bad, f"race {self.races}: {bad}, {found['lost_to']}, {found['examples']}"
        assert found["verdict"] in verdicts, f"race {self.races}: {found['verdict']}: {found['message']}"
        self.ended[found["verdict"]] += 1
        self.pages_checked += found["pages_checked"]
        self.reconnects += found["reconnects"]

    # Edges that no host may notice

    async def jump_forward(self, bout: Bout) -> None:
        """Be in 2030."""
        self.server.set_clock(FUTURE)
        await bout.work(1.1)

    async def jump_back(self, bout: Bout) -> None:
        """Be in 2001."""
        self.server.set_clock(PAST)
        await bout.work(1.1)

    async def stop(self, bout: Bout) -> None:
        """Stop for longer than a lease."""
        self.server.process.send_signal(signal.SIGSTOP)
        await bout.wait(STOPPED_SECONDS)
        self.server.process.send_signal(signal.SIGCONT)

    async def crowd(self, bout: Bout) -> None:
        """Take descriptors."""
        with self.server.crowded():
            await bout.work(1.0)

    async def kill(self, bout: Bout) -> None:
        """Kill it, and start the next one in 2001."""
        self.server.kill()
        await bout.wait(0.1)
        await self.restart()

    # Edges that hosts are told of

    async def see_refusals(self, bout: Bout, fault: str) -> None:
        """Store until the server refuses, says why in its log, and still serves what it has."""
        for _ in range(REFUSED_AFTER_MAX):
            if REFUSED in await self.witness.store():
                break
        else:
            pytest.fail(f"everything was acknowledged: {fault}")
        until = time.monotonic() + TIMEOUT_SECONDS
        while not self.said_of(fault):
            assert time.monotonic() < until, f"the log does not say {fault}"
            await bout.wait(0.1)
            await self.witness.store()
        await self.witness.ask_for_all()

    def said_of(self, fault: str) -> list[Run]:
        """Return what the log has said of it since it struck."""
        return [line for line in self.server.logged("swap_file_refuses")[self.refusals :] if line["fault"] == fault]

    async def full_disk(self, bout: Bout) -> None:
        """Fill the disk, to the last byte."""
        self.server.disk.fill()
        await self.see_refusals(bout, "full")
        self.server.disk.empty()

    async def moved(self, bout: Bout) -> None:
        """Move the file away, and back."""
        away = self.server.swap.rename(self.server.swap.with_name("away"))
        await self.see_refusals(bout, "gone")
        away.rename(self.server.swap)

    async def deleted(self, bout: Bout) -> None:
        """Delete the file, save a copy of it as the log says, and start on that, in 2001."""
        self.server.swap.unlink()
        await self.see_refusals(bout, "gone")
        _, verb, path, _ = self.said_of("gone")[-1]["rescue"].split()
        to = f"{self.server.disk.mount_point}/copy"
        done = await asyncio.to_thread(run, verb, path, to, inside=self.server.disk.inside)
        assert done.returncode == 0, done.stderr
        self.server.kill()
        self.clear_away()
        self.server.swap.with_name("copy").rename(self.server.swap)
        await self.restart()

    def clear_away(self) -> None:
        """Delete what is left of a file."""
        for left in self.server.disk.folder.glob("swap*"):
            left.unlink()


Edge = Callable[[Soak, Bout], Awaitable[None]]
GENTLE = ("jump_forward", "jump_back", "stop", "crowd", "kill")
HARSH = {"full_disk", "moved", "deleted"}
EDGES: dict[str, Edge] = {name: getattr(Soak, name) for name in (*GENTLE, *HARSH)}


@asynccontextmanager
async def soaked(folder: Path, hosts: int) -> AsyncIterator[Soak]:
    """Soak a server in the block. It lives at its end, has never ended by itself, and has written no traceback."""
    with tmpfs(folder, DISK_BYTES) as disk:
        server = Server(disk, folder)
        soak = Soak(server, folder, hosts)
        await asyncio.to_thread(server.start)
        try:
            await soak.witness.meet(server)
            yield soak
            await soak.witness.ask_for_all()
            await soak.witness.leave()
            assert server.process.poll() is None, "it ended by itself"
            server.process.terminate()
            assert await asyncio.to_thread(server.process.wait, TIMEOUT_SECONDS) == 0
        finally:
            server.kill()
        assert server.logged("drained")
        assert soak.witness.epochs == sorted(set(soak.witness.epochs)), "an epoch did not rise"


@needs_faketime
@pytest.mark.slow_race
async def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    """A clock that is set back, a kill, a file that was away."""
    async with soaked(tmp_path, hosts=1) as soak:
        await soak.bout(["jump_back", "kill", "moved"], seconds=1.0)
    assert soak.server.logged("serving")[-1]["ts"] < "2002"


@needs_faketime
@pytest.mark.soak
async def test_nothing_that_was_acknowledged_is_lost_without_its_host_hearing_of_it(tmp_path: Path) -> None:
    """Under jumps, stops, crowds, kills, a full disk, a file that is moved away and one that is deleted."""
    began = time.monotonic()
    async with soaked(tmp_path, hosts=3) as soak:
        harsh: list[str] = []
        while time.monotonic() < began + SECONDS or not {*EDGES} <= {*soak.struck}:
            harsh = harsh or soak.chance.sample(sorted(HARSH), len(HARSH))
            await soak.bout(soak.chance.sample(GENTLE, len(GENTLE)), RACE_SECONDS)
            # A race that has run out of memory has ended, so the refusal comes last.
            await soak.bout([soak.chance.choice(GENTLE), harsh.pop()], RACE_SECONDS / 2)
        await soak.lose_the_file()
        figures = {
            "seconds": round(time.monotonic() - began),
            "struck": dict(soak.struck),
            "server lives": len(soak.witness.epochs),
            "races": dict(soak.ended),
            "pages checked by races": soak.pages_checked,
            "reconnects": soak.reconnects,
            "witness": {
                f"{outcome.name} {reason.name}": count for (outcome, reason), count in soak.witness.answers.items()
            },
            "pages the witness asked for": soak.witness.asked,
            "told lost with the file": {"race": soak.told, "witness": soak.witness.lost},
        }
        sys.stdout.write(f"\n{json.dumps(figures, indent=1)}\n")
