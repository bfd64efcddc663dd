"""Who the metrics port answers: names of tenants and areas are for whom it is meant."""

import asyncio
import http.client
import ssl
from pathlib import Path

import pytest
from tests.server.conftest import Serve, Served
from tests.server.pki import Authority, bearer, token_of, write_tokens

from swaptier_server.errors import ConfigError

PATIENCE_SECONDS = 30
GOOD = {"Authorization": bearer("prometheus")[0][1]}
AREA = b'area="a"'


async def ask(
    served: Served,
    headers: dict[str, str],
    security: ssl.SSLContext | None = None,
    *,
    method: str = "GET",
    path: str = "/metrics",
) -> tuple[int, http.client.HTTPMessage, bytes]:
    address = served.server.metrics_address
    assert address is not None

    def exchange() -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = (
            http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE_SECONDS)
            if security is None
            else http.client.HTTPSConnection(address.host, address.port, context=security, timeout=PATIENCE_SECONDS)
        )
        connection.request(method, path, headers=headers)
        with connection.getresponse() as response:
            return response.status, response.headers, response.read()

    return await asyncio.to_thread(exchange)


@pytest.fixture
async def served(serve: Serve, tmp_path: Path) -> Served:
    """A server whose metrics are for who has a token, with an area."""
    served = await serve(metrics="127.0.0.1:0", metrics_token=write_tokens(tmp_path / "metrics-tokens", "prometheus"))
    await served.swapon()
    return served


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER  "])
async def test_a_token_lets_a_scraper_in(served: Served, scheme: str) -> None:
    """As RFC 6750 has it."""
    status, _, body = await ask(served, {"Authorization": f"{scheme} {token_of('prometheus')}"})
    assert (status, AREA in body) == (200, True)


async def test_without_a_good_token_every_request_is_unauthorized_and_tells_nothing(served: Served) -> None:
    """The same answer whatever is asked for, and whatever is wrong with the token; a good one is then still good."""
    answers = set()
    for value in (
        None,
        "",
        "Bearer",
        "Bearer ",
        token_of("prometheus"),
        f"Basic {token_of('prometheus')}",
        f"Bearer {token_of('prometheus')[:-1]}",
        f"Bearer {token_of('prometheus')}x",
        f"Bearer {token_of('alice')}",
        f"Bearer {token_of('prometheus')}\tx",
        "Bearer \xff",
        "Bearer " + "x" * 8000,
    ):
        headers = {} if value is None else {"Authorization": value}
        for method, path in (("GET", "/metrics"), ("HEAD", "/"), ("POST", "/metrics"), ("GET", "/areas?name[]=a")):
            status, head, body = await ask(served, headers, method=method, path=path)
            answers.add((status, tuple(name for name in head if name != "Date"), head["Server"], body))
    assert answers == {
        (401, ("Server", "WWW-Authenticate", "Content-Length", "Connection"), "swaptier", b""),
    }
    assert (await ask(served, GOOD))[0] == 200


async def test_two_tokens_in_one_request_are_none(served: Served) -> None:
    """Which of them would count is for nobody to guess."""
    address = served.server.metrics_address
    assert address is not None
    reader, writer = await asyncio.open_connection(address.host, address.port)
    line = f"Authorization: {GOOD['Authorization']}\r\n".encode()
    writer.write(b"GET /metrics HTTP/1.1\r\n" + line + line + b"\r\n")
    assert (await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_a_token_of_a_tenant_is_none_of_the_metrics(serve: Serve, tmp_path: Path) -> None:
    """It would see the others' names."""
    served = await serve(
        metrics="127.0.0.1:0",
        tokens=write_tokens(tmp_path / "tokens", "alice"),
        metrics_token=write_tokens(tmp_path / "metrics-tokens", "prometheus"),
    )
    assert (await ask(served, {"Authorization": bearer("alice")[0][1]}))[0] == 401


async def test_a_changed_token_file_counts_without_a_restart(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that cannot be used changes nothing, and is not repeated."""
    path = write_tokens(tmp_path / "metrics-tokens", "prometheus")
    served = await serve(metrics="127.0.0.1:0", metrics_token=path)
    write_tokens(path, "prometheus", number=2)
    served.server.housekeeper.keep_house()
    assert (await ask(served, GOOD))[0] == 401
    good = {"Authorization": bearer("prometheus", 2)[0][1]}
    assert (await ask(served, good))[0] == 200
    path.write_text(token_of("prometheus"))
    served.server.housekeeper.keep_house()
    assert (await ask(served, good))[0] == 200
    assert "reload_failed" in caplog.text and token_of("prometheus") not in caplog.text


async def test_by_tls_a_scraper_shows_a_certificate(serve: Serve, tmp_path: Path) -> None:
    """None, or one of another authority, gets no answer at all; a renewed one of the port's counts at once."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = ours.issue("port", "127.0.0.1")
    served = await serve(
        metrics="127.0.0.1:0", metrics_tls_cert=cert, metrics_tls_key=key, metrics_tls_client_ca=ours.path
    )
    await served.swapon()

    def security(pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ours.path)
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    good = security(ours.issue("prometheus", "prometheus.example"))
    status, _, body = await ask(served, {}, good)
    assert (status, AREA in body) == (200, True)
    for wrong in (
        None,
        theirs.issue("stranger", "prometheus.example"),
        ours.issue("old", "p.example", is_expired=True),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            await ask(served, GOOD, security(wrong))
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        await ask(served, GOOD)
    for path, renewed in zip((cert, key), ours.issue("renewed", "127.0.0.1"), strict=True):
        renewed.replace(path)
    served.server.housekeeper.keep_house()
    assert (await ask(served, {}, good))[0] == 200


@pytest.mark.parametrize("field", ["metrics_token", "metrics_tls_cert", "metrics_tls_client_ca"])
async def test_a_server_does_not_start_with_a_file_that_cannot_be_used(
    serve: Serve, tmp_path: Path, field: str
) -> None:
    """One line names the flag and repeats nothing of the file."""
    cert, key = Authority(tmp_path).issue("port", "127.0.0.1")
    tls = {} if field == "metrics_token" else {"metrics_tls_cert": cert, "metrics_tls_key": key}
    (tmp_path / "junk").write_text("do not repeat me")
    with pytest.raises(ConfigError) as caught:
        await serve(metrics="127.0.0.1:0", **{**tls, field: tmp_path / "junk"})
    assert str(caught.value).startswith(f"--{field.replace('_', '-')}: ")
    assert "do not repeat me" not in str(caught.value) and "\n" not in str(caught.value)
