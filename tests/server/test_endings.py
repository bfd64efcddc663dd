"""The server's edges: standard streams in every state, signals at every time, and files that can be read once or never.

Each cell is a process. What must hold in all: no traceback, the documented status, and it serves meanwhile.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.pki import write_tokens
from tests.server.test_main import COMMAND, FREE, TIMEOUT_SECONDS, environment

from swaptier_server.access.tokens import hash_token
from swaptier_wire.channels import open_channel

STATES = ("open", "closed", "full", "without a reader")
AS_PROCESS_1 = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
WITH_SIGNALS_PENDING = """
import os, signal, sys
numbers = {int(number) for number in sys.argv[1].split(",")}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
for number in numbers:
    os.kill(os.getpid(), number)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Signals that were sent before the program's first instruction: nothing can be earlier."""


def _can_be_process_1() -> bool:
    try:
        return subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


PROCESS_1 = pytest.param(
    AS_PROCESS_1,
    id="process 1",
    marks=pytest.mark.skipif(not _can_be_process_1(), reason="this user cannot make a PID namespace"),
)
both_ways = pytest.mark.parametrize("inside", [pytest.param((), id="any process"), PROCESS_1])


class Server:
    """A server process on a unix socket, which may be another's child."""

    def __init__(self, process: "subprocess.Popen[str]", address: str, inside: Sequence[str]) -> None:
        self.process = process
        self.address = address
        self._inside = inside

    @property
    def pid(self) -> int:
        """Of the server itself."""
        if not self._inside:
            return self.process.pid
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def send(self, *signals: int) -> None:
        """Signal the server."""
        pid = self.pid
        for number in signals:
            os.kill(pid, number)

    def standard_files(self) -> list[str]:
        """Return what its standard streams are."""
        return [str(Path(f"/proc/{self.pid}/fd/{number}").readlink()) for number in (0, 1, 2)]

    async def check_that_it_serves(self) -> None:
        """Wait until it does."""
        async with open_channel(self.address) as channel:
            request = health_pb2.HealthCheckRequest()
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def log_until(self, event: str) -> dict[str, object]:
        """Return what it logs as the next *event*."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            told: dict[str, object] = json.loads(line)
            if told["event"] == event:
                return told
        pytest.fail(f"the server ended without logging {event}")

    def end(self) -> tuple[int, str]:
        """Return its status and the rest of its standard error, if that is a pipe here."""
        _, err = self.process.communicate(timeout=TIMEOUT_SECONDS)
        assert "Traceback" not in (err or "")
        return self.process.returncode, err or ""


@contextmanager
def serving(
    folder: Path,
    *flags: str,
    inside: Sequence[str] = (),
    before: Sequence[str] = (),
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
    shell: str = "",
) -> Iterator[Server]:
    """Run a server for the block: *inside* a command of its own, *before* it another, under redirections of *shell*."""
    address = f"unix:{folder / 'socket'}"
    command = [*before, *COMMAND, *FREE, "--listen", address, *flags]
    if shell:
        command = ["bash", "-c", f'exec "$@" {shell}', "bash", *command]
    with subprocess.Popen(
        [*inside, *command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, env=environment()
    ) as process:
        try:
            yield Server(process, address, inside)
        finally:
            process.kill()


def redirection(number: int, state: str, sign: str = ">") -> str:
    """Return what gives descriptor *number* its *state* in a shell."""
    return {
        "open": "",
        "closed": f"{number}{sign}&-",
        "full": f"{number}{sign}/dev/full",
        "without a reader": f"{number}{sign}&9",
    }[state]


@pytest.mark.parametrize("stdin", STATES)
async def test_a_server_serves_and_drains_whatever_its_standard_streams_are(stdin: str, tmp_path: Path) -> None:
    """Standard input in one state, with output and error in each two: together every pair of the states of any two."""
    shift = STATES.index(stdin)
    with ExitStack() as stack:
        reading, writing = os.pipe()
        os.close(reading)
        stack.callback(os.close, writing)
        servers = []
        for number, stdout in enumerate(STATES):
            stderr = STATES[(number + shift) % len(STATES)]
            folder = tmp_path / str(number)
            folder.mkdir()
            redirections = " ".join(redirection(descriptor, state) for descriptor, state in ((1, stdout), (2, stderr)))
            shell = f"9>/proc/{os.getpid()}/fd/{writing} {redirection(0, stdin, '<')} {redirections} 9>&-"
            servers.append(stack.enter_context(serving(folder, shell=shell)))
        for server in servers:
            await server.check_that_it_serves()
            assert not any("socket" in file or "event" in file for file in server.standard_files())
            server.send(signal.SIGTERM)
        assert [server.end()[0] for server in servers] == [0] * len(servers)


async def test_a_pipe_that_is_never_read_stops_no_server(tmp_path: Path) -> None:
    """Both outputs are full from the start; each line would wait for ever. What was dropped is counted."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))
    os.set_blocking(writing, True)
    with serving(tmp_path, stdout=writing, stderr=writing) as server:
        await server.check_that_it_serves()
        server.send(signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM)
        assert server.end()[0] == 0
    os.close(reading)
    os.close(writing)


