"""The command line: wrong usage is refused in one line with status 2, before anything is started."""

import socket
from pathlib import Path

import pytest
from tests.loadgen.command_line import Result, invoke

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.worlds import WORLDS


def race(*arguments: str) -> Result:
    return invoke("race", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "exclusiv"], ["'exclusiv'", "did you mean exclusive?", *POLICIES]),
        (["--policy", "shared,xyzzy"], ["'xyzzy'", "all"]),
        (["--policy", " , "], ["names none"]),
        (["--corpus", "/does/not/exist"], ["/does/not/exist", "does not exist"]),
        (["--corpus", "/dev/zero"], ["/dev/zero"]),
        (["--pages", "96", "--resident", "96"], ["--resident 96", "nothing would ever be swapped"]),
        (["--resident", "3"], ["--resident 3", "17 or more"]),
        (["--pages", "1000000000000"], ["--pages", "1000000000000"]),
        (["--pages", "-1"], ["--pages", "-1"]),
        (["--hosts", "0"], ["--hosts", "0"]),
        (["--hosts", "65"], ["--hosts", "64"]),
        (["--processes", "5000"], ["--processes"]),
        (["--threads", "0"], ["--threads"]),
        (["--processes", "100", "--threads", "100"], ["10000"]),
        (["--ops", "0"], ["--ops"]),
        (["--duration", "-1"], ["--duration", "-1"]),
        (["--duration", "nan"], ["--duration", "nan"]),
        (["--ops", "5", "--duration", "1"], ["--ops", "--duration", "exclude"]),
        (["--install-failure-rate", "1"], ["--install-failure-rate", "below 1"]),
        (["--install-failure-rate", "nan"], ["--install-failure-rate", "nan"]),
        (["--preemption-rate", "1.5"], ["--preemption-rate", "1.5"]),
        (["--target", "nowhere"], ["--target", "'nowhere'", "HOST:PORT", "unix:PATH"]),
        (["--target", "http://tier:50051/"], ["--target", "leave http:// out, as in tier:50051"]),
        (["--metrics", "unix:/x"], ["--metrics", "HOST:PORT"]),
        (["--metrics", "127.0.0.1:99999"], ["--metrics"]),
        (["--json", "/does/not/exist/x.json"], ["--json /does/not/exist/x.json"]),
        (["--json", "/"], ["--json /", "folder"]),
        (["--name", ""], ["--name"]),
        (["--name", "x" * 65], ["--name"]),
    ],
)
def test_wrong_usage_is_refused_in_one_line_that_says_what_is_wrong(arguments: list[str], words: list[str]) -> None:
    """Status 2, nothing on standard output, one line on standard error."""
    result = race(*arguments)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("arguments", [["--pages", "many"], ["--no-such-flag"], ["--seed", "1.5"], ["stray"]])
def test_what_is_no_number_or_no_flag_is_refused(arguments: list[str]) -> None:
    """By the parser, also with status 2."""
    result = race(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_a_taken_metrics_port_is_refused() -> None:
    """Before any process is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = race("--metrics", f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 2
    assert "cannot be bound" in result.stderr


def test_a_result_file_is_not_touched_by_a_refused_race(tmp_path: Path) -> None:
    """A run that never began leaves the last result alone."""
    file = tmp_path / "result.json"
    file.write_text("the last result")
    assert race("--json", str(file), "--hosts", "0").exit_code == 2
    assert file.read_text() == "the last result"


def test_help_names_every_flag_and_every_status() -> None:
    """What a newcomer needs is there."""
    result = invoke("race", "--help", variables={"COLUMNS": "200"})
    assert result.exit_code == 0
    flags = (
        *("--policy", "--target", "--hosts", "--processes", "--threads", "--pages", "--resident", "--ops"),
        *("--duration", "--seed", "--install-failure-rate", "--corpus", "--json", "--metrics", "--name"),
    )
    for flag in flags:
        assert flag in result.stdout
    assert "Exit status" in result.stdout
    assert invoke("--version").stdout.startswith("swaptier-loadgen ")


def test_the_help_cuts_no_name_off_on_a_narrow_terminal() -> None:
    """At 80 columns names may go on in the next line, and none ends in an ellipsis."""
    long = (*POLICIES, "--install-failure-rate", "kill-server=every:5s")
    for command, names in (("race", long), ("explore", WORLDS)):
        result = invoke(command, "--help", variables={"COLUMNS": "80"})
        text = "".join(result.stdout.split())
        assert "…" not in text
        for name in names:
            assert name in text


def test_a_mistyped_variable_is_said_to_be_ignored_with_the_one_that_was_meant() -> None:
    """A race of another size than was asked for would look like the one that was."""
    variables = {"SWAPTIER_LOADGEN_RACE_HOST": "1", "SWAPTIER_POOL_LIMIT": "1", "SWAPTIER_LOADGEN_SEED": "2"}
    said = invoke("race", "--hosts", "99", variables=variables).stderr.splitlines()
    assert len(said) == 3, "the last is the refusal"
    assert "SWAPTIER_LOADGEN_RACE_HOST (did you mean SWAPTIER_LOADGEN_RACE_HOSTS?)" in said[0]
    assert "SWAPTIER_LOADGEN_SEED (did you mean SWAPTIER_LOADGEN_RACE_SEED?)" in said[1]


def test_a_variable_stands_for_a_flag_and_the_flag_wins() -> None:
    """For containers: the same refusal, wherever the value came from."""
    variables = {"SWAPTIER_LOADGEN_RACE_HOSTS": "77", "SWAPTIER_LOADGEN_RACE_JSON": "/"}
    assert "--hosts must be 1 to 64, not 77" in invoke("race", variables=variables).stderr
    assert "--hosts must be 1 to 64, not 99" in invoke("race", "--hosts", "99", variables=variables).stderr
    assert "--json / is a folder" in invoke("race", "--hosts", "1", variables=variables).stderr
