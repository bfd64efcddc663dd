"""What else an operator does with the program: check a configuration, hash a token, change files while it serves."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from grpc import aio
from tests.server.conftest import header_message
from tests.server.disks import MIB, tmpfs
from tests.server.pki import Authority, bearer, token_of, write_tokens
from tests.server.test_main import COMMAND, FREE, environment, run, running

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server import healthcheck
from swaptier_server.swapfile.medium import ROOM_BYTES
from swaptier_wire.channels import open_channel

ANYWHERE = ("--listen", "127.0.0.1:0", "--metrics", "off")


# check-config


def test_a_good_configuration_is_told_with_its_sources(tmp_path: Path) -> None:
    """Every flag once, where its value came from, what the files hold; nothing is served, status 0."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("tier", "tier.example", "127.0.0.1")
    tokens = write_tokens(tmp_path / "tokens", "alice", "bob")
    result = run(
        *("check-config", *ANYWHERE, "--tls-cert", str(cert), f"--tls-key={key}", "--no-keep-incompressible"),
        SWAPTIER_TOKENS=str(tokens),
        SWAPTIER_TLS_CLIENT_CA=str(authority.path),
        SWAPTIER_POOL_LIMT="1",
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "--listen 127.0.0.1:0 (flag)" in lines
    assert f"--tls-key {key} (flag)" in lines
    assert f"--tokens {tokens} (SWAPTIER_TOKENS)" in lines
    assert "--keep-incompressible no (flag)" in lines
    assert "--pool-limit 64MiB (default)" in lines
    assert "--metrics off (flag)" in lines
    assert "--device-limit not given (default)" in lines, "what that means is in the sum below"
    assert "not known, and ignored: SWAPTIER_POOL_LIMT (did you mean SWAPTIER_POOL_LIMIT?)" in lines
    assert "TLS: certificate of tier.example, 127.0.0.1, expires 3000-01-01" in lines
    assert "client certificates: asked for, of 1 authorities" in lines
    assert "tokens: 2, of alice, bob" in lines
    assert lines[-1] == "this configuration can be used"
    for secret in (key.read_text().splitlines()[1], token_of("alice"), tokens.read_text().split(":")[-1].strip()):
        assert secret not in result.stdout


def test_every_problem_of_a_configuration_is_a_line_and_the_status_is_2(tmp_path: Path) -> None:
    """Not the first only: an operator wants to fix them all at once. The same lines keep the server from starting."""
    cert, key = Authority(tmp_path).issue("old", "localhost", is_expired=True)
    (tmp_path / "tokens").write_text("alice")
    device = f"sqlite:{tmp_path}/none/swap"
    with running() as server:
        flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--tokens", str(tmp_path / "tokens"))
        listen = ("--listen", server.listening, "--metrics", "off")
        checked = run("check-config", *listen, *flags, "--device", device)
        started = run(*listen, *flags)
    assert checked.returncode == started.returncode == 2
    problems = checked.stderr.splitlines()
    assert [line.split(": ")[1] for line in problems] == ["--tls-cert", "--tokens", "--device", "--listen"]
    assert "certificate has expired" in problems[0]
    assert "line 1 is not NAME:SHA256" in problems[1]
    assert "there is no folder" in problems[2]
    assert "it is in use" in problems[3]
    [first] = started.stderr.splitlines()
    assert first in problems


def test_what_is_wrong_stands_below_everything_else(tmp_path: Path) -> None:
    """Where both outputs meet, as on a terminal; after some forty lines of values a problem above them is not seen."""
    (tmp_path / "tokens").write_text("alice")
    command = [*COMMAND, "check-config", *ANYWHERE, "--tokens", str(tmp_path / "tokens")]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    told = subprocess.run(command, env=environment(), text=True, check=False, **both).stdout.splitlines()
    assert told[-2] == "this configuration cannot be used"
    assert told[-1].startswith("swaptier-server: --tokens: line 1 is not NAME:SHA256")


def test_a_pool_that_takes_nothing_is_pointed_out() -> None:
    """It is allowed, and hardly ever meant."""
    assert "pool: takes no page" in run("check-config", *ANYWHERE, "--pool-limit", "0").stdout
    assert "pool: takes no page" not in run("check-config", *ANYWHERE, "--pool-limit", "1").stdout


def test_a_device_is_tried_and_neither_made_nor_changed(tmp_path: Path) -> None:
    """One that another server has is a problem; one that is not there yet is not."""
    path = tmp_path / "swap"
    flags = ("check-config", *ANYWHERE, "--device", f"sqlite:{path}")
    assert "will be made" in run(*flags).stdout
    assert not path.exists()
    with running("--device", f"sqlite:{path}") as server:
        taken = run(*flags)
        assert server.end()[0] == 0
    assert taken.returncode == 2
    assert "another server has it" in taken.stderr
    before = path.read_bytes()
    assert f"device: {path} can be used" in run(*flags).stdout
    assert path.read_bytes() == before


def test_files_that_too_many_may_touch_are_pointed_out(tmp_path: Path) -> None:
    """A key that everybody can read, tokens that everybody can add to; neither keeps a server from starting."""
    cert, key = Authority(tmp_path).issue("tier", "localhost")
    tokens = write_tokens(tmp_path / "tokens", "alice")
    flags = ("check-config", *ANYWHERE, "--tls-cert", str(cert), "--tls-key", str(key), "--tokens", str(tokens))
    for key_mode, tokens_mode, hints in ((0o600, 0o644, []), (0o644, 0o666, [key, tokens])):
        key.chmod(key_mode)
        tokens.chmod(tokens_mode)
        result = run(*flags)
        assert (result.returncode, result.stderr) == (0, "")
        told = [line for line in result.stdout.splitlines() if "every user of this machine may" in line]
        assert len(told) == len(hints)
        assert all(str(path) in line for path, line in zip(hints, told, strict=True))


def test_a_device_in_a_folder_that_everybody_may_change_is_pointed_out(tmp_path: Path) -> None:
    """Containers have such folders, so it is used all the same; a sticky one is as good as another."""
    device = ("--device", f"sqlite:{tmp_path}/swap")
    for mode, is_told in ((0o700, False), (0o1777, False), (0o777, True)):
        tmp_path.chmod(mode)
        result = run("check-config", *ANYWHERE, *device)
        assert (result.returncode, result.stderr) == (0, "")
        assert (f"may remove and replace files in {tmp_path}" in result.stdout) is is_told
    with running(*device) as server:
        assert (
            server.wait_for_log("swap_file_in_open_folder")["advice"]
            == f"chmod o-w {tmp_path}, or name a file elsewhere"
        )


def test_a_device_without_room_to_grow_is_pointed_out(tmp_path: Path) -> None:
    """Before pages are refused there; one that is not there yet and one that is."""
    with tmpfs(tmp_path, ROOM_BYTES - MIB) as disk:
        device = ("--device", f"sqlite:{disk.mount_point}/swap")
        for _ in range(2):
            result = run("check-config", *ANYWHERE, *device, inside=disk.inside)
            assert (result.returncode, result.stderr) == (0, "")
            assert "will take no new pages until 32 MiB are free" in result.stdout
            with running(*device, inside=disk.inside) as server:
                assert server.wait_for_log("swap_file_has_no_room")
                assert server.end()[0] == 0


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("{}/none/swap", "there is no folder"),
        ("{}", "Is a directory"),
        ("{}/diary", "no swap file; it was not changed. Name another file"),
        ("{}/moved", "has pages of a file that was there"),
    ],
)
def test_a_device_that_cannot_be_had_is_told_by_the_check_as_by_the_start(
    tmp_path: Path, device: str, says: str
) -> None:
    """One line with the flag, the path and what is wrong; no number of an error, no traceback."""
    (tmp_path / "diary").write_text("dear diary\n" * 1000)
    (tmp_path / "moved-wal").touch(0o600)
    (tmp_path / "moved-wal").write_bytes(b"pages")
    flags = (*ANYWHERE, "--device", f"sqlite:{device.format(tmp_path)}")
    for result in (run("check-config", *flags), run(*flags)):
        assert result.returncode == 2
        [line] = result.stderr.splitlines()
        assert line.startswith("swaptier-server: --device: cannot ")
        assert "Errno" not in line
    assert says in run("check-config", *flags).stderr
    assert (tmp_path / "diary").read_text() == "dear diary\n" * 1000


