"""Races in which things go wrong on purpose, over real connections and with real server processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.loadgen.command_line import Result, invoke
from tests.server.pki import Authority, token_of, write_tokens

from swaptier_loadgen.race import server_process
from swaptier_loadgen.race import tiers as race_tiers
from swaptier_loadgen.race.server_process import own_server

SMALL = ["--hosts", "2", "--processes", "1", "--threads", "8", "--pages", "96", "--resident", "32", "--ops", "1000"]
ON_THE_WAY = "drop-reply=0.05,duplicate=0.05,reorder=0.05,delay=0.1:1ms..5ms"
WITHOUT_INSTALL_FAILURES = ["--install-failure-rate", "0"]


def race(tmp_path: Path, *arguments: str) -> tuple[Result, dict[str, Any]]:  # JSON
    """Run a small race; return how the command ended and its document."""
    file = tmp_path / "race.json"
    result = invoke("race", *SMALL, "--json", str(file), *arguments)
    return result, json.loads(file.read_text())


@pytest.mark.slow_race
def test_answers_that_get_lost_take_pages_from_exclusive_and_none_from_claim(tmp_path: Path) -> None:
    """Each page that is gone was taken by a hazard with a name, and the programs were told or read something else."""
    result, document = race(tmp_path, "--policy", "claim,exclusive", "--fault", ON_THE_WAY, *WITHOUT_INSTALL_FAILURES)
    assert result.exit_code == 0, result.output
    claim, exclusive = document["runs"]
    for run in (claim, exclusive):
        assert set(run["damage"]) == {"drop-reply", "duplicate", "reorder", "delay"}
        assert all(count > 0 for count in run["damage"].values())
    assert claim["verdict"] == "safe"
    assert claim["detected_losses"] == claim["silent_stale_reads"] == claim["lost_updates"] == 0
    assert sum(claim["lost_to"].values()) == 0
    assert exclusive["verdict"] in ("loses (as specified)", "corrupts (as specified)")
    assert exclusive["lost_to"]["reply_dropped"] > 0
    assert exclusive["lost_to"]["unexplained"] == 0
    wrong = exclusive["silent_stale_reads"] + exclusive["lost_updates"]
    assert sum(exclusive["lost_to"].values()) == exclusive["detected_losses"] + wrong
    assert "pages lost" in result.stdout
    assert "p x loads predicts" in result.stdout


@pytest.mark.slow_race
def test_a_server_that_is_killed_again_and_again_loses_no_page_of_claim_where_stores_are_written_through(
    tmp_path: Path,
) -> None:
    """The race starts it again, on a swap file of its own, which is gone afterwards; hosts wait and ask again."""
    file = tmp_path / "race.json"
    arguments = [*SMALL[:-2], "--duration", "4", "--policy", "claim", "--durability", "write-through"]
    faults = f"{ON_THE_WAY},disconnect=2/s,kill-server=every:1s"
    result = invoke("race", *arguments, "--json", str(file), "--fault", faults, variables={"TMPDIR": str(tmp_path)})
    assert result.exit_code == 0, result.output
    (run,) = json.loads(file.read_text())["runs"]
    assert run["damage"]["kill-server"] >= 2
    assert run["verdict"] == "safe" and run["tiers_are_durable"]
    assert run["detected_losses"] == run["silent_stale_reads"] == run["lost_updates"] == 0
    assert run["pages_checked"] > 96
    assert list(tmp_path.glob("swaptier-*")) == []


@pytest.mark.slow_race
def test_what_a_killed_server_had_in_memory_is_told_lost_and_nothing_is_read_instead(tmp_path: Path) -> None:
    """Under every policy: the host sees another epoch and requires its generations from then on."""
    arguments = ["--policy", "claim,shared", "--fault", "kill-server=every:1s", "--duration", "3"]
    file = tmp_path / "race.json"
    result = invoke("race", *SMALL[:-2], *arguments, "--json", str(file))
    assert result.exit_code == 0, result.output
    for run in json.loads(file.read_text())["runs"]:
        assert run["verdict"] == "tells (none silent)" and not run["tiers_are_durable"]
        assert set(run["detected_losses_by_reason"]) == {"epoch"}
        assert run["lost_to"]["server_restarted"] == run["detected_losses"] > 0
        assert run["silent_stale_reads"] == run["lost_updates"] == 0


@pytest.mark.slow_race
def test_a_policy_that_asks_for_its_generation_is_told_what_it_would_have_read_wrong(tmp_path: Path) -> None:
    """The seed's bug, made loud: the same installs fail, and no page comes back as anything else."""
    arguments = ["--policy", "exclusive", "--install-failure-rate", "0.05"]
    _, silent = race(tmp_path, *arguments)
    _, told = race(tmp_path, *arguments, "--require-generation")
    assert silent["runs"][0]["silent_stale_reads"] > 0
    assert told["runs"][0]["silent_stale_reads"] == told["runs"][0]["lost_updates"] == 0
    assert told["runs"][0]["detected_losses"] > 0
    assert told["runs"][0]["verdict"] == "loses (as specified)"
    assert told["runs"][0]["lost_to"]["install_failed"] == told["runs"][0]["detected_losses"]