@both_ways
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGQUIT, 131)], ids=lambda value: ""
)
def test_a_signal_before_the_first_instruction_ends_the_server_with_its_status(
    number: int, status: int, inside: Sequence[str], tmp_path: Path
) -> None:
    """There is nothing to drain. Without a handler, process 1 would never hear of it."""
    before = [sys.executable, "-c", WITH_SIGNALS_PENDING, str(int(number))]
    with serving(tmp_path, inside=inside, before=before) as server:
        assert server.end() == (status, "")


@both_ways
async def test_signals_that_ask_for_no_end_leave_the_server_serving(inside: Sequence[str], tmp_path: Path) -> None:
    """SIGHUP reads files again, SIGUSR1 and SIGUSR2 are said, SIGPIPE is nothing; early ones do no harm."""
    tokens = write_tokens(tmp_path / "tokens", "alice")
    harmless = ",".join(str(int(number)) for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE))
    before = [sys.executable, "-c", WITH_SIGNALS_PENDING, harmless]
    with serving(tmp_path, "--tokens", str(tokens), inside=inside, before=before) as server:
        await server.check_that_it_serves()
        server.send(signal.SIGHUP)
        server.log_until("tokens_reloaded")
        server.send(signal.SIGPIPE, signal.SIGUSR1)
        assert server.log_until("signal_ignored")["signal"] == "SIGUSR1"
        server.send(signal.SIGTERM)
        status, log = server.end()
    assert status == 0
    assert json.loads(log.splitlines()[-1])["event"] == "drained"


@both_ways
def test_a_second_signal_ends_a_server_that_hangs(inside: Sequence[str], tmp_path: Path) -> None:
    """The loop waits for a FIFO that has a writer and gives nothing: it cannot take even the first one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with serving(tmp_path, "--tokens", str(fifo), inside=inside) as server:
        writing = os.open(fifo, os.O_WRONLY)  # waits until the server opens it
        server.send(signal.SIGTERM, signal.SIGINT)
        assert server.end()[0] in {130, 143}
        os.close(writing)


def test_a_signal_while_the_server_starts_drains_it_once_it_serves(tmp_path: Path) -> None:
    """A drain of nothing is status 0, too."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with serving(tmp_path, "--tokens", str(fifo)) as server:
        with fifo.open("w") as writing:
            server.send(signal.SIGTERM)
            writing.write(hash_token("alice", "t" * 32))
        status, log = server.end()
    assert status == 0
    events = {json.loads(line)["event"] for line in log.splitlines()} - {"memory_may_not_suffice"}  # of the machine
    assert events == {"serving", "stopping", "draining", "drained"}


async def test_a_storm_of_signals_ends_in_one_of_the_documented_statuses(tmp_path: Path) -> None:
    """Until the process is gone: during the drain, after the loop is closed, while the interpreter ends."""
    with serving(tmp_path) as server:
        await server.check_that_it_serves()
        while server.process.poll() is None:
            server.send(signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM)
        assert server.end()[0] in {0, 143}