def test_values_that_do_not_fit_each_other_are_refused_by_the_check_too() -> None:
    """There is no effective configuration to tell then."""
    result = run("check-config", "--listen", "0.0.0.0:0")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "or say --insecure" in result.stderr


# hash-token


def test_a_token_is_hashed_from_standard_input_and_its_line_lets_it_in(tmp_path: Path) -> None:
    """Never from the command line, which everybody on the machine can read."""
    command = [*COMMAND, "hash-token", "alice"]
    made = subprocess.run(
        command, input=f"{token_of('alice')}\n", capture_output=True, text=True, check=True, env=environment()
    )
    assert made.stdout == write_tokens(tmp_path / "tokens", "alice").read_text().splitlines()[-1] + "\n"
    bad = subprocess.run(command, input="short\n", capture_output=True, text=True, check=False, env=environment())
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "make one with: openssl rand -hex 32" in bad.stderr
    assert len(bad.stderr.splitlines()) == 1


# A running server


@pytest.mark.parametrize("is_told", [True, False], ids=["by SIGHUP", "by itself"])
async def test_tokens_change_under_a_running_server(tmp_path: Path, is_told: bool) -> None:
    """At SIGHUP, and within a second or so without."""
    tokens = write_tokens(tmp_path / "tokens", "alice")
    with running("--tokens", str(tokens)) as server:
        async with open_channel(server.listening) as channel:
            stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
            request = pb.SwaponRequest(header=header_message(), slots=1)
            with pytest.raises(aio.AioRpcError):
                await stub.Swapon(request, metadata=bearer("bob"))
            write_tokens(tokens, "bob")
            if is_told:
                server.process.send_signal(signal.SIGHUP)
            told = await asyncio.to_thread(server.wait_for_log, "tokens_reloaded")
            assert told["tokens"] == 1
            assert await stub.Swapon(request, metadata=bearer("bob"))
            with pytest.raises(aio.AioRpcError):
                await stub.Swapon(request, metadata=bearer("alice"))
        assert server.end()[0] == 0


