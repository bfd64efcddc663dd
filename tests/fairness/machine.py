"""Where the processes of the fairness bench run: the server on one core, its clients on the others.

Touches processes. Why: what a client takes of the server's core is no unfairness of the server. On two cores the
attackers and the neighbour share one, so attackers are nicer: the neighbour, which sleeps most of the time, is woken
before them, and needs no control run. On one core nothing can be said.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.server.pki import write_tokens

NEIGHBOUR: Final = "neighbour"
ATTACKER: Final = "attacker"

ATTACKERS_NICENESS: Final = 10
STOP_SECONDS: Final = 30.0

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORES: Final = frozenset(_CORES[:1])
CLIENT_CORES: Final = frozenset(_CORES[1:])


class ServerEnded(Exception):
    """The server is gone although nobody stopped it."""


class Served(NamedTuple):
    """A server under measurement."""

    address: str
    process: subprocess.Popen[str]

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where its socket is."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    @property
    def resident_bytes(self) -> int:
        """What it takes of memory now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def check(self) -> None:
        """See that it runs.

        Raises:
            ServerEnded: it does not.
        """
        if self.process.poll() is not None:
            raise ServerEnded(f"the server ended with status {self.process.returncode}")


@contextmanager
def serving(folder: Path, flags: Sequence[str]) -> Iterator[Served]:
    """Let a server with two tenants run on its own core while the block runs."""
    tokens = write_tokens(folder / "tokens", NEIGHBOUR, ATTACKER)
    command = [sys.executable, "-m", "swaptier_server", "--listen", "127.0.0.1:0", "--metrics", "off"]
    limits = ["--tokens", str(tokens), "--log-format", "json", "--log-level", "warning", "--drain-seconds", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *limits, *flags], stdout=subprocess.PIPE, stderr=log, text=True)
        os.sched_setaffinity(process.pid, SERVER_CORES)  # of its first thread, before that makes others
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise ServerEnded(f"the server did not start: {(folder / 'log').read_text()}")
            yield Served(json.loads(line)["listening"], process)
        finally:
            process.kill()
            process.wait(STOP_SECONDS)
            process.stdout.close()


def be_the_neighbour() -> None:
    """Let this process, and those that it will start, run on the clients' cores."""
    os.sched_setaffinity(0, CLIENT_CORES)


def be_an_attacker() -> None:
    """Let this process run after the neighbour that started it."""
    os.nice(ATTACKERS_NICENESS)
