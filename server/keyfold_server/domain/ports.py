"""What the outside must supply besides key services (`domain.provider`): the store, and time.

Stores are synchronous and are called in bounded threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    RecordedChange,
    RecordedRequest,
    RequestKey,
)
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.lifecycle import State


class Clock(Protocol):
    """Time, injected so that rules about time are tested without waiting."""

    def monotonic(self) -> float:
        """Seconds that never go back and go on while the machine sleeps."""
        ...

    def wall(self) -> float:
        """Seconds of Unix time."""
        ...


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a replica says of itself at every poll (protocol S2, R4).

    Attributes:
        replica: Its name: host, process and a random part.
        number: The last change that it has applied.
        change_id: That change's random id, empty before the first.
        max_staleness: Seconds without the store after which it stops by itself.
        time: Milliseconds of Unix time by its own clock.
    """

    replica: str
    number: int
    change_id: bytes
    max_staleness: float
    time: int


UNKNOWN_REPLICA: Final = "unknown"
"""Stands for replicas of which the store may have lost all trace."""


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """What the store knows of a replica.

    Attributes:
        replica: Its name.
        applied: The last change whose KEKs it has dropped.
        max_staleness: Seconds without the store after which it stops by itself.
        silent_for: Seconds since its last heartbeat, by the store's reader's clock.
    """

    replica: str
    applied: int
    max_staleness: float
    silent_for: float


@dataclass(frozen=True, slots=True)
class ClusterFilter:
    """Which clusters a list holds; None does not narrow.

    Attributes:
        organization: Of this organization.
        state: With a region in this state.
        health: With a region whose last stored observation is this.
        key_uri: With a region whose current root key has this uri.
        behind: With an enabled region under that root key that has `auto_rotate`, and a KEK in use
            that another version of it than this one wrapped.
    """

    organization: str | None = None
    state: State | None = None
    health: Health | None = None
    key_uri: str | None = None
    behind: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A KEK that the sweep asks about.

    Attributes:
        cluster: The cluster's name.
        region: The region's; its newest generation is meant.
        root: The root key id.
        kek: The KEK's id, in hex.
        refused: Whether the KEK's own last unwrap was refused.
        followed: Whether the policy of any enabled region under the root key has `auto_rotate`.
    """

    cluster: str
    region: str
    root: str
    kek: str
    refused: bool
    followed: bool


class Store(Protocol):
    """Where clusters live. Every method may raise StoreUnavailableError.

    Rows of decisions carry a MAC; one without raises RowNotAuthenticError (protocol A1).
    """

    def cluster(self, name: str) -> Cluster | None:
        """Reads a cluster and verifies every row of it."""
        ...

    def owner_of(self, kek_id: bytes) -> str | None:
        """Returns the name of the cluster that a KEK belongs to, or None."""
        ...

    def clusters(
        self, which: ClusterFilter, after: str, limit: int
    ) -> list[Cluster | RowNotAuthenticError]:
        """Reads up to `limit` clusters whose names follow `after`, by name.

        One whose rows are not authentic spoils only itself: its error, which names it, stands in
        its place.
        """
        ...

    def census(self) -> dict[tuple[str, str], int]:
        """Counts regions by the names of their state and last observed health."""
        ...

    def cannot_wrap(self) -> int:
        """Counts enabled regions whose root key unwraps and, when last tried, did not wrap."""
        ...

    def samples(self, prefix: str) -> list[Sample]:
        """Chooses KEKs for the sweep, of the root keys whose ids begin so, by root key.

        Of each root key that an enabled region uses: first the KEK that was asked about longest
        ago, so that all have their turn; then some of those that were refused.
        """
        ...

    def claim(self, name: str, after_ms: int) -> bool:
        """Takes a piece of work that one replica is to do, by the store's clock.

        Args:
            name: The work's.
            after_ms: Milliseconds after the last claim from which it may be claimed again.

        Returns:
            Whether this replica is to do it.
        """
        ...

    def request(self, key: RequestKey) -> RecordedRequest | None:
        """Reads what was recorded of a request_id."""
        ...

    def apply(self, changes: Sequence[Change]) -> list[CommittedChange | Exception]:
        """Carries out changes in one transaction; a change that raises drops out alone.

        Cluster rows are locked in sorted order, the counter's row is taken last (protocol S8).
        """
        ...

    def refused(
        self, root: str, observation: Observation, replica: str, kek: bytes | None = None
    ) -> None:
        """Records a refusal: an observation and one numbered change (protocol F2).

        Args:
            root: The root key id.
            observation: What was seen of it.
            replica: Who tells.
            kek: Where it was told before: the one KEK that was refused again.
        """
        ...

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest change (protocol S4)."""
        ...

    def poll(self, beat: Heartbeat) -> list[RecordedChange]:
        """Writes a heartbeat and reads the changes after its number, oldest first.

        Raises:
            StoreRolledBackError: The store does not have the change that the beat names, or
                another one that this process has seen.
        """
        ...

    def reconciled(self) -> bool:
        """Tells whether an operator has decided that the store is right as it is (protocol S1).

        Since the last registration or good poll, that is. A replica for which the store was
        rolled back then registers anew.
        """
        ...

    def leave(self, replica: str) -> None:
        """Removes a replica that stops."""
        ...

    def replicas(self) -> list[ReplicaRow]:
        """Reads every replica that has not left.

        One named `UNKNOWN_REPLICA` stands for those that a failover of the store may have lost.
        """
        ...

    def observe(self, observations: Sequence[Observation]) -> None:
        """Writes what was seen of root keys; plain upserts, no number (protocol S7)."""
        ...

    def observations(self, subjects: Sequence[str]) -> dict[str, Observation]:
        """Reads what was last seen, by subject."""
        ...

    def external_id(self, owner: str) -> str | None:
        """Reads what was issued for an owner (`service.external_ids`), or None."""
        ...

    def issue_external_id(self, owner: str, external_id: str, now_ms: int) -> str:
        """Keeps an external id for an owner, for good (protocol C2).

        Returns:
            What the owner has: the one given, or that which was issued before.
        """
        ...

    def used(self, times: Mapping[bytes, int]) -> None:
        """Writes when KEKs were last used, by kek_id, in milliseconds; never an earlier time."""
        ...

    def last_uses(self, kek_ids: Sequence[bytes]) -> dict[bytes, int]:
        """Reads when KEKs were last used, by kek_id; those that never were are left out."""
        ...

    def prune(self, now_ms: int) -> None:
        """Removes requests and changes older than 24 hours before a time, the newest never."""
        ...


@runtime_checkable
class Notifies(Protocol):
    """A store that can say at once that something changed.

    A hint that makes the poll come sooner: it may come without need and may be missed, so what
    is promised rests on the poll alone.
    """

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls `on_change` soon after changes, from a thread of the store's own.

        Never blocks and never raises: where nothing can be heard, it goes on trying.

        Returns:
            What ends it.
        """
        ...
