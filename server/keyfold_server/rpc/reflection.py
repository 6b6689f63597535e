"""gRPC's reflection service: describes the contract to tools such as grpcurl.

gRPC's own package answers; this module only gives it what it lacks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2  # noqa: F401  so that reflection explains our errors
from grpc_reflection.v1alpha import reflection

NAMES: Final = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""Both names of the service, whose messages are the same."""

METHOD: Final = "ServerReflectionInfo"

Answers = Callable[[AsyncIterator[Any], None], AsyncIterator[Any]]
"""Yields a reply to each request of a stream."""


def reflects(services: Iterable[str]) -> Answers:
    """Returns what describes services, both those given and reflection itself."""
    servicer = reflection.aio.ReflectionServicer(
        (*services, *NAMES), pool=_Pool(descriptor_pool.Default())
    )
    return servicer.ServerReflectionInfo  # type: ignore[return-value]  # an asynchronous generator


class _Pool:
    """A descriptor pool that also finds methods by their names; Python's own pool does not.

    Without it ghz and `grpcurl describe Service.Method` fail.
    """

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  the pool's name
        """Returns the file that defines a symbol; a method is in its service's file."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file
