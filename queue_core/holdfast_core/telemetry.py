"""Logs: one event a line on stderr, ours and those of the libraries alike.

stdout is not touched: it belongs to what a command answers, and over stdio to the protocol.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Final, Literal, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["LogFormat", "configure_logs"]

LogFormat = Literal["console", "json"]

#: Libraries that tell of each request or session at INFO. What is wrong is told from WARNING on.
_QUIET: Final = ("alembic", "asyncio", "httpcore2", "httpx2", "mcp", "sqlalchemy", "uvicorn", "websockets")

#: What could move a terminal's cursor, split a line, or turn its direction. Tracebacks keep \n and \t.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def configure_logs(log_format: LogFormat) -> None:
    """Send all log lines of this process to stderr, in this format. May be called again."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    match log_format:
        case "json":
            last: list[Processor] = [
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),  # escapes all but ASCII
            ]
        case "console":
            colors = sys.stderr is not None and sys.stderr.isatty()
            last = [
                structlog.processors.format_exc_info,
                _escape,
                structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False),
            ]
    # Through the standard library, whose handler survives a stderr that has gone away.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Nothing that came from outside reaches the terminal as more than text."""
    del logger, method
    return {_escaped_text(key): _escaped(key, value) for key, value in event.items()}


def _escaped(key: str, value: object) -> object:
    match value:
        case str() if key == "exception":
            return "\n".join("\t".join(map(_escaped_text, line.split("\t"))) for line in value.split("\n"))
        case str():
            return _escaped_text(value)
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {_escaped("", name): _escaped("", inner) for name, inner in items}
        case list() | tuple() | set() | frozenset():
            return [_escaped("", item) for item in cast("list[object]", value)]
        case None | bool() | int() | float():
            return value
        case _:
            return _escaped_text(str(value))


def _escaped_text(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
