"""Client spans: one for each call, if OpenTelemetry is installed.

The call carries the span's context to the server. Without OpenTelemetry, or without a configured
SDK, a call costs and sends nothing extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keyfold.calls.call import KEYS
from keyfold.errors import KeyfoldError

try:
    from opentelemetry import propagate, trace
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

Metadata = list[tuple[str, str]]
"""Metadata of a call: the W3C trace context, or nothing."""


@contextmanager
def client_span(method: str, service: str = KEYS) -> Iterator[Metadata]:
    """Opens a span around one call and yields the metadata that carries its context.

    The span records an error's reason and not its message, which may name a customer's data.
    """
    if not _INSTALLED:
        yield []
        return
    name = f"{service}/{method}"
    with trace.get_tracer("keyfold").start_as_current_span(
        name,
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system.name": "grpc", "rpc.method": name},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        try:
            yield list(carrier.items())
        except KeyfoldError as error:
            span.set_attribute("error.type", error.reason)
            span.set_status(trace.Status(trace.StatusCode.ERROR, error.reason))
            raise
