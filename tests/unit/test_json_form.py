"""Requests in JSON: what protobuf's mapping takes, and what Keyfold refuses beyond it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from google.longrunning import operations_proto_pb2
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfold.v1 import event_service_pb2
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import ClusterNotFoundError, MalformedRequestError
from keyfold_server.rpc.messages.json_form import JsonForm
from keyfold_server.rpc.messages.sizes import MAX_BATCH, MAX_JSON
from keyfold_server.rpc.messages.status import to_status

SERVICE = pb.DESCRIPTOR.services_by_name["KeyManagementService"]
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"

ENABLE: dict[str, Any] = {
    "cluster": "prod",
    "regionSpecs": [
        {
            "region": "eu",
            "key_spec": {"type": "LOCAL", "uri": "local:eu", "options": {"a": "b"}},
            "policy": {"cacheTtl": "60s"},
        }
    ],
}


def read(method: str, text: bytes | str) -> bytes:
    """Returns the bytes of a request."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return asyncio.run(JsonForm().request(f"/{SERVICE.full_name}/{method}", data))


def refused(method: str, given: Any) -> MalformedRequestError:
    """Reads a request that must be refused, in JSON or as a value."""
    with pytest.raises(MalformedRequestError) as caught:
        read(method, given if isinstance(given, (str, bytes)) else json.dumps(given))
    return caught.value


def test_names_of_both_kinds() -> None:
    """A field has the name of JSON or that of the contract, on every level."""
    asked = pb.EnableRequest.FromString(read("Enable", json.dumps(ENABLE)))
    spec = asked.region_specs[0]
    assert (asked.cluster, spec.key_spec.uri, spec.policy.cache_ttl.seconds) == (
        "prod",
        "local:eu",
        60,
    )


@pytest.mark.parametrize("plaintext", ["_-8=", "_-8", "/+8=", "/+8", ""])
def test_bytes(plaintext: str) -> None:
    """Bytes are base64 or base64url, with or without padding."""
    data = read("Wrap", json.dumps({"plaintext": plaintext}))
    assert pb.WrapRequest.FromString(data).plaintext == (b"\xff\xef" if plaintext else b"")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"foo": SECRET}, "foo", "no field foo"),
        ({"regionSpecs": [{"bar": SECRET}]}, "region_specs[0].bar", "no field bar"),
        ({"regionSpecs": [{"keySpec": {"Uri": SECRET}}]}, "region_specs[0].key_spec.Uri", "Uri"),
        ({"regionSpecs": {"region": SECRET}}, "region_specs", "must be a list"),
        ({"regionSpecs": [SECRET]}, "region_specs[0]", "must be an object"),
        ({"regionSpecs": [None]}, "region_specs[0]", "must be an object"),
        (
            {"regionSpecs": [{"policy": {"cacheTtl": SECRET}}]},
            "region_specs[0].policy.cache_ttl",
            "",
        ),
        ({"cluster": [SECRET]}, "cluster", "form"),
        ({"cluster": {"a": SECRET}}, "cluster", "form"),
        ({"cluster": 7}, "cluster", "form"),
        ({"cluster": "\ud800"}, "cluster", "form"),
        ({"regionSpecs": [{"keySpec": {"options": {"a": [SECRET]}}}]}, None, "form"),
        ({SECRET + "!": 1}, None, "there is a field"),
        ({SECRET * 10: 1}, None, "there is a field"),
        ({"region_specs": []}, None, "twice"),
    ],
)
def test_a_fault_names_its_field_and_repeats_no_value(
    change: dict[str, Any], field: str | None, says: str
) -> None:
    """An error says where the fault is, as the contract writes it, and repeats no value."""
    error = refused("Enable", ENABLE | change)
    assert says in error.message
    if field is not None:
        assert error.field == field
    assert SECRET not in error.message + (error.field or "")
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize(
    "plaintext", ["not base64!", SECRET[:-2], "AAAA\n", "AA AA", "=", "A===", 7, ["AAAA"], "ÄÄÄÄ"]
)
def test_bytes_that_are_not_base64(plaintext: Any) -> None:
    """A key that is not base64 is refused, and not wrapped as what a lenient reader makes of it."""
    if plaintext == "=":
        assert pb.WrapRequest.FromString(read("Wrap", '{"plaintext":"="}')).plaintext == b""
        return
    error = refused("Wrap", {"plaintext": plaintext})
    assert error.field == "plaintext"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"a"',
        "7",
        "{}{}",
        "{'cluster':'a'}",
        '{"cluster":"a",}',
        '{"cluster":"a\nb"}',
        "\ufeff{}",
        b"\xff\xfe{\0}\0",
        b'{"cluster":"\xff"}',
        b'{"cluster":"\xed\xa0\x80"}',
        '{"cluster":"a","cluster":"b"}',
        '{"context":{"a":"b","a":"c"}}',
        '{"generation":NaN}',
        '{"generation":Infinity}',
        '{"plaintext":' + "9" * 10_000 + "}",
        "[" * 100_000,
        '{"a":' * 20_000,
        '{"context":' + "[" * 20_000 + "]" * 20_000 + "}",
    ],
)
def test_what_is_no_request(text: str | bytes) -> None:
    """What is not JSON, says something twice, or is nested without end is refused."""
    assert refused("Wrap", text).reason == "MALFORMED_REQUEST"


