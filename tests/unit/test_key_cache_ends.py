"""Programs that end, close or fork in any order with an envelope and a cache of data keys."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyfold
from in_process import serving
from key_cache_place import CONTEXT, Counting, Place, until

BEGIN = """
import asyncio, os, sys, threading, time
import keyfold
target, wrapped, then = sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3].split()

def said(use):
    try:
        use()
    except keyfold.KeyfoldError as error:
        print(type(error).__name__, error.message.partition(";")[0], flush=True)
    else:
        print("well", flush=True)
"""

THREADS = (
    BEGIN
    + """
client = keyfold.Client(target)
cache = keyfold.KeyCache(client)
envelope = keyfold.Envelope(client, "acme", "eu", cache=cache)
message = envelope.seal(b"data")
while len(cache) < 2:
    envelope.open(message)
    with cache.opening_key("acme", wrapped, {"table": "users"}):
        pass
    message = envelope.seal(b"data")
for each in then:
    if each == "client":
        client.close()
        while cache.serving or len(cache):
            time.sleep(0.01)
    if each == "cache":
        cache.close()
    if each == "fork" and (child := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if each == "raise":
        raise SystemExit(3)
said(lambda: envelope.seal(b"data"))
said(lambda: envelope.open(message))
said(lambda: envelope.rekey(message))
print(len(cache) > 0, cache.serving, flush=True)
if "fork" in then:
    cache.close()
    client.close()
    print("closed", flush=True)
"""
)

TASKS = (
    BEGIN
    + """
async def said(use):
    try:
        await use
    except keyfold.KeyfoldError as error:
        print(type(error).__name__, error.message.partition(";")[0], flush=True)
    else:
        print("well", flush=True)

async def main():
    client = keyfold.AsyncClient(target)
    cache = keyfold.AsyncKeyCache(client)
    envelope = keyfold.AsyncEnvelope(client, "acme", "eu", cache=cache)
    message = await envelope.seal(b"data")
    while len(cache) < 2:
        await envelope.open(message)
        async with cache.opening_key("acme", wrapped, {"table": "users"}):
            pass
        message = await envelope.seal(b"data")
    for each in then:
        if each == "client":
            await client.close()
            while cache.serving or len(cache):
                await asyncio.sleep(0.01)
        if each == "cache":
            await cache.close()
        if each == "raise":
            raise SystemExit(3)
    await said(envelope.seal(b"data"))
    await said(envelope.open(message))
    await said(envelope.rekey(message))
    print(len(cache) > 0, cache.serving, flush=True)

asyncio.run(main())
"""
)

CLIENT = "ClosedError the client is closed"
CACHE = "ClosedError the cache is closed"

FORKED_KEEPER = (
    BEGIN
    + """
client = keyfold.Client(target)
envelope = keyfold.Envelope(client, "acme", "eu")
message = envelope.seal(b"data")
envelope._keys._turn.acquire()  # As a thread that does not exist in the child.
if child := os.fork():
    envelope._keys._turn.release()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
said(lambda: envelope.seal(b"data"))
said(lambda: envelope.open(message))
"""
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Gives a server with a cluster."""
    with serving(tmp_path) as server, Counting(server.target) as client:
        yield Place(server, client)


def lines(place: Place, program: str, then: str, code: int = 0) -> list[str]:
    """Runs a program to its end, which comes by itself, and returns what it says."""
    command = [sys.executable, "-W", "always", "-c", program]
    command += [place.server.target, place.wrapped["eu"].hex(), then]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # gRPC may say that it does nothing at the fork.
    wrong = [line for line in done.stderr.splitlines() if "fork_posix" not in line]
    assert (done.returncode, wrong) == (code, [])
    return done.stdout.splitlines()


ORDERS = [
    ("nothing", ["well", "well", "well", "True True"]),
    ("cache", [CACHE, CACHE, "well", "False False"]),
    ("cache cache", [CACHE, CACHE, "well", "False False"]),
    ("client", [CLIENT, CLIENT, CLIENT, "False False"]),
    ("client cache", [CACHE, CACHE, CLIENT, "False False"]),
    ("cache client", [CACHE, CACHE, CLIENT, "False False"]),
]
"""What is closed before the envelope is used, and what its methods and the cache say then."""


@pytest.mark.parametrize(("closed", "said"), ORDERS)
def test_what_is_closed_first_says_so(place: Place, closed: str, said: list[str]) -> None:
    """In every order there is a clear error, and the program ends with its watch still going on."""
    assert lines(place, THREADS, closed) == said


@pytest.mark.parametrize(("closed", "said"), ORDERS)
def test_what_is_closed_first_says_so_in_asyncio(
    place: Place, closed: str, said: list[str]
) -> None:
    """The same on an event loop."""
    assert lines(place, TASKS, closed) == said


@pytest.mark.parametrize("program", [THREADS, TASKS])
def test_a_program_that_fails_ends_with_its_own_code(place: Place, program: str) -> None:
    """Neither the watch's thread nor its task holds up or changes the end of a program."""
    assert lines(place, program, "raise", code=3) == []


def test_a_child_of_a_fork_is_told_what_to_do(place: Place) -> None:
    """An envelope with a cache says it at each use; closing what is the parent's does no harm."""
    cache = "ForkedError this cache was in use before the process was forked, and its watch stayed"
    client = "ForkedError this client was in use before the process was forked, and its connection"
    got = lines(place, THREADS, "fork")
    assert [line.partition(" in the parent")[0] for line in got] == [
        *[cache, cache, f"{client} stayed"],
        *["False False", "closed"],
    ]


def test_a_child_of_a_fork_does_not_hang_in_an_envelope_without_a_cache(place: Place) -> None:
    """What another thread held at the fork does not matter, and the parent goes on."""
    first, second, code, *parent = lines(place, FORKED_KEEPER, "")
    assert first == second
    assert first.startswith("ForkedError")
    assert (code, parent) == ("0", ["well", "well"])


def test_a_cache_without_a_thread_asks_the_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that can start no thread loses the saving, and nothing else."""

    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with keyfold.KeyCache(place.client) as cache, monkeypatch.context() as patched:
        patched.setattr("keyfold.caching.reader.Thread.start", none)
        assert not place.use(cache)
        assert not place.use(cache)
        patched.undo()
        place.warm(cache)


def test_a_cache_that_nobody_has_any_more_ends_its_watch(place: Place) -> None:
    """An envelope that took its cache with it leaves no thread, no stream and no key behind."""
    cache = keyfold.KeyCache(place.client)
    envelope = keyfold.Envelope(place.client, "acme", "eu", cache=cache)
    place.warm(cache)
    thread, holdings = cache._reader._thread, cache._holdings
    assert thread is not None
    assert len(place.server.replica.watches._running) == 1
    del cache
    assert envelope.open(envelope.seal(b"data")) == b"data"
    del envelope
    gc.collect()
    thread.join(40)
    assert not thread.is_alive()
    assert len(holdings) == 0
    until(lambda: not place.server.replica.watches._running)


async def test_a_cache_that_nobody_has_any_more_ends_its_task(tmp_path: Path) -> None:
    """The same on an event loop."""
    with serving(tmp_path) as server:
        with Counting(server.target) as client:
            wrapped = Place(server, client).wrapped["eu"]
        async with keyfold.AsyncClient(server.target) as client_:
            cache = keyfold.AsyncKeyCache(client_)
            while len(cache) == 0:
                async with cache.opening_key("acme", wrapped, CONTEXT):
                    pass
            task = cache._reader._task
            assert task is not None
            del cache
            gc.collect()
            await asyncio.wait_for(task, 40)


def test_a_cache_ends_while_no_server_is_there(tmp_path: Path) -> None:
    """However long the stream is away, its thread does not outlive the cache."""
    with serving(tmp_path) as server, Counting(server.target) as client:
        place = Place(server, client)
        cache = keyfold.KeyCache(client)
        place.warm(cache)
        thread = cache._reader._thread
        assert thread is not None
        server.wait(server.stop())
        until(lambda: not place.server.replica.watches._running)
        del cache
        gc.collect()
        thread.join(40)
        assert not thread.is_alive()
