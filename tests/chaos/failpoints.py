"""keyfold-server with failpoints: run as a program, it is the server, and dies or dawdles on cue.

    CHAOS_TREE   the folder whose code must be what runs; it ends at once where it is not
    CHAOS_DIE    "MARK N": the process kills itself when it reaches a mark of the store's mutations
                 for the Nth time
    CHAOS_SLOW   part of the key service's and the store's answers that come late: 20 ms at most,
                 and some 150 ms

Nothing of the server is replaced; its own calls are followed by a pause, or by its end.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LATE: Final = (0.02,) * 5 + (0.15,)
"""Seconds that a late answer is late at most; one of them is drawn."""


def _check_tree() -> None:
    import keyfold
    import keyfold_server

    tree = Path(os.environ["CHAOS_TREE"]).resolve()
    for module in (keyfold, keyfold_server):
        where = Path(str(module.__file__)).resolve()
        if not where.is_relative_to(tree):
            raise SystemExit(f"{where} would run, which is not of {tree}")


def _dying() -> Callable[[str], None]:
    """Returns what kills the process at its mark."""
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
    """Has a part of a method's answers come late, in the thread that waits for them."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if random.random() < part:
            time.sleep(random.uniform(0, random.choice(LATE)))
        return result

    setattr(owner, method, called)


def main() -> None:
    """Sets the failpoints and becomes the server."""
    _check_tree()
    from keyfold_server import __main__ as program
    from keyfold_server.providers.local import LocalProvider
    from keyfold_server.store.sql import SqlStore

    original = SqlStore.__init__

    def made(store: SqlStore, *args: Any, **kwargs: Any) -> None:
        original(store, *args, **(kwargs | {"reach": _dying()}))

    setattr(SqlStore, "__init__", made)  # noqa: B010  mypy knows no other way to replace it
    part = float(os.environ.get("CHAOS_SLOW", "0"))
    if part:
        for owner, method in (
            (LocalProvider, "wrap"),
            (LocalProvider, "unwrap"),
            (SqlStore, "cluster"),
            (SqlStore, "poll"),
        ):
            _late(owner, method, part)
    sys.argv = ["keyfold-server"]
    program.main()


if __name__ == "__main__":
    main()
