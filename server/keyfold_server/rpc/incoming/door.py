"""The door before the handlers, shut for the moment in which a server stops taking calls.

When gRPC is told to stop, it ends the calls that have arrived and that no handler has yet, with
CANCELLED, which no client takes for "try another server" (grpc/grpc#41785). So for a moment
before that, calls wait here, before anything is decided about them: gRPC hands over all that it
has, and callers who wait for answers send no more. Then gRPC is told to stop, which it tells
clients ahead of any answer, and the door opens for those who wait.
"""

from __future__ import annotations

import asyncio


class Door:
    """Open, until a server stops.

    Attributes:
        shut: What calls wait for, or None while the door is open; a look at it is all that the
            door costs a call.
    """

    __slots__ = ("shut",)

    def __init__(self) -> None:
        """Makes an open door."""
        self.shut: asyncio.Event | None = None

    def close(self) -> None:
        """Has calls wait that arrive from now on."""
        self.shut = asyncio.Event()

    def open(self) -> None:
        """Lets them go on, and all that come later."""
        if self.shut is not None:
            self.shut.set()
        self.shut = None
