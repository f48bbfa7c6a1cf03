"""How every process logs: one line per event, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog
import structlog.tracebacks

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Local variables may hold secrets: a traceback tells where, never with what."""


def configure_logging(process: str, level: str = "info") -> None:
    """Log to standard error: JSON, or coloured text on a terminal; `process` is in every line."""
    is_terminal = sys.stderr.isatty()
    ending: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_terminal
        else [structlog.processors.ExceptionRenderer(_without_locals), structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *ending,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(process=process)
