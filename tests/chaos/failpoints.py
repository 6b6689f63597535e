"""Servers with failpoints: each is keyfold-server, forked, and dies or delays as ordered.

This is a program, a nursery (`nursery_program`) whose servers are those of CHAOS_TREE. A kill is
still a real kill.

In a server's environment:

    CHAOS_DIE    "MARK N": the process kills itself when it reaches a mark of the store's mutations
                 for the Nth time
    CHAOS_SLOW   share of the KMS's and the store's answers that come late: most by up to 20 ms,
                 some by 150 ms

In a server's folder:

    hold         a file that names CLUSTER/REGION. While the file exists, the KMS's answers to
                 unwraps for that region are kept back; `held` is created once one is

The server's code is not replaced: its own calls are only followed by a pause, or by its end.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import nursery_program

LATE: Final = (0.02,) * 5 + (0.15,)
"""Longest delays of a late answer, in seconds; each late answer draws one of them."""

HOLD: Final = "hold"
HELD: Final = "held"


def _check_tree(tree: Path) -> None:
    import keyfold
    import keyfold_server

    for module in (keyfold, keyfold_server):
        where = Path(str(module.__file__)).resolve()
        if not where.is_relative_to(tree.resolve()):
            raise SystemExit(f"{where} would run, which is not of {tree}")


def _dying() -> Callable[[str], None]:
    """Returns the function that kills the process at its mark."""
    given = os.environ.get("CHAOS_DIE", "")
    mark, _, count = given.partition(" ")
    left = int(count or 1)

    def reach(reached: str) -> None:
        nonlocal left
        if reached == mark:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _late(owner: Any, method: str, part: float) -> None:
    """Delays a share of a method's answers, in the thread that waits for them."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if random.random() < part:
            time.sleep(random.uniform(0, random.choice(LATE)))
        return result

    setattr(owner, method, called)


def _kept_back(provider: Any) -> None:
    """Keeps back the answers to unwraps that `hold` names, in the threads that wait for them."""
    original = provider.unwrap
    hold, held = Path(HOLD), Path(HELD)

    def named() -> str:
        try:
            return hold.read_text()
        except FileNotFoundError:
            return ""

    @functools.wraps(original)
    def unwrap(self: Any, key: Any, version: str, sealed: bytes, binding: Any, **more: Any) -> Any:
        result = original(self, key, version, sealed, binding, **more)
        while named() == f"{binding.cluster}/{binding.region}":
            held.touch()
            time.sleep(0.005)
        return result

    provider.unwrap = unwrap


def _serve() -> None:
    """Sets the failpoints and becomes the server."""
    from keyfold_server import __main__ as program
    from keyfold_server.providers.local.provider import LocalProvider
    from keyfold_server.store.sql.store import SqlStore

    original = SqlStore.__init__

    def made(store: SqlStore, *args: Any, **kwargs: Any) -> None:
        original(store, *args, **(kwargs | {"reach": _dying()}))

    setattr(SqlStore, "__init__", made)  # noqa: B010  mypy knows no other way to replace it
    part = float(os.environ.get("CHAOS_SLOW", "0"))
    for owner, method in (
        (LocalProvider, "wrap"),
        (LocalProvider, "unwrap"),
        (SqlStore, "cluster"),
        (SqlStore, "poll"),
    ):
        if part:
            _late(owner, method, part)
    _kept_back(LocalProvider)
    program.main()


def main() -> None:
    """Carries out orders."""
    _check_tree(Path(os.environ["CHAOS_TREE"]))
    nursery_program.import_server()
    nursery_program.run({"keyfold-server": _serve})


if __name__ == "__main__":
    main()
