"""The relay's log: one line of JSON for each thing that happened, on stderr.

Invariant: no line has a secret, the content of an event, or text that a target answered.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, Final

import structlog

_EVERY_LINE: Final = ("time", "level", "event")
"""The fields with which every line begins."""


def set_up() -> None:
    """Sends all log lines to stderr: as JSON, or in a form for people if stderr is a terminal."""
    pretty = sys.stderr.isatty()
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(timestamp_key="time")]
        if pretty
        else [_in_order, structlog.processors.JSONRenderer(separators=(",", ":"))]
    )
    handler = logging.StreamHandler(sys.stderr)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _frames_only,
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It writes a line for each request that it answers.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _in_order(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {name: event.pop(name) for name in _EVERY_LINE} | dict(event)


def _frames_only(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Shows an exception's type and stack, but not its text, which may hold what was sent."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    elif isinstance(given, BaseException):
        given = (type(given), given, given.__traceback__)
    if given and given[0] is not None:
        frames = "".join(traceback.format_tb(given[2]))
        event["exception"] = f"{frames}{given[0].__module__}.{given[0].__qualname__}"
    return event
