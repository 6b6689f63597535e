"""A server with a cluster for caches of data keys, and a client whose calls are counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import keyfold
from in_process import InProcess
from keyfold.caching.keys import pairs

CONTEXT = {"table": "users"}
WAIT = 40.0


class Counting(keyfold.Client):
    """A client that counts the calls that ask for plaintexts, and can hold up their answers.

    Attributes:
        calls: How many there were.
        hold: Whether their answers wait for `go`.
        go: Lets them come.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.calls = 0
        self.hold = False
        self.go = threading.Event()

    def unwrap(self, *args: Any, **options: Any) -> keyfold.Unwrapped:
        self.calls += 1
        try:
            return super().unwrap(*args, **options)
        finally:
            self._wait()

    def generate_data_key(self, *args: Any, **options: Any) -> keyfold.DataKey:
        self.calls += 1
        try:
            return super().generate_data_key(*args, **options)
        finally:
            self._wait()

    def _wait(self) -> None:
        if self.hold:
            assert self.go.wait(WAIT)


class Place:
    """A server, a client, and a cluster `acme` in the regions `eu` and `us`."""

    def __init__(self, server: InProcess, client: Counting) -> None:
        self.server = server
        self.client = client
        for region in ("eu", "us"):
            if f"fake:{region}" not in server.provider.uris():
                server.provider.create_key(region)
        self.enable()
        self.wrapped = {region: self.wrap(region) for region in ("eu", "us")}

    def enable(self, name: str = "acme", ttl: float | None = None) -> None:
        span = None if ttl is None else timedelta(seconds=ttl)
        policy = keyfold.RegionPolicy(cache_ttl=span)
        specs = [
            keyfold.RegionSpec(region, keyfold.KeySpec("FAKE", f"fake:{region}"), policy)
            for region in ("eu", "us")
        ]
        self.client.enable(name, specs)

    def wrap(self, region: str = "eu", cluster: str = "acme") -> bytes:
        return self.client.wrap(cluster, region, bytes(range(32)), context=CONTEXT).wrapped_key

    def use(self, cache: keyfold.KeyCache, region: str = "eu") -> bool:
        """Opens the region's key, and returns whether memory served it."""
        before = self.client.calls
        with cache.opening_key("acme", self.wrapped[region], CONTEXT) as key:
            assert bytes(key.plaintext) == bytes(range(32))
        return self.client.calls == before

    def warm(self, cache: keyfold.KeyCache, region: str = "eu") -> None:
        """Returns once memory serves the region's key."""
        until(lambda: self.use(cache, region))

    def hears_of_the_end(self, cache: keyfold.KeyCache, region: str = "eu") -> None:
        """Returns once the watch has told a cache, which it once told of the key, of its end."""
        name = ("acme", self.wrapped[region], pairs(CONTEXT))
        until(lambda: cache._holdings._memory.place(name) is None)

    def refused(self, cache: keyfold.KeyCache, region: str = "eu") -> keyfold.KeyfoldError | None:
        """Returns what the next use raises, or None."""
        try:
            self.use(cache, region)
        except keyfold.KeyfoldError as error:
            return error
        return None


def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
