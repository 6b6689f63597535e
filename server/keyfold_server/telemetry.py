"""What Keyfold tells of itself: the names of metrics and spans, and how to write them.

Instruments and names only; what becomes of spans and who reads the metrics is set up in
`bootstrap`. Nothing here ever takes key material: a label is a method, a code, a reason or a
provider's type; a span's attributes are names and ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import KeyfoldError

OK: Final = "OK"
"""The outcome of what went well; else an outcome is an error's reason."""

_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005)
_SLOW: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CALLS: Final = Histogram(
    "keyfold_call_duration_seconds",
    "Duration of calls in the server, by method, gRPC code and reason.",
    ("method", "code", "reason"),
    buckets=_FAST + _SLOW,
)

KMS_CALLS: Final = Histogram(
    "keyfold_kms_call_duration_seconds",
    "Duration of calls to customers' KMSs, waiting at the gates included.",
    ("provider", "region", "operation", "attempts", "outcome"),
    buckets=_FAST[3:] + _SLOW,
)

STORE_CALLS: Final = Histogram(
    "keyfold_store_call_duration_seconds",
    "Duration of calls to the store, waiting for a thread included.",
    ("operation", "outcome"),
    buckets=_FAST + _SLOW,
)

LOADS: Final = Counter(
    "keyfold_loads_total",
    "KEKs unwrapped into memory or proven again, by outcome.",
    ("outcome",),
)

LOG_LINES_DROPPED: Final = Counter(
    "keyfold_log_lines_dropped_total",
    "Lines about calls that nobody took in time.",
)

CACHED_CLUSTERS: Final = Gauge("keyfold_cached_clusters", "Clusters in memory.")

CACHED_KEKS: Final = Gauge("keyfold_cached_keks", "KEKs in memory.")

KEKS_IN_GRACE: Final = Gauge(
    "keyfold_keks_in_grace",
    "KEKs that serve although their KMS cannot be asked; a restart would end that.",
)

STORE_AGE: Final = Gauge(
    "keyfold_store_age_seconds", "Time since the last good look at the store's changes began."
)

REGIONS: Final = Gauge(
    "keyfold_regions", "Regions in the store, by state and last health.", ("state", "health")
)

CANNOT_WRAP: Final = Gauge(
    "keyfold_regions_cannot_wrap",
    "Enabled regions whose root key unwraps and does not wrap: their next rotation would fail.",
)

POLICY_BROKEN: Final = Gauge(
    "keyfold_policy_broken",
    "1 while the policy file is broken and the policy that was read before it holds.",
)

_tracer: Final = trace.get_tracer("keyfold")


class KmsCall:
    """What is told of one call to a KMS while it is made.

    Attributes:
        region: The provider's own name of the key's region, empty where it has none.
    """

    __slots__ = ("_span", "region")

    def __init__(self, span: trace.Span) -> None:
        """Begins with nothing known but that it is made."""
        self._span = span
        self.region = ""

    def answered(self, request_id: str) -> None:
        """Notes the provider's own id of the call, so that the two logs can be joined."""
        _provider_request(self._span, request_id)


@contextmanager
def kms_call(provider: str, operation: str) -> Iterator[KmsCall]:
    """Times a call to a KMS, in a child span where the call that caused it is sampled."""
    began = perf_counter()
    outcome = "UNEXPECTED"
    with (
        _child(f"kms {operation}", {"keyfold.provider": provider}) as span,
        attempts.counted() as made,
    ):
        call = KmsCall(span)
        try:
            yield call
            outcome = OK
        except KeyfoldError as error:
            outcome = error.reason
            _failed(span, error)
            raise
        finally:
            span.set_attribute("keyfold.provider.region", call.region)
            span.set_attribute("keyfold.provider.attempts", made.count)
            labels = (provider, call.region, operation, str(made.count), outcome)
            KMS_CALLS.labels(*labels).observe(perf_counter() - began)


@contextmanager
def store_call(operation: str) -> Iterator[trace.Span]:
    """Times a call to the store, in a child span where the call that caused it is sampled."""
    began = perf_counter()
    outcome = "UNEXPECTED"
    with _child(f"store {operation}", {}) as span:
        try:
            yield span
            outcome = OK
        except KeyfoldError as error:
            outcome = error.reason
            _failed(span, error)
            raise
        finally:
            STORE_CALLS.labels(operation, outcome).observe(perf_counter() - began)


def _provider_request(span: trace.Span, request_id: str | None) -> None:
    if request_id:
        span.set_attribute("keyfold.provider.request_id", request_id)


@contextmanager
def _child(name: str, attributes: dict[str, str]) -> Iterator[trace.Span]:
    """A child span, or nothing where the call is not sampled: most are not."""
    if not trace.get_current_span().is_recording():
        yield trace.INVALID_SPAN
        return
    kind = trace.SpanKind.CLIENT
    # An exception's text could hold what was sent; `_failed` writes what may be said.
    with _tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def _failed(span: trace.Span, error: KeyfoldError) -> None:
    span.set_attribute("error.type", error.reason)
    span.set_status(trace.Status(trace.StatusCode.ERROR, error.reason))
    _provider_request(span, error.provider_request_id)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which calls get spans: decided before OpenTelemetry is asked, so that a no costs nothing.

    Attributes:
        ratio: Part of the calls without a caller's decision that are sampled, 0 to 1.
        parent_based: A caller's decision stands, whatever the ratio.
    """

    ratio: float = 0.0
    parent_based: bool = True

    def sampled(self, traceparent: str) -> bool:
        """Says whether a call gets spans.

        Args:
            traceparent: The W3C header of the caller, empty where it sent none.
        """
        if traceparent:
            if self.parent_based:
                # The lowest bit of the flags; others may be set beside it.
                return traceparent[-1] in "13579bdf"
            # By the trace's id, so that all services that sample by ratio pick the same traces.
            try:
                low = int(traceparent[19:35], 16)
            except ValueError:
                return False
            return low < self.ratio * 2**64
        return random.random() < self.ratio  # noqa: S311  no secret depends on it


NO_SPANS: Final = Sampling(0.0, parent_based=False)
"""Where no spans are wanted, a caller's decision included."""
