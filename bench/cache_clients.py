"""A process of programs that use `keyfold.KeyCache`, each with a client and a cache of its own.

    cache_clients.py COUNT ADDRESS[,ADDRESS ...]

It reads commands from standard input, a line of JSON each, and answers each with another:

    {"warm": CLUSTER, "key": HEX}     once every cache serves the key from memory
    {"refused": CLUSTER, "key": HEX}  at once, and again with the moment for each cache at which its
                                      uses of the key began to be refused by every replica

Moments are those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import keyfold

_PAUSE: Final = 0.01
"""Seconds between two uses."""

_REFUSED: Final = 0.1
"""Seconds after a refusal. What only shows that it stands must not keep others from theirs."""

_LONGEST: Final = 30.0
"""Seconds after which a cache that is not warm, or still serves, has failed."""


class Program(keyfold.Client):
    """A client that counts its calls, with its cache."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(addresses)
        self.calls = 0
        self.cache = keyfold.KeyCache(self)
        self._replicas = len(addresses)

    def unwrap(self, *args: Any, **options: Any) -> keyfold.Unwrapped:
        """Unwraps a key."""
        self.calls += 1
        return super().unwrap(*args, **options)

    def use(self, cluster: str, key: bytes) -> bool:
        """Opens a key, and returns whether memory served it."""
        before = self.calls
        with self.cache.opening_key(cluster, key):
            return self.calls == before

    def warm(self, cluster: str, key: bytes) -> None:
        """Returns once memory serves a key."""
        _until(lambda: self.use(cluster, key), "is not warm")

    def refused(self, cluster: str, key: bytes) -> float:
        """Returns the moment of the first refusal after which nothing but refusals came.

        Calls go round the replicas, so as many refusals one after the other as there are replicas
        come from all of them.
        """
        refusals: list[float] = []

        def refuses() -> bool:
            try:
                from_memory = self.use(cluster, key)
            except keyfold.RevokedError:
                refusals.append(time.monotonic())
                time.sleep(_REFUSED)
                return len(refusals) >= self._replicas
            if from_memory and refusals:
                raise RuntimeError("memory served again after a refusal")
            refusals.clear()
            return False

        _until(refuses, "still serves")
        return refusals[0]


def _until(condition: Callable[[], bool], failure: str) -> None:
    ends = time.monotonic() + _LONGEST
    while not condition():
        if time.monotonic() > ends:
            raise RuntimeError(f"after {_LONGEST:g} s a cache {failure}")
        time.sleep(_PAUSE)


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Runs until standard input ends."""
    count, addresses = int(sys.argv[1]), sys.argv[2].split(",")
    with ExitStack() as stack:
        # Each begins with another replica.
        programs = [
            stack.enter_context(
                Program(addresses[at % len(addresses) :] + addresses[: at % len(addresses)])
            )
            for at in range(count)
        ]
        for program in programs:
            stack.enter_context(program.cache)
        pool = stack.enter_context(ThreadPoolExecutor(count))
        for line in sys.stdin:
            command = json.loads(line)
            key = bytes.fromhex(command["key"])
            if "warm" in command:
                list(pool.map(lambda each: each.warm(command["warm"], key), programs))  # noqa: B023
                _say("warm")
            else:
                name = command["refused"]
                futures = [pool.submit(each.refused, name, key) for each in programs]
                _say("begun")
                _say([each.result() for each in futures])


if __name__ == "__main__":
    main()
