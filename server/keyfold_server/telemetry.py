"""Metrics and spans: their names, and the functions that record them.

`observability` decides where spans go and who can read the metrics. No metric or span ever has key
material: a label is a method, a code, a reason, a provider's type, or a name that the operator has
chosen to show, and a span's attributes are names and ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram, Info, disable_created_metrics

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import KeyfoldError

OK: Final = "OK"
"""The outcome of a successful call. The outcome of any other call is its error's reason."""

# Every counter and histogram would have a second series with the time at which it began.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005)
_SLOW: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

BUILD: Final = Info(
    "keyfold_build",
    "The server's release, Python's, and the kinds of its transport and its store.",
)

CALLS: Final = Histogram(
    "keyfold_call_duration_seconds",
    "Time that the server took for a call, by method, gRPC code and reason.",
    ("method", "code", "reason"),
    buckets=_FAST + _SLOW,
)

CLUSTER_CALLS: Final = Counter(
    "keyfold_cluster_calls_total",
    "Calls for each cluster that KEYFOLD_METRICS_CLUSTERS names, by outcome: OK, or why it failed. "
    "Each item of a batch counts.",
    ("cluster", "outcome"),
)

KMS_CALLS: Final = Histogram(
    "keyfold_kms_call_duration_seconds",
    "Time that a call to a customer's KMS took, including the wait for its turn.",
    ("provider", "region", "operation", "attempts", "outcome"),
    buckets=_FAST[3:] + _SLOW,
)

STORE_CALLS: Final = Histogram(
    "keyfold_store_call_duration_seconds",
    "Time that a call to the store took, including the wait for a thread.",
    ("operation", "outcome"),
    buckets=_FAST + _SLOW,
)

LOADS: Final = Counter(
    "keyfold_loads_total",
    "Key encryption keys (KEKs) that a KMS unwrapped into memory or proved again, by outcome.",
    ("outcome",),
)

CLUSTERS_DISTRUSTED: Final = Counter(
    "keyfold_clusters_distrusted_total",
    "Clusters whose keys left memory because their rows in the store were edited, banned or "
    "deleted, by reason.",
    ("reason",),
)

REFRESHES_NOT_ASKED: Final = Counter(
    "keyfold_refreshes_not_asked_total",
    "Checks of root keys in use that this server's own limits kept from the KMS, by provider and "
    "reason. Where they go on, keys go out of use at the end of their TTL, without grace.",
    ("provider", "reason"),
)

REVOCATION_CONFIRMED: Final = Histogram(
    "keyfold_revocation_confirm_seconds",
    "Time from the commit of a Revoke or RetireGeneration to its answer, by whether every live "
    "replica had dropped the keys by then: confirmed or pending.",
    ("outcome",),
    buckets=_SLOW,
)

LOG_LINES_DROPPED: Final = Counter(
    "keyfold_log_lines_dropped_total",
    "Log lines about calls that were dropped, because whoever reads the log was too slow.",
)

USES_NOT_COUNTED: Final = Counter(
    "keyfold_uses_not_counted_total",
    "Uses of keys that ListUsage lacks, because too many counts waited for the store.",
)

ATTEMPTS_DROPPED: Final = Counter(
    "keyfold_attempts_dropped_total",
    "Refused attempts that the store's log lacks, because they came too fast.",
)

OPERATION_ITEMS: Final = Counter(
    "keyfold_operation_items_total",
    "Regions that operations have worked on, by what the operation does and how it ended there: "
    "done, skipped or failed.",
    ("action", "outcome"),
)

OPERATIONS_RUNNING: Final = Gauge(
    "keyfold_operations_running",
    "Operations that this server works on now.",
)

OPERATIONS_WAITING: Final = Gauge(
    "keyfold_operations_waiting",
    "Operations that wait because no control replica lives, on each replica that serves some "
    "regions alone.",
)

TLS_HANDSHAKES_FAILED: Final = Counter(
    "keyfold_tls_handshakes_failed_total",
    "TLS handshakes with clients that failed, by BoringSSL's reason, as far as gRPC tells.",
    ("reason",),
)

CERTIFICATE_BEGINS: Final = Gauge(
    "keyfold_tls_certificate_begins_seconds",
    "Unix time from which the certificate that the server serves is valid, or the authority of its "
    "clients that lasts longest.",
    ("certificate",),
)

CERTIFICATE_EXPIRES: Final = Gauge(
    "keyfold_tls_certificate_expires_seconds",
    "Unix time at which that certificate expires.",
    ("certificate",),
)

