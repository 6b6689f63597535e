"""Client spans: one for each call, if OpenTelemetry is installed.

The call carries the span's context to the server. Without OpenTelemetry, or without a configured
SDK, a call costs and sends nothing extra.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from keyfold.calls.call import KEYS
from keyfold.errors import KeyfoldError

try:
    from opentelemetry import context, propagate, trace
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context

Link: TypeAlias = Any
"""OpenTelemetry's link to a span."""

Metadata = Iterable[tuple[str, str]]
"""Metadata of a call: the W3C trace context, or nothing."""

_NOTHING: Final[AbstractContextManager[Metadata]] = nullcontext(())
"""What surrounds a call that nobody traces. Any number of calls may share it."""

_UNLINKED: Final[AbstractContextManager[Link | None]] = nullcontext(None)
"""The same for a call that travels with others."""


def client_span(
    method: str, service: str = KEYS, links: Sequence[Link] = ()
) -> AbstractContextManager[Metadata]:
    """Opens a span around one call and returns the metadata that carries its context.

    The span records an error's reason and not its message, which may name a customer's data.
    Links lead from the span of a batch to those of its other calls.
    """
    if not _INSTALLED:
        return _NOTHING
    name = f"{service}/{method}"
    span = _tracer().start_span(
        name,
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system.name": "grpc", "rpc.method": name},
        links=links,
    )
    if span is trace.INVALID_SPAN and not context.get_current():
        return _NOTHING  # There is neither an SDK nor anything of the caller's to pass on.
    return _SentSpan(span)


def waiting_span(method: str, service: str = KEYS) -> AbstractContextManager[Link | None]:
    """Opens a span around a call that travels with others, and returns a link to it.

    The RPC has another span, that of the batch. The link is None if nobody records the span.
    """
    if not _INSTALLED:
        return _UNLINKED
    span = _tracer().start_span(f"{service}/{method}")
    return _UNLINKED if span is trace.INVALID_SPAN else _WaitingSpan(span)


@cache
def _tracer() -> trace.Tracer:
    """Returns the tracer. It finds the SDK that the program configures, even if later."""
    return trace.get_tracer("keyfold")


class _Span:
    """A block inside a span. It costs a call a third of `start_as_current_span`."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Token[Context]

    def _enter(self) -> None:
        self._token = context.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        context.detach(self._token)
        if isinstance(error, KeyfoldError):
            self._span.set_attribute("error.type", error.reason)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, error.reason))
        self._span.end()


class _SentSpan(_Span):
    """A block inside a span whose context goes along."""

    __slots__ = ()

    def __enter__(self) -> Metadata:
        self._enter()
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier.items()


class _WaitingSpan(_Span):
    """A block inside a span to which the span of a batch leads."""

    __slots__ = ()

    def __enter__(self) -> Link | None:
        self._enter()
        span = self._span
        return trace.Link(span.get_span_context()) if span.is_recording() else None
