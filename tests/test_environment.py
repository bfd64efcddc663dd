"""What the environment says does not change how any of our programs calls a tier: a proxy that listens sees no call."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.server.pki import Authority

from swaptier_client.channel import connect
from swaptier_client.security import Security
from swaptier_loadgen.race.child_process import environment
from swaptier_loadgen.race.server_process import own_server
from swaptier_wire.environment import withdraw_grpc_variables

PATIENCE_SECONDS = 60
"""Only a failing test waits so long."""

RACE = ("race", "--policy", "exclusive-if-swapcache", "--hosts", "1", "--pages=64", "--resident=32", "--ops=200")

Proxy = tuple[socket.socket, dict[str, str]]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A port that listens, and an environment that names it as a proxy in every way that gRPC knows."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
        variables = {spelled: f"http://{address}" for name in names for spelled in (name, name.upper())}
        variables |= {"no_proxy": "example.org", "NO_PROXY": "example.org", "GRPC_ADDRESS_HTTP_PROXY": address}
        yield listening, {**variables, "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "127.0.0.0/8"}


def saw_nothing(listening: socket.socket) -> bool:
    """Tell whether nothing connected to it."""
    try:
        listening.accept()
    except BlockingIOError:
        return True
    return False


def run(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module with *variables* besides the present ones."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("GRPC_")} | {**variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("faults", [(), ("--fault", "drop-reply=0.01")], ids=["hosts", "hosts and links"])
def test_a_race_calls_its_tier_without_a_proxy(proxy: Proxy, faults: tuple[str, ...]) -> None:
    """Neither its hosts nor a faulty link between them and the tier; what gRPC would have read is named in one line."""
    listening, variables = proxy
    done = run(variables, "swaptier_loadgen", *RACE, *faults)
    assert done.returncode == 0, done.stderr
    assert saw_nothing(listening)
    assert done.stderr.count("GRPC_ADDRESS_HTTP_PROXY, GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES, GRPC_PROXY") == 1


async def test_what_asks_a_running_tier_does_so_without_a_proxy(proxy: Proxy) -> None:
    """`specification --target` and the health check."""
    listening, variables = proxy
    async with own_server() as server:
        asked = run(variables, "swaptier_loadgen", "specification", "--policy", "exclusive", "--target", server.target)
        assert asked.returncode == 0, asked.stderr
        checked = run(variables, "swaptier_server.healthcheck", server.target)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert saw_nothing(listening)


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "TLS"])
async def test_a_host_connects_without_a_proxy(
    proxy: Proxy, is_encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a program that embeds the client, and keeps the variables that ours remove."""
    listening, variables = proxy
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    security, flags = Security(), list[str]()
    if is_encrypted:
        authority = Authority(tmp_path)
        cert, key = authority.issue("server", "127.0.0.1")
        security, flags = Security(authority.path), ["--tls-cert", str(cert), "--tls-key", str(key)]
    async with own_server(*flags) as server:
        channel = await connect(server.target, PATIENCE_SECONDS, security)
        await channel.close()
    assert saw_nothing(listening)


def test_a_server_says_which_variables_it_ignores() -> None:
    """In its check; those that change what gRPC logs stay."""
    variables = {"GRPC_SSL_CIPHER_SUITES": "NULL", "GRPC_EXPERIMENTS": "none", "GRPC_VERBOSITY": "ERROR"}
    done = run(variables, "swaptier_server", "check-config", "--listen", "127.0.0.1:0", "--metrics", "off")
    assert done.returncode == 0, done.stderr
    assert "ignored, since gRPC would change the transport: GRPC_EXPERIMENTS, GRPC_SSL_CIPHER_SUITES\n" in done.stdout


def test_variables_of_grpc_are_removed_but_for_what_it_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a later gRPC, whatever they are called."""
    withdraw_grpc_variables()
    for name in ("GRPC_OF_NEXT_YEAR", "grpc_dns_resolver", "GRPC_TRACE"):
        monkeypatch.setenv(name, "native")
    assert withdraw_grpc_variables() == ["GRPC_OF_NEXT_YEAR", "grpc_dns_resolver"]
    assert withdraw_grpc_variables() == []
    assert os.environ["GRPC_TRACE"] == "native"


def test_a_child_speaks_utf_8_and_ends_at_its_end() -> None:
    """PYTHONIOENCODING would make its reports unreadable, PYTHONINSPECT would have it wait for more."""
    assert environment({"PYTHONIOENCODING": "utf-16", "PYTHONINSPECT": "1", "PATH": "/bin"}) == {
        "PATH": "/bin",
        "PYTHONUTF8": "1",
    }