SERVING: Final = Gauge(
    "keyfold_serving",
    "1 while this server serves, otherwise 0; /readyz and the log say why it does not.",
)

TASK_FAILURES: Final = Counter(
    "keyfold_task_failures_total",
    "Unexpected failures of the server's own background tasks, by task. Each is in the log, and "
    "the task goes on.",
    ("task",),
)

_LAG: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *_SLOW[3:])

LOOP_LAG: Final = Histogram(
    "keyfold_event_loop_lag_seconds",
    "How late the event loop took its turns, measured 20 times a second. All calls wait so long.",
    buckets=_LAG,
)

LOOP_HELD: Final = Histogram(
    "keyfold_event_loop_held_seconds",
    "The most of that lag for which the server's own computing can be to blame. For the rest the "
    "loop waited for a processor, a lock or a file.",
    buckets=_LAG,
)

CACHED_CLUSTERS: Final = Gauge("keyfold_cached_clusters", "Clusters whose keys are in memory.")

CACHED_KEKS: Final = Gauge("keyfold_cached_keks", "KEKs in memory.")

KEKS_IN_GRACE: Final = Gauge(
    "keyfold_keks_in_grace",
    "KEKs in use on outage grace, while their KMS is out of reach. A restart would end their use.",
)

SWEEP_AGE: Final = Gauge(
    "keyfold_sweep_age_seconds",
    "Time since the part of the sweep that waits longest was last finished, or since the start.",
)

SWEEP_INTERVAL: Final = Gauge(
    "keyfold_sweep_interval_seconds",
    "Time in which the sweep should come to each of its parts once: KEYFOLD_SWEEP_INTERVAL.",
)

STORE_AGE: Final = Gauge(
    "keyfold_store_age_seconds",
    "Time since this replica last began to read the store's changes successfully.",
)

REGIONS: Final = Gauge(
    "keyfold_regions",
    "Regions in the store, by state and last recorded health, on the one replica that counts them.",
    ("state", "health"),
)

CANNOT_WRAP: Final = Gauge(
    "keyfold_regions_cannot_wrap",
    "Enabled regions whose root key unwraps but does not wrap, so that their next rotation would "
    "fail, on the one replica that counts regions.",
)

REGIONS_UNSERVED: Final = Gauge(
    "keyfold_regions_unserved",
    "Clusters that have a region enabled which no live replica serves, by the region's name, on "
    "the one replica that counts regions. Of many regions it shows those with the most clusters.",
    ("region",),
)

ROOT_KEY_FAILING: Final = Gauge(
    "keyfold_root_key_failing_seconds",
    "Time for which a root key of an enabled region has had one health that is not HEALTHY: the "
    "longest, by health, on the one replica that counts regions. `region` is the region whose own "
    "replicas found it so, or empty: replicas that serve every region did.",
    ("health", "region"),
)

REGIONS_ERASED: Final = Counter(
    "keyfold_regions_erased_total",
    "Deleted regions that this replica erased after their purge time.",
)

ERASURES_DUE: Final = Gauge(
    "keyfold_erasures_due",
    "Deleted regions whose purge time has passed and that are still there, on the one replica that "
    "erases. More than a few minutes only while erasing is paused, or a cluster's rows are not "
    "authentic.",
)

ERASURES_PAUSED: Final = Gauge(
    "keyfold_erasures_paused_seconds",
    "Time for which nothing is erased yet, because the store's clock may have been set forward, on "
    "the one replica that erases; otherwise 0.",
)

WATCHES: Final = Gauge("keyfold_watches", "Streams of WatchEvents that are open on this replica.")

CURSOR_LAG_ENTRIES: Final = Gauge(
    "keyfold_cursor_lag_entries",
    "Entries of the log after each live cursor, by the caller that owns it and its name, on the "
    "one replica that shows them. Of many cursors it shows those that have waited longest.",
    ("owner", "cursor"),
)

CURSOR_LAG_SECONDS: Final = Gauge(
    "keyfold_cursor_lag_seconds",
    "Time for which the first entry after each live cursor has waited, by owner and name, on the "
    "one replica that shows them.",
    ("owner", "cursor"),
)

CURSORS_EXPIRED: Final = Counter(
    "keyfold_cursors_expired_total",
    "Cursors that expired on this replica's watch, because nobody advanced them: their readers "
    "have lost events.",
)

