"""A client of one server, on this process's event loop, for many calls at once."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.duration_pb2 import Duration

from bench.cases import REGION, WrongAnswerError
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold.v1 import resources_pb2 as res

if TYPE_CHECKING:
    from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceAsyncStub

WITHIN: Final = 20.0
"""Seconds that a call may take."""

KEY: Final = bytes(range(32))
"""The plaintext of every wrapped key, so that the client can check each answer of Unwrap."""


class Client:
    """Calls one server. Calls use the client's connections in turn."""

    def __init__(self, made: list[KeyManagementServiceAsyncStub]) -> None:
        """Makes a client of one stub per connection."""
        turns = itertools.cycle(made)
        self._next: Callable[[], KeyManagementServiceAsyncStub] = lambda: next(turns)

    async def enable(self, cluster: str, spec: res.KeySpec, ttl: int | None = None) -> None:
        """Makes a cluster with one region.

        Args:
            cluster: The cluster's name.
            spec: Its root key.
            ttl: Its policy's cache_ttl in seconds; None leaves it to the server.
        """
        policy = None if ttl is None else res.RegionPolicy(cache_ttl=Duration(seconds=ttl))
        region = res.RegionSpec(region=REGION, key_spec=spec, policy=policy)
        await self._next().Enable(
            pb.EnableRequest(cluster=cluster, region_specs=[region]), timeout=WITHIN
        )

    async def wrap(self, cluster: str) -> bytes:
        """Wraps `KEY`."""
        request = pb.WrapRequest(cluster=cluster, region=REGION, plaintext=KEY)
        return (await self._next().Wrap(request, timeout=WITHIN)).wrapped_key

    async def unwrap(self, cluster: str, wrapped_key: bytes, within: float = WITHIN) -> None:
        """Unwraps `KEY`.

        Raises:
            grpc.aio.AioRpcError: The server refused the call.
            WrongAnswerError: The server returned another key.
        """
        request = pb.UnwrapRequest(cluster=cluster, wrapped_key=wrapped_key)
        if (await self._next().Unwrap(request, timeout=within)).plaintext != KEY:
            raise WrongAnswerError("Unwrap returned another key")

    async def outcome(self, cluster: str, wrapped_key: bytes, within: float = WITHIN) -> str:
        """Unwraps `KEY`, and returns `OK` or the name of the error's gRPC code."""
        try:
            await self.unwrap(cluster, wrapped_key, within)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    async def revoke(self, cluster: str) -> pb.RevokeResponse:
        """Revokes a cluster."""
        return await self._next().Revoke(pb.RevokeRequest(cluster=cluster), timeout=WITHIN)

    async def restore(self, cluster: str) -> None:
        """Restores a cluster.

        Raises:
            WrongAnswerError: A region does not serve.
        """
        reply = await self._next().Restore(pb.RestoreRequest(cluster=cluster), timeout=WITHIN)
        if reply.not_restored:
            raise WrongAnswerError("Restore did not restore a region")

    async def recheck(self, uri: str) -> pb.RecheckResponse:
        """Has a root key proven now."""
        return await self._next().Recheck(pb.RecheckRequest(key_uri=uri), timeout=WITHIN)

    async def key_usage(self, uri: str, size: int = 0, token: str = "") -> pb.ListKeyUsageResponse:
        """Reads a page of what needs a root key."""
        request = pb.ListKeyUsageRequest(
            selector=pb.KeySelector(uri=uri), page_size=size, page_token=token
        )
        return await self._next().ListKeyUsage(request, timeout=WITHIN)

    async def status(self, cluster: str) -> None:
        """Reads a cluster's status."""
        reply = await self._next().GetStatus(pb.GetStatusRequest(cluster=cluster), timeout=WITHIN)
        if reply.status.cluster != cluster:
            raise WrongAnswerError("GetStatus returned another cluster")


@asynccontextmanager
async def client(address: str, connections: int = 1) -> AsyncIterator[Client]:
    """Connects to a server."""
    # Without this option all channels to one address share one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(connections)
        ]
        yield Client([stubs.KeyManagementServiceStub(channel) for channel in channels])


def key_spec(uri: str) -> res.KeySpec:
    """Returns the spec of a root key by its uri: `local:NAME` or `bench:ACCOUNT.KEY`."""
    return res.KeySpec(type=uri.partition(":")[0].upper(), uri=uri)
