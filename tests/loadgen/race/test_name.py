"""Two load generators on one tier: neither ends the other, and the next cleans up after one that was killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swaptier_loadgen.race import name as names
from swaptier_loadgen.race.name import claim_name
from swaptier_loadgen.race.server_process import own_server

PATIENCE_SECONDS = 60
"""Only a failing test waits so long."""

RACE = [sys.executable, "-m", "swaptier_loadgen", "race", "--policy", "exclusive-if-swapcache", "--hosts", "1"]
SMALL = ["--pages", "64", "--resident", "32", "--seed", "7"]

HOLD = "from swaptier_loadgen.race.name import claim_name as c; import sys; from pathlib import Path; "
CLONE = """
import sys
from pathlib import Path
from swaptier_loadgen.race import name
locks, *name.MACHINE_FILES = map(Path, sys.argv[1:])
print(name.claim_name(locks))
"""


def start_race(target: str, folder: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*RACE, *SMALL, "--target", target, *flags],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def began_as(race: "subprocess.Popen[str]", event: str = "policy begins") -> str:
    """Return the name of *race* once its hosts have their areas."""
    assert race.stderr is not None
    name = ""
    for line in race.stderr:
        said = json.loads(line)
        name = said.get("name", name)
        if said["event"] == event:
            return name
    pytest.fail("the race ended before it began")


def raced(target: str, folder: Path, *flags: str) -> tuple[int, dict[str, object], str]:
    """Return status, JSON and output of a race that runs to its end."""
    file = folder / "result.json"
    race = start_race(target, folder, "--ops", "300", "--json", str(file), *flags)
    out, err = race.communicate(timeout=PATIENCE_SECONDS)
    return race.returncode, json.loads(file.read_text()) if file.exists() else {}, out + err


async def test_a_second_race_on_a_tier_leaves_the_first_alone(tmp_path: Path) -> None:
    """Each has a name of its own, which its JSON says and the command that repeats it does not."""
    async with own_server() as server:
        first = start_race(server.target, tmp_path, "--duration", "30")
        name = began_as(first)
        status, document, said = raced(server.target, tmp_path)
        assert status == 0, said
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=PATIENCE_SECONDS)
    workload = document["workload"]
    assert isinstance(workload, dict)
    assert name != workload["name"]
    assert {name[:5], workload["name"][:5]} == {"race-"}
    assert "refused" not in out


async def test_a_race_of_the_same_name_ends_the_first_which_says_what_to_do(tmp_path: Path) -> None:
    """Status 3, the name, and the flag."""
    async with own_server() as server:
        first = start_race(server.target, tmp_path, "--duration", "30", "--name", "mine")
        began_as(first)
        assert raced(server.target, tmp_path, "--name", "mine")[0] == 0
        out, _ = first.communicate(timeout=PATIENCE_SECONDS)
        assert first.returncode == 3
    assert "Another load generator runs as --name mine, like this one: give each a --name of its own" in out


async def test_what_a_killed_race_left_is_taken_over_by_the_next(tmp_path: Path) -> None:
    """It gets the same name, so that killed ones do not fill a tier with areas."""
    async with own_server("--areas-max", "1") as server:
        first = start_race(server.target, tmp_path, "--duration", "30")
        name = began_as(first)
        first.kill()
        first.communicate(timeout=PATIENCE_SECONDS)
        status, document, said = raced(server.target, tmp_path)
    assert status == 0, said
    workload = document["workload"]
    assert isinstance(workload, dict) and workload["name"] == name


def test_a_name_is_nobody_elses_while_its_process_lives(tmp_path: Path) -> None:
    """And the next one's afterwards; names of another folder, as of a container, differ."""
    code = f"{HOLD}print(c(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "locks")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = holder.stdout.readline().strip()
        mine = claim_name(tmp_path / "locks")
        holder.kill()
        holder.communicate()
    assert mine != held
    assert claim_name(tmp_path / "locks") == held
    assert claim_name(tmp_path / "others") not in (mine, held)


def test_two_clones_of_one_machine_have_different_names(tmp_path: Path) -> None:
    """They have one host name, one disk and one machine-id, but not one start; and none of these files is needed."""
    machine, boot = tmp_path / "machine-id", tmp_path / "boot_id"
    command = [sys.executable, "-c", CLONE, str(tmp_path / "locks"), str(machine), str(boot)]

    def named() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    without = named()
    machine.write_text("one\n")
    boot.write_text("first\n")
    before = named()
    assert named() == before
    boot.write_text("second\n")
    assert len({without, before, named()}) == 3


def test_where_no_lock_can_be_had_a_name_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is a file, one of another user, and when all names are held."""
    file = tmp_path / "file"
    file.touch()
    drawn = {claim_name(file), claim_name(file)}
    monkeypatch.setattr(names, "NAMES_MAX", 0)
    drawn |= {claim_name(tmp_path / "locks"), claim_name(tmp_path / "locks")}
    assert len(drawn) == 4
