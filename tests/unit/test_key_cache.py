"""The cache of data keys on a real server: what it saves, and how fast it forgets."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import keyfold
from in_process import serving
from key_cache_place import CONTEXT, WAIT, Counting, Place, until
from keyfold.caching.client.lending import OpeningKey
from keyfold_server.domain.errors import StoreStaleError


def reached(client: keyfold.Client) -> bool:
    """Returns whether a server answers."""
    try:
        client.get_status("acme")
    except keyfold.UnavailableError:
        return False
    except keyfold.NotFoundError:
        pass
    return True


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Gives a server with a cluster."""
    with serving(tmp_path) as server, Counting(server.target) as client:
        yield Place(server, client)


@pytest.fixture
def cache(place: Place) -> Iterator[keyfold.KeyCache]:
    """Gives a cache of the server's clusters."""
    with keyfold.KeyCache(place.client) as made:
        yield made


def test_a_key_is_served_without_a_call(place: Place, cache: keyfold.KeyCache) -> None:
    """One call, and then memory serves; another context or cluster is another key."""
    place.warm(cache)
    before = place.client.calls
    assert all(place.use(cache) for _ in range(100))
    with pytest.raises(keyfold.ContextMismatchError):
        cache.opening_key("acme", place.wrapped["eu"], {"table": "orders"}).__enter__()
    assert place.client.calls == before + 1
    assert place.use(cache)


def test_one_key_seals_many_messages(place: Place, cache: keyfold.KeyCache) -> None:
    """A data key serves until its bounds, and what it sealed opens without a call."""
    place.warm(cache)
    before = place.client.calls
    made = set()
    for _ in range(50):
        with cache.sealing_key("acme", "eu", CONTEXT, size=10) as key:
            assert (key.region, key.generation, len(key.plaintext)) == ("eu", 1, 32)
            made.add((key.wrapped_key, bytes(key.plaintext)))
    ((wrapped, secret),) = made
    with cache.opening_key("acme", wrapped, CONTEXT) as key:
        assert bytes(key.plaintext) == secret
    assert place.client.calls == before + 1


def test_a_lent_key_ends_with_its_block(place: Place, cache: keyfold.KeyCache) -> None:
    """Nobody keeps a key by accident, prints it or changes it."""
    place.warm(cache)
    with cache.opening_key("acme", place.wrapped["eu"], CONTEXT) as key:
        view = key.plaintext
        assert view.readonly
        assert bytes(range(32)).hex() not in repr(key)
        assert repr(bytes(range(32))) not in repr((key, cache, vars(cache)))
    for use in (lambda: key.plaintext, lambda: bytes(view), lambda: key.wrapped_key):
        with pytest.raises(ValueError, match=r"ended|released"):
            use()


def revoke(place: Place) -> None:
    """Revokes the cluster."""
    place.client.revoke("acme")


def revoke_region(place: Place) -> None:
    """Revokes one region."""
    place.client.revoke("acme", regions=["eu"])


def delete(place: Place) -> None:
    """Deletes the cluster."""
    place.client.revoke("acme")
    place.client.delete_cluster("acme", all_regions=True)


def disable(place: Place) -> None:
    """Disables the root key in the customer's KMS."""
    place.server.provider.disable("fake:eu")
    place.client.recheck("acme")


def retire(place: Place) -> None:
    """Retires the key's generation."""
    place.client.rotate("acme", [keyfold.RegionSpec("eu")], new_generation=True)
    place.client.retire_generation("acme", "eu", 1)


@pytest.mark.parametrize(
    ("take", "error"),
    [
        (revoke, keyfold.RevokedError),
        (revoke_region, keyfold.RevokedError),
        (delete, keyfold.KeyDeletedError),
        (disable, keyfold.KeyDisabledError),
        (retire, keyfold.GenerationRetiredError),
    ],
)
def test_what_is_taken_away_is_refused(
    place: Place,
    cache: keyfold.KeyCache,
    take: Callable[[Place], None],
    error: type[keyfold.KeyfoldError],
) -> None:
    """The key is wiped as the event comes, without any use, and the next use is refused."""
    place.warm(cache)
    (held,) = cache._holdings._memory.shelf._keys.values()
    take(place)
    until(lambda: not any(held.secret))
    assert isinstance(place.refused(cache), error)
    assert len(cache) == 0


def test_what_comes_back_is_served_again(place: Place, cache: keyfold.KeyCache) -> None:
    """A restored region's keys are kept again, after one call; other regions never stopped."""
    place.warm(cache)
    revoke_region(place)
    until(lambda: place.refused(cache))
    place.warm(cache, "us")
    place.client.restore("acme")
    place.warm(cache)


def test_at_ttl_0_each_use_reaches_the_kms(place: Place, cache: keyfold.KeyCache) -> None:
    """Where the region's cache_ttl is 0, the cache keeps nothing."""
    place.warm(cache)
    place.enable("strict", ttl=0.0)
    wrapped = place.wrap(cluster="strict")
    before = place.client.calls
    for _ in range(5):
        with cache.opening_key("strict", wrapped, CONTEXT):
            pass
        with cache.sealing_key("strict", "eu", CONTEXT):
            pass
    assert place.client.calls == before + 10
    place.server.provider.disable("fake:eu")
    with pytest.raises(keyfold.KeyDisabledError):
        cache.opening_key("strict", wrapped, CONTEXT).__enter__()


