"""The program as an operator meets it: a process with flags, signals, logs and an exit status."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.conftest import header_message
from tests.server.rpc.test_exchange import STUCK_SECONDS, load_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.rpc.server import channel_options
from swaptier_wire.channels import open_channel
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

COMMAND = (sys.executable, "-m", "swaptier_server")
FREE = ("--listen", "127.0.0.1:0", "--metrics", "off", "--log-format", "json")
TIMEOUT_SECONDS = 30
"""Only a hanging program takes so long."""


def environment(**variables: str) -> dict[str, str]:
    """Return ours without SWAPTIER_*, with *variables*."""
    return {name: text for name, text in os.environ.items() if not name.startswith("SWAPTIER_")} | variables


class Running:
    """A server process that is ready."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.ready: dict[str, str | int | None] = json.loads(process.stdout.readline())

    @property
    def listening(self) -> str:
        """Where it serves."""
        return str(self.ready["listening"])

    def wait_for_log(self, event: str) -> dict[str, object]:
        """Return what it logs as the next *event*."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            told: dict[str, object] = json.loads(line)
            if told["event"] == event:
                return told
        pytest.fail(f"the server ended without logging {event}")

    def end(self, signum: int = signal.SIGTERM) -> tuple[int, str, list[dict[str, object]]]:
        """Signal it; return its status, the rest of stdout, and its log."""
        self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=TIMEOUT_SECONDS)
        return self.process.returncode, out, [json.loads(line) for line in err.splitlines()]


@contextmanager
def running(*flags: str, inside: Sequence[str] = (), **variables: str) -> Iterator[Running]:
    """Run a server for the block, *inside* what that command enters; kill what is left of it."""
    with subprocess.Popen(
        [*inside, *COMMAND, *FREE, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def run(*flags: str, inside: Sequence[str] = (), **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*inside, *COMMAND, *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        env=environment(**variables),
    )


def channel_to(server: Running) -> aio.Channel:
    return open_channel(server.listening, options=channel_options(BATCH_SLOTS_MAX))


async def store_two_pages(stub: "swaptier_pb2_grpc.SwapTierServiceAsyncStub") -> None:
    await stub.Swapon(pb.SwaponRequest(header=header_message(), slots=BATCH_SLOTS_MAX))
    page = bytes(PAGE_BYTES)
    batch = pb.StoreBatch(offsets=[0, 1], generations=[1, 1], checksums=[page_checksum(page)] * 2, pages=page * 2)
    await stub.Store(pb.StoreRequest(header=header_message(), batch=batch))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_says_what_was_dropped_and_exits_0(signum: int) -> None:
    """With a client still connected, its stream open and its Health.Watch running; no traceback in the log."""
    with running("--drain-seconds", "60") as server:
        async with channel_to(server) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
            await store_two_pages(stub)
            call = stub.Exchange()
            await call.write(load_message(1))
            await call.read()
            status, out, log = await asyncio.to_thread(server.end, signum)
    assert status == 0
    assert out == ""
    events = [line["event"] for line in log if line["event"] != "memory_may_not_suffice"]
    assert events == ["serving", "area_opened", "stopping", "draining", "drained"]
    assert log[-1]["dropped_pool_pages"] == 2
    assert "gone now" in str(log[-1]["meaning"])


async def test_a_second_signal_ends_the_drain_at_once() -> None:
    """A client that reads no answers would hold it up for --drain-seconds; meanwhile health says NOT_SERVING."""
    with running("--drain-seconds", "600") as server:
        async with channel_to(server) as channel:
            stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
            await store_two_pages(stub)
            call = stub.Exchange()
            while True:
                write = asyncio.ensure_future(call.write(load_message(BATCH_SLOTS_MAX)))
                done, _ = await asyncio.wait([write], timeout=STUCK_SECONDS)
                if not done:
                    break
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_for_log, "draining")
            async with channel_to(server) as probe:
                check = health_pb2_grpc.HealthStub(probe).Check(health_pb2.HealthCheckRequest())
                assert (await check).status == health_pb2.HealthCheckResponse.NOT_SERVING
                with pytest.raises(aio.AioRpcError, match="shutting down"):
                    await swaptier_pb2_grpc.SwapTierServiceStub(probe).Stat(pb.StatRequest(header=header_message()))
            status, _, _ = await asyncio.to_thread(server.end)
            write.cancel()
            call.cancel()
    assert status == 128 + signal.SIGTERM


def test_the_ready_line_says_where_and_who() -> None:
    """One line of JSON with the ports that were bound; a parent process reads it. The epoch rises with each start."""
    with running("--metrics", "127.0.0.1:0") as first:
        assert set(first.ready) == {"listening", "metrics", "epoch"}
        assert not str(first.ready["listening"]).endswith(":0")
        assert not str(first.ready["metrics"]).endswith(":0")
        with running() as second:
            assert second.ready["metrics"] is None
            assert int(str(second.ready["epoch"])) > int(str(first.ready["epoch"]))


def test_a_port_in_use_is_one_line_and_status_2() -> None:
    """It names the flag and the address, says what to do, and prints nothing else."""
    with running("--metrics", "127.0.0.1:0") as server:
        taken = run("--listen", server.listening, "--metrics", "off")
        both_taken = run("--listen", server.listening, "--metrics", str(server.ready["metrics"]))
        metrics_taken = run("--listen", "127.0.0.1:0", "--metrics", str(server.ready["metrics"]))
    for result, flag in ((taken, "--listen"), (both_taken, "--listen"), (metrics_taken, "--metrics")):
        assert result.returncode == 2
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith(f"swaptier-server: {flag}: cannot listen on 127.0.0.1:")
        assert "it is in use; stop the server that has it, or choose another" in result.stderr


def test_wrong_usage_is_one_line_and_status_2() -> None:
    """And so is an address that cannot be had; `test_config` and `test_listening` have the whole table."""
    for flags in (["--pool-limt", "6"], ["--listen", "no.such.host.invalid:1"]):
        result = run(*FREE, *flags)
        assert result.returncode == 2, flags
        assert result.stdout == "", flags
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.startswith("swaptier-server: "), result.stderr


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    """Seen from outside, in the log's first line; a mistyped variable is warned about."""
    with running("--pool-limit", "3MiB", SWAPTIER_POOL_LIMIT="2MiB", SWAPTIER_POOL_LIMT="1MiB") as server:
        _, _, log = server.end()
    assert log[0]["event"] == "unknown_variable"
    assert "did you mean SWAPTIER_POOL_LIMIT?" in str(log[0]["variable"])
    assert log[1]["pool_limit"] == "3MiB"
    with running(SWAPTIER_POOL_LIMIT="2MiB") as server:
        _, _, log = server.end()
    assert log[0]["pool_limit"] == "2MiB"


def test_the_unix_socket_is_gone_after_the_drain(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is left behind in the file system."""
    path = tmp_path_factory.mktemp("s") / "tier"
    with running("--listen", f"unix:{path}") as server:
        assert server.listening == f"unix:{path}"
        assert path.is_socket()
        assert server.end()[0] == 0
    assert not path.exists()


def test_nobody_has_to_read_the_ready_line() -> None:
    """A closed stdout does not stop the server."""
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [*COMMAND, *FREE], stdout=write, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        os.close(write)
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["event"] == "serving"
        process.terminate()
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    assert "Traceback" not in err
