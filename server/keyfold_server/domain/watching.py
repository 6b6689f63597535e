"""What a reader of WatchEvents asks for, and the messages that it gets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from keyfold_server.domain.errors import MalformedRequestError
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.keyspec import check_name

MOST_CLUSTERS: Final = 1_000
"""Most clusters that one request may name."""

_DIGEST: Final = 16


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What a reader asks for.

    Attributes:
        clusters: The names of the clusters that it is about; empty: not limited to any.
        organization: The organization that it is about; None: not limited to one.
        states: Whether to tell the states of clusters.
        events: Whether to tell events.
        which: Selects events.
        resume_token: The token of the last message that the reader has dealt with, or empty.
        cursor: The name of the cursor from which to begin, or empty.
    """

    clusters: frozenset[str] = frozenset()
    organization: str | None = None
    states: bool = False
    events: bool = False
    which: EventFilter = field(default_factory=EventFilter)
    resume_token: str = ""
    cursor: str = ""

    @property
    def digest(self) -> bytes:
        """What tells one scope from another: all that decides which messages the reader gets."""
        which = replace(self.which, kinds=frozenset())
        kinds = sorted(kind.value for kind in self.which.kinds)
        parts = (
            sorted(self.clusters),
            self.organization,
            self.states,
            self.events,
            which,
            kinds,
            self.cursor,
        )
        return sha256(repr(parts).encode()).digest()[:_DIGEST]

    def check(self) -> None:
        """Refuses a request that asks for nothing, or in a wrong way.

        Raises:
            MalformedRequestError: It asks for neither states nor events, names too many clusters,
                or asks for a cursor of states.
            InvalidNameError: A name cannot be one.
        """
        if not self.states and not self.events:
            raise MalformedRequestError("ask for states, for events, or for both", field="states")
        if len(self.clusters) > MOST_CLUSTERS:
            raise MalformedRequestError(
                f"a watch names at most {MOST_CLUSTERS:,} clusters; watch their organization",
                field="clusters",
            )
        for name in self.clusters:
            check_name(name, "clusters")
        if self.cursor:
            check_name(self.cursor, "cursor")
            if not self.events:
                raise MalformedRequestError(
                    "a cursor is a place among events; ask for events", field="cursor"
                )

    def is_about(self, cluster: str | None, organization: str | None) -> bool:
        """Says whether a cluster, or what concerns it, is what the request is about."""
        return (not self.clusters or cluster in self.clusters) and (
            self.organization is None or self.organization == organization
        )
