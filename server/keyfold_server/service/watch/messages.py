"""The messages that a reader of WatchEvents gets, as plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from keyfold_server.service.events.listing import VisibleEvent
from keyfold_server.service.watch.looks import Look


@dataclass(frozen=True, slots=True)
class Told:
    """The state of a cluster.

    Attributes:
        look: The cluster as it was found.
        regions: The regions of it that the reader may see; None: to the reader the cluster does
            not exist.
    """

    look: Look
    regions: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat.

    Attributes:
        age: Seconds since the last good poll of the store began of which the reader has been told
            all that concerns it (protocol R8). None: it has not been told of any yet.
        most: Seconds of age at which this replica ends the stream.
        number: For a reader of events, the number of the last entry that it has passed, whether or
            not it may see it; otherwise 0.
        stream: Seconds since the stream began.
    """

    age: float | None
    most: float
    number: int
    stream: float


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """The end of a snapshot: what this stream has not told does not exist to the reader."""


Message: TypeAlias = Told | VisibleEvent | Beat | SnapshotEnd

Send: TypeAlias = Callable[[Message, str, str], Awaitable[None]]
"""Sends a message with its resume token, and with the session of a cursor or an empty string.

It returns once the transport has taken the message, which for a slow reader takes long.
"""
