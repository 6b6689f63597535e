"""`what_if` on the wire: code and reason are those that callers then really get."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from in_process import InProcess, serving
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.errors import KmsError
from keyfold_server.domain.what_if import WhatIf, When
from keyfold_server.rpc.messages.status import code_of

KEY: Final = "local:one"
SPEC: Final = res.RegionSpec(region="eu", key_spec=res.KeySpec(type="LOCAL", uri=KEY))


def stub_of(server: InProcess, stack: list[grpc.Channel]) -> stubs.KeyManagementServiceStub:
    """Connects to a server."""
    channel = grpc.insecure_channel(server.target)
    stack.append(channel)
    return stubs.KeyManagementServiceStub(channel)


def test_the_answer_is_what_callers_then_get(tmp_path: Path) -> None:
    """C6: who reads the table sees the code and the reason that an application will see."""
    channels: list[grpc.Channel] = []
    with serving(tmp_path, local_keys=["one"]) as server:
        stub = stub_of(server, channels)
        stub.Enable(pb.EnableRequest(cluster="acme", region_specs=[SPEC]))
        blob = stub.Wrap(pb.WrapRequest(cluster="acme", region="eu", plaintext=b"k")).wrapped_key
        selector = pb.KeySelector(uri=KEY)
        asked = pb.ListKeyUsageRequest(selector=selector, what_if=pb.WHAT_IF_DISABLE)
        [use] = stub.ListKeyUsage(asked).uses
        said = use.impact
        assert (said.stops_wrap, said.stops_unwrap, said.stops_rotation) == (True, True, True)
        assert said.when == pb.IMPACT_TIME_AT_ONCE
        assert said.stops_within.seconds == 75
        assert said.resumes
        assert said.because
        server.local_keys.disable("one")
        stub.Recheck(pb.RecheckRequest(cluster="acme"))
        for call in (
            lambda: stub.Wrap(pb.WrapRequest(cluster="acme", region="eu", plaintext=b"k")),
            lambda: stub.Unwrap(pb.UnwrapRequest(cluster="acme", wrapped_key=blob)),
            lambda: stub.Rotate(
                pb.RotateRequest(cluster="acme", region_specs=[res.RegionSpec(region="eu")])
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert (said.code, said.reason) == seen(caught.value)
        for channel in channels:
            channel.close()


def seen(error: grpc.RpcError) -> tuple[str, str]:
    """Returns the code and the reason that a caller gets."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code().name, info.reason


def test_nothing_is_said_where_nothing_is_asked(tmp_path: Path) -> None:
    """Without `what_if` a use has no impact, and an unknown action is refused."""
    channels: list[grpc.Channel] = []
    with serving(tmp_path, local_keys=["one"]) as server:
        stub = stub_of(server, channels)
        stub.Enable(pb.EnableRequest(cluster="acme", region_specs=[SPEC]))
        selector = pb.KeySelector(uri=KEY)
        [use] = stub.ListKeyUsage(pb.ListKeyUsageRequest(selector=selector)).uses
        assert not use.HasField("impact")
        asked = pb.ListKeyUsageRequest(
            selector=selector, what_if=pb.WHAT_IF_REMOVE_DESCRIBE_PERMISSION
        )
        [use] = stub.ListKeyUsage(asked).uses
        assert use.impact.when == pb.IMPACT_TIME_NEVER
        assert (use.impact.code, use.impact.reason) == ("", "")
        assert not use.impact.HasField("stops_within")
        unknown = pb.ListKeyUsageRequest(selector=selector)
        unknown.MergeFromString(b"\x10\x63")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListKeyUsage(unknown)
        assert seen(caught.value) == ("INVALID_ARGUMENT", "INVALID_SELECTOR")
        for channel in channels:
            channel.close()


def test_every_value_has_its_number() -> None:
    """The contract's enums and the domain's have the same members."""
    assert {f"WHAT_IF_{what.name}" for what in WhatIf} == set(pb.WhatIf.keys()[1:])
    assert {f"IMPACT_TIME_{when.name}" for when in When} == set(pb.ImpactTime.keys()[1:])


def test_every_error_of_a_kms_has_a_code() -> None:
    """Whatever a provider foresees, the table has a code for it."""
    errors = [KmsError]
    while errors:
        error = errors.pop()
        errors += error.__subclasses__()
        if error is not KmsError:
            assert code_of(error) is not grpc.StatusCode.INTERNAL
