"""Streams against a real server: one call, revocation, moving keys, and asyncio."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import keyfold
from served import Served, served, served_here
from wire_errors import WireError

CARDS = {"table": "cards"}
DATA = bytes(range(256)) * 12_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


@pytest.fixture
def envelope(client: keyfold.Client) -> keyfold.Envelope:
    """An envelope of prod."""
    return keyfold.Envelope(client, "prod", "eu", context=CARDS)


def sealed(envelope: keyfold.Envelope) -> bytes:
    """Returns the data as a stream."""
    target = io.BytesIO()
    with envelope.seal_stream(target, {"row": "17"}) as stream:
        stream.write(DATA)
    return target.getvalue()


def opened(envelope: keyfold.Envelope, stream: bytes) -> bytes:
    """Returns the data of a stream."""
    with envelope.open_stream(io.BytesIO(stream), {"row": "17"}) as reader:
        return reader.read()


def test_a_stream_needs_one_call(server: Served, envelope: keyfold.Envelope) -> None:
    """Whatever its length, a stream asks the server once, before its first byte."""
    stream = sealed(envelope)
    assert len(server.requests["GenerateDataKey"]) == 1
    assert opened(envelope, stream) == DATA
    assert len(server.requests["Unwrap"]) == 1
    assert len(stream) == len(DATA) + 295 + 14 + 9 + 2 * 16  # contexts, and two more segments


def test_every_changed_byte_of_a_header_is_refused(envelope: keyfold.Envelope) -> None:
    """Server and client together let no changed byte pass, also in the wrapped key."""
    stream = sealed(envelope)
    for at in range(7 + int.from_bytes(stream[5:7], "big")):
        changed = bytearray(stream)
        changed[at] ^= 0x40
        with pytest.raises(keyfold.InvalidInputError):
            opened(envelope, bytes(changed))


def test_revocation(client: keyfold.Client, envelope: keyfold.Envelope) -> None:
    """After a revocation nothing opens or moves; a stream that has begun goes on to its end."""
    stream = sealed(envelope)
    with envelope.open_stream(io.BytesIO(stream)) as reader:
        begun = reader.read(1)
        client.revoke("prod")
        with pytest.raises(keyfold.RevokedError):
            opened(envelope, stream)
        with pytest.raises(keyfold.RevokedError):
            envelope.rekey_header(io.BytesIO(stream))
        assert begun + reader.read() == DATA
    client.restore("prod")
    assert opened(envelope, stream) == DATA


def test_the_server_goes_away(server: Served, envelope: keyfold.Envelope) -> None:
    """What happens to the server after the first byte does not stop a stream."""
    target = io.BytesIO()
    with envelope.seal_stream(target, {"row": "17"}) as stream:
        stream.write(DATA[:100])
        away = WireError(grpc.StatusCode.UNAVAILABLE, "DRAINING", "the server stops")
        server.fail("Unwrap", *[away] * 50)
        server.fail("GenerateDataKey", *[away] * 50)
        stream.write(DATA[100:])
    with pytest.raises((keyfold.UnavailableError, keyfold.DeadlineError)):
        envelope.open_stream(io.BytesIO(target.getvalue()), timeout=0.5)
    server._errors.clear()
    assert opened(envelope, target.getvalue()) == DATA


def test_rekey_header(client: keyfold.Client, envelope: keyfold.Envelope) -> None:
    """The header moves alone, and the data stays as it is, byte by byte."""
    stream = sealed(envelope)
    source = io.BytesIO(stream)
    header = envelope.rekey_header(source)
    assert header + source.read() == stream
    client.rotate("prod", [keyfold.RegionSpec("eu")], new_generation=True)
    source.seek(0)
    header = envelope.rekey_header(source)
    assert stream[: source.tell()] != header
    moved = header + source.read()
    assert moved.endswith(stream[len(header) :])
    assert envelope.rekey_header(io.BytesIO(moved)) == header
    assert opened(envelope, stream) == opened(envelope, moved) == DATA
    client.retire_generation("prod", "eu", 1)
    with pytest.raises(keyfold.GenerationRetiredError):
        opened(envelope, stream)
    assert opened(envelope, moved) == DATA


def test_another_clusters_stream(client: keyfold.Client, envelope: keyfold.Envelope) -> None:
    """The server refuses the data key of another cluster's stream, and says so."""
    client.enable("other", [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))])
    other = keyfold.Envelope(client, "other", "eu", context=CARDS)
    with pytest.raises(keyfold.WrongClusterError):
        opened(other, sealed(envelope))


# --- asyncio ---


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with the cluster prod, on the test's event loop."""
    async with served_here(tmp_path) as here:
        yield here


async def test_streams_on_an_event_loop(running: Served) -> None:
    """The calls are awaited, the copying goes to a thread, and other tasks run meanwhile."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def read(stream: Any) -> bytes:
        data: bytes = stream.read()
        return data

    async with keyfold.AsyncClient(running.target) as client:
        envelope = keyfold.AsyncEnvelope(client, "prod", "eu", context=CARDS)
        task = asyncio.create_task(turn())
        target = io.BytesIO()
        with await envelope.seal_stream(target, {"row": "17"}) as stream:
            await asyncio.to_thread(shutil.copyfileobj, io.BytesIO(DATA * 10), stream)
        before = turns
        target.seek(0)
        with await envelope.open_stream(target, {"row": "17"}) as reader:
            assert await asyncio.to_thread(read, reader) == DATA * 10
        assert turns > before > 1
        target.seek(0)
        header = await envelope.rekey_header(target)
        assert target.getvalue().startswith(header)
        task.cancel()