POLICY_BROKEN: Final = Gauge(
    "keyfold_policy_broken",
    "1 while the policy file is broken and the previous policy stays in force, otherwise 0.",
)

LOG_BROKEN: Final = Gauge(
    "keyfold_log_broken",
    "The number of the first entry of the store's log that this server found not to be as Keyfold "
    "wrote it; 0 while it found none.",
)

MOST_REGIONS: Final = 200
"""Most names of providers' regions that the metrics tell apart. All clouds together have fewer; but
callers name root keys, so they could make names up until Prometheus is full."""

OTHER_REGION: Final = "other"
"""The label of all further regions."""

_regions: Final[set[str]] = set()

_tracer: Final = trace.get_tracer("keyfold")


class KmsCall:
    """What is recorded of one call to a KMS.

    Attributes:
        region: The provider's name of the key's region; empty if the provider has no regions.
    """

    __slots__ = ("_span", "region")

    def __init__(self, span: trace.Span) -> None:
        """Begins with nothing known of the call."""
        self._span = span
        self.region = ""

    def answered(self, request_id: str) -> None:
        """Records the provider's id of the call, by which its log and ours can be joined."""
        _provider_request(self._span, request_id)


@contextmanager
def kms_call(
    provider: str, operation: str, wanted: tuple[type[KeyfoldError], ...] = ()
) -> Iterator[KmsCall]:
    """Times a call to a KMS; makes a child span if the call that caused it is sampled.

    Args:
        provider: The provider's type.
        operation: The method of the provider.
        wanted: Errors that show the KMS to be as it should be. They are recorded as success.
    """
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
            outcome = OK if isinstance(error, wanted) else error.reason
            if outcome != OK:
                _failed(span, error)
            raise
        finally:
            span.set_attribute("keyfold.provider.region", call.region)
            span.set_attribute("keyfold.provider.attempts", made.count)
            region = _known(call.region)
            labels = (provider, region, operation, str(made.count), outcome)
            KMS_CALLS.labels(*labels).observe(perf_counter() - began, _exemplar(span))


@contextmanager
def store_call(operation: str) -> Iterator[trace.Span]:
    """Times a call to the store; makes a child span if the call that caused it is sampled."""
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
            STORE_CALLS.labels(operation, outcome).observe(perf_counter() - began, _exemplar(span))


def _known(region: str) -> str:
    """Returns a region's name for a label: what a uri calls a region need not be one."""
    if region not in _regions and len(_regions) >= MOST_REGIONS:
        return OTHER_REGION
    _regions.add(region)
    return region


def exemplar(trace_id: str) -> dict[str, str] | None:
    """Returns what leads from a histogram's bucket to a trace; None for a call without one."""
    return {"trace_id": trace_id} if trace_id else None


def _exemplar(span: trace.Span) -> dict[str, str] | None:
    if not span.is_recording():
        return None
    return exemplar(format(span.get_span_context().trace_id, "032x"))


def _provider_request(span: trace.Span, request_id: str | None) -> None:
    if request_id:
        span.set_attribute("keyfold.provider.request_id", request_id)


@contextmanager
def _child(name: str, attributes: dict[str, str]) -> Iterator[trace.Span]:
    """Makes a child span, or an invalid one if the call is not sampled, as most are not."""
    if not trace.get_current_span().is_recording():
        yield trace.INVALID_SPAN
        return
    kind = trace.SpanKind.CLIENT
    # An exception's text may contain what a caller sent; `_failed` records what is safe.
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
    """Decides which calls get spans, before OpenTelemetry is called, so that a no costs nothing.

    Attributes:
        ratio: The share of calls that get spans, 0 to 1.
        parent_based: True if the caller's decision counts, whatever the ratio.
    """

    ratio: float = 0.0
    parent_based: bool = True

    def sampled(self, traceparent: str) -> bool:
        """Says whether a call gets spans.

        Args:
            traceparent: The caller's `traceparent` header; empty if it sent none.
        """
        if traceparent:
            if self.parent_based:
                # The lowest bit of the flags says "sampled"; other bits may be set, too.
                return traceparent[-1] in "13579bdf"
            # Decide by the trace's id, so that all services that sample by ratio agree.
            try:
                low = int(traceparent[19:35], 16)
            except ValueError:
                return False
            return low < self.ratio * 2**64
        return random.random() < self.ratio  # noqa: S311  no secret depends on it


NO_SPANS: Final = Sampling(0.0, parent_based=False)
"""Makes no spans at all, whatever the caller decided."""
