"""The relay with real servers: kills on both sides, what arrives, and what a caller may see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import relay_process
from e2e.server import Server
from relay_process import Process
from relay_receiver import SECRET, Receiver

KILLS = 6


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A receiver that takes everything."""
    async with Receiver(tmp_path) as made:
        yield made


def relay(receiver: Receiver, target: str, **webhook: Any) -> Process:
    """Returns a relay from a server to the receiver."""
    (receiver.folder / "secret").write_text(SECRET)
    table = {
        "kind": "webhook",
        "url": receiver.url,
        "secrets": [f"file:{receiver.folder / 'secret'}"],
        "ca": str(receiver.ca),
        "allow_addresses": ["127.0.0.1/32"],
    }
    file = relay_process.write(receiver.folder, {"target": target}, {"siem": table | webhook})
    return Process(file)


async def test_a_revocation_arrives_with_who_when_and_why(
    server: Server, receiver: Receiver
) -> None:
    """The SIEM gets the call as the log has it, with the store's own name for it."""
    process = relay(receiver, server.target)
    await process.start()
    try:
        # The first event tells of the cursor itself: from here on everything arrives.
        await receiver.came()
        await asyncio.to_thread(server.enable, "prod")
        with server.client() as client:
            await asyncio.to_thread(client.revoke, "prod", reason="contract ended")
        while not (found := [e for e in receiver.events if e["type"].endswith(".revoke")]):
            await receiver.came()
        assert await process.stop() == 0
    finally:
        await process.kill()
    [event] = found
    assert event["subject"] == "prod"
    assert event["data"]["reason"] == "contract ended"
    assert event["data"]["caller"] == "local"
    store, number, identity = event["id"].split("/")
    assert event["source"] == f"urn:keyfold:{store}"
    assert len(store) == 32
    assert event["data"]["number"] == number == str(int(event["sequence"]))
    assert event["data"]["id"] == identity
