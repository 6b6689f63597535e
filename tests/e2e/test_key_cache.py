"""Caches of data keys, in threads, while replicas fall behind, die and come back around a Revoke.

Two real servers on one PostgreSQL. One reaches it directly, the other through a proxy that is the
network's failure. Times are this machine's monotonic clock: a use is as late as when it began, and
a Revoke as early as when its answer was there, so no slack is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

import pytest

import keyfold
import postgres
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from proxy import Proxy, Way

STALENESS: Final = 3.0
THREADS: Final = 8
WAIT: Final = 60.0
CONTEXT: Final = {"table": "users"}
SECRET: Final = bytes(range(32))

_PAUSE: Final = 0.02
"""Seconds between two uses of a thread: a program uses its key every 2.5 ms."""

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Use:
    """One use that was given the key.

    Attributes:
        began: When it began.
        from_memory: Whether no call was made for it.
    """

    began: float
    from_memory: bool


class Program(keyfold.Client):
    """A program with a cache, whose threads use one key again and again while it is entered."""

    def __init__(self, name: str, addresses: list[str], cluster: str, wrapped: bytes) -> None:
        super().__init__(addresses, timeout=5.0)
        self.name = name
        self.cache = keyfold.KeyCache(self)
        self._key = (cluster, wrapped, CONTEXT)
        self.uses: list[Use] = []
        self.wrong: list[BaseException] = []
        self._asks = threading.local()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(THREADS)]

    def unwrap(self, *args: Any, **options: Any) -> keyfold.Unwrapped:
        self._asks.asked = True
        return super().unwrap(*args, **options)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        self.cache.close()
        self.close()

    def _run(self) -> None:
        while not self._over.wait(_PAUSE):
            try:
                self._use()
            except (keyfold.RevokedError, keyfold.UnavailableError, keyfold.DeadlineError):
                pass
            except BaseException as error:
                self.wrong.append(error)
                raise

    def _use(self) -> None:
        self._asks.asked = False
        began = time.monotonic()
        with self.cache.opening_key(*self._key) as key:
            # Another thread's call may have brought it; only what memory gave is from memory.
            from_memory = not self._asks.asked
            assert bytes(key.plaintext) == SECRET
        self.uses.append(Use(began, from_memory))

    def serves(self) -> bool:
        """Returns whether memory serves the key now."""
        return self.cache.serving and len(self.cache) > 0


@dataclass
class Pair:
    """A server with the store before it, and one with the proxy between."""

    near: Server
    far: Server
    proxy: Proxy

    def mend(self) -> None:
        """Has both serve again."""
        self.proxy.set(Way.PASS)
        for server in (self.near, self.far):
            if not server.running:
                server.restart()


@pytest.fixture(scope="module")
def pair(start_module_server: StartServer, shared_store: SharedStore) -> Iterator[Pair]:
    """Gives both servers, with the root keys local:eu and local:us."""
    port = postgres.shared("15").port
    shared_store.settings["KEYFOLD_STORE_MAX_STALENESS"] = f"{STALENESS}s"
    with Proxy(port) as proxy:
        near = shared_store.server(start_module_server)
        around = shared_store.url.replace(f":{port}/", f":{proxy.port}/")
        far = shared_store.server(start_module_server, KEYFOLD_STORE=around)
        yield Pair(near, far, proxy)
        far.kill()


def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def nothing(_: Pair) -> None:
    """Nothing fails."""


def cut(pair: Pair) -> None:
    """The far server loses the store, and does not learn of it."""
    pair.proxy.set(Way.BLACK_HOLE)


def kill(pair: Pair) -> None:
    """The far server dies, and the streams that came from it with it."""
    pair.far.kill()


def replace(pair: Pair) -> None:
    """The near server is replaced, and its streams go on at the far one, which is behind."""
    pair.proxy.set(Way.BLACK_HOLE)
    pair.near.kill()
    pair.near.restart()


@pytest.mark.parametrize("fails", [nothing, cut, kill, replace])
def test_no_cache_serves_beyond_the_bound(pair: Pair, fails: Callable[[Pair], None]) -> None:
    """R8: whatever fails, no use gets the key once the staleness has passed since the Revoke.

    Nor does memory serve it once the cache has heard, though a server that is behind may still
    answer calls. After the Restore, all serve again.
    """
    near, far = pair.near.target, pair.far.target
    with pair.near.client() as operator:
        cluster = fails.__name__
        pair.near.enable(cluster, ["eu"])
        wrapped = operator.wrap(cluster, "eu", SECRET, context=CONTEXT).wrapped_key
        with ExitStack() as stack:
            programs = [
                stack.enter_context(Program(name, addresses, cluster, wrapped))
                for name, addresses in (
                    ("near", [near]),
                    ("far", [far]),
                    ("both", [near, far]),
                    ("other first", [far, near]),
                )
            ]
            until(lambda: all(each.serves() for each in programs))
            fails(pair)
            until(lambda: _done(lambda: operator.revoke(cluster, timeout=20.0)))
            answered = time.monotonic()
            heard = {}
            while time.monotonic() < answered + 2 * STALENESS:
                for each in programs:
                    if each.name not in heard and len(each.cache) == 0:
                        heard[each.name] = time.monotonic()
                time.sleep(0.01)
            for each in programs:
                assert not each.wrong
                assert any(use.from_memory for use in each.uses)
                late = [use.began - answered for use in each.uses if use.began > answered]
                assert not late or max(late) < STALENESS, each.name
                told = heard.get(each.name, answered + STALENESS)
                assert not [use for use in each.uses if use.from_memory and use.began > told]
            pair.mend()
            until(lambda: _done(lambda: operator.restore(cluster)))
            until(lambda: all(each.serves() for each in programs))


def _done(change: Callable[[], object]) -> bool:
    """Makes a change, unless no server can be reached yet."""
    try:
        change()
    except (keyfold.UnavailableError, keyfold.DeadlineError):
        return False
    return True
