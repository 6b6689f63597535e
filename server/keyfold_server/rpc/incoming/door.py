"""The door before the handlers, which is shut for a moment while a server stops taking calls.

`grpc.aio.Server.stop` ends calls that have arrived but not yet reached a handler with CANCELLED,
and no client takes that for "try another server" (grpc/grpc#41785). So the server shuts the door
for a moment before it stops gRPC, and new calls wait here, before anything else happens to them.
In that moment gRPC hands over all the calls that it has. Then the server stops gRPC, which tells
clients to go elsewhere before it sends them any answer, and opens the door for the waiting calls.
"""

from __future__ import annotations

import asyncio


class Door:
    """A door that calls pass; open until the server stops.

    Attributes:
        shut: The event that calls wait for; None while the door is open. Looking at it is all that
            the door costs a call.
    """

    __slots__ = ("shut",)

    def __init__(self) -> None:
        """Makes an open door."""
        self.shut: asyncio.Event | None = None

    def close(self) -> None:
        """Makes calls wait that arrive from now on."""
        self.shut = asyncio.Event()

    def open(self) -> None:
        """Lets the waiting calls go on, and all later ones pass."""
        if self.shut is not None:
            self.shut.set()
        self.shut = None
