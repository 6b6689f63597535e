"""The client's spans: one for each call, if OpenTelemetry is set up."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import keyfold
from keyfold.transport import tracing


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that the test's own tracer provider exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("keyfold"))
    return exporter


def test_a_call_is_a_client_span_whose_context_is_sent(spans: InMemorySpanExporter) -> None:
    """The span names method and system, and the call's W3C header names the span."""
    with tracing.client_span("Wrap") as metadata:
        pass
    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("keyfold.v1.KeyManagementService/Wrap", SpanKind.CLIENT)
    assert span.attributes is not None
    assert span.attributes["rpc.system.name"] == "grpc"
    header = dict(metadata)["traceparent"].split("-")
    assert header[1] == format(span.context.trace_id, "032x")
    assert header[2] == format(span.context.span_id, "016x")


def test_an_error_leaves_its_reason_and_not_its_text(spans: InMemorySpanExporter) -> None:
    """The span of a failed call has the error's reason, and not its message."""
    error = keyfold.RevokedError("secret text", reason="REVOKED")
    with pytest.raises(keyfold.RevokedError), tracing.client_span("Unwrap"):
        raise error
    [span] = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "REVOKED"
    assert "secret" not in span.to_json()


def test_without_opentelemetry_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client works where OpenTelemetry is not installed, and sends no header."""
    monkeypatch.setattr(tracing, "_INSTALLED", False)
    with tracing.client_span("Wrap") as metadata:
        assert not list(metadata)


def test_without_an_sdk_nothing_is_sent() -> None:
    """Where OpenTelemetry is installed and nobody configured an SDK, no header is sent, either."""
    with tracing.client_span("Wrap") as metadata:
        assert not list(metadata)


def test_without_an_sdk_the_callers_context_is_passed_on() -> None:
    """A trace and baggage that came into the program go on to the server, even without an SDK."""
    come = trace.NonRecordingSpan(trace.SpanContext(7, 9, is_remote=True))
    with trace.use_span(come):
        token = context.attach(baggage.set_baggage("tenant", "a"))
        with tracing.client_span("Wrap") as metadata:
            sent = dict(metadata)
        context.detach(token)
    assert sent["traceparent"] == f"00-{7:032x}-{9:016x}-00"
    assert sent["baggage"] == "tenant=a"


def test_an_sdk_that_comes_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may configure its SDK after its first calls; from then on they have spans."""
    with tracing.client_span("Wrap"):
        pass
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    try:
        with tracing.client_span("Wrap"):
            pass
    finally:
        tracing._tracer.cache_clear()
    assert len(exporter.get_finished_spans()) == 1
