"""A later gRPC may have another inside: the server then goes without what it does there, and says so."""

import logging

import pytest
from tests.server.conftest import Serve


async def test_a_grpc_with_another_inside_serves_and_is_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One critical line names the version and what to do; a tier that does not start would be worse."""
    monkeypatch.delattr("grpc._cython.cygrpc._ServicerContext")  # which gRPC's own server finds otherwise
    served = await serve()
    assert (await served.swapon()).server_epoch
    (line,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "unknown_methods_not_refused" in str(line.msg)
    assert "_ServicerContext" in str(line.msg)
