"""The end of a stream: whatever its handler was sending, the reason arrives."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from keyfold.errors.rpc_status import error_of_call
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import DrainingError
from keyfold_server.rpc.asgi_server import AsgiServer
from keyfold_server.rpc.call import Answer, Call, Method, failed
from keyfold_server.rpc.grpc_aio import GrpcAio

PATH = "/keyfold.v1.EventService/WatchEvents"


@pytest.mark.parametrize("make", [GrpcAio, AsgiServer])
@pytest.mark.parametrize("before", [0, 1])
async def test_a_stream_that_is_ended_while_it_sends_tells_why(
    make: type[GrpcAio | AsgiServer], before: int
) -> None:
    """R8: a reader that a stopping replica sends away learns that, also in its first message."""

    async def handle(call: Call) -> Answer:
        await call.read()
        for _ in range(before):
            await call.write(b"")
        task = asyncio.current_task()
        assert task is not None
        # In the next turn of the loop, when the message is on its way and nobody knows it sent.
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await call.write(b"")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            task.uncancel()
        return failed(DrainingError("this replica is stopping"))

    server = make("127.0.0.1:0", Bounds(), grace=0.0)
    target = await server.start({PATH: Method(handle, streams=True)}, 10)
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(PATH)
            stream = call(b"", timeout=30)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stream:
                    pass
    finally:
        await server.stop()
    assert error_of_call(caught.value).reason == "DRAINING"
