"""grpcurl, a client that is not ours: what it sees through reflection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from e2e.conftest import StartServer
from e2e.grpcurl import EVENTS, ORGANIZATIONS, SERVICE, Grpcurl
from e2e.server import Server
from e2e.wire import METHODS


@pytest.fixture(scope="module")
def tcp(grpcurl: str, module_server: Server) -> Grpcurl:
    """Grpcurl on this file's server."""
    return Grpcurl(grpcurl, module_server)


def test_list_and_describe(tcp: Grpcurl) -> None:
    """The services are listed, and service, methods and messages are described."""
    assert tcp("list").split() == [
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        EVENTS,
        SERVICE,
        ORGANIZATIONS,
    ]
    assert f"{EVENTS}.ListEvents" in tcp("list", EVENTS).split()
    assert "string key_uri = 12;" in tcp("describe", "keyfold.v1.Event")
    names = {f"{SERVICE}.{method.name}" for method in METHODS}
    assert set(tcp("list", SERVICE).split()) == names
    described = tcp("describe", SERVICE)
    for method in METHODS:
        assert f"rpc {method.name} ( .{method.input_type.full_name} )" in described
    assert "rpc Wrap" in tcp("describe", f"{SERVICE}.Wrap")
    assert "string cluster = 1;" in tcp("describe", "keyfold.v1.EnableRequest")
    assert "HEALTH_KEY_DISABLED" in tcp("describe", "keyfold.v1.Health")
    assert "google.rpc.ErrorInfo is a message" in tcp("describe", "google.rpc.ErrorInfo")
    assert "Symbol not found" in tcp("describe", f"{SERVICE}.Nonsense", code=1)


def reflected(target: str, name: str, asked: reflection_pb2.ServerReflectionRequest) -> Any:
    """Asks a server's reflection service of this name."""

    def requests() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield asked

    with grpc.insecure_channel(target) as channel:
        ask = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = ask(requests(), timeout=10)
    return answer