@pytest.mark.parametrize("is_mutual", [False, True], ids=["TLS", "mutual TLS"])
def test_a_containers_health_check_finds_its_way_through_tls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_mutual: bool
) -> None:
    """It knows the server's files by the same variables, whatever name the certificate has, and needs no token."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("tier", "*.example")
    variables = {"SWAPTIER_TLS_CERT": str(cert), "SWAPTIER_TLS_KEY": str(key)}
    if is_mutual:
        variables["SWAPTIER_TLS_CLIENT_CA"] = str(authority.path)
    tokens = write_tokens(tmp_path / "tokens", "alice")
    with running(**variables, SWAPTIER_TOKENS=str(tokens)) as server:
        assert healthcheck.main([server.listening]) == 3
        capsys.readouterr()
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        assert healthcheck.main([server.listening]) == 0, capsys.readouterr().err
        monkeypatch.setenv("SWAPTIER_TLS_CERT", str(tmp_path / "none"))
        assert healthcheck.main([server.listening]) == 2


def test_a_server_whose_grpc_has_ended_does_not_look_alive() -> None:
    """A process that listens no more drains and ends with status 70, so that what watches over it starts another."""
    code = (
        "import asyncio, sys\n"
        "from swaptier_server import __main__ as program, lifecycle\n"
        "start = lifecycle.TierServer.start.__func__\n"
        "async def start_and_fail(cls, config):\n"
        "    server = await start(cls, config)\n"
        "    asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(server._grpc.stop(None)))\n"
        "    return server\n"
        "lifecycle.TierServer.start = classmethod(start_and_fail)\n"
        "sys.exit(program.main())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *FREE], capture_output=True, text=True, check=False, timeout=30, env=environment()
    )
    assert result.returncode == 70, result.stderr
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert "grpc_failed" in events
    assert events[-1] == "drained"
