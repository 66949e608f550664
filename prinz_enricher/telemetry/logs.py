"""Structured logs on standard error: one event a line, as JSON for machines or in columns for people."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging(level: str, style: str) -> None:
    """Send the logs of this process from a level on (debug, info, warning or error), those of libraries too, to stderr.

    The style is `json`, `console`, or `auto`, which is console on a terminal and JSON elsewhere.
    """
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Where Rich is installed, structlog's own choice would show local variables, and so passwords.
    plain = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer() if as_json else console
    # A traceback belongs into the line of its event, where a machine reads it.
    closing: list[structlog.typing.Processor] = [structlog.processors.format_exc_info if as_json else _escape]
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter
    after = [formatter.remove_processors_meta, *closing, renderer]
    handler.setFormatter(formatter(foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=after))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # httpx logs every request at INFO; the registry is read every few seconds.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Loggers are made once and kept, with their class: another level is other methods of it.
    for name, method in vars(structlog.make_filtering_bound_logger(level)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    structlog.configure(
        processors=[*shared, formatter.wrap_for_formatter],
        wrapper_class=_Logger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class _Logger(structlog.BoundLoggerBase):
    """The class of all loggers, with methods that do nothing below the level."""


def _escape(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what would control a terminal or begin a line, such as in a name of a registry; JSON does so itself."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key not in ("exception", "stack"):
            event[key] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return event
