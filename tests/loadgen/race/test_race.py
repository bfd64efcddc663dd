"""Processes: what a race starts it stops, whatever happens to whom, and what happened is said for what it is."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest
from tests.server.pki import token_of, write_tokens

from swaptier_loadgen.race.server_process import ServerNotStarted, own_server

PATIENCE_SECONDS = 60
"""For what takes well under a second; only a failing test waits so long."""

SMALL = ["--hosts", "2", "--threads", "4", "--pages", "64", "--resident", "16"]
LONG = [*SMALL, "--duration", "600"]


class Race:
    """A load generator under test, and what it says on standard error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self._stderr: IO[str] = process.stderr
        self.said: list[str] = []

    def wait_for(self, event: str) -> dict[str, object]:
        """Read log lines until one of *event*."""
        for line in self._stderr:
            self.said.append(line)
            if line.startswith("{"):
                found: dict[str, object] = json.loads(line)
                if found["event"] == event:
                    return found
        raise AssertionError(f"it ended without saying {event!r}: {self.said}")

    def wait(self) -> tuple[int, str]:
        """Return status and standard output once it has ended."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_SECONDS)
        self.said.append(stderr)
        return self.process.returncode, stdout

    def children(self) -> list[int]:
        """Return the pids of its child processes now."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def racing(*arguments: str) -> Iterator[Race]:
    """Run a race; it is gone when the block is left."""
    command = [sys.executable, "-m", "swaptier_loadgen", "race", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Race(process)
        finally:
            process.kill()


@contextmanager
def watching(pids: list[int]) -> Iterator[list[int]]:
    """Hold a descriptor of each process, by which its end can be waited for without a race."""
    with ExitStack() as stack:
        descriptors = []
        for pid in pids:
            descriptors.append(os.pidfd_open(pid))
            stack.callback(os.close, descriptors[-1])
        yield descriptors


def all_end(descriptors: list[int]) -> bool:
    """Return whether every process watched ends within PATIENCE_SECONDS."""
    return all(select.select([descriptor], [], [], PATIENCE_SECONDS)[0] for descriptor in descriptors)


def fail() -> None:
    raise InterruptedError


async def test_our_own_server_lives_as_long_as_its_block() -> None:
    """It says where it listens, and it is gone afterwards, also when the block raises."""
    with ExitStack() as stack:
        try:
            async with own_server() as server:
                (descriptor,) = stack.enter_context(watching([server.pid]))
                assert server.target.startswith("127.0.0.1:")
                assert server.epoch > 0
                fail()
        except InterruptedError:
            assert all_end([descriptor])


async def test_a_server_that_does_not_come_up_is_said_to_be_so() -> None:
    """With its status; its own words stand on standard error."""
    with pytest.raises(ServerNotStarted, match="status 2"):
        async with own_server("--no-such-flag"):
            pass


@pytest.mark.slow_race
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_race_reports_what_ran_and_leaves_nothing_behind(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """Metrics are alive meanwhile; then status 128 plus the signal, table and JSON written, server and hosts gone."""
    observed = ["--json", str(tmp_path / "r.json"), "--metrics", "127.0.0.1:0"]
    with racing(*LONG, "--policy", "shared,no-bypass", *observed) as race:
        metrics = race.wait_for("race begins")["metrics"]
        race.wait_for("policy begins")
        with urllib.request.urlopen(f"http://{metrics}/metrics") as response:
            scraped = response.read().decode()
        assert re.search(r'^swaptier_faults_total{area="shared-[01]",policy="shared"} [1-9]', scraped, re.MULTILINE)
        assert 'swaptier_faults_total{area="no-bypass-0",policy="no-bypass"} 0.0' in scraped
        children = race.children()
        assert len(children) == 3
        with watching(children) as descriptors:
            race.process.send_signal(number)
            ended, stdout = race.wait()
            assert all_end(descriptors)
    assert ended == status
    assert "stopped early" in stdout
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [(run["policy"], run["ended"]) for run in runs] == [("shared", "stopped")]
    assert runs[0]["faults"] > 0


def test_a_killed_load_generator_leaves_no_process_behind() -> None:
    """SIGKILL gives it no chance to stop anything: the kernel ends server and hosts."""
    with racing(*LONG, "--policy", "shared") as race:
        race.wait_for("policy begins")
        children = race.children()
        assert len(children) == 3
        with watching(children) as descriptors:
            race.process.kill()
            assert all_end(descriptors)


@pytest.mark.slow_race
async def test_a_server_survives_a_killed_load_generator_and_serves_the_next() -> None:
    """The next race of the same name takes the areas over, though it wants other sizes."""
    async with own_server() as server:
        with racing("--target", server.target, *LONG, "--policy", "shared") as race:
            race.wait_for("policy begins")
            with watching(race.children()) as descriptors:
                race.process.kill()
                assert all_end(descriptors)
        again = [*SMALL, "--pages", "96", "--ops", "500", "--policy", "shared"]
        with racing("--target", server.target, *again) as race:
            status, stdout = race.wait()
        assert status == 0, race.said
        assert "safe" in stdout


@pytest.mark.slow_race
@pytest.mark.parametrize("policy", ["exclusive-if-swapcache", "no-bypass"])
async def test_a_killed_server_is_reported_as_unreachable_and_never_as_corruption(policy: str, tmp_path: Path) -> None:
    """Status 3; every page read until then was right, and who asked for another was told that it cannot be had."""
    async with own_server() as server:
        with racing("--target", server.target, *LONG, "--policy", policy, "--json", str(tmp_path / "r.json")) as race:
            race.wait_for("policy begins")
            os.kill(server.pid, signal.SIGKILL)
            status, stdout = race.wait()
    assert status == 3, race.said
    assert "unreachable" in stdout and "--give-up" in stdout
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert run["verdict"] == "unreachable"
    assert (run["silent_stale_reads"], run["lost_updates"]) == (0, 0)
    assert set(run["detected_losses_by_reason"]) <= {"unreachable"}
    assert run["pages_checked"] > 0


def test_no_server_at_the_target_is_status_3() -> None:
    """And the message says where it looked and what to do."""
    with racing("--target", "127.0.0.1:1", *SMALL, "--ops", "10", "--policy", "shared,no-bypass") as race:
        status, stdout = race.wait()
    assert status == 3
    assert "127.0.0.1:1" in stdout
    assert '"no-bypass"' not in "".join(race.said), "the other policies were not tried in vain"
    assert stdout.count("\n") == 1, "one sentence, and no table of zeros"


def test_a_host_that_dies_is_a_defect_and_no_verdict() -> None:
    """Status 70, not 0 to 3, and the other processes are stopped."""
    with racing(*LONG, "--policy", "shared") as race:
        server = race.wait_for("race begins")["own_server_pid"]
        race.wait_for("policy begins")
        hosts = [pid for pid in race.children() if pid != server]
        with watching(race.children()) as descriptors:
            os.kill(hosts[0], signal.SIGKILL)
            status, _ = race.wait()
            assert all_end(descriptors)
    assert status == 70
    assert "ended with status -9" in race.said[-1]
    again = "race --policy shared --hosts 2 --threads 4 --pages 64 --resident 16 --duration 600.0 --seed 1"
    assert set(again.split()) <= set(race.said[-1].split())


@pytest.mark.slow_race
async def test_two_races_of_one_name_do_not_mix(tmp_path: Path) -> None:
    """The newer one takes the areas; the older one is told, and reports no corruption."""
    async with own_server() as server:
        named = ["--target", server.target, "--policy", "shared", "--name", "ours"]
        with racing(*named, *LONG, "--json", str(tmp_path / "old.json")) as old:
            old.wait_for("policy begins")
            with racing(*named, *SMALL, "--ops", "500") as new:
                status, _ = new.wait()
                assert status == 0, new.said
            status, stdout = old.wait()
    assert status == 3, old.said
    (run,) = json.loads((tmp_path / "old.json").read_text())["runs"]
    assert (run["silent_stale_reads"], run["lost_updates"], run["detected_losses"]) == (0, 0, 0)
    assert "The tier refused, which says nothing about shared. It said: " in stdout


async def test_a_server_that_refuses_the_token_is_quoted_and_not_called_unreachable(tmp_path: Path) -> None:
    """Verdict "refused" and status 3: the server is there, and whoever has the wrong token learns it from the race."""
    tokens, wrong = write_tokens(tmp_path / "tokens", "alice"), tmp_path / "token"
    wrong.write_text(token_of("mallory"))
    async with own_server("--tokens", str(tokens)) as server:
        given = ["--target", server.target, *SMALL, "--ops", "10", "--policy", "shared,claim"]
        with racing(*given, "--token-file", str(wrong), "--json", str(tmp_path / "r.json")) as race:
            status, stdout = race.wait()
    assert status == 3, race.said
    assert "refused" in stdout and "unreachable" not in stdout
    assert "It said: the token is not one of this server's" in stdout
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert (run["verdict"], run["ended"]) == ("refused", "refused")


async def test_an_outage_that_is_waited_out_is_logged_and_reported() -> None:
    """Killed, it is gone; started again, it is back; and the report says how often hosts found it again."""
    async with own_server() as server:
        with racing("--target", server.target, *LONG, "--policy", "shared", "--give-up", "60") as race:
            race.wait_for("policy begins")
            os.kill(server.pid, signal.SIGKILL)
            assert race.wait_for("a tier is gone")["tier"] == server.target
            await server.kill_and_restart()
            race.wait_for("the tier is back")
            race.process.send_signal(signal.SIGINT)
            _, stdout = race.wait()
    assert "shared: hosts lost the connection to a tier and found it again" in stdout
