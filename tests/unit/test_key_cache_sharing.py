"""Callers of a cache of data keys who miss the same key at once, on a real server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import keyfold
from in_process import serving
from key_cache_place import CONTEXT, WAIT, Counting, Place, until


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


def together(use: Callable[[], object], count: int = 64) -> list[threading.Thread]:
    """Starts threads that each do the same."""
    threads = [threading.Thread(target=use) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def waiting(cache: keyfold.KeyCache) -> int:
    """Returns how many callers wait for a call that others make."""
    return sum(flight.waiting for flight in cache._holdings._flights._open.values())


@pytest.mark.parametrize("seals", [False, True])
def test_64_threads_that_miss_a_key_make_one_call(
    place: Place, cache: keyfold.KeyCache, *, seals: bool
) -> None:
    """One caller asks the server; the others wait for it, and all get the key."""
    held = place.client
    place.warm(cache)
    other = place.wrap()
    held.calls, held.hold = 0, True
    got: list[bytes] = []

    def use() -> None:
        with (
            cache.sealing_key("acme", "eu", CONTEXT)
            if seals
            else cache.opening_key("acme", other, CONTEXT)
        ) as key:
            got.append(bytes(key.plaintext))

    threads = together(use)
    until(lambda: waiting(cache) == 63)
    held.go.set()
    for thread in threads:
        thread.join(WAIT)
    assert (len(got), len(set(got)), held.calls) == (64, 1, 1)


def test_an_error_reaches_all_who_wait_and_is_not_remembered(
    place: Place, cache: keyfold.KeyCache
) -> None:
    """One call, 64 errors of their own; and the use after a Restore asks again."""
    held = place.client
    place.warm(cache, "us")
    place.client.revoke("acme", regions=["eu"])
    until(lambda: isinstance(place.refused(cache), keyfold.RevokedError))
    # The server refuses before the watch tells, and news during the call would overtake the call.
    place.hears_of_the_end(cache)
    held.calls, held.hold = 0, True
    errors: list[keyfold.KeyfoldError] = []

    def use() -> None:
        try:
            cache.opening_key("acme", place.wrapped["eu"], CONTEXT).__enter__()
        except keyfold.KeyfoldError as error:
            errors.append(error)

    threads = together(use)
    until(lambda: waiting(cache) == 63)
    held.go.set()
    for thread in threads:
        thread.join(WAIT)
    assert [type(error) for error in errors] == [keyfold.RevokedError] * 64
    assert len({id(error) for error in errors}) == 64
    assert held.calls == 1
    place.client.restore("acme")
    place.warm(cache)


def test_each_caller_has_its_own_deadline(place: Place, cache: keyfold.KeyCache) -> None:
    """W1: who has little time leaves, and who has more does not get that one's error."""
    held = place.client
    place.warm(cache)
    other = place.wrap()
    held.hold = True
    got: list[bytes] = []

    def use() -> None:
        with cache.opening_key("acme", other, CONTEXT) as key:
            got.append(bytes(key.plaintext))

    (thread,) = together(use, 1)
    until(lambda: cache._holdings._flights._open)
    began = time.monotonic()
    with pytest.raises(keyfold.DeadlineError, match="allow more time"):
        cache.opening_key("acme", other, CONTEXT, timeout=0.2).__enter__()
    assert time.monotonic() - began < WAIT / 2
    held.go.set()
    thread.join(WAIT)
    assert got == [bytes(range(32))]


