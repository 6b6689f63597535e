"""Client spans, where OpenTelemetry is installed: one per call, with its context sent along.

Without it, or where nobody has set up its SDK, a call costs nothing more and sends nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keyfold.errors import KeyfoldError

try:
    from opentelemetry import propagate, trace
except ImportError:
    _HERE = False
else:
    _HERE = True

Metadata = list[tuple[str, str]]
"""What goes along with a call: the W3C trace context, or nothing."""

_SERVICE: Final = "keyfold.v1.KeyManagementService"


@contextmanager
def client_span(method: str) -> Iterator[Metadata]:
    """Opens a span around one call and yields what to send along.

    An error's text is not recorded: its reason says what happened, and names nobody's data.
    """
    if not _HERE:
        yield []
        return
    name = f"{_SERVICE}/{method}"
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