def test_sizes() -> None:
    """JSON takes time to read, so it has bounds of its own; the error says what to do instead."""
    batch = {"cluster": "prod", "region": "eu", "items": [{"plaintext": "A" * 44}] * 1_000}
    assert len(pb.BatchWrapRequest.FromString(read("BatchWrap", json.dumps(batch))).items) == 1_000
    full = {"plaintext": "A" * 44, "context": {f"{i:02}": "v" * 10 for i in range(16)}}
    batch["items"] = [full] * 1_000
    assert len(json.dumps(batch)) < MAX_JSON
    assert len(pb.BatchWrapRequest.FromString(read("BatchWrap", json.dumps(batch))).items) == 1_000
    assert "application/proto" in refused("Wrap", b" " * (MAX_JSON + 1)).message
    assert "values" in refused("BatchWrap", b'{"items":[' + b"{}," * 300_000 + b"{}]}").message
    assert MAX_JSON < MAX_BATCH


async def test_a_large_request_leaves_the_event_loop_free() -> None:
    """Other calls go on while a large request is read, and while a large reply is written."""
    form = JsonForm()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    path = f"/{SERVICE.full_name}/BatchWrap"
    batch = {"items": [{"plaintext": "A" * 44} for _ in range(1_000)]}
    await form.request(path, json.dumps(batch).encode())
    read_turns = turns
    item = pb.BatchWrapResult(answer=pb.WrapResponse(wrapped_key=bytes(100)))
    await form.reply(path, pb.BatchWrapResponse(results=[item] * 1_000).SerializeToString())
    counting.cancel()
    assert read_turns > 1
    assert turns > read_turns + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["cluster", "regionSpecs", "keySpec", "policy", "cacheTtl", "options"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150)
@given(st.sampled_from([method.name for method in SERVICE.methods]), JSON)
def test_any_json_is_a_request_or_refused(method: str, given: Any) -> None:
    """Whatever the JSON, the reader returns a message of the method or says that it is none."""
    kind = getattr(pb, f"{method}Request")
    try:
        data = read(method, json.dumps(given))
    except MalformedRequestError:
        return
    kind.FromString(data)


@settings(max_examples=100)
@given(st.binary(max_size=64), st.text(max_size=20), st.text(min_size=1, max_size=9))
def test_what_protobuf_writes_is_read_as_it_was(key: bytes, value: str, name: str) -> None:
    """A request that protobuf wrote as JSON comes out as the same message."""
    asked = pb.WrapRequest(cluster=value, region="eu", plaintext=key, context={name: value})
    text = json_format.MessageToJson(asked)
    assert pb.WrapRequest.FromString(read("Wrap", text)) == asked


async def test_every_method_has_its_forms() -> None:
    """Each method takes an object without fields, and its empty reply is one, too."""
    form = JsonForm()
    services = (
        SERVICE,
        event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
        operations_proto_pb2.DESCRIPTOR.services_by_name["Operations"],
    )
    for method in [method for service in services for method in service.methods]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        assert await form.request(path, b"{}") == b""
        assert await form.reply(path, b"") == b"{}"


async def test_replies_hold_errors_that_can_be_read() -> None:
    """An error in a reply, such as a batch's item, shows its reason."""
    failed = pb.BatchWrapResult(error=to_status(ClusterNotFoundError("there is none")))
    data = pb.BatchWrapResponse(results=[failed]).SerializeToString()
    shown = json.loads(await JsonForm().reply(f"/{SERVICE.full_name}/BatchWrap", data))
    assert shown["results"][0]["error"]["details"][0]["reason"] == "CLUSTER_NOT_FOUND"
