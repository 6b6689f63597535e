"""What an operator sees of a real server: joined traces, metrics, and a log line per call."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import keyfold
from e2e.conftest import StartServer
from e2e.server import Server, clean_environment
from keyfold.v1.key_management_service_pb2 import ListClustersRequest
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub

_CLIENT = """
import sys
import keyfold
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with keyfold.Client(sys.argv[1]) as client:
    with trace.get_tracer("app").start_as_current_span("save") as span:
        client.generate_data_key("prod", "eu")
        try:
            client.wrap("nowhere", "eu", b"key")
        except keyfold.NotFoundError:
            pass
        print(format(span.get_span_context().trace_id, "032x"))
provider.shutdown()
"""


class Receiver:
    """A small OTLP receiver: keeps the spans that are sent to it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        receiver.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait_for(self, trace_id: str, names: Sequence[str]) -> list[Span]:
        """Waits until the trace has spans of these names, as many of each as given."""
        ends = time.monotonic() + 15
        found: list[Span] = []
        while time.monotonic() < ends and Counter(names) - Counter(s.name for s in found):
            time.sleep(0.1)
            found = [s for s in list(self.spans) if s.trace_id.hex() == trace_id]
        assert not Counter(names) - Counter(s.name for s in found), [s.name for s in found]
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP receiver on a free port."""
    made = Receiver()
    yield made
    made.close()


def _attributes(span: Span) -> dict[str, str]:
    return {a.key: a.value.string_value for a in span.attributes}


def test_one_trace_from_the_application_to_the_kms(
    start_server: StartServer, receiver: Receiver
) -> None:
    """A caller's trace goes on through the server to store and KMS, with the provider's id."""
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="200")
    server.enable()
    ran = subprocess.run(
        [sys.executable, "-c", _CLIENT, server.target],
        env=clean_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    trace_id = ran.stdout.strip()
    # Each call is a span of the client and one of the server.
    calls = [f"keyfold.v1.KeyManagementService/{m}" for m in ("GenerateDataKey", "Wrap")] * 2
    mine = receiver.wait_for(trace_id, ["save", *calls, "kms unwrap", "store cluster"])
    by_id = {s.span_id: s for s in mine}
    [kms] = [s for s in mine if s.name == "kms unwrap"]
    served = by_id[kms.parent_span_id]
    called = by_id[served.parent_span_id]
    assert (served.kind, called.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert by_id[called.parent_span_id].name == "save"
    assert _attributes(served) == {
        "rpc.system.name": "grpc",
        "rpc.method": "keyfold.v1.KeyManagementService/GenerateDataKey",
        "rpc.response.status_code": "OK",
    }
    assert re.fullmatch(r"[0-9a-f]{8,}", _attributes(kms)["keyfold.provider.request_id"])
    refused = [s for s in mine if s.name.endswith("/Wrap") and s.kind == Span.SPAN_KIND_SERVER]
    assert [_attributes(s)["error.type"] for s in refused] == ["CLUSTER_NOT_FOUND"]
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert [x["method"] for x in lines if x.get("trace_id") == trace_id] == [
        "GenerateDataKey",
        "Wrap",
    ]


def test_a_callers_no_makes_no_span(start_server: StartServer, receiver: Receiver) -> None:
    """A call whose caller did not sample it makes no span, and its log line has the trace's id."""
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="100")
    with grpc.insecure_channel(server.target) as channel:
        stub = KeyManagementServiceStub(channel)
        for flag, number in (("00", "a"), ("01", "b")):
            header = f"00-{number * 32}-{'c' * 16}-{flag}"
            stub.ListClusters(ListClustersRequest(), metadata=(("traceparent", header),), timeout=5)
    receiver.wait_for("b" * 32, ["keyfold.v1.KeyManagementService/ListClusters"])
    assert not [s for s in receiver.spans if s.trace_id.hex() == "a" * 32]
    server.stop()
    assert "a" * 32 in server.log()


def test_an_absent_collector_loses_no_call(start_server: StartServer) -> None:
    """Without the collector the server answers calls as usual, and stops in time."""
    server = start_server(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_SCHEDULE_DELAY="50"
    )
    server.enable()
    with server.client() as client:
        keys = [client.generate_data_key("prod", "eu") for _ in range(200)]
        assert all(client.unwrap("prod", k.wrapped_key).plaintext == k.plaintext for k in keys)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10