def test_64_threads_while_the_cluster_is_revoked(place: Place, cache: keyfold.KeyCache) -> None:
    """Every use that begins once the cache has heard is refused, and none sees a wiped key."""
    place.warm(cache)
    uses: list[tuple[float, bool]] = []
    wrong: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                began = time.monotonic()
                refused = place.refused(cache)
                assert refused is None or isinstance(refused, keyfold.RevokedError), refused
                uses.append((began, refused is None))
                time.sleep(0.001)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(64)]
    for thread in threads:
        thread.start()
    until(lambda: len(uses) > 1_000)
    place.client.revoke("acme")
    until(lambda: not uses[-1][1])
    until(lambda: len(cache) == 0)
    heard, count = time.monotonic(), len(uses)
    until(lambda: len(uses) > count + 500)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert any(good for _, good in uses)
    assert not any(good for began, good in uses if began > heard)


def test_a_stream_that_ends_and_goes_on_loses_no_key(place: Place, cache: keyfold.KeyCache) -> None:
    """A short gap costs nothing; what happened in it is told before the cache is good again."""
    place.warm(cache)
    place.warm(cache, "us")
    watches = place.server.replica.watches
    stale = StoreStaleError("it is stale")
    place.server.on_loop(lambda: watches._end_all(lambda: stale))
    assert place.use(cache)
    place.client.revoke("acme", regions=["eu"])
    until(lambda: place.refused(cache))
    place.warm(cache, "us")


def test_when_the_stream_stays_away_each_use_asks(tmp_path: Path) -> None:
    """R8: after the grace memory serves nothing, until a server of the same store is there."""
    (tmp_path / "socket").mkdir()
    listen = f"unix:{tmp_path / 'socket' / 'keyfold'}"
    with Counting(listen) as client, keyfold.KeyCache(client, grace=0.2) as cache:
        with serving(tmp_path, listen=listen) as server:
            place = Place(server, client)
            place.warm(cache)
            provider = server.provider
        until(lambda: not cache.serving)
        with pytest.raises(keyfold.UnavailableError):
            cache.opening_key("acme", place.wrapped["eu"], CONTEXT, timeout=1.0).__enter__()
        with serving(tmp_path, provider, listen=listen):
            until(lambda: cache.serving)
            place.warm(cache)


def test_a_server_of_another_store_is_believed_in_nothing(tmp_path: Path) -> None:
    """A cluster of the same name elsewhere is another one: the old one's keys are wiped."""
    for name in ("socket", "one", "two"):
        (tmp_path / name).mkdir()
    listen = f"unix:{tmp_path / 'socket' / 'keyfold'}"
    with Counting(listen) as client, keyfold.KeyCache(client) as cache:
        with serving(tmp_path / "one", listen=listen) as server:
            old = Place(server, client)
            old.warm(cache)
            (held,) = cache._holdings._memory.shelf._keys.values()
        with serving(tmp_path / "two", listen=listen) as server:
            # gRPC waits for up to 3 s before it connects again.
            until(lambda: reached(client))
            Place(server, client)
            until(lambda: not any(held.secret))
            assert isinstance(old.refused(cache), keyfold.InvalidInputError)


