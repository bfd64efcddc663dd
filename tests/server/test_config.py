"""The configuration: flags before variables before defaults, and refusals that name where the mistake is."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.configuration import load_config

from swaptier_server.cli import main, unknown_variables
from swaptier_server.config import ServerConfig, flag, variable
from swaptier_server.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's shell takes part."""
    for name in ServerConfig.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(arguments)
    return str(caught.value)


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags > SWAPTIER_* > defaults."""
    assert load_config([]).pool_limit == 64 << 20
    monkeypatch.setenv("SWAPTIER_POOL_LIMIT", "2MiB")
    assert load_config([]).pool_limit == 2 << 20
    assert load_config(["--pool-limit", "3MiB"]).pool_limit == 3 << 20


def test_the_defaults_are_those_that_the_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """--help names every flag with its default, in the units that one would write."""
    text = help_text(capsys)
    for name in ServerConfig.model_fields:
        assert flag(name) in text
    assert "[default: 64MiB]" in text
    assert "[default: 127.0.0.1:50051]" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["hash-token"], "NAME is missing; see swaptier-server hash-token --help"),
        (["hash-token", ""], "NAME: expected a value, got nothing"),
        (["healthcheck", ""], "ADDRESS: expected a value, got nothing"),
        (["healthcheck", "tier"], "healthcheck: expected HOST:PORT"),
        (["backup", "", "copy"], "FILE: expected the name of a file, got nothing"),
        (["backup", "from", "to", "more"], "'more' belongs to no flag; see swaptier-server backup --help"),
        (["completion", "zs"], "SHELL 'zs' is not known (did you mean zsh?). Choose from: bash, zsh, fish"),
        (["hash-tokn"], "there is no command 'hash-tokn' (did you mean hash-token?); see swaptier-server --help"),
    ],
)
def test_a_word_of_a_command_is_refused_in_one_line_too(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the program's name before it, and not in the words of a library."""
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"swaptier-server: {named}")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    "field", [name for name, kind in ServerConfig.model_fields.items() if kind.annotation is not bool]
)
def test_an_empty_value_is_refused_wherever_it_comes_from(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script whose variable is not set must not get a server with a default that it did not ask for."""
    assert refusal(flag(field), "").startswith(f"{flag(field)}: expected ")
    assert refusal(f"{flag(field)}= ").endswith("got nothing")
    monkeypatch.setenv(variable(field), "")
    assert refusal().startswith(f"{variable(field)}: expected ")


@pytest.mark.parametrize(
    "command", ["serve", "check-config", "hash-token", "healthcheck", "backup", "check-file", "completion", "version"]
)
def test_the_help_of_a_command_ends_with_its_statuses_and_its_own_examples(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The examples are the last lines, whole on a terminal of 60 columns; prose fills the lines."""
    monkeypatch.setenv("COLUMNS", "60")
    assert main([command, "--help"]) == 0
    prose, _, examples = capsys.readouterr().out.partition("Examples:\n\n")
    assert "Exit status: 0 " in prose
    assert "5 what was asked for could not be written" in " ".join(prose.split())
    assert "----------" not in prose
    assert examples
    assert all(f"swaptier-server {command}" in line for line in examples.splitlines())


@pytest.mark.parametrize("width", [50, 80, 132])
def test_the_help_fits_the_terminal_and_breaks_no_name(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grouped, no line longer than the terminal is wide, every name whole, two examples at the end."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_text(capsys).splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert {flag(name) for name in ServerConfig.model_fields} <= words
    assert "--no-keep-incompressible" in words
    for group in ("Listening", "Pool and device", "Who may call", "Limits"):
        assert any(line.startswith(f"╭─ {group} ─") for line in lines)
    assert sum(line.startswith("  swaptier-server ") for line in lines[lines.index("Examples:") :]) == 2


def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("how", ["version", "--version"])
def test_version_is_one_line(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Program and version."""
    assert main([how]) == 0
    assert capsys.readouterr().out.startswith("swaptier-server ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_has_read_the_completion_completes(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the shell is installed, it accepts the script; bash also completes flags, values and commands."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)
    if shell == "bash":
        for words, completed in (
            ("check-c", "check-config"),
            ("--pool", "--pool-limit"),
            ("serve --dur", "--durability"),
        ):
            typed = f"swaptier-server {words}".split()
            ask = (
                f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; _swaptier_server; "
                'printf "%s\\n" "${COMPREPLY[@]}"'
            )
            told = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
            assert told.stdout.split() == [completed]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tokens", "t", "--metrics-token", "m"],
        ["--tokens", "t", "--metrics-tls-cert", "c", "--metrics-tls-key", "k", "--metrics-tls-client-ca", "a"],
        ["--tokens", "t", "--insecure"],
    ],
    ids=["nobody is known", "a token", "certificates", "a private network"],
)
def test_metrics_may_be_asked_for_from_other_machines_by_whom_they_are_for(arguments: list[str]) -> None:
    """Without tokens and TLS there are no tenants to be named."""
    assert load_config(["--metrics", "0.0.0.0:9464", *arguments]).metrics == "0.0.0.0:9464"


@pytest.mark.parametrize("text", ["64MiB", "1GB", "1536MiB", "100", "0", "16TiB", "1000001"])
def test_a_size_is_shown_exactly(text: str) -> None:
    """As it can be given again."""
    assert str(load_config(["--pool-limit", text]).pool_limit) == text


@pytest.mark.parametrize(("text", "size"), [("65536", 65536), ("64KiB", 65536), ("1.5MiB", 1572864), ("0", 0)])
def test_sizes_take_units(text: str, size: int) -> None:
    """Sizes are bytes, with or without a unit."""
    assert load_config(["--pool-limit", text]).pool_limit == size


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--pool-limit", "64MiBs"], "--pool-limit must be bytes"),
        (["--pool-limit=-5"], "--pool-limit must be bytes, 0 or more, or a size as in 64MiB"),
        (["--pool-limit", "64Mi"], "as in 64MiB, 1.5GiB or 64MB, not 64Mi"),
        (["--pool-limit=999999TiB"], "--pool-limit must be 0 to 16TiB, not 999999TiB"),
        (["--accept-threshold-percent", "101"], "--accept-threshold-percent must be 1 to 100, not 101"),
        (["--areas-max", "0"], "--areas-max must be 1 to 1024, not 0"),
        (["--areas-max", "1.5"], "--areas-max must be a whole number, not 1.5"),
        (["--lease-seconds", "x"], "--lease-seconds must be a number, not x"),
        (["--area-idle-seconds", "nan"], "--area-idle-seconds must be a number, not nan"),
        (["--drain-seconds", "-1"], "--drain-seconds must be 0 to 604800, not -1"),
        (
            ["--log-format", "jsn"],
            "--log-format 'jsn' is not known (did you mean json?). Choose from: auto, json, console",
        ),
        (["--log-level", "INFO"], "(did you mean info?)"),
        (["--durability", "writethrough"], "(did you mean write-through?)"),
        (["--listen", "50051"], "--listen: "),
        (["--listen", "localhost:99999"], "--listen: "),
        (["--listen", "::1:50051"], "[::1]:50051"),
        (["--listen="], "--listen: "),
        (["--listen", "unix:"], "--listen: "),
        (["--listen", f"unix:/{'x' * 107}"], "--listen: "),
        (["--metrics", "unix:/run/m"], "--metrics: "),
        (["--metrics", "none"], "off serves no metrics"),
        (["--device-limit", "100"], "--device-limit must be 0, which is no page, or at least a page, 4096"),
        (["--metrics-tls-cert", "c"], "--metrics-tls-cert needs --metrics-tls-key"),
        (["--metrics-tls-client-ca", "a"], "--metrics-tls-client-ca needs --metrics-tls-cert and --metrics-tls-key"),
        (["--metrics", "off", "--metrics-token", "t"], "--metrics-token needs --metrics"),
        (["--metrics", "0.0.0.0:1", "--tokens", "t"], "--metrics 0.0.0.0:1 can be reached from other machines"),
        (["--metrics", "[::]:1", "--tls-cert", "c", "--tls-key", "k"], "give --metrics-token, or --metrics-tls-cert"),
        (
            [*("--metrics", "host:1", "--tokens", "t"), *("--metrics-tls-cert", "c", "--metrics-tls-key", "k")],
            "names the tenants and areas of this server to anyone there",
        ),
        (["--tokens="], "--tokens: expected the name of a file"),
        (["--tls-cert", "c"], "--tls-cert needs --tls-key"),
        (["--tls-key", "k"], "--tls-key needs --tls-cert"),
        (["--tls-client-ca", "a"], "--tls-client-ca needs --tls-cert and --tls-key"),
        (["--durability", "write-through"], "--durability write-through needs --device sqlite:PATH"),
        (["--survive-power-loss"], "--survive-power-loss needs --device sqlite:PATH"),
        (["--device", "disk"], "--device: expected memory or sqlite:PATH"),
        (["--device", "swap.db"], "did you mean sqlite:swap.db?"),
        (["--check-config"], "did you mean check-config?"),
        (["--tenant-areas-max", "2"], "--tenant-areas-max needs --tokens or --tls-client-ca"),
        (["--tokens", "t", "--tenant-streams-max", "0"], "--tenant-streams-max must be "),
        (["--batch-slots-max", "257"], "--batch-slots-max must be "),
        (["--listen"], "--listen needs a value; see swaptier-server serve --help"),
        (["stray"], "'stray' belongs to no flag; see swaptier-server serve --help"),
        (["--keep-incompressible=maybe"], "--keep-incompressible must be true or false, not maybe"),
        (["--pool-limt", "6"], "did you mean --pool-limit?"),
        (["--pool", "6"], "there is no flag --pool"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_the_flag(arguments: list[str], named: str) -> None:
    """Whatever is wrong, the refusal is one line and says where."""
    text = refusal(*arguments)
    assert named in text
    assert "\n" not in text


PAIR = ["--tls-cert", "c", "--tls-key", "k"]


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:50051", "tier.example:50051"])
@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "give --tls-cert with --tls-key and --tokens or --tls-client-ca, or listen"),
        (PAIR, "give --tokens or --tls-client-ca, or listen"),
        (["--tokens", "t"], "give --tls-cert with --tls-key, or listen"),
        ([*PAIR, "--tokens", "t"], None),
        ([*PAIR, "--tls-client-ca", "a"], None),
        (["--insecure"], None),
    ],
)
def test_beyond_this_machine_it_is_encrypted_and_asks_who_calls_or_says_insecure(
    listen: str, arguments: list[str], missing: str | None
) -> None:
    """Pages are memory of other programs: the refusal says why, what is missing, and what else there is."""
    if missing is None:
        assert load_config(["--listen", listen, *arguments]).listen == listen
        return
    text = refusal("--listen", listen, *arguments)
    assert text.startswith(f"--listen {listen} can be reached from other machines")
    assert missing in text
    assert "or say --insecure" in text
    assert "\n" not in text


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/tier"])
def test_on_this_machine_nothing_is_asked_for(listen: str) -> None:
    """Plain text and nobody in particular, as a host's own tier needs it."""
    assert not load_config(["--listen", listen]).knows_tenants


def test_a_mistake_in_a_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value is blamed on where it came from."""
    monkeypatch.setenv("SWAPTIER_POOL_LIMIT", "lots")
    assert refusal().startswith("SWAPTIER_POOL_LIMIT must be ")
    assert refusal("--pool-limit", "many").startswith("--pool-limit must be ")


def test_a_file_that_a_variable_names_is_refused_by_that_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As a value is."""
    monkeypatch.setenv("SWAPTIER_TOKENS", str(tmp_path / "absent"))
    for arguments, name in (([], "SWAPTIER_TOKENS"), (["--tokens", str(tmp_path / "none")], "--tokens")):
        monkeypatch.setattr(sys, "argv", ["swaptier-server", "check-config", *arguments])
        assert main() == 2
        assert capsys.readouterr().err.startswith(f"swaptier-server: {name}: cannot read ")


def test_a_mistyped_variable_is_reported_with_the_one_that_was_meant() -> None:
    """Other programs share the prefix, so it is a warning and not a refusal."""
    environ = {"SWAPTIER_POOL_LIMT": "1", "SWAPTIER_LISTEN": "x", "PATH": "y", "SWAPTIER_LOADGEN_RACE_METRICS": "z"}
    assert unknown_variables(environ) == ["SWAPTIER_POOL_LIMT (did you mean SWAPTIER_POOL_LIMIT?)"]


def test_a_boolean_has_a_flag_for_each_answer() -> None:
    """--keep-incompressible and --no-keep-incompressible."""
    assert load_config(["--keep-incompressible"]).keep_incompressible
    assert not load_config(["--no-keep-incompressible"]).keep_incompressible


def test_of_a_flag_that_is_given_twice_the_last_counts() -> None:
    """A script can add to a command that it does not know."""
    assert load_config(["--areas-max", "2", "--areas-max", "3", "--insecure", "--no-insecure"]).areas_max == 3
