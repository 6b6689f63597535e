"""What the relay needs of Keyfold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay.cloudevents import CloudEvent


class NotNowError(Exception):
    """Keyfold cannot tell now; the relay asks again.

    Attributes:
        reason: The stable reason, or the name of the gRPC code.
    """

    def __init__(self, message: str, reason: str) -> None:
        """Makes an error from the values that the class describes."""
        super().__init__(message)
        self.reason = reason


UNKNOWN_PLACE: Final = "RESUME_TOKEN_INVALID"
"""The reason of a NotNowError where the log does not have the place of a token."""


class CursorTakenError(Exception):
    """Another relay has taken the cursor over, so this one must not go on."""


class CursorExpiredError(Exception):
    """The cursor expired, or is gone; entries after the place where its reader was may be gone."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a feed.

    Attributes:
        event: The event; None if no event matched up to here.
        token: What `advance` takes once everything up to here is delivered.
        number: The number of the last entry of the log that the feed has passed.
    """

    event: CloudEvent | None
    token: str
    number: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Which counts of use are wanted; an empty field selects all.

    Attributes:
        cluster: Those of this cluster.
        organization: Those of clusters of this organization.
        caller: Those by this caller.
    """

    cluster: str = ""
    organization: str = ""
    caller: str = ""


class UsageSource(Protocol):
    """Where counts of use come from."""

    async def time(self) -> float:
        """Returns Unix seconds by the clock that says in which span a use is counted: the store's.

        Raises:
            NotNowError: Keyfold cannot tell now.
        """
        ...

    async def usage(self, start: int, span: int, wanted: Usage) -> list[CloudEvent]:
        """Returns the counts of a span: one event for each cluster that was used in it.

        Args:
            start: Unix seconds at which the span begins.
            span: Its length in seconds.
            wanted: Which counts.

        Raises:
            NotNowError: Keyfold cannot tell now.
        """
        ...


class Feed(Protocol):
    """Events from where a cursor stands, in the log's order, and then what happens."""

    @property
    def session(self) -> str:
        """What `advance` takes to show that no other reader has taken the cursor over."""
        ...

    def messages(self) -> AsyncIterator[Message]:
        """Yields messages; never ends by itself.

        Raises:
            NotNowError: The stream broke off, or the relay read too slowly.
            CursorTakenError: Another relay has taken the cursor over.
            CursorExpiredError: The cursor expired.
        """
        ...


class Source(Protocol):
    """Where events come from. Each method raises as `Feed.messages` does."""

    def watch(
        self, cursor: str, wanted: pb.EventFilter, token: str = ""
    ) -> AbstractAsyncContextManager[Feed]:
        """Takes a cursor over and reads from it, or from a token's place if that is further on.

        It makes the cursor if it does not exist: there, or at the newest event without a token.
        """
        ...

    async def advance(self, cursor: str, session: str, token: str) -> None:
        """Moves a cursor up to a message."""
        ...