def test_without_the_right_to_watch_it_says_so_once(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older server, or a missing right: keys live for 5 seconds, and the log says it once."""
    tries: list[None] = []

    def watch(*_: Any, **__: Any) -> keyfold.Watch:
        tries.append(None)
        raise keyfold.UnimplementedError("no WatchEvents here", code="UNIMPLEMENTED")

    monkeypatch.setattr(place.client, "watch", watch)
    monkeypatch.setattr("keyfold.caching.reader._UNWATCHED", 0.05)
    with caplog.at_level(logging.WARNING), keyfold.KeyCache(place.client) as cache:
        place.warm(cache)
        (held,) = cache._holdings._memory.shelf._keys.values()
        assert held.until.monotonic - held.began.monotonic == pytest.approx(5.0)
        until(lambda: len(tries) > 2)
    (said,) = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
    assert "no WatchEvents here" in said
    assert "5 s" in said


def test_a_watch_that_fails_in_any_way_serves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the reader, no key is used without news, and the next watch mends it."""
    with keyfold.KeyCache(place.client) as cache:
        place.warm(cache)
        (held,) = cache._holdings._memory.shelf._keys.values()
        monkeypatch.setattr("keyfold.caching.reader._LONGEST", 0.05)
        tell = cache._holdings.tell

        def broken(*_: Any) -> None:
            monkeypatch.setattr(cache._holdings, "tell", tell)
            raise RuntimeError("a bug")

        monkeypatch.setattr(cache._holdings, "tell", broken)
        place.client.revoke("acme", regions=["us"])
        until(lambda: not any(held.secret))
        place.warm(cache)


def test_envelopes_share_a_cache(place: Place, cache: keyfold.KeyCache) -> None:
    """Messages open and seal from memory, and both end with the revocation."""
    envelope = keyfold.Envelope(place.client, "acme", "eu", context=CONTEXT, cache=cache)
    place.warm(cache)
    messages = [envelope.seal(b"4111", {"row": str(row)}) for row in range(10)]
    before = place.client.calls
    for row, message in enumerate(messages):
        assert envelope.open(message, {"row": str(row)}) == b"4111"
    assert place.client.calls == before
    place.client.revoke("acme")
    until(lambda: len(cache) == 0)
    with pytest.raises(keyfold.RevokedError):
        envelope.open(messages[0])
    with pytest.raises(keyfold.RevokedError):
        envelope.seal(b"4111")


def test_a_closed_cache_ends_its_thread(place: Place) -> None:
    """No watch goes on for a cache that nobody uses."""
    with keyfold.KeyCache(place.client) as cache:
        place.warm(cache)
        thread = cache._reader._thread
        assert thread is not None
    thread.join(WAIT)
    assert not thread.is_alive()
    with pytest.raises(ValueError, match="closed"):
        place.use(cache)


async def test_a_cache_for_asyncio(tmp_path: Path) -> None:
    """The same on an event loop: memory serves, a revocation empties it, closing ends it."""
    with serving(tmp_path) as server:
        with Counting(server.target) as client:
            wrapped = Place(server, client).wrapped["eu"]
        async with keyfold.AsyncClient(server.target) as client_:
            cache = keyfold.AsyncKeyCache(client_)
            async with cache:
                ends = time.monotonic() + WAIT
                while len(cache) == 0:
                    async with cache.opening_key("acme", wrapped, CONTEXT) as key:
                        assert bytes(key.plaintext) == bytes(range(32))
                    assert time.monotonic() < ends
                envelope = keyfold.AsyncEnvelope(client_, "acme", "eu", cache=cache)
                message = await envelope.seal(b"data")
                assert await envelope.open(message) == b"data"
                assert len(cache) == 2
                await client_.revoke("acme")
                while len(cache):
                    await asyncio.sleep(0.01)
                    assert time.monotonic() < ends
                with pytest.raises(keyfold.RevokedError):
                    await cache.opening_key("acme", wrapped, CONTEXT).__aenter__()
            task = cache._reader._task
            assert task is not None
            assert task.done()


WITHOUT_PAUSE = """
import asyncio, sys
import keyfold

async def main():
    wrapped = bytes.fromhex(sys.argv[2])
    async with keyfold.AsyncClient(sys.argv[1]) as client:
        async with keyfold.AsyncKeyCache(client, grace=600.0, max_uses=10**9) as cache:
            said = False
            while True:
                async with cache.opening_key("acme", wrapped, {"table": "users"}):
                    pass
                if len(cache) and not said:
                    said = True
                    print("held", flush=True)

try:
    asyncio.run(main())
except keyfold.RevokedError:
    print("revoked", flush=True)
"""


def test_a_row_of_uses_from_memory_does_not_keep_news_away(place: Place) -> None:
    """R8: a task that uses keys from memory without a pause hears of a revocation all the same.

    It runs in a process of its own: in the server's, it would take the interpreter from it.
    """
    command = [sys.executable, "-c", WITHOUT_PAUSE, place.server.target, place.wrapped["eu"].hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        limit = threading.Timer(WAIT, program.kill)
        limit.start()
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "held\n"
            revoke(place)
            assert program.stdout.readline() == "revoked\n"
        finally:
            limit.cancel()
            program.kill()


FORKING = """
import os, sys
import keyfold
client = keyfold.Client(sys.argv[1])
unused = keyfold.Client(sys.argv[1])
cache = keyfold.KeyCache(client)
wrapped = bytes.fromhex(sys.argv[2])
while not len(cache):
    with cache.opening_key("acme", wrapped, {"table": "users"}):
        pass
child = os.fork()
if child == 0:
    for use in (cache.opening_key("acme", wrapped, {"table": "users"}).__enter__,
                lambda: client.get_status("acme")):
        try:
            use()
        except keyfold.ForkedError as error:
            print(error.reason, "after the fork" in str(error), len(cache), flush=True)
    cache.close()
    client.close()
    unused.close()
    os._exit(0)
os.waitpid(child, 0)
with cache.opening_key("acme", wrapped, {"table": "users"}) as key:
    print("parent", len(key.plaintext), flush=True)
"""


def test_after_a_fork_the_child_is_told_what_to_do(place: Place) -> None:
    """Neither the cache nor the client hangs in a child, and the parent goes on."""
    command = [sys.executable, "-c", FORKING, place.server.target, place.wrapped["eu"].hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["FORKED True 0", "FORKED True 0", "parent 32"]


def test_the_lent_key_is_the_public_type(place: Place, cache: keyfold.KeyCache) -> None:
    """A program can name the type of what it borrows."""
    lent = cache.opening_key("acme", place.wrapped["eu"], CONTEXT)
    assert isinstance(lent, OpeningKey)
    assert isinstance(lent, keyfold.BorrowedKey)
