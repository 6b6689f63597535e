"""Makes one server span per sampled call, in the caller's trace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from keyfold_server.rpc.call import Call

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
"""Codes that mark a server's span as an error. By OpenTelemetry's conventions for RPC, the caller
is to blame for the other codes."""


def traceparent(call: Call) -> str:
    """Returns the caller's `traceparent` header; empty if it is absent or malformed."""
    for value in call.header("traceparent"):
        return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else ""
    return ""


def header_of(span: trace.Span) -> str:
    """Returns the `traceparent` header that names a span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def trace_id(header: str) -> str:
    """Returns the trace id in a `traceparent` header; empty for an empty header."""
    return header[3:35]


def trace_of(call: Call) -> str:
    """Returns the id of the trace that a call belongs to, in hex; empty if it belongs to none.

    It is that of the call's span if it has one, or else that of the caller's header.
    """
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return trace.format_trace_id(context.trace_id)
    return trace_id(traceparent(call))


@contextmanager
def server_span(method: str, header: str, call: Call) -> Iterator[trace.Span]:
    """Makes the span of a sampled call, and keeps it current until the block ends."""
    carrier = {"traceparent": header}
    for value in call.header("tracestate"):
        if isinstance(value, str):
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
    """Records on a span how its call ended."""
    span.set_attribute("rpc.response.status_code", code.name)
    if reason:
        span.set_attribute("error.type", reason)
    if code in _OURS:
        span.set_status(trace.Status(trace.StatusCode.ERROR, reason))
