"""The echo: a grpc.aio server of the same contract that answers every call at once.

It shows what gRPC, protobuf and the event loop cost before a service does any work. The generated
stubs read the whole request, and the echo answers with an empty message of the right type.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

import grpc

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs


class Echo(stubs.KeyManagementServiceServicer):
    """Answers the measured methods with empty messages."""

    async def Wrap(self, request: pb.WrapRequest, context: Any) -> pb.WrapResponse:  # noqa: ARG002, N802
        """Answers at once."""
        return pb.WrapResponse()

    async def Unwrap(self, request: pb.UnwrapRequest, context: Any) -> pb.UnwrapResponse:  # noqa: ARG002, N802
        """Answers at once."""
        return pb.UnwrapResponse()

    async def BatchWrap(self, request: pb.BatchWrapRequest, context: Any) -> pb.BatchWrapResponse:  # noqa: ARG002, N802
        """Answers at once."""
        return pb.BatchWrapResponse()


async def serve() -> None:
    """Serves on a free loopback port until SIGTERM, and prints one line with the address."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = grpc.aio.server()
    stubs.add_KeyManagementServiceServicer_to_server(Echo(), server)  # type: ignore[abstract]  # `cpu` calls no other method
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo ready on 127.0.0.1:{port}", flush=True)
    await stopping.wait()
    await server.stop(1)


def main() -> None:
    """Runs on uvloop where it is installed, as keyfold-server does."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