@pytest.mark.parametrize(
    "name", ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
)
def test_reflection_under_both_names(module_server: Server, name: str) -> None:
    """Reflection answers under v1 and v1alpha: lists, finds methods, and says what it lacks."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = reflected(module_server.target, name, asked)
    assert SERVICE in {found.name for found in answer.list_services_response.service}
    for symbol in (SERVICE, f"{SERVICE}.BatchWrap", "keyfold.v1.WrapRequest"):
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        answer = reflected(module_server.target, name, asked)
        assert answer.file_descriptor_response.file_descriptor_proto
    for symbol in ("no.such.Thing", f"{SERVICE}.Nothing", "", "..", "ü" * 3000):
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        answer = reflected(module_server.target, name, asked)
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_cockroach_form_as_it_stands(tcp: Grpcurl) -> None:
    """CockroachDB's file, unchanged, is a body of Enable once the cluster's name is added."""
    file = """{
  "region_specs": [
    {"region": "eu", "key_spec": {"type": "LOCAL", "uri": "local:eu", "auth_principal": ""}},
    {"region": "us", "key_spec": {"type": "LOCAL", "uri": "local:us"}}
  ]
}"""
    named = '{"cluster": "roach",' + file.removeprefix("{")
    status = json.loads(tcp(f"{SERVICE}/Enable", data=named))["status"]
    assert [region["region"] for region in status["regions"]] == ["eu", "us"]
    assert {region["state"] for region in status["regions"]} == {"STATE_ENABLED"}
    nameless = tcp(f"{SERVICE}/Enable", data=file, code=1)
    assert "INVALID_NAME" in nameless
    assert "cluster" in nameless
    # With the cloud's own names: the error names the fault without a call to the cloud.
    aws = """{"cluster": "roach-2", "region_specs": [{"region": "us-east-1", "key_spec": {
      "type": "AWS_KMS", "uri": "arn:aws:kms:us-east-1:123456789012:key/abc",
      "auth_principal": "arn:aws:iam::123456789012:role/cmek"}}]}"""
    refused = tcp(f"{SERVICE}/Enable", data=aws, code=1)
    assert "INVALID_KEY_SPEC" in refused
    assert "region_specs[0].key_spec.uri" in refused


def test_life_of_a_key(tcp: Grpcurl) -> None:
    """A whole life through grpcurl alone, in JSON."""
    local = {"type": "LOCAL", "uri": "local:eu"}
    tcp.ask("Enable", cluster="curl", region_specs=[{"region": "eu", "key_spec": local}])
    made = tcp.ask("GenerateDataKey", cluster="curl", region="eu", context={"t": "1"})
    unwrap = {"cluster": "curl", "wrapped_key": made["wrapped_key"], "context": {"t": "1"}}
    assert tcp.ask("Unwrap", **unwrap)["plaintext"] == made["plaintext"]
    assert tcp.ask("Revoke", cluster="curl")["confirmed"]
    refused = tcp(f"{SERVICE}/Unwrap", data=json.dumps(unwrap), code=1)
    assert "REVOKED" in refused
    assert tcp.ask("Restore", cluster="curl")["restored"] == ["eu"]
    assert tcp.ask("Unwrap", **unwrap)["plaintext"] == made["plaintext"]
    assert tcp.ask("TestKey", key_spec=local)["accessible"]
    assert "Revoke" in tcp.ask("GetCaller")["grants"][0]["methods"]


def test_end_of_a_key(tcp: Grpcurl) -> None:
    """A deletion and its undeletion through grpcurl alone, in JSON, with every field of theirs."""
    local = {"type": "LOCAL", "uri": "local:eu"}
    specs = [{"region": name, "key_spec": local} for name in ("eu", "us")]
    tcp.ask("Enable", cluster="ends", region_specs=specs)
    delete = {"cluster": "ends", "all_regions": True, "waiting_period": "7200s"}
    assert "NOT_REVOKED" in tcp(f"{SERVICE}/DeleteCluster", data=json.dumps(delete), code=1)
    tcp.ask("Revoke", cluster="ends")
    lax = tcp(f"{SERVICE}/DeleteCluster", data=json.dumps({"cluster": "ends"}), code=1)
    assert "REGIONS_NOT_CHOSEN" in lax
    planned = tcp.ask("DeleteCluster", **delete, validate_only=True)
    assert [loss["region"] for loss in planned["losses"]] == ["eu", "us"]
    deleted = tcp.ask("DeleteCluster", **delete, reason="over", request_id="d")
    assert deleted["confirmed"]
    for region in deleted["status"]["regions"]:
        assert region["state"] == "STATE_DELETED"
        assert region["purge_time"] == deleted["purge_time"]
        assert region["final_after"] == deleted["final_after"] > region["purge_time"]
        assert len(region["notices"]) == 2
    listed = tcp.ask("ListClusters", state="STATE_DELETED")
    assert [each["cluster"] for each in listed["clusters"]] == ["ends"]
    generate = json.dumps({"cluster": "ends", "region": "eu"})
    assert "KEY_DELETED" in tcp(f"{SERVICE}/GenerateDataKey", data=generate, code=1)
    back = tcp.ask("UndeleteCluster", cluster="ends")
    assert {region["state"] for region in back["status"]["regions"]} == {"STATE_REVOKED"}
    assert not any("purge_time" in region for region in back["status"]["regions"])
    again = tcp.ask("DeleteCluster", **delete, reason="over", request_id="d")
    assert (again["replayed"], again["superseded"]) == (True, True)
    assert tcp.ask("Restore", cluster="ends")["restored"] == ["eu", "us"]


def test_an_organization_and_its_key(tcp: Grpcurl) -> None:
    """An organization links a key, and its cluster takes it, through grpcurl alone, in JSON."""

    def ask(method: str, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            tcp(f"{ORGANIZATIONS}/{method}", data=json.dumps(request))
        )
        return answer

    settings = {"organization": "curls", "default_key": "DEFAULT_KEY_LINKED", "max_clusters": 1}
    made = ask("CreateOrganization", organization=settings)["organization"]
    assert made["default_description"]
    link = {"organization": "curls", "key_link": "main", "region": "eu"}
    local = {"type": "LOCAL", "uri": "local:eu"}
    bad = {"key_link": link | {"key_spec": {"type": "LOCAL", "uri": "local:absent"}}}
    assert "KEY_NOT_FOUND" in tcp(f"{ORGANIZATIONS}/CreateKeyLink", data=json.dumps(bad), code=1)
    linked = ask("CreateKeyLink", key_link=link | {"key_spec": local})["key_link"]
    assert (linked["use"], linked["key_spec"]["uri"]) == ("KEY_LINK_USE_AVAILABLE", "local:eu")
    enable = {"organization": "curls", "region_specs": [{"region": "eu"}]}
    [region] = tcp.ask("Enable", cluster="curls-1", **enable)["status"]["regions"]
    assert (region["key_owner"], region["key_link"]) == ("KEY_OWNER_ORGANIZATION", "main")
    second = json.dumps({"cluster": "curls-2", **enable})
    assert "TOO_MANY_CLUSTERS" in tcp(f"{SERVICE}/Enable", data=second, code=1)
    [shown] = ask("ListKeyLinks", organization="curls")["key_links"]
    assert shown["users"] == [{"cluster": "curls-1", "region": "eu"}]
    delete = json.dumps({"organization": "curls", "key_link": "main"})
    assert "KEY_LINK_IN_USE" in tcp(f"{ORGANIZATIONS}/DeleteKeyLink", data=delete, code=1)
    update = {
        "organization": {"organization": "curls", "max_clusters": 0},
        "update_mask": {"paths": ["max_clusters"]},
        "etag": ask("GetOrganization", organization="curls")["organization"]["etag"],
    }
    assert "max_clusters" not in ask("UpdateOrganization", **update)["organization"]
    assert "ETAG_MISMATCH" in tcp(
        f"{ORGANIZATIONS}/UpdateOrganization", data=json.dumps(update), code=1
    )
    tcp.ask("Rotate", cluster="curls-1", region_specs=[{"region": "eu", "key_spec": local}])
    assert ask("DeleteKeyLink", organization="curls", key_link="main") == {}


def test_events(tcp: Grpcurl) -> None:
    """What happened is read, verified and anchored through grpcurl alone, in JSON."""
    local = {"type": "LOCAL", "uri": "local:eu"}
    tcp.ask("Enable", cluster="seen", region_specs=[{"region": "eu", "key_spec": local}])
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    revoke = json.dumps({"cluster": "seen", "reason": "contract ended", "request_id": "r-1"})
    tcp(f"-H=traceparent: {trace}", f"{SERVICE}/Revoke", data=revoke)
    asked = json.dumps({"filter": {"cluster": "seen"}, "newest_first": True, "page_size": 1})
    page = json.loads(tcp(f"{EVENTS}/ListEvents", data=asked))
    [event] = page["events"]
    assert page["next_page_token"]
    assert (event["kind"], event["action"]) == ("EVENT_KIND_DECISION", "rpc:cluster:revoke")
    assert (event["reason"], event["request_id"]) == ("contract ended", "r-1")
    assert event["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert event["detail"]["decision"]["regions"]["eu"]["state"] == "REVOKED"
    anchor = json.loads(tcp(f"{EVENTS}/GetAnchor", data="{}"))["anchor"]
    lines = json.dumps({"anchors": [anchor, "nonsense"]})
    verified = json.loads(tcp(f"{EVENTS}/VerifyEvents", data=lines))
    assert verified["last_number"] == verified["newest_number"]
    assert [each["outcome"] for each in verified["anchors"]] == [
        "ANCHOR_OUTCOME_MATCHES",
        "ANCHOR_OUTCOME_FORGED",
    ]
    bad = json.dumps({"page_token": "AAAA"})
    assert "INVALID_PAGE" in tcp(f"{EVENTS}/ListEvents", data=bad, code=1)


def test_error_details_are_readable(tcp: Grpcurl) -> None:
    """Every detail of an error appears in words, never as base64 of an unknown type."""
    local = {"type": "LOCAL", "uri": "wrong"}
    bad = json.dumps({"cluster": "x", "region_specs": [{"region": "eu", "key_spec": local}]})
    output = tcp(f"{SERVICE}/Enable", data=bad, code=1)
    assert "InvalidArgument" in output
    for word in (
        "type.googleapis.com/google.rpc.ErrorInfo",
        '"reason": "INVALID_KEY_SPEC"',
        '"domain": "keyfold"',
        "type.googleapis.com/google.rpc.BadRequest",
        "region_specs[0].key_spec.uri",
    ):
        assert word in output
    assert "not recognized" not in output
    assert "@value" not in output

    # The details of one item, too.
    batch = json.dumps({"cluster": "ghost", "region": "eu", "items": [{"plaintext": "AA=="}]})
    output = tcp(f"{SERVICE}/BatchWrap", data=batch)
    assert '"reason": "CLUSTER_NOT_FOUND"' in output
    assert "@value" not in output


def test_retry_info_is_readable(grpcurl: str, start_server: StartServer) -> None:
    """RetryInfo appears in words, too."""
    server = start_server(keys=("eu",))
    server.enable("prod", ["eu"])
    server.restart()
    server.dev_keys("disable", "eu")
    curl = Grpcurl(grpcurl, server)
    wrap = json.dumps({"cluster": "prod", "region": "eu", "plaintext": "AA=="})
    curl(f"{SERVICE}/Wrap", data=wrap, code=1)
    output = curl(f"{SERVICE}/Wrap", data=wrap, code=1)
    assert "google.rpc.RetryInfo" in output
    assert "retry_delay" in output
    assert "@value" not in output


def test_unix_socket(grpcurl: str, start_server: StartServer, tmp_path: Path) -> None:
    """All this works over a unix socket, too, including the health check."""
    server = start_server(keys=("eu",), KEYFOLD_LISTEN=f"unix:{tmp_path / 'k.sock'}")
    curl = Grpcurl(grpcurl, server)
    assert SERVICE in curl("list")
    assert curl.ask("ListClusters") == {}
    assert '"SERVING"' in curl("grpc.health.v1.Health/Check")
    for name, status in (("", health_pb2.HealthCheckResponse.SERVING), (SERVICE, 1)):
        with grpc.insecure_channel(server.target) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            assert check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == status
            with pytest.raises(grpc.RpcError) as caught:
                check(health_pb2.HealthCheckRequest(service="nonsense"), timeout=5)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