def _monitored(server: Server, path: str) -> tuple[int, str]:
    """Returns the status and the body of an answer of the metrics address."""
    found = re.search(r"(http://127\.0\.0\.1:\d+)/metrics", server.log())
    assert found is not None
    try:
        with urllib.request.urlopen(found[1] + path, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _metrics(server: Server) -> str:
    status, text = _monitored(server, "/metrics")
    assert status == 200
    return text


def test_metrics(server: Server) -> None:
    """Prometheus finds calls by method, code and reason, KMS and store calls, cache and regions."""
    server.enable()
    with server.client() as client:
        for _ in range(3):
            client.wrap("prod", "eu", b"key")
        with pytest.raises(keyfold.NotFoundError):
            client.wrap("nowhere", "eu", b"key")
    calls = "keyfold_call_duration_seconds_count"
    missing = 'code="NOT_FOUND",method="Wrap",reason="CLUSTER_NOT_FOUND"'
    kms = "keyfold_kms_call_duration_seconds_count"
    wrapped = 'attempts="1",operation="wrap",outcome="OK",provider="LOCAL",region=""'
    expected = {
        f'{calls}{{code="OK",method="Wrap",reason=""}} 3.0',
        f"{calls}{{{missing}}} 1.0",
        f"{kms}{{{wrapped}}} 2.0",
        'keyfold_store_call_duration_seconds_count{operation="apply",outcome="OK"} 2.0',
        'keyfold_loads_total{outcome="OK"} 1.0',
        "keyfold_cached_keks 1.0",
        "keyfold_keks_in_grace 0.0",
    }
    # Gauges are taken every five seconds.
    ends = time.monotonic() + 15
    lines: set[str] = set()
    while time.monotonic() < ends and not expected <= lines:
        time.sleep(0.2)
        lines = set(_metrics(server).splitlines())
    assert expected <= lines, expected - lines


def test_a_line_per_call(server: Server) -> None:
    """Every call leaves one line of JSON that says who, what, where and how it ended."""
    server.enable()
    with server.client() as client:
        client.batch_wrap(
            "prod", [keyfold.WrapItem(b"a" * 32), keyfold.WrapItem(b"b" * 32)], region="eu"
        )
        with pytest.raises(keyfold.InvalidInputError):
            client.wrap('no"\nname', "eu", b"key")
    server.stop()
    lines = [json.loads(line) for line in server.log().splitlines()]
    calls = [line for line in lines if line["event"] == "call"]
    assert [(c["method"], c["items"], c["code"], c["reason"]) for c in calls] == [
        ("Enable", 1, "OK", ""),
        ("BatchWrap", 2, "OK", ""),
        ("Wrap", 1, "INVALID_ARGUMENT", "INVALID_NAME"),
    ]
    assert calls[1]["cluster"] == "prod"
    assert calls[1]["region"] == "eu"
    assert calls[2]["cluster"] == 'no"\nname'
    assert all(c["caller"] == "local" and c["us"] >= 0 for c in calls)


def _until_ready_is(server: Server, status: int) -> str:
    """Waits until /readyz answers with a status, and returns the body."""
    ends = time.monotonic() + 30
    while (found := _monitored(server, "/readyz"))[0] != status:
        assert time.monotonic() < ends, found
        time.sleep(0.1)
    return found[1]


def _until_logged(server: Server, text: str) -> None:
    ends = time.monotonic() + 30
    while text not in server.log():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_probes_metric_and_log_tell_of_a_stop(start_server: StartServer) -> None:
    """S3: /readyz, keyfold_serving and one log line each say when service stops and returns."""
    server = start_server(KEYFOLD_STORE_MAX_STALENESS="2s")
    assert _until_ready_is(server, 200) == "SERVING\n"
    assert _monitored(server, "/livez") == (200, "live\n")
    assert _monitored(server, "/")[0] == 404
    assert "keyfold_serving 1.0" in _metrics(server).splitlines()
    with closing(sqlite3.connect(server.store, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")  # No poll of the server succeeds now.
        assert _until_ready_is(server, 503).startswith("NOT_SERVING: STORE_STALE: ")
        assert "keyfold_serving 0.0" in _metrics(server).splitlines()
        assert _monitored(server, "/livez") == (200, "live\n")
        _until_logged(server, "this server does not serve from now on")
        database.execute("ROLLBACK")
    assert _until_ready_is(server, 200) == "SERVING\n"
    _until_logged(server, "this server serves again")
    assert server.stop() == 0
    events = [json.loads(line)["event"] for line in server.log().splitlines()]
    told = [event for event in events if event.startswith("this server")]
    assert [event.partition(":")[0] for event in told] == [
        "this server does not serve from now on",
        "this server serves again; it did not because of STORE_STALE",
        "this server does not serve from now on",
    ]
    assert ": STORE_STALE: " in told[0]
    assert ": DRAINING: " in told[2]
