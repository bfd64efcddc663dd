"""`swaptier-loadgen explore`: its words, its JSON, its statuses, and a counterexample over real gRPC."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from tests.loadgen.command_line import invoke

from swaptier_client.connection import GIVE_UP_SECONDS
from swaptier_loadgen.explore.cell import Question, ask
from swaptier_loadgen.explore.expectation import LOSES
from swaptier_loadgen.explore.replay import NotReplayable, read_results, replay_results
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.race.server_process import own_server

RESULT_FIELDS = {"world", "policy", "threads", "exhaustive", "bound", "states", "schedules", "seconds"}
FINDING_FIELDS = {"violations", "kind", "steps", "trace"}


def explore(*arguments: str) -> tuple[int, str]:
    done = invoke("explore", *arguments)
    return done.exit_code, done.output


def test_a_loss_is_printed_as_a_table_with_its_lines_and_the_command_that_repeats_it() -> None:
    """A policy that loses as specified is no failure: status 0."""
    status, output = explore("--world", "aborted-install", "--policy", "exclusive")
    assert status == 0
    for part in (
        "CPU0 (read 0)",
        "| tier",
        "swap_in()  fault.py:",
        "the install fails: lock_contended",
        "lost    v1 is nowhere",
        "repeat  swaptier-loadgen explore --world aborted-install --policy exclusive",
    ):
        assert part in output


def test_a_clean_search_names_the_bounds_it_is_clean_within() -> None:
    """Never "proved"; with a bound, not even "none"."""
    status, output = explore("--world", "aborted-install", "--policy", "shared")
    assert status == 0 and "none, exhaustively, within: threads 2" in output
    status, output = explore("--world", "aborted-install", "--policy", "shared", "--preemptions", "0")
    assert status == 7 and "cut off by: preemptions" in output and "none, exhaustively" not in output


def test_a_search_in_which_processes_are_told_of_a_loss_says_so_and_how_often_the_server_dies() -> None:
    """Nothing lost would be another answer; and a server that dies twice is a larger question than one death."""
    status, output = explore("--world", "server-killed", "--policy", "shared")
    assert status == 0 and "none, exhaustively" not in output
    assert "in some schedules a process is told that its page is gone; none is given other bytes, exhaust" in output
    assert "lost replies 0, server deaths 2" in output


def test_the_json_has_the_fields_of_the_contract(tmp_path: Path) -> None:
    """One result a cell, a trace for each that loses."""
    file = tmp_path / "result.json"
    status, _ = explore("--world", "lost-reply", "--policy", "exclusive", "--json", str(file))
    (result,) = json.loads(file.read_text())["results"]
    assert status == 0
    assert set(result) >= RESULT_FIELDS | FINDING_FIELDS
    assert (result["violations"], result["kind"], result["steps"]) == (1, "lost page", len(result["trace"]))
    assert {"cpu", "step", "where"} <= set(result["trace"][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--world", "nowhere"), "there is no 'nowhere'"),
        (("--policy", "hope"), "there is no 'hope'"),
        (("--policy", "exclusiv"), "did you mean exclusive?"),
        (("--world", "slot-reus"), "did you mean slot-reuse?"),
        (("--threads", "0"), "--threads must be 1 to 16, not 0"),
        (("--replay", "result.json"), "--replay needs --target"),
        (("--target", "127.0.0.1:1"), "--target is where --replay goes"),
        (("--json", "/no/such/folder/file"), "cannot be written"),
        (("--json", "/"), "is a folder"),
        (("--seconds", "0"), "--seconds must be above 0, not 0"),
        (("--seconds", "nan"), "--seconds must be a number, not nan"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    """Nothing is searched."""
    status, output = explore(*arguments)
    assert status == 2 and words in output


def test_golden_writes_what_changed_and_then_nothing(tmp_path: Path) -> None:
    """Status 1 says that a transcript changed: look at the difference."""
    arguments = ("--golden", "--golden-folder", str(tmp_path), "--world", "aborted-install", "--policy", "exclusive")
    assert explore(*arguments)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["exclusive.aborted-install.txt"]
    assert explore(*arguments)[0] == 0


ONLY_IN_PROCESS_HERE = ("early-lookup", "server-restart")
REPLAYED_WORLDS = (
    *("double-fault", "aborted-install", "slot-reuse", "lost-reply", "retried-load", "readahead-race"),
    *ONLY_IN_PROCESS_HERE,
)
"""In which some policy loses a page."""


async def test_a_counterexample_does_the_same_in_a_real_server_over_grpc(tmp_path: Path) -> None:
    """The order is forced, every reply is the server's, and the oracle finds the same violation at the same step."""
    file = tmp_path / "result.json"
    lost = [
        ask(Question(policy, world, WORLDS[world].bounds), now=time.monotonic).as_json()
        for world in REPLAYED_WORLDS
        for policy in ("exclusive-unpinned", "exclusive", "shared-unpinned", "no-bypass")
        if policy in LOSES[world]
    ]
    file.write_text(json.dumps({"results": lost}))
    async with own_server() as server:
        replayed = await asyncio.to_thread(lambda: list(replay_results(read_results(file), server.target)))
    lines = [line for line, _ in replayed]
    assert all(is_same for _, is_same in replayed), lines
    assert len(lines) == len(lost)
    assert any("page 0 reads as zeros, and it was v1" in line for line in lines)
    only_in_process = [line for line in lines if "not replayed, because no request can make a server do" in line]
    assert {line.partition(":")[0].rpartition(" ")[2] for line in only_in_process} == set(ONLY_IN_PROCESS_HERE)


