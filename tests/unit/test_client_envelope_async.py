"""The envelope for asyncio: the same messages, on an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import keyfold
from served import Served, served_here


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with the cluster prod."""
    async with served_here(tmp_path) as running:
        yield running


@pytest.fixture
async def client(server: Served) -> AsyncIterator[keyfold.AsyncClient]:
    """A client of that server."""
    async with keyfold.AsyncClient(server.target) as connected:
        yield connected


async def test_seal_open_and_rekey(server: Served, client: keyfold.AsyncClient) -> None:
    """Tasks share an envelope, and one data key."""
    envelope = keyfold.AsyncEnvelope(client, "prod", "eu", context={"table": "cards"})
    await envelope.seal(b"")
    rows = [{"row": str(row)} for row in range(50)]
    messages = await asyncio.gather(*[envelope.seal(b"4111", row) for row in rows])
    assert len(server.requests["GenerateDataKey"]) == 1
    opened = await asyncio.gather(*map(envelope.open, messages, rows))
    assert opened == [b"4111"] * 50
    with pytest.raises(keyfold.MessageContextError):
        await envelope.open(messages[0], rows[1])
    assert await envelope.rekey(messages[0]) == messages[0]


async def test_the_loop_goes_on(client: keyfold.AsyncClient) -> None:
    """Other tasks run while a large message is sealed and opened."""
    envelope = keyfold.AsyncEnvelope(client, "prod", "eu")
    await envelope.seal(b"")
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(turn())
    data = bytes(32 << 20)
    message = await envelope.seal(data)
    sealed = turns
    assert await envelope.open(message) == data
    task.cancel()
    assert sealed > 1
    assert turns > sealed + 1


async def test_a_cancelled_call_fails_nobody_else(client: keyfold.AsyncClient) -> None:
    """A task that gives up leaves the envelope, and those who wait beside it, as they were."""
    envelope = keyfold.AsyncEnvelope(client, "prod", "eu")
    waiting = [asyncio.create_task(envelope.seal(b"x")) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert [await envelope.open(message) for message in done[1:] if isinstance(message, bytes)] == [
        b"x"
    ] * 3


def test_the_two_envelopes_have_one_shape() -> None:
    """Each method of one envelope is a method of the other, with the same arguments."""

    def shape(envelope: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(envelope, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert shape(keyfold.Envelope) == shape(keyfold.AsyncEnvelope)
