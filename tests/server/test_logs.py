"""What of gRPC's and asyncio's own logs is let through."""

import logging
from collections.abc import Iterator

import pytest

from swaptier_server.logs import GRPC_LOGGER_NAME, configure_logs


@pytest.fixture
def restored() -> Iterator[None]:
    """Have the handlers and filters of all loggers again afterwards."""
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in (GRPC_LOGGER_NAME, "asyncio")]
    before = root.handlers[:], root.level, [logger.filters[:] for logger in loggers]
    yield
    root.handlers[:], root.level, filters = before
    for logger, those in zip(loggers, filters, strict=True):
        logger.filters[:] = those


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", [GRPC_LOGGER_NAME, "asyncio"])
def test_a_text_that_our_own_code_cannot_decode_is_logged(capfd: pytest.CaptureFixture[str], name: str) -> None:
    """Only complaints of metadata are dropped; a background task of ours may fail over a text, too."""
    configure_logs("json", "info")
    try:
        b"\xff".decode()
    except UnicodeDecodeError:
        logging.getLogger(name).exception("Task exception was never retrieved")
    assert "Task exception was never retrieved" in capfd.readouterr().err
    logging.getLogger(GRPC_LOGGER_NAME).error("Invalid encoding on metadata")
    assert not capfd.readouterr().err