def test_when_the_caller_who_asks_dies_another_one_asks(
    place: Place, cache: keyfold.KeyCache
) -> None:
    """No thread waits for ever: an exception of any kind in the call lets the others go on."""
    held = place.client
    place.warm(cache)
    other = place.wrap()
    deaths: list[None] = []
    got: list[bytes] = []
    unwrap = held.unwrap

    def dies(*args: Any, **options: Any) -> keyfold.Unwrapped:
        held.unwrap = unwrap  # type: ignore[method-assign]
        assert held.go.wait(WAIT)
        raise SystemExit

    def use() -> None:
        try:
            with cache.opening_key("acme", other, CONTEXT) as key:
                got.append(bytes(key.plaintext))
        except SystemExit:
            deaths.append(None)

    held.unwrap = dies  # type: ignore[method-assign]
    threads = together(use, 8)
    until(lambda: waiting(cache) == 7)
    held.calls = 0
    held.go.set()
    for thread in threads:
        thread.join(WAIT)
    assert (len(deaths), len(got), held.calls) == (1, 7, 1)


def test_a_revocation_during_the_call_wins(place: Place, cache: keyfold.KeyCache) -> None:
    """R2: an answer from before the revocation, which came after it, is not lent to anybody."""
    held = place.client
    place.warm(cache)
    other = place.wrap()
    held.hold = True
    errors: list[type[keyfold.KeyfoldError] | None] = []

    def use() -> None:
        try:
            with cache.opening_key("acme", other, CONTEXT):
                errors.append(None)
        except keyfold.KeyfoldError as error:
            errors.append(type(error))

    threads = together(use, 8)
    until(lambda: waiting(cache) == 7)
    place.client.revoke("acme")
    place.hears_of_the_end(cache)
    held.go.set()
    for thread in threads:
        thread.join(WAIT)
    assert errors == [keyfold.RevokedError] * 8
    assert len(cache) == 0


def test_keys_of_a_batch_follow_the_same_rules(place: Place, cache: keyfold.KeyCache) -> None:
    """R2: a revocation during a batch's call wins, too."""
    held = place.client
    place.warm(cache)
    place.warm(cache)
    batch = held.batch_unwrap

    def overtaken(*args: Any, **options: Any) -> Any:
        answers = batch(*args, **options)
        place.client.revoke("acme", regions=["eu"])
        place.hears_of_the_end(cache)
        return answers

    held.batch_unwrap = overtaken  # type: ignore[method-assign]
    wrapped = [(place.wrap(region), CONTEXT) for region in ("eu", "us")]
    with cache.opening_keys("acme", wrapped) as (eu, us):
        assert isinstance(eu, keyfold.RevokedError)
        assert isinstance(us, keyfold.BorrowedKey)
        assert bytes(us.plaintext) == bytes(range(32))


async def test_64_tasks_that_miss_a_key_make_one_call(tmp_path: Path) -> None:
    """The same for tasks; one that is cancelled gives up its wait, or its call, and no other's."""
    with serving(tmp_path) as server:
        with Counting(server.target) as client:
            wrapped = Place(server, client).wrapped
        async with (
            keyfold.AsyncClient(server.target) as client_,
            keyfold.AsyncKeyCache(client_) as cache,
        ):
            ends = time.monotonic() + WAIT
            while len(cache) == 0:
                async with cache.opening_key("acme", wrapped["us"], CONTEXT):
                    assert time.monotonic() < ends
            calls, go, unwrap = 0, asyncio.Event(), client_.unwrap

            async def held(*args: Any, **options: Any) -> keyfold.Unwrapped:
                nonlocal calls
                calls += 1
                await go.wait()
                return await unwrap(*args, **options)

            async def use() -> bytes:
                async with cache.opening_key("acme", wrapped["eu"], CONTEXT) as key:
                    return bytes(key.plaintext)

            client_.unwrap = held  # type: ignore[method-assign]
            tasks = [asyncio.create_task(use()) for _ in range(64)]
            await asyncio.sleep(0.05)
            assert calls == 1
            tasks[5].cancel()
            tasks[0].cancel()  # It makes the call, so another one makes the next.
            await asyncio.sleep(0.05)
            assert calls == 2
            go.set()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in got].count(asyncio.CancelledError) == 2
            assert got.count(bytes(range(32))) == 62
            assert calls == 2
