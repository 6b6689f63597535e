"""A Keyfold in memory: enough of it to hold the client against.

It keeps the contract's shapes and reasons, not its promises: what a wrapped key looks like, say,
it makes up.
"""

# ruff: noqa: N802  methods are named as the contract's

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import grpc

from fake_failures import Failure
from fake_lifecycle import Lifecycle
from fake_regions import region_of, used
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import resources_pb2 as resources

MAX_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class _Blob:
    cluster: str
    region: str
    plaintext: bytes
    context: dict[str, str]
    generation: int


class Toy(Lifecycle):
    """The service, with one cluster `prod` in `eu` and `us` to begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[bytes, _Blob] = {}

    # --- data plane ---

    def Wrap(self, request: api.WrapRequest, context: Any) -> api.WrapResponse:
        region = self._region(request.cluster, request.region)
        if not 1 <= len(request.plaintext) <= 4096:
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_PLAINTEXT",
                "a plaintext key has 1 to 4,096 bytes",
                {"source": "keyfold"},
                {"plaintext": "has 1 to 4,096 bytes"},
            )
        wrapped = b"\x01\x01" + os.urandom(88 + len(request.plaintext))
        newest = region.generations[-1]
        used(newest)
        self.blobs[wrapped] = _Blob(
            request.cluster,
            region.region,
            request.plaintext,
            dict(request.context),
            newest.generation,
        )
        return api.WrapResponse(wrapped_key=wrapped, generation=newest.generation)

    def Unwrap(self, request: api.UnwrapRequest, context: Any) -> api.UnwrapResponse:
        blob = self.blobs.get(request.wrapped_key)
        if blob is None:
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT, "NOT_A_WRAPPED_KEY", "not a wrapped key"
            )
        region = self._region(request.cluster, blob.region)
        used(region.generations[blob.generation - 1])
        if blob.context != dict(request.context):
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_MISMATCH", "the context differs"
            )
        return api.UnwrapResponse(
            plaintext=blob.plaintext, region=blob.region, generation=blob.generation
        )

    def GenerateDataKey(
        self, request: api.GenerateDataKeyRequest, context: Any
    ) -> api.GenerateDataKeyResponse:
        plaintext = os.urandom(request.size or 32)
        wrapped = self.Wrap(
            api.WrapRequest(
                cluster=request.cluster,
                region=request.region,
                plaintext=plaintext,
                context=request.context,
            ),
            context,
        )
        return api.GenerateDataKeyResponse(
            plaintext=b"" if request.wrapped_only else plaintext,
            wrapped_key=wrapped.wrapped_key,
            generation=wrapped.generation,
        )

    def Rewrap(self, request: api.RewrapRequest, context: Any) -> api.RewrapResponse:
        opened = self.Unwrap(
            api.UnwrapRequest(
                cluster=request.cluster, wrapped_key=request.wrapped_key, context=request.context
            ),
            context,
        )
        moves = request.HasField("destination")
        to = request.destination
        target = self._region(to.cluster or request.cluster, to.region or opened.region)
        if not moves and target.generations[-1].generation == opened.generation:
            return api.RewrapResponse(
                wrapped_key=request.wrapped_key,
                generation=opened.generation,
                already_current=True,
            )
        wrapped = self.Wrap(
            api.WrapRequest(
                cluster=to.cluster or request.cluster,
                region=target.region,
                plaintext=opened.plaintext,
                context=to.context if moves else request.context,
            ),
            context,
        )
        return api.RewrapResponse(wrapped_key=wrapped.wrapped_key, generation=wrapped.generation)

    def BatchWrap(self, request: api.BatchWrapRequest, context: Any) -> api.BatchWrapResponse:
        response = api.BatchWrapResponse()
        _check_batch(request)
        for item in request.items:
            result = response.results.add()
            one = api.WrapRequest(
                cluster=request.cluster,
                region=item.region or request.region,
                plaintext=item.plaintext,
                context=item.context or request.context,
            )
            try:
                result.answer.CopyFrom(self.Wrap(one, context))
            except Failure as failed:
                result.error.CopyFrom(failed.status())
        return response

    def BatchUnwrap(self, request: api.BatchUnwrapRequest, context: Any) -> api.BatchUnwrapResponse:
        response = api.BatchUnwrapResponse()
        _check_batch(request)
        for item in request.items:
            result = response.results.add()
            one = api.UnwrapRequest(
                cluster=request.cluster,
                wrapped_key=item.wrapped_key,
                context=item.context or request.context,
            )
            try:
                result.answer.CopyFrom(self.Unwrap(one, context))
            except Failure as failed:
                result.error.CopyFrom(failed.status())
        return response

    def BatchRewrap(self, request: api.BatchRewrapRequest, context: Any) -> api.BatchRewrapResponse:
        response = api.BatchRewrapResponse()
        _check_batch(request)
        for item in request.items:
            result = response.results.add()
            own = item if item.HasField("destination") else request
            one = api.RewrapRequest(
                cluster=request.cluster,
                wrapped_key=item.wrapped_key,
                context=item.context or request.context,
                destination=own.destination if own.HasField("destination") else None,
            )
            try:
                result.answer.CopyFrom(self.Rewrap(one, context))
            except Failure as failed:
                result.error.CopyFrom(failed.status())
        return response

    def _region(self, cluster: str, name: str) -> resources.RegionStatus:
        return region_of(self.cluster(cluster), name)


def _check_batch(request: Any) -> None:
    if not 1 <= len(request.items) <= 1000 or request.ByteSize() > MAX_BATCH_BYTES:
        raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH", "1 to 1,000 items, 4 MiB")
