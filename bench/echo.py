"""The echo: a server of the same contract that does no work and answers every call at once.

    echo.py grpc|asgi [CERTIFICATE KEY]

It shows what a transport and the event loop cost before a service does any work. It reads the whole
request and answers with an empty message: on grpc.aio by the generated stubs, on h2corn by the
fewest messages of ASGI that gRPC needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold_server.rpc import listening

_HOST: Final = "127.0.0.1"

_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_EMPTY: Final = {"type": "http.response.body", "body": bytes(5), "more_body": False}
_ENDED: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class Echo(stubs.KeyManagementServiceServicer):
    """Answers the measured methods with empty messages."""

    async def Wrap(self, request: pb.WrapRequest, context: Any) -> pb.WrapResponse:  # noqa: ARG002, N802
        """Answers at once."""
        return pb.WrapResponse()

    async def Unwrap(self, request: pb.UnwrapRequest, context: Any) -> pb.UnwrapResponse:  # noqa: ARG002, N802
        """Answers at once."""
        return pb.UnwrapResponse()


@contextlib.asynccontextmanager
async def grpc_aio(files: list[Path]) -> AsyncIterator[int]:
    """Serves on grpc.aio; returns the port."""
    server = grpc.aio.server()
    stubs.add_KeyManagementServiceServicer_to_server(Echo(), server)  # type: ignore[abstract]  # `cpu` calls no other method
    if files:
        certificate, key = (file.read_bytes() for file in files)
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        port = server.add_secure_port(f"{_HOST}:0", credentials)
    else:
        port = server.add_insecure_port(f"{_HOST}:0")
    await server.start()
    yield port
    await server.stop(1)


@contextlib.asynccontextmanager
async def asgi(files: list[Path]) -> AsyncIterator[int]:
    """Serves on h2corn; returns the port."""
    from h2corn import Config, Server

    [listener] = listening.tcp(_HOST, 0)
    certificate, key = files or (None, None)
    config = Config(
        bind=(f"fd://{listener.fileno()}",),
        certfile=certificate,
        keyfile=key,
        lifespan="off",
        http1=False,
        grpc=True,
        access_log=False,
        server_header="off",
    )
    server = Server(_answer, config)
    serving = asyncio.create_task(server.serve())
    await server.wait_started()
    yield listener.getsockname()[1]
    server.shutdown()
    await serving


async def _answer(_: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    while (await receive()).get("more_body"):
        pass
    await send(_START)
    await send(_EMPTY)
    await send(_ENDED)


async def serve(transport: str, files: list[Path]) -> None:
    """Serves on a free loopback port until SIGTERM, and prints one line with the address."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with {"grpc": grpc_aio, "asgi": asgi}[transport](files) as port:
        print(f"echo ready on {_HOST}:{port}", flush=True)
        await stopping.wait()


def main() -> None:
    """Runs on uvloop where it is installed, as keyfold-server does."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    transport, *files = sys.argv[1:]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(transport, [Path(file) for file in files]))


if __name__ == "__main__":
    main()
