"""Logs: one event per line on stderr, JSON for machines, coloured text for a terminal.

A line that a caller can cause is written by `CallerLog`, which bounds how many; so are lines of gRPC and asyncio.

Touches stderr and the handlers of the standard library's logging. No page bytes ever: tracebacks are plain, without
the values of local variables, because those may be pages of other programs' memory. A program that embeds the server
and does not call `configure_logs` keeps its own logging and gets ours as ordinary records.
"""

import logging
import sys
import time
from collections.abc import Callable
from io import StringIO
from typing import Final, Literal, TextIO, TypeAlias

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from swaptier_server.line_budget import SPAN_SECONDS, LineBudget, name_of

LogFormat: TypeAlias = Literal["auto", "json", "console"]
"""auto: console on a terminal, else json."""

LOGGER_NAME = "swaptier.server"
GRPC_LOGGER_NAME = "grpc._cython.cygrpc"

LIBRARIES: Final = LineBudget(time.monotonic_ns)
"""Of the lines of gRPC and asyncio in this process: a defect of theirs or ours may write one a call."""

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
]


def _drop(_logger: WrappedLogger, _method: str, _event: EventDict) -> EventDict:
    raise structlog.DropEvent


_SILENCE: Final[structlog.stdlib.BoundLogger] = structlog.wrap_logger(
    logging.getLogger(LOGGER_NAME), processors=[_drop], wrapper_class=structlog.stdlib.BoundLogger
)


def get_log() -> structlog.stdlib.BoundLogger:
    """Return the server's log."""
    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(LOGGER_NAME),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return log


class CallerLog:
    """The log, for lines that callers can cause."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        """Bound them by the monotonic clock *now_ns*."""
        self._budget: Final = LineBudget(now_ns)
        self._log: Final = get_log()

    @property
    def left_out(self) -> int:
        """Lines that were not written, ever."""
        return self._budget.left_out + LIBRARIES.left_out

    def of(self, caller: str | None, event: str) -> structlog.stdlib.BoundLogger:
        """Return the log for one line *event* that *caller*, a tenant or None, caused; it may write nothing."""
        return self._log if self._budget.may_write(event, caller) else _SILENCE

    def say_what_was_left_out(self, *, is_last: bool = False) -> None:
        """Write the numbers of the minutes that are over, at last of all. To be called every second or so."""
        for budget in (self._budget, LIBRARIES):
            for kind, caller, lines in budget.ended_spans(all_end=is_last):
                self._log.warning(
                    "log_lines_left_out", of=kind, caller=name_of(caller), lines=lines, seconds=round(SPAN_SECONDS)
                )


def configure_logs(log_format: LogFormat, log_level: str) -> None:
    """Send the logs of this program, from *log_level* on, of gRPC and of asyncio to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(log_format)],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(GRPC_LOGGER_NAME).addFilter(repeats_no_metadata)
    handler.addFilter(_is_within_budget)
    logging.getLogger(LOGGER_NAME).setLevel(log_level.upper())


def _is_within_budget(record: logging.LogRecord) -> bool:
    """Tell whether *record* may be logged; of ours, `CallerLog` decides."""
    return record.name.startswith("swaptier.") or LIBRARIES.may_write(record.name, None)


def repeats_no_metadata(record: logging.LogRecord) -> bool:
    """Tell whether *record* of gRPC may be logged: it complains of metadata that are no text by repeating them.

    They may be a token with one byte wrong, and any client could fill the log with them.
    """
    return not record.getMessage().startswith("Invalid encoding on")


def _renderer(log_format: LogFormat) -> list[Processor]:
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        return [
            _spell_event_out,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                repr_native_str=True,  # names come from clients, and a terminal obeys control characters
                exception_formatter=_plain_traceback,
                timestamp_key="ts",
            ),
        ]
    return [structlog.processors.format_exc_info, _lead, structlog.processors.JSONRenderer()]


def _spell_event_out(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave nothing in an event that a terminal obeys: that of a library may be of a caller's making."""
    event["event"] = spelt_out(str(event.get("event", "")))
    return event


def _plain_traceback(out: TextIO, exception: ExcInfo) -> None:
    """Write a traceback without values of variables; an exception's text makes no line of its own and no colour."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exception)
    out.write("\n".join(f"    {spelt_out(line)}" for line in text.getvalue().split("\n")))


def spelt_out(text: str) -> str:
    """Return *text* with every character that is not printable as Python spells it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _lead(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what every line has first, for those who read JSON with their eyes."""
    return {name: event.pop(name) for name in ("ts", "level", "event") if name in event} | dict(event)