@pytest.mark.slow_race
def test_several_servers_are_each_killed_and_each_has_a_swap_file(tmp_path: Path) -> None:
    """Named once: the second gets a name of its own beside it."""
    device = tmp_path / "pages"
    arguments = ["--policy", "claim", "--servers", "2", "--durability", "write-through", "--device", f"sqlite:{device}"]
    file = tmp_path / "race.json"
    faults = ["--fault", "kill-server=every:1s,drop-reply=0.02", "--duration", "3", "--hosts", "1"]
    result = invoke("race", *SMALL[:-2], *arguments, *faults, "--json", str(file))
    assert result.exit_code == 0, result.output
    (run,) = json.loads(file.read_text())["runs"]
    assert run["verdict"] == "safe"
    assert run["damage"]["kill-server"] >= 4
    assert device.exists()
    assert Path(f"{device}.1").exists()


def test_a_server_that_cannot_be_started_again_ends_the_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 3, with what the server said; nothing is left behind."""

    async def kill_only(server: server_process.OwnServer) -> None:
        os.kill(server.pid, signal.SIGKILL)
        raise server_process.ServerNotStarted("our own server did not come back")

    monkeypatch.setattr(server_process.OwnServer, "kill_and_restart", kill_only)
    monkeypatch.setattr(race_tiers, "OwnServer", server_process.OwnServer)
    result = invoke("race", *SMALL[:-2], "--policy", "claim", "--duration", "60", "--fault", "kill-server=every:1s")
    assert result.exit_code == 3, result.output
    assert "did not come back" in result.stderr


@pytest.mark.slow_race
async def test_a_race_shows_a_secured_tier_who_it_is(tmp_path: Path) -> None:
    """TLS, a client certificate and a token, straight and over a faulty link."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("server", "127.0.0.1")
    own_cert, own_key = authority.issue("host", "host.example")
    tokens = write_tokens(tmp_path / "tokens", "alice")
    token = tmp_path / "token"
    token.write_text(token_of("alice"))
    server = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority.path)]
    async with own_server(*server, "--tokens", str(tokens)) as tier:
        target = ["--target", tier.target, "--tls-ca", str(authority.path)]
        target += ["--tls-cert", str(own_cert), "--tls-key", str(own_key), "--token-file", str(token)]
        program = [sys.executable, "-m", "swaptier_loadgen", "race", *SMALL, "--hosts", "1", "--ops", "300"]
        for faults in ([], ["--fault", "drop-reply=0.05"]):
            command = [*program, *target, "--policy", "claim", *faults]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: ASYNC221 - the server is another process
            assert done.returncode == 0, done.stderr
            assert "Not one page came back wrong under claim" in done.stdout
        token.write_text(token_of("mallory"))
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: ASYNC221 - as above
        assert done.returncode == 3, done.stdout
        assert "token" in done.stdout
        assert token_of("mallory") not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fault", "drop-reply=2"], ["--fault", "drop-reply=2", "at most 0.5"]),
        (["--fault", "drop-replies=0.1"], ["--fault", "did you mean drop-reply?"]),
        (["--target", "127.0.0.1:1", "--fault", "kill-server=every:5s"], ["kill-server", "--target"]),
        (["--target", "127.0.0.1:1", "--durability", "write-through"], ["--durability", "--target"]),
        (["--target", "127.0.0.1:1", "--pool-limit", "1MiB"], ["--pool-limit", "--target"]),
        (["--pool-limit", "many"], ["--pool-limit", "many"]),
        (["--durability", "sometimes"], ["--durability", "sometimes"]),
        (["--device", "tape"], ["--device", "tape"]),
        (["--device", "memory", "--durability", "write-through"], ["--durability", "--device"]),
        (["--zswap-max", "-1"], ["--zswap-max", "not -1", "as in 64MiB"]),
        (["--zswap-max", "64Mi"], ["--zswap-max", "not 64Mi", "as in 64MiB"]),
        (["--zswap-max", "99TiB"], ["--zswap-max must be 0 to"]),
        (["--no-zswap-writeback", "--durability", "write-through"], ["--no-zswap-writeback", "--durability"]),
        (["--give-up", "-1"], ["--give-up", "not -1"]),
        (["--give-up", "0", "--fault", "drop-reply=0.1"], ["--give-up 0"]),
        (["--tls-ca", "/does/not/exist"], ["--tls-ca", "--target"]),
        (["--target", "127.0.0.1:1", "--tls-ca", "/does/not/exist"], ["--tls-ca", "/does/not/exist"]),
        (["--target", "127.0.0.1:1", "--tls-cert", "c"], ["--tls-cert", "--tls-key"]),
        (["--target", "tier.example:1", "--token-file", "Makefile"], ["--token-file"]),
    ],
)
def test_faults_and_flags_that_do_not_fit_are_refused_in_one_line(arguments: list[str], words: list[str]) -> None:
    """Status 2, nothing is started."""
    result = invoke("race", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
