"""Two customers of one application: the clusters acme and globex, in the regions eu and us."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import keyfold
from in_process import InProcess


class Counting(keyfold.Client):
    """A client that counts its calls of the data plane.

    Attributes:
        calls: How many there were of each method.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target, timeout=20.0)
        self.calls: Counter[str] = Counter()

    def wrap(self, *args: Any, **options: Any) -> keyfold.Wrapped:
        self.calls["wrap"] += 1
        return super().wrap(*args, **options)

    def unwrap(self, *args: Any, **options: Any) -> keyfold.Unwrapped:
        self.calls["unwrap"] += 1
        return super().unwrap(*args, **options)

    def rewrap(self, *args: Any, **options: Any) -> keyfold.Rewrapped:
        self.calls["rewrap"] += 1
        return super().rewrap(*args, **options)

    def generate_data_key(self, *args: Any, **options: Any) -> keyfold.DataKey:
        self.calls["generate_data_key"] += 1
        return super().generate_data_key(*args, **options)

    def batch_unwrap(
        self, *args: Any, **options: Any
    ) -> list[keyfold.Unwrapped | keyfold.KeyfoldError]:
        self.calls["batch_unwrap"] += 1
        return super().batch_unwrap(*args, **options)

    def batch_rewrap(
        self, *args: Any, **options: Any
    ) -> list[keyfold.Rewrapped | keyfold.KeyfoldError]:
        self.calls["batch_rewrap"] += 1
        return super().batch_rewrap(*args, **options)


class Place:
    """The customers, and what an application has to reach their keys.

    Attributes:
        server: The server.
        client: A client that counts.
        cache: A cache of data keys, which watches.
    """

    def __init__(self, server: InProcess) -> None:
        """Makes the customers."""
        self.server = server
        self.client = Counting(server.target)
        self.cache = keyfold.KeyCache(self.client)
        for name in ("acme", "globex"):
            server.provider.create_key(name)
            self.client.enable(name, self.specs(name))
            # A region's first use makes its generation, of which a cache then hears.
            for region in ("eu", "us"):
                self.client.wrap(name, region, bytes(32))

    def specs(self, cluster: str) -> list[keyfold.RegionSpec]:
        """Returns the regions of a customer."""
        key = keyfold.KeySpec("FAKE", f"fake:{cluster}")
        return [keyfold.RegionSpec(region, key) for region in ("eu", "us")]

    def warm(self) -> None:
        """Returns once the cache serves from memory."""
        wrapped = self.client.wrap("acme", "eu", bytes(32)).wrapped_key
        until = time.monotonic() + 40
        while not len(self.cache):
            assert time.monotonic() < until
            with self.cache.opening_key("acme", wrapped):
                pass

    def until_no_call(self, use: Callable[[], object], most: int) -> None:
        """Repeats a use until memory serves it: the machine may be too busy for the watch at first.

        Args:
            use: The use.
            most: The most calls that it may make meanwhile.
        """
        until = time.monotonic() + 40
        while True:
            self.client.calls.clear()
            use()
            if not self.client.calls:
                return
            assert self.client.calls.total() <= most
            assert time.monotonic() < until

    def revoke(self, cluster: str) -> None:
        """Revokes a cluster, and returns once the cache has heard of it."""
        assert not self.client.revoke(cluster).pending
        until = time.monotonic() + 40
        while cluster in {name for name, *_ in self.cache._holdings._memory.shelf._keys}:
            assert time.monotonic() < until
            time.sleep(0.01)

    def rotate(self, cluster: str) -> None:
        """Makes a new generation in each region of a cluster."""
        self.client.rotate(cluster, self.specs(cluster), new_generation=True)

    def delete(self, cluster: str) -> None:
        """Deletes a cluster that its customer has left."""
        self.revoke(cluster)
        self.client.delete_cluster(cluster, all_regions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cache.close()
        self.client.close()