def test_a_file_without_a_counterexample_is_refused(tmp_path: Path) -> None:
    """So is one that is not a result."""
    file = tmp_path / "result.json"
    explore("--world", "double-fault", "--policy", "shared", "--json", str(file))
    with pytest.raises(NotReplayable, match="no counterexample"):
        read_results(file)
    file.write_text("{}")
    with pytest.raises(NotReplayable, match="not a result"):
        read_results(file)


TRACE = '[{"task": 9, "choices": []}]'
RESULT = '{"policy": "shared", "world": "%s", "bounds": {"%s": %d}, "kind": "lost page", "trace": %s}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not a result"),
        ("no JSON", "is not a result"),
        ("[" * 100_000, "is not a result"),
        ('{"results": [{"trace": [1', "is not a result"),
        (f'{{"results": [{RESULT % ("nowhere", "threads", 2, TRACE)}]}}', "is not a result"),
        (f'{{"results": [{RESULT % ("lost-reply", "hosts", 2, TRACE)}]}}', "is not a result"),
        (f'{{"results": [{RESULT % ("lost-reply", "threads", 10**9, TRACE)}]}}', "is not a result"),
        (f'{{"results": [{RESULT % ("lost-reply", "threads", 2, TRACE)}]}}', "no step 1 of shared in lost-reply"),
    ],
)
def test_a_file_that_is_no_result_is_refused_in_one_line_that_blames_it(
    content: str, words: str, tmp_path: Path
) -> None:
    """Status 2 before a tier is asked, whatever the file holds; never a traceback."""
    file = tmp_path / "result.json"
    file.write_text(content)
    status, output = explore("--replay", str(file), "--target", "unix:/does/not/exist")
    assert status == 2, output
    assert words in output.splitlines()[-1] and str(file) in output


@pytest.mark.parametrize("path", ["/", "/dev/zero", "/dev/null", "/does/not/exist"])
def test_what_is_no_file_is_refused_for_a_replay(path: str) -> None:
    """Nothing is read that never ends."""
    status, output = explore("--replay", path, "--target", "127.0.0.1:1")
    assert (status, output.count("\n")) == (2, 1)
    assert path in output


def test_a_replay_without_a_tier_is_status_3_at_once(tmp_path: Path) -> None:
    """As for a race: who was asked, that nobody answers there, and no half a minute of waiting for somebody to come."""
    file = tmp_path / "result.json"
    explore("--world", "lost-reply", "--policy", "exclusive", "--json", str(file))
    began = time.monotonic()
    status, output = explore("--replay", str(file), "--target", "unix:/does/not/exist")
    assert status == 3
    asks, answer = output.splitlines()
    assert asks == "swaptier-loadgen: replaying against the tier at unix:/does/not/exist"
    assert "no swap tier answers at unix:/does/not/exist" in answer
    assert time.monotonic() - began < GIVE_UP_SECONDS / 2, "it waited for somebody to come"
