"""What of gRPC's and asyncio's own logs is let through, and that no text of a caller's makes a line or a colour."""

import json
import logging
from collections.abc import Iterator

import pytest

from swaptier_server import logs
from swaptier_server.line_budget import LINES_MAX, LineBudget
from swaptier_server.logs import GRPC_LOGGER_NAME, CallerLog, LogFormat, configure_logs, get_log


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


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> LineBudget:
    """A budget for lines of libraries that no other test has used."""
    budget = LineBudget(lambda: 0)
    monkeypatch.setattr(logs, "LIBRARIES", budget)
    return budget


@pytest.mark.usefixtures("restored")
def test_a_library_that_writes_a_line_a_call_is_held_to_some_and_the_others_are_counted(
    libraries: LineBudget, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lines of ours have budgets of their own, and are written meanwhile."""
    configure_logs("json", "info")
    for number in range(LINES_MAX + 5):
        logging.getLogger("asyncio").error("Exception in callback %d", number)
    get_log().info("of ours")
    lines = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert lines == [f"Exception in callback {number}" for number in range(LINES_MAX)] + ["of ours"]
    assert (libraries.left_out, CallerLog(lambda: 0).left_out) == (5, 5)


class Hostile:
    """Something whose text, which an exception shows, is a caller's."""

    def __repr__(self) -> str:
        return HOSTILE


HOSTILE = 'two\nlines\r\x1b[31m\u202e\x85\u2028\0{"level": "critical"}'


@pytest.mark.usefixtures("restored", "libraries")
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_a_caller_says_makes_no_line_and_no_colour_wherever_it_stands(
    log_format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a value, a mapping, the text of an exception, or the line of a library."""
    configure_logs(log_format, "info")
    try:
        {}[Hostile()]
    except KeyError:
        get_log().exception("failed", area=HOSTILE, options={HOSTILE: HOSTILE}, request_id=HOSTILE)
    logging.getLogger("asyncio").error("failed: %s", HOSTILE)
    written = capfd.readouterr().err
    assert all(one.isprintable() for one in written.replace("\n", ""))
    assert len([line for line in written.split("\n") if line and not line.startswith("    ")]) == 2
