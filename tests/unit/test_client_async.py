"""The client for asyncio: the same as the other, awaited."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import pytest_asyncio

import keyfold
from lateness import in_time
from relay import Relay
from served import Served, numbered_keys, served, served_here
from wire_errors import KEY_DISABLED, UNAVAILABLE

KEY = keyfold.KeySpec("LOCAL", "local:acme")
SPEC = keyfold.RegionSpec("eu", KEY)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with the cluster prod, on the test's own loop."""
    async with served_here(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: Served) -> AsyncIterator[keyfold.AsyncClient]:
    """A client of that server."""
    async with keyfold.AsyncClient(server.target) as connected:
        yield connected


async def test_every_method(client: keyfold.AsyncClient, server: Served) -> None:
    """Each method returns what the synchronous client's returns."""
    key = await client.generate_data_key("prod", "eu", context={"a": "b"})
    wrapped = await client.wrap("prod", "eu", key.plaintext, context={"a": "b"})
    opened = await client.unwrap("prod", wrapped.wrapped_key, context={"a": "b"})
    assert opened.plaintext == key.plaintext
    rewrapped = await client.rewrap("prod", key.wrapped_key, context={"a": "b"})
    assert rewrapped.already_current
    assert (await client.enable("test", [SPEC])).status.cluster == "test"
    await client.add_regions("test", [keyfold.RegionSpec("us", SPEC.key_spec)])
    server.local_keys.rotate("acme")
    await client.rotate("test", [keyfold.RegionSpec("eu")])
    server.local_keys.rotate("acme")
    await client.rotate("test", [keyfold.RegionSpec("eu")], new_generation=True)
    retired = await client.retire_generation("test", "eu", 1)
    assert retired.status.regions[0].generations[0].retire_time is not None
    await client.revoke("test")
    assert (await client.restore("test")).restored == ("eu", "us")
    assert (await client.test_key(keyfold.KeySpec("LOCAL", "local:acme"))).accessible
    assert (await client.get_access_policy(KEY, cluster="test")).principal == "the server's user"
    assert (await client.get_status("test")).regions[0].key_version == "3"
    assert [one.cluster async for one in client.list_clusters(page_size=1)] == ["prod", "test"]


async def test_batches(client: keyfold.AsyncClient, server: Served) -> None:
    """The client cuts batches and joins their results as the synchronous client does."""
    keys = numbered_keys(1200)
    results = await client.batch_wrap("prod", keys, region="eu")
    wrapped = [one.wrapped_key for one in results if isinstance(one, keyfold.Wrapped)]
    opened = await client.batch_unwrap("prod", wrapped)
    assert [one.plaintext for one in opened if isinstance(one, keyfold.Unwrapped)] == keys
    assert len(await client.batch_rewrap("prod", wrapped)) == 1200
    assert [len(one.items) for one in server.requests["BatchUnwrap"]] == [1000, 200]
    made = await client.generate_data_keys("prod", "eu", 3)
    opened = await client.batch_unwrap("prod", [one.wrapped_key for one in made])
    assert [getattr(one, "plaintext", one) for one in opened] == [one.plaintext for one in made]


async def test_errors(client: keyfold.AsyncClient, server: Served) -> None:
    """Errors are the same classes, with the same details."""
    server.fail("Revoke", KEY_DISABLED)
    with pytest.raises(keyfold.KeyDisabledError) as raised:
        await client.revoke("prod")
    error = raised.value
    assert (error.source, error.region, error.code) == ("kms", "eu", "FAILED_PRECONDITION")
    assert error.request_id == server.requests["Revoke"][0].request_id


async def test_unavailable_is_repeated(client: keyfold.AsyncClient, server: Served) -> None:
    """A change that finds the server unavailable twice succeeds the third time, with one id."""
    server.fail("Rotate", UNAVAILABLE, UNAVAILABLE)
    await client.rotate("prod", [keyfold.RegionSpec("eu")])
    ids = [request.request_id for request in server.requests["Rotate"]]
    assert len(ids) == 3
    assert len(set(ids)) == 1


async def test_deadline(client: keyfold.AsyncClient, server: Served) -> None:
    """A call takes no longer than its own timeout."""
    server.delays["Wrap"] = 0.2
    with pytest.raises(keyfold.DeadlineError):
        await client.wrap("prod", "eu", bytes(32), timeout=0.05)


async def test_many_at_once(client: keyfold.AsyncClient, server: Served) -> None:
    """Calls run beside one another on one connection."""
    server.delays["Wrap"] = 0.1
    with in_time(0.6):
        await asyncio.gather(*(client.wrap("prod", "eu", bytes(32)) for _ in range(8)))


async def test_calls_go_round_all_servers(server: Served) -> None:
    """The servers at both addresses get calls."""
    with Relay(server.keyfold.target) as other:
        async with keyfold.AsyncClient([server.target, other.target]) as client:
            # The connections come one after the other.
            while not (server.requests["GetStatus"] and other.requests["GetStatus"]):
                await client.get_status("prod")
            for relay in (server, other):
                relay.requests.clear()
            for _ in range(20):
                await client.get_status("prod")
        assert len(other.requests["GetStatus"]) >= 8
    assert len(server.requests["GetStatus"]) >= 8


def test_made_before_the_loop(tmp_path: object) -> None:
    """A program may make a client before an event loop runs, and close it without a call."""
    client = keyfold.AsyncClient("127.0.0.1:7443")
    asyncio.run(client.close())


@pytest.mark.parametrize(
    "module",
    ["keyfold.aio", "keyfold.aio.data_plane", "keyfold.aio.lifecycle", "keyfold.aio.deletion"],
)
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in the docstrings do what they show, `await` at their top level included."""
    loop = asyncio.new_event_loop()

    def run(code: CodeType, names: dict[str, Any]) -> None:
        result = eval(code, names)
        if inspect.iscoroutine(result):
            loop.run_until_complete(result)

    # doctest itself can only run code without a top-level await.
    monkeypatch.setattr(doctest, "exec", run, raising=False)
    runner = doctest.DocTestRunner()
    with served(tmp_path) as server:
        client = keyfold.AsyncClient(server.target)
        names = {"client": client, "keyfold": keyfold, "target": server.target}
        for test in doctest.DocTestFinder().find(importlib.import_module(module), extraglobs=names):
            runner.run(test, compileflags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        loop.run_until_complete(client.close())
    loop.close()
    result = runner.summarize()
    assert result.attempted > 0
    assert result.failed == 0
