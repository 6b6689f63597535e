"""A client after its end, on a wrong event loop, and with callables that fail."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import keyfold
from keyfold import calls
from keyfold.calls.call import Call
from keyfold.v1 import key_management_service_pb2 as api
from served import Served, served
from wire_errors import WireError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


def test_a_closed_client_says_so(server: Served) -> None:
    """A call after `close` raises ClosedError, which is also the ValueError of gRPC."""
    client = keyfold.Client(server.target)
    client.get_status("prod")
    client.close()
    client.close()
    with pytest.raises(keyfold.ClosedError, match="the client is closed") as raised:
        client.get_status("prod")
    assert raised.value.cluster == "prod"
    assert isinstance(raised.value, ValueError)
    with pytest.raises(keyfold.ClosedError):
        list(client.watch(["prod"]))
    with pytest.raises(keyfold.ClosedError):
        list(client.list_clusters())


def test_a_client_that_was_never_used_stays_closed() -> None:
    """Closing a client that has made no call opens nothing, then or later."""
    client = keyfold.Client("127.0.0.1:1")
    client.close()
    with pytest.raises(keyfold.ClosedError):
        client.get_status("prod")


async def test_a_closed_async_client_says_so(server: Served) -> None:
    """The client for asyncio does the same."""
    client = keyfold.AsyncClient(server.target)
    await client.get_status("prod")
    await client.close()
    await client.close()
    with pytest.raises(keyfold.ClosedError, match="the client is closed"):
        await client.get_status("prod")
    with pytest.raises(keyfold.ClosedError):
        async for _ in client.watch(["prod"]):
            pass


async def test_closing_under_a_call_cancels_the_call_and_not_the_task(server: Served) -> None:
    """Who waits for a call gets CancelledError of Keyfold: nobody has cancelled its task."""
    server.delays["GetStatus"] = 1.0
    client = keyfold.AsyncClient(server.target)
    call = asyncio.create_task(client.get_status("prod"))
    await asyncio.to_thread(server.await_requests, "GetStatus", 1)
    await client.close()
    with pytest.raises(keyfold.CancelledError, match="closed during the call"):
        await call
    assert not call.cancelled()


async def test_a_cancelled_task_stays_cancelled(server: Served) -> None:
    """Cancelling a task is not turned into an error."""
    server.delays["GetStatus"] = 1.0
    async with keyfold.AsyncClient(server.target) as client:
        call = asyncio.create_task(client.get_status("prod"))
        await asyncio.to_thread(server.await_requests, "GetStatus", 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert call.cancelled()


def test_a_client_belongs_to_its_event_loop(server: Served) -> None:
    """A second `asyncio.run`, and another thread's loop, are told to make a client of their own."""
    client = keyfold.AsyncClient(server.target)
    asyncio.run(_status(client))
    for run in (_here, _in_a_thread):
        with pytest.raises(keyfold.EventLoopError, match="client for each event loop") as raised:
            run(client)
        assert isinstance(raised.value, RuntimeError)


async def _status(client: keyfold.AsyncClient) -> keyfold.ClusterStatus:
    return await client.get_status("prod")


def _here(client: keyfold.AsyncClient) -> None:
    asyncio.run(_status(client))


def _in_a_thread(client: keyfold.AsyncClient) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_status(client))
        except keyfold.KeyfoldError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    raise raised[0]


@pytest.mark.parametrize("option", ["token", "on_behalf_of"])
def test_a_callable_that_fails_is_named(server: Served, option: str) -> None:
    """The error says which callable failed, and not what it said: that may be a token."""

    def fails() -> str:
        raise LookupError("eyJhbGciOi")

    options: dict[str, Any] = {option: fails}
    with (
        keyfold.Client(server.target, **options) as client,
        pytest.raises(keyfold.CallerSourceError, match=f"{option} raised LookupError") as raised,
    ):
        client.get_status("prod")
    assert isinstance(raised.value.__cause__, LookupError)
    assert isinstance(raised.value, keyfold.UnauthenticatedError)
    assert "eyJhbGciOi" not in "".join(traceback.format_exception_only(raised.value))


def test_an_answer_that_cannot_be_read_is_the_servers_fault() -> None:
    """A time that no calendar has is an InternalError, not a ValueError of Python's."""
    response = api.GetStatusResponse()
    response.status.create_time.seconds = 1 << 50
    call: Call[Any, Any] = calls.get_status("prod")
    with pytest.raises(keyfold.InternalError, match="response to GetStatus cannot be read"):
        call.result(response)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("the key is revoked", "cluster prod: the key is revoked"),
        ("there is no cluster prod; check the name", "there is no cluster prod; check the name"),
    ],
)
def test_an_error_names_the_cluster_once(server: Served, message: str, said: str) -> None:
    """`str` of an error says which cluster it is about; `message` is as the server wrote it."""
    server.fail("Wrap", WireError(grpc.StatusCode.FAILED_PRECONDITION, "REVOKED", message))
    with keyfold.Client(server.target) as client:
        with pytest.raises(keyfold.RevokedError) as raised:
            client.wrap("prod", "eu", bytes(32))
        [result] = client.batch_wrap("prod", [b""], region="eu")
    assert (raised.value.cluster, raised.value.message, str(raised.value)) == (
        "prod",
        message,
        said,
    )
    assert isinstance(result, keyfold.InvalidPlaintextError)
    assert result.cluster == "prod"
