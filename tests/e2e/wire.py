"""The wire as it is: generated stubs, and what a refusal carries, detail by detail.

The client library hides what these tests are about (codes, details, bytes that are no request),
so they speak gRPC themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res

TIMEOUT: Final = 10.0
"""Seconds that a call of a test may take."""

METHODS: Final = tuple(pb.DESCRIPTOR.services_by_name["KeyManagementService"].methods)
"""Every method of the contract."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal as it came over the wire.

    Attributes:
        code: The gRPC code.
        message: The text for people.
        domain: The ErrorInfo's domain; empty without an ErrorInfo.
        reason: The ErrorInfo's reason; empty without an ErrorInfo.
        metadata: The ErrorInfo's metadata; empty without an ErrorInfo.
        fields: Paths of the BadRequest's violations.
        retry_after: The RetryInfo's seconds, or None.
    """

    code: grpc.StatusCode
    message: str
    domain: str
    reason: str
    metadata: Mapping[str, str]
    fields: tuple[str, ...]
    retry_after: float | None

    @classmethod
    def of(cls, status: Status) -> Refusal:
        """Reads a status: a whole call's or one item's."""
        info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
        kinds = {kind.DESCRIPTOR.full_name: kind for kind in (info, bad, retry)}
        for detail in status.details:
            assert detail.Unpack(kinds[detail.TypeName()])
        waits = any(
            detail.TypeName() == RetryInfo.DESCRIPTOR.full_name for detail in status.details
        )
        return cls(
            _CODES[status.code],
            status.message,
            info.domain,
            info.reason,
            dict(info.metadata),
            tuple(violation.field for violation in bad.field_violations),
            retry.retry_delay.ToMicroseconds() / 1e6 if waits else None,
        )


class NotRefusedError(AssertionError):
    """A call that had to be refused was answered."""


def refusal(error: grpc.RpcError) -> Refusal:
    """Reads the error of a call."""
    assert isinstance(error, grpc.Call)
    status: Status | None = rpc_status.from_call(error)
    if status is None:
        return Refusal(error.code(), error.details() or "", "", "", {}, (), None)
    return Refusal.of(status)


def refused(call: Callable[..., Any], request: Any, timeout: float = TIMEOUT) -> Refusal:
    """Makes a call that must be refused, and returns how it was."""
    try:
        answer = call(request, timeout=timeout)
    except grpc.RpcError as error:
        return refusal(error)
    raise NotRefusedError(f"it was answered: {answer}")


def told_in_time(call: Callable[[], Any]) -> Any:
    """Makes a call that is answered just before its deadline; again if the machine was slow."""
    for _ in range(5):
        try:
            return call()
        except grpc.RpcError as error:
            if refusal(error).reason:
                raise
    raise AssertionError


@contextmanager
def stubs(
    target: str, options: Iterable[tuple[str, Any]] = ()
) -> Iterator[service.KeyManagementServiceStub]:
    """Yields the stubs of a server, over a connection of their own."""
    # The pool is gRPC's own: without this two channels to one address share a connection.
    own = [("grpc.use_local_subchannel_pool", 1), *options]
    with grpc.insecure_channel(target, options=own) as channel:
        yield service.KeyManagementServiceStub(channel)


@contextmanager
def raw(target: str) -> Iterator[Callable[..., bytes]]:
    """Yields a call of any method with any bytes: `call("Wrap", b"...", timeout=1)`."""
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:

        def call(method: str, data: bytes, timeout: float | None = TIMEOUT) -> bytes:
            path = f"/keyfold.v1.KeyManagementService/{method}"
            method_of: Any = channel.unary_unary(path)
            answer: bytes = method_of(data, timeout=timeout)
            return answer

        yield call


def spec(region: str, uri: str | None = None, type_: str = "LOCAL") -> res.RegionSpec:
    """Returns a region spec; without a uri, of the dev key with the region's name."""
    return res.RegionSpec(
        region=region, key_spec=res.KeySpec(type=type_, uri=uri or f"local:{region}")
    )


def picture(stub: service.KeyManagementServiceStub, *clusters: str) -> list[Any]:
    """Returns all decisions that a server shows: to compare before and after a refusal.

    Health, its times and last uses are observations, and change by themselves.
    """
    shown = list(stub.ListClusters(pb.ListClustersRequest(page_size=1000), timeout=9).clusters)
    for name in clusters:
        asked = pb.GetStatusRequest(cluster=name)
        shown.append(stub.GetStatus(asked, timeout=9).status)
    return [_decisions(cluster) for cluster in shown]


def _decisions(cluster: res.ClusterStatus) -> res.ClusterStatus:
    for region in cluster.regions:
        for field in (
            "health",
            "health_time",
            "can_wrap",
            "can_unwrap",
            "can_describe",
            "last_check_time",
            "last_success_time",
            "last_error",
            "notices",
        ):
            region.ClearField(field)
        for generation in region.generations:
            generation.ClearField("last_use_time")
    return cluster
