"""Server spans: the caller's trace context in, one span per sampled call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-9a-f]")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_tracer: Final = trace.get_tracer("keyfold")

_OURS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that make a server's span an error; the others are the caller's doing (RPC semconv)."""


def traceparent(context: Any) -> str:
    """Returns the caller's W3C header, or nothing where there is none or it is malformed."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            return value if _TRACEPARENT.fullmatch(value) else ""
    return ""


def header_of(span: trace.Span) -> str:
    """Returns the W3C header that names a span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def trace_id(header: str) -> str:
    """Returns the trace's id of a W3C header, or nothing."""
    return header[3:35]


@contextmanager
def server_span(method: str, header: str, context: Any) -> Iterator[trace.Span]:
    """One span for a sampled call, current while the call is answered."""
    carrier = {"traceparent": header}
    for key, value in context.invocation_metadata() or ():
        if key == "tracestate":
            carrier["tracestate"] = value
    with _tracer.start_as_current_span(
        method,
        context=_PROPAGATOR.extract(carrier) if header else None,
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system.name": "grpc", "rpc.method": method},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def ended(span: trace.Span, code: grpc.StatusCode, reason: str) -> None:
    """Writes how a call ended on its span."""
    span.set_attribute("rpc.response.status_code", code.name)
    if reason:
        span.set_attribute("error.type", reason)
    if code in _OURS:
        span.set_status(trace.Status(trace.StatusCode.ERROR, reason))
