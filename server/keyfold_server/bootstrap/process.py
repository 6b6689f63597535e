"""What the operating system lets the server's process do: its memory, and its open files."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import resource
import sys
from typing import Final

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4

OWN_FILES: Final = 200
"""Files that a server has open besides its connections, with room to spare."""


def keep_memory_private() -> None:
    """Forbids core dumps and ptrace, because both would reveal the keys in memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            log.warning("the kernel did not switch core dumps and ptrace off")


def allow_connections(most: int) -> None:
    """Raises the soft limit of open files to the hard one, and warns if that is too low.

    Each connection is an open file. A soft limit is often 1,024, for the sake of programs that call
    `select`, which nothing here does. Beyond the limit nobody could connect any more.

    Args:
        most: The most connections that the settings let in.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS shows no hard limit, and refuses a soft one that it does not have.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most + OWN_FILES:
        log.warning(
            "this process may have %d files open, which are too few for max_connections (%d); "
            "raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower the setting",
            soft,
            most,
        )
