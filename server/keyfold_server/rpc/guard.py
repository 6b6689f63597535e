"""Other people's servicers behind our rule: no exception's text reaches a caller.

gRPC sends the text of an unhandled exception to the client. Our own methods are wrapped in
`methods`; health and reflection are wrapped here, when they register themselves.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_status import rpc_status

from keyfold_server.rpc.status import internal_status

log = logging.getLogger(__name__)


class Guarded:
    """Stands in for a server while a servicer registers its handlers, and wraps each once."""

    def __init__(self, server: grpc.aio.Server) -> None:
        """Takes the server that gets the wrapped handlers."""
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: the same handlers come as registered methods too."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Registers a service's methods, each wrapped."""
        wrapped = {name: _wrapped(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, wrapped),)
        )


def _wrapped(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    codec = (handler.request_deserializer, handler.response_serializer)
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(_one(handler.unary_unary), *codec)
    if handler.unary_stream:
        # Health's Watch writes to the context and yields nothing.
        return grpc.unary_stream_rpc_method_handler(_one(handler.unary_stream), *codec)
    return grpc.stream_stream_rpc_method_handler(_many(handler.stream_stream), *codec)


def _one(behaviour: Any) -> Any:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  its text must not reach the caller
            await _abort(context, error)

    return guarded


def _many(behaviour: Any) -> Any:
    async def guarded(requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for reply in behaviour(requests, context):
                yield reply
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  its text must not reach the caller
            await _abort(context, error)

    return guarded


async def _abort(context: Any, error: Exception) -> None:
    status, incident = internal_status()
    log.error("incident %s", incident, exc_info=error)
    await context.abort_with_status(rpc_status.to_status(status))
