"""C8: the time of an answer does not tell a hidden name from one that does not exist."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import pytest

import callers
from in_process import serving
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.rpc import methods
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.clock import SystemClock

PERIOD: Final = 0.5
"""Seconds; far more than any of the calls takes by itself."""

Ask = Callable[[service.KeyManagementServiceStub], object]

CALLS: Final[dict[str, Ask]] = {
    "Wrap": lambda stub: stub.Wrap(pb.WrapRequest(cluster="c", region="eu", plaintext=b"k" * 32)),
    "GetStatus": lambda stub: stub.GetStatus(pb.GetStatusRequest(cluster="c")),
    "Rotate": lambda stub: stub.Rotate(
        pb.RotateRequest(cluster="c", region_specs=[res.RegionSpec(region="eu")])
    ),
    "Revoke": lambda stub: stub.Revoke(pb.RevokeRequest(cluster="c")),
    "DeleteCluster": lambda stub: stub.DeleteCluster(
        pb.DeleteClusterRequest(cluster="c", all_regions=True)
    ),
}


def test_what_does_not_exist_is_told_at_the_end_of_a_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C8: the server holds such an answer back until a fixed time after the request."""
    monkeypatch.setattr(methods, "_PERIOD", PERIOD)
    with serving(tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        stub = service.KeyManagementServiceStub(channel)
        for name, ask in CALLS.items():
            began = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                ask(stub)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            # The event loop may wake up a little early, by the resolution of its clock.
            assert time.monotonic() - began > PERIOD - 0.01, name
        began = time.monotonic()
        item = pb.BatchWrapItem(plaintext=b"k" * 32)
        asked = pb.BatchWrapRequest(cluster="c", region="eu", items=[item])
        [result] = stub.BatchWrap(asked).results
        assert result.error.code == grpc.StatusCode.NOT_FOUND.value[0]
        assert time.monotonic() - began > PERIOD - 0.01


POLICY: Final = """
[[grant]]
callers = ["dns:auditor"]
roles = ["auditor"]
organizations = ["acme"]
"""


class OneAuditor:
    """Takes every caller for the auditor of one organization."""

    def __init__(self) -> None:
        self._policy = CachedPolicy(parse(POLICY, "policy.toml"))

    def rights(self, identity: Identity) -> Rights:
        return self._policy.rights(Identity(("dns:auditor",), identity.proof))

    @property
    def claims(self) -> frozenset[str]:
        return self._policy.claims

    def believes(self, identity: Identity) -> bool:
        del identity
        return False


def test_who_may_not_know_of_a_keys_uses_hears_so_at_the_end_of_a_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C8: the time of ListKeyUsage's answer does not tell whether hidden clusters use the key."""
    monkeypatch.setattr(methods, "_PERIOD", PERIOD)
    who = Callers(OneAuditor(), callers.LOCAL, SystemClock())
    with (
        serving(tmp_path, who=who, local_keys=["eu"]) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = service.KeyManagementServiceStub(channel)
        began = time.monotonic()
        selector = pb.KeySelector(uri="local:eu")
        reply = stub.ListKeyUsage(pb.ListKeyUsageRequest(selector=selector))
        assert not reply.HasField("safe_to_disable")
        assert time.monotonic() - began > PERIOD - 0.01
