"""Logging: a sentence in lower case with facts as fields, as text for people or as JSON lines for machines."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(log_format: str = "text", level: str = "INFO") -> None:
    """Called once by each process's entry. Control characters in values are escaped, so that no value forges a line; and a line is one write, since
    a runner and its processes write to the same end of a pipe.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=level, stream=sys.stderr, format='timestamp=%(asctime)s level=%(levelname)s event="%(message)s" logger=%(name)s'
    )
    for noisy in ("pika", "dramatiq", "alembic", "httpx2", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "pika" else logging.WARNING)


def flush() -> None:
    """Before a process leaves without Python's own farewell."""
    sys.stderr.flush()
    sys.stdout.flush()
