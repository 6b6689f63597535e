"""Event loops: a channel of asyncio belongs to one, and hangs or fails on any other."""

from __future__ import annotations

import asyncio

from keyfold.errors import EventLoopError


def this_loop() -> object:
    """Returns what a synchronous channel belongs to: nothing."""
    return None


def async_this_loop() -> object:
    """Returns the event loop that is running."""
    return asyncio.get_running_loop()


def elsewhere() -> EventLoopError:
    """Returns the error of a call on another event loop than the channel's."""
    return EventLoopError(
        "this client belongs to the event loop of its first call, which is another one; make a "
        "client for each event loop",
        code="FAILED_PRECONDITION",
    )
