"""The command that repeats a race: it holds what was given, and means the same when it is run."""

import shlex

import pytest

from swaptier_loadgen.cli.app import app
from swaptier_loadgen.cli.repeat import repeat_command
from swaptier_loadgen.race.settings import RaceSettings


def parse(*arguments: str) -> RaceSettings:
    """Return what the command line's parser makes of a race with *arguments*; nothing is run."""
    _, bound, _ = app.parse_args(["race", *arguments])
    settings = bound.arguments.get("settings", RaceSettings())
    assert isinstance(settings, RaceSettings)
    return settings


def test_the_command_asks_for_the_very_race_that_it_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, variables, switches both ways, lists and values with spaces; the results of the first run stay alone."""
    monkeypatch.setenv("SWAPTIER_LOADGEN_RACE_NAME", "a name")
    monkeypatch.setenv("SWAPTIER_LOADGEN_RACE_WORKLOAD", "forks")
    switches = ["--no-zswap-writeback", "--swapoff", "--policy", "shared,claim", "--zswap-max", "2MiB"]
    causes = ["--install-failure", "moved=0.1", "--install-failure", "zapped=0.2"]
    first = parse(*switches, *causes, "--fault", "delay=2ms..20ms", "--json", "result.json", "--metrics", "127.0.0.1:0")
    command = repeat_command(first)
    monkeypatch.undo()
    program, name, *words = shlex.split(command)
    assert (program, name) == ("swaptier-loadgen", "race")
    assert not {"--json", "--metrics", "--hosts"} & set(words)
    again = parse(*words)
    assert again == first
    assert again.name == "a name"
    assert shlex.split(repeat_command(again))[2:] == words


def test_the_seed_stands_in_the_command_although_nobody_gave_it() -> None:
    """A default may be another one in the next version."""
    assert repeat_command(parse()) == "swaptier-loadgen race --seed 1"


def test_a_value_that_looks_like_a_flag_stays_a_value() -> None:
    """It is joined to its flag."""
    assert parse(*shlex.split(repeat_command(parse("--name=-x")))[2:]).name == "-x"
