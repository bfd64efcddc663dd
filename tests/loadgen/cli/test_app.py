"""The command line: wrong usage is refused in one line with status 2, before anything is started."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.loadgen.command_line import Result, invoke

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.app import app
from swaptier_loadgen.explore.worlds import WORLDS


def race(*arguments: str) -> Result:
    return invoke("race", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "exclusiv"], ["'exclusiv'", "did you mean exclusive?", *POLICIES]),
        (["--policy", "shared,xyzzy"], ["'xyzzy'", "all"]),
        (["--policy", ","], ["names none"]),
        (["--policy", "shared,,claim"], ["--policy", "between two commas", "shared,,claim"]),
        (["--policy", "shared,"], ["--policy", "at an end"]),
        (["--policy", "shared,claim,shared"], ["--policy", "gives shared twice"]),
        (["--policy", "shared", "--policy", "shared"], ["--policy", "gives shared twice"]),
        (["--policy", "all,shared"], ["--policy", "gives all, and shared besides"]),
        (["--policy", ""], ["--policy", "got nothing"]),
        (["--era", ","], ["--era", "names none"]),
        (["--era", "6.8,,6.9"], ["--era"]),
        (["--install-failure", "moved=0.1,"], ["--install-failure", "no cause"]),
        (["--install-failure", ","], ["--install-failure", "no cause"]),
        (["--fault", ","], ["--fault", "no fault"]),
        (["--fault", ""], ["--fault", "got nothing"]),
        (["--target", "127.0.0.1:1,,127.0.0.1:2"], ["--target"]),
        (["--corpus", ""], ["--corpus", "got nothing"]),
        (["--json", ""], ["--json", "got nothing"]),
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


@pytest.mark.parametrize(
    ("command", "default"),
    [("explore", "all"), ("specification", "all"), ("budget", "shared,exclusive-if-swapcache")],
)
def test_the_help_says_which_policies_are_meant_without_the_flag(command: str, default: str) -> None:
    """As it would be given."""
    text = " ".join(invoke(command, "--help", variables={"COLUMNS": "200"}).stdout.replace("│", " ").split())
    assert f"[default: {default}]" in text


COMMANDS = ("race", "explore", "specification", "budget")


def flags_with_values(command: str) -> list[str]:
    """Return the flags of *command* that must be given something."""
    arguments = app[command].assemble_argument_collection()
    return [one.name for one in arguments if not one.children and one.hint is not bool and one.name.startswith("--")]


EMPTY = [(command, flag) for command in COMMANDS for flag in flags_with_values(command)]


@pytest.mark.parametrize(("command", "flag"), EMPTY)
def test_an_empty_value_is_refused_wherever_it_comes_from(command: str, flag: str) -> None:
    """A script whose variable is not set must not get the race that it did not ask for."""
    variable = f"SWAPTIER_LOADGEN_{command}_{flag.removeprefix('--')}".replace("-", "_").upper()
    for result, name in (
        (invoke(command, flag, ""), flag),
        (invoke(command, f"{flag}= "), flag),
        (invoke(command, variables={variable: ""}), variable),
    ):
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"swaptier-loadgen: {name}: expected ")
        assert result.stderr.endswith(" got nothing\n")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RACE_SEED", "x", "must be a whole number, not x"),
        ("RACE_WORKLOAD", "Random", "'Random' is not known (did you mean random?)"),
        ("RACE_POLICY", "clam", ": there is no 'clam' (did you mean claim?)"),
        ("RACE_ZEROMAP", "maybe", "must be true or false, not maybe"),
        ("EXPLORE_WORLD", "nowhere", ": there is no 'nowhere'"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(variable: str, value: str, says: str) -> None:
    """Who set it looks for it under that name."""
    name = f"SWAPTIER_LOADGEN_{variable}"
    result = invoke(variable.partition("_")[0].lower(), variables={name: value})
    assert result.exit_code == 2
    assert result.stderr.startswith(f"swaptier-loadgen: {name}{'' if says.startswith(':') else ' '}{says}")
    assert result.stderr.count("\n") == 1


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


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["race", "explore", "specification", "budget"])
def test_the_help_fits_the_terminal_and_breaks_no_name(command: str, columns: int) -> None:
    """No line is wider, every name stands whole in a line, and two examples end it."""
    text = invoke(command, "--help", variables={"COLUMNS": str(columns)}).stdout
    lines, examples = text.partition("Examples:")[0].splitlines(), text.partition("Examples:")[2]
    words = {word.strip(".,") for line in lines for word in line.split()}
    names = {"race": ["kill-server=every:5s", "--install-failure-rate"], "explore": list(WORLDS)}.get(command, [])
    assert {*POLICIES, *names} <= words
    assert [line.startswith(f"  swaptier-loadgen {command} ") for line in examples.strip("\n").splitlines()] == [
        True
    ] * 2
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_have_its_completion(shell: str) -> None:
    """The script is written to standard output, no file of the user's is touched, and it knows the flags."""
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "install-failure-rate" in result.stdout


def test_bash_completes_commands_flags_choices_and_policies(tmp_path: Path) -> None:
    """In a real bash, asked as its readline asks. A name of a list takes a start of the program, so there are three."""
    script = tmp_path / "completion"
    script.write_text(invoke("completion", "bash").stdout)
    cases = {
        "swaptier-loadgen exp": "explore",
        "swaptier-loadgen race --read-s": "--read-share",
        "swaptier-loadgen race --workload st": "stress-race",
        "swaptier-loadgen race --policy cl": "claim",
        "swaptier-loadgen race --policy exclusive\\,cl": "exclusive,claim",
        "swaptier-loadgen race --durability w": "write-through",
        "swaptier-loadgen explore --world double-fault,aborted": "double-fault,aborted-install",
    }
    ask = (
        'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; '
        '_swaptier_loadgen "$1" "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[*]}"'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line, completed in cases.items():
        bash = ["bash", "-c", ask, str(script), *line.split()]
        done = subprocess.run(bash, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path})
        assert done.stdout.strip().replace("\\", "") == completed, line  # a comma is quoted for the shell


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
    assert "SWAPTIER_LOADGEN_RACE_HOSTS must be 1 to 64, not 77" in invoke("race", variables=variables).stderr
    assert "--hosts must be 1 to 64, not 99" in invoke("race", "--hosts", "99", variables=variables).stderr
    assert "--json / is a folder" in invoke("race", "--hosts", "1", variables=variables).stderr
