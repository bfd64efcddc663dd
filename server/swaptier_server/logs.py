"""Logs: one event per line on stderr, JSON for machines, coloured text for a terminal.

Touches stderr and the handlers of the standard library's logging. No page bytes ever: tracebacks are plain, without
the values of local variables, because those may be pages of other programs' memory. A program that embeds the server
and does not call `configure_logs` keeps its own logging and gets ours as ordinary records.
"""

import logging
import sys
from typing import Literal, TypeAlias

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat: TypeAlias = Literal["auto", "json", "console"]
"""auto: console on a terminal, else json."""

LOGGER_NAME = "swaptier.server"
GRPC_LOGGER_NAME = "grpc._cython.cygrpc"

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
]


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
    logging.getLogger(LOGGER_NAME).setLevel(log_level.upper())


def repeats_no_metadata(record: logging.LogRecord) -> bool:
    """Tell whether *record* of gRPC may be logged: it complains of metadata that are no text by repeating them.

    They may be a token with one byte wrong, and any client could fill the log with them.
    """
    return not record.getMessage().startswith("Invalid encoding on")


def _renderer(log_format: LogFormat) -> list[Processor]:
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        return [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                repr_native_str=True,  # names come from clients, and a terminal obeys control characters
                exception_formatter=structlog.dev.plain_traceback,
                timestamp_key="ts",
            )
        ]
    return [structlog.processors.format_exc_info, _lead, structlog.processors.JSONRenderer()]


def _lead(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what every line has first, for those who read JSON with their eyes."""
    return {name: event.pop(name) for name in ("ts", "level", "event") if name in event} | dict(event)
