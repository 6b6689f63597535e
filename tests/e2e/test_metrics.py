"""What Prometheus reads of a real server: promtool finds nothing wrong, and all of it is there."""

from __future__ import annotations

import re
import time
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest

import keyfold
import prometheus
from certificates import Authority
from e2e.conftest import StartServer
from e2e.server import Server
from keyfold.cli.output.probe import as_metrics
from keyfold.probe import Step
from keyfold_relay.meters import Meters

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def metrics_of(server: Server, accept: str = "text/plain") -> str:
    """Returns what the server's metrics address serves."""
    [url] = re.findall(r"metrics on (http://\S+?/metrics)", server.log())[-1:]
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Accept": accept}), timeout=30
    ) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture(name="server")
def server_fixture(start_server: StartServer) -> Server:
    """A server that has wrapped, failed and revoked."""
    server = start_server()
    server.enable("prod")
    with server.client() as client:
        client.wrap("prod", "eu", b"secret")
    server.cli("status", "nope", code=3)
    server.cli("revoke", "prod", "--region", "us", "--yes")
    return server


def test_promtool_finds_nothing_wrong(server: Server) -> None:
    """Names, types, units and help texts are as Prometheus wants them."""
    relay = generate_latest(Meters().registry).decode()
    probe = as_metrics([Step("wrap", "localhost:1", 0.1)])
    for text in (metrics_of(server), relay, probe):
        assert prometheus.promtool("check", "metrics", given=text) == ""


def test_what_an_operator_needs_is_there(server: Server) -> None:
    """The release, the sweep's age and a confirmed revocation show on a server as it stands."""
    text = metrics_of(server)
    assert re.search(r'^keyfold_build_info\{.*store="sqlite".*version="\d', text, re.MULTILINE)
    assert 'keyfold_revocation_confirm_seconds_count{outcome="confirmed"} 1.0' in text
    [age] = re.findall(r"^keyfold_sweep_age_seconds (\S+)", text, re.MULTILINE)
    assert 0 <= float(age) < 600
    assert "keyfold_sweep_interval_seconds 600.0" in text
    assert "_created" not in text
    assert "prod" not in text


def test_every_metric_is_served_and_no_other(server: Server) -> None:
    """The names by which alerts and dashboard are checked are those that a scrape shows."""
    described = set(re.findall(r"^# TYPE (keyfold_\w+)", metrics_of(server), re.MULTILINE))
    known = {name for name in prometheus.series() if not re.match("keyfold_(relay|probe)_", name)}
    assert described == {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}


def test_clusters_are_named_where_the_setting_asks(start_server: StartServer) -> None:
    """C7: calls and errors of the named clusters show from the start on, and nobody else's name."""
    server = start_server(KEYFOLD_METRICS_CLUSTERS="prod, later")
    for cluster in ("prod", "secret"):
        server.enable(cluster)
        with server.client() as client:
            wrapped = client.wrap(cluster, "eu", b"k").wrapped_key
            client.batch_unwrap(cluster, [wrapped, b"x" * 80, wrapped])
            client.revoke(cluster, regions=["us"])
            with pytest.raises(keyfold.RevokedError):
                client.wrap(cluster, "us", b"k")
    expected = {
        ("prod", "OK"): 5.0,
        ("prod", "NOT_A_WRAPPED_KEY"): 1.0,
        ("prod", "REVOKED"): 1.0,
        ("later", "OK"): 0.0,
    }
    text = ""
    found: dict[tuple[str, str], float] = {}
    for _ in range(200):  # the server measures calls some at a time
        text = metrics_of(server)
        found = {
            (cluster, outcome): float(value)
            for cluster, outcome, value in re.findall(
                r'^keyfold_cluster_calls_total\{cluster="(\w+)",outcome="(\w+)"\} (\S+)',
                text,
                re.MULTILINE,
            )
        }
        if found == expected:
            break
        time.sleep(0.05)
    assert found == expected
    assert "secret" not in text


def test_a_bucket_leads_to_a_trace(start_server: StartServer) -> None:
    """Whoever reads OpenMetrics gets the trace of a call with its bucket."""
    # Nobody takes the spans; the server goes on.
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    with server.client() as client, pytest.raises(keyfold.NotFoundError):
        client.get_status("nope")
    wanted = r'^keyfold_call_duration_seconds_bucket\{.*GetStatus.*# \{trace_id="[0-9a-f]{32}"\}'
    for _ in range(200):  # the server measures calls some at a time
        if re.search(wanted, metrics_of(server, OPENMETRICS), re.MULTILINE):
            return
        time.sleep(0.05)
    pytest.fail("no bucket has an exemplar")


def test_certificates_show_how_long_they_last(start_server: StartServer, tmp_path: Path) -> None:
    """Before a certificate expires, the metrics say when, for server and clients' authority."""
    authority = Authority()
    issued = authority.issue("dns:localhost", "ip:127.0.0.1", ends=timedelta(hours=3))
    files = {"cert": issued.pem, "key": issued.key_pem, "client_ca": authority.pem}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    policy = tmp_path / "policy.toml"
    policy.write_text('[[grant]]\ncallers = ["dns:me"]\nroles = ["auditor"]\n')
    server = start_server(
        KEYFOLD_TLS_CERT=str(tmp_path / "cert"),
        KEYFOLD_TLS_KEY=str(tmp_path / "key"),
        KEYFOLD_TLS_CLIENT_CA=str(tmp_path / "client_ca"),
        KEYFOLD_POLICY=str(policy),
    )
    before = validity(server)
    assert before.keys() == {"server", "client_authority"}
    assert all(begins < time.time() < ends for begins, ends in before.values())
    renewed = authority.issue("dns:localhost", "ip:127.0.0.1", ends=timedelta(hours=9))
    (tmp_path / "cert").write_bytes(renewed.pem)
    (tmp_path / "key").write_bytes(renewed.key_pem)
    # Nobody connects meanwhile.
    assert validity(server)["server"][1] > before["server"][1] + 3600


def validity(server: Server) -> dict[str, tuple[float, float]]:
    """Returns from when until when each certificate of a server is valid, by its metrics."""
    found = re.findall(
        r'^keyfold_tls_certificate_(begins|expires)_seconds\{certificate="(\w+)"\} (\S+)',
        metrics_of(server),
        re.MULTILINE,
    )
    times = {(which, name): float(value) for which, name, value in found}
    return {name: (times["begins", name], times["expires", name]) for _, name in times}