READ_ONCE = 'exec 8< <(cat {tokens}); exec "$@" --tokens /dev/fd/8'


async def test_tokens_out_of_a_pipe_are_read_once_and_kept(tmp_path: Path) -> None:
    """Neither SIGHUP nor the look of every second reads it again, and no error stands in the log."""
    tokens = write_tokens(tmp_path / "tokens", "alice")
    before = ["bash", "-c", READ_ONCE.format(tokens=tokens), "bash"]
    with serving(tmp_path, before=before) as server:
        await server.check_that_it_serves()
        server.send(signal.SIGHUP)
        assert server.log_until("tokens_reloaded")["tokens"] == 1
        server.send(signal.SIGTERM)
        status, log = server.end()
    assert status == 0
    assert "reload_failed" not in log


REFUSED = {
    "folder": (".", "is a folder, not a file"),
    "endless device": ("/dev/zero", "is a device, not a file"),
    "closed descriptor": ("/dev/fd/99", "No such file or directory"),
    "name that is no text": ("\udcff", "cannot read \\udcff"),
    "name with a line's end": ("a\nb", "cannot read a\\nb"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_file_is_one_line_with_status_2(what: str, tmp_path: Path) -> None:
    """It blames the file, and names the flag."""
    path, reason = REFUSED[what]
    flags = ["--tokens", path, "--tls-cert", path, "--tls-key", path]
    ended = subprocess.run([*COMMAND, *FREE, *flags], capture_output=True, check=False, cwd=tmp_path, env=environment())
    line = ended.stderr.decode()
    assert ended.returncode == 2
    assert line.startswith(("swaptier-server: --tokens: ", "swaptier-server: --tls-cert: "))
    assert reason in line
    assert line.count("\n") == 1


ENDINGS = {
    "version >&-": (5, "standard output could not be written: Bad file descriptor"),
    "--help >/dev/full": (5, "standard output could not be written: No space left on device"),
    "check-config --listen 127.0.0.1:0 --metrics off | true": (5, "could not be written: Broken pipe"),
    "hash-token alice <&-": (2, "standard input cannot be read: Bad file descriptor"),
    "hash-token alice < <(head -c 40 /dev/zero)": (2, "a token has 32 to 1024 printable ASCII characters"),
    "hash-token $'\\xff' </dev/null": (2, "is no tenant's name"),
    "--listen unix:$'\\xff'": (2, "--listen: an address is text, got 'unix:\\udcff'"),
    "--listen a..b:1": (2, "--listen: no host can have the name 'a..b'"),
    "--areas-max $(printf '9%.0s' {1..5000})": (2, "--areas-max must be a whole number"),
    "version 2>&- >/dev/full": (5, ""),
    "--no-such-flag <&- >&- 2>&-": (2, ""),
    "healthcheck 127.0.0.1:1": (3, "is not serving: UNAVAILABLE"),
}


@pytest.mark.parametrize("line", ENDINGS)
def test_each_class_of_ending_has_its_status_and_one_line(line: str) -> None:
    """Neither arguments that are no text nor streams that cannot be used end in a traceback, or in status 1."""
    status, reason = ENDINGS[line]
    command, pipe, rest = line.partition(" | ")
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {command} {pipe}{rest}; exit ${{PIPESTATUS[0]}}', "bash", *COMMAND],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_SECONDS,
        env=environment(),
    )
    said = ended.stderr.decode()
    assert ended.returncode == status, said
    assert reason in said
    assert said.count("\n") == bool(reason)


def test_too_few_descriptors_are_status_6() -> None:
    """Before gRPC, which would abort the process with a core file."""
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -n 12; exec "$@"', "bash", *COMMAND, *FREE], capture_output=True, check=False, text=True
    )
    assert ended.returncode == 6
    assert ended.stderr.startswith("swaptier-server: too few file descriptors: ")
    assert ended.stderr.count("\n") == 1
