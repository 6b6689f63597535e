"""Sets up where logs and spans go; `monitoring` serves the metrics."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from keyfold_server.domain.errors import SetupError
from keyfold_server.telemetry import NO_SPANS, Sampling

_EVERY_LINE: Final = ("time", "level", "logger", "event")
"""The fields that every line of the log has."""

_OURS: Final = __name__.partition(".")[0]
_GIVEN: Final = structlog.stdlib.ExtraAdder()


def logs() -> bool:
    """Sends all log lines to stderr: as JSON, or in a form for people if stderr is a terminal.

    Returns:
        True if the lines are for people.
    """
    pretty = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_given,
        _add_time,
        _add_trace_id,
        _frames_only,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(timestamp_key="time")]
        if pretty
        else [_in_order, structlog.processors.JSONRenderer(separators=(",", ":"))]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return pretty


def _add_given(
    logger: Any, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Adds what our own code gives with a line. What a library gives may hold what was sent."""
    ours = event["_record"].name.partition(".")[0] == _OURS
    return _GIVEN(logger, method, event) if ours else event


def _add_time(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    event["time"] = now.replace("+00:00", "Z")
    return event


def _in_order(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Begins each line with the fields that every line has, as `rpc.call_log` does."""
    return {name: event.pop(name) for name in _EVERY_LINE} | dict(event)


def _add_trace_id(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
    return event


def _frames_only(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Shows an exception's type and stack, but neither its text nor any variable.

    Text and variables may contain what a caller sent. The stack has only lines of our source.
    """
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    elif isinstance(given, BaseException):
        given = (type(given), given, given.__traceback__)
    if given and given[0] is not None:
        frames = "".join(traceback.format_tb(given[2]))
        event["exception"] = f"{frames}{given[0].__module__}.{given[0].__qualname__}"
    return event


def traces() -> Sampling:
    """Sets OpenTelemetry's SDK up from its standard environment variables.

    Returns:
        The decision which calls get spans; no call gets any if no exporter is configured.

    Raises:
        SetupError: The variables name an exporter that is unknown or not installed.
    """
    env = os.environ
    wanted = env.get("OTEL_TRACES_EXPORTER", "")
    endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    off = env.get("OTEL_SDK_DISABLED", "").lower() == "true" or wanted == "none"
    if off or not (wanted or endpoint):
        return NO_SPANS
    if wanted not in ("", "otlp"):
        raise SetupError(f"OTEL_TRACES_EXPORTER is {wanted}; Keyfold knows otlp and none")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise SetupError(
            "the environment asks for traces, but the exporter is missing; install keyfold[otlp]"
        ) from None
    # `Sampling` has already decided about every span that reaches the SDK.
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": env.get("OTEL_SERVICE_NAME", "keyfold")}),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return _sampling(env.get("OTEL_TRACES_SAMPLER", "parentbased_always_on"))


def _sampling(name: str) -> Sampling:
    kind = name.removeprefix("parentbased_")
    given = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        ratio = {"always_on": 1.0, "always_off": 0.0, "traceidratio": float(given)}[kind]
    except (KeyError, ValueError):
        raise SetupError(
            f"OTEL_TRACES_SAMPLER is {name} with the argument {given}; give always_on, "
            "always_off or traceidratio with 0 to 1, with or without parentbased_ before it"
        ) from None
    return Sampling(min(1.0, max(0.0, ratio)), parent_based=name != kind)


def end_traces() -> None:
    """Sends the last spans; waits at most two seconds for the collector."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(2.0)
