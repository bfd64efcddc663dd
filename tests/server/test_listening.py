"""What is said of an address that cannot be listened on, before gRPC is asked."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from swaptier_server.errors import ConfigError
from swaptier_server.listening import check_can_listen
from swaptier_wire.addresses import Address


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a name short enough for a socket."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on at 127.0.0.1 only."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def refusal(address: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_can_listen("--listen", Address.parse(address))
    text = str(caught.value)
    assert text.startswith(f"--listen: cannot listen on {address}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0"])
def test_a_free_address_is_fine(address: str) -> None:
    """And stays free: asking does not take it."""
    check_can_listen("--listen", Address.parse(address))
    check_can_listen("--listen", Address.parse(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 - it is refused
def test_a_port_in_use_on_any_address_of_the_host_is_in_use(taken_port: int, host: str) -> None:
    """Else gRPC would take the other addresses of a name and serve half of its clients."""
    assert "it is in use; stop the server that has it, or choose another" in refusal(f"{host}:{taken_port}")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("no.such.host.invalid:1", "the host is unknown"),
        ("192.0.2.1:1", "Cannot assign requested address"),
        ("[2001:db8::1]:1", "Cannot assign requested address"),
    ],
)
def test_an_address_of_another_machine_is_refused(address: str, says: str) -> None:
    """With what the system says of it."""
    if address.startswith("[") and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    assert says in refusal(address)


def test_a_unix_socket_is_taken_over_only_from_the_dead(folder: Path) -> None:
    """Nothing there, or left behind: fine. Somebody listening: in use."""
    path = folder / "tier"
    address = Address.parse(f"unix:{path}")
    check_can_listen("--listen", address)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        check_can_listen("--listen", address)
        server.listen()
        assert "it is in use; stop the server that has it, or choose another" in refusal(address)
    check_can_listen("--listen", address)


def test_a_unix_socket_replaces_no_file_and_needs_its_folder(folder: Path) -> None:
    """Of either, gRPC says only that it failed."""
    (folder / "file").touch()
    assert "File exists" in refusal(f"unix:{folder}/file")
    assert "No such file or directory" in refusal(f"unix:{folder}/no/tier")
