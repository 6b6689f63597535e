"""What the outside must supply besides KMSs (`domain.provider`): the store, and time.

Stores are synchronous; the service calls them in a bounded number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from keyfold_server.domain.bans import Ban, CommittedBan
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    RecordedRequest,
    RequestKey,
)
from keyfold_server.domain.cluster import Cluster, SupersededWrap
from keyfold_server.domain.cursors import Cursors
from keyfold_server.domain.erasure import ErasureTurn, Tombstone
from keyfold_server.domain.errors import ClusterNotFoundError, Unusable
from keyfold_server.domain.events import (
    EventPage,
    EventQuery,
    LogCheck,
    LogMark,
    LogMarks,
    RootUse,
)
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.holders import Claim, Holder
from keyfold_server.domain.key_usage import KeyUses
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import Attempt, AuditEvent, Entry, RecordedAttempt
from keyfold_server.domain.operation_store import OperationsStore
from keyfold_server.domain.organization_store import OrganizationsStore
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.seats import Issued, IssuedSeat, Seat
from keyfold_server.domain.transitions import Transition
from keyfold_server.domain.usage import UsageKey, UsageQuery, UsageRows


class Clock(Protocol):
    """Time, injected so that rules about time are tested without waiting."""

    def monotonic(self) -> float:
        """Returns seconds that never go back, and that go on while the machine sleeps."""
        ...

    def wall(self) -> float:
        """Returns seconds of Unix time."""
        ...


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A replica's report of itself, written at every poll (protocol S2, R4).

    Attributes:
        replica: The replica's name: host, process and a random part.
        number: The number of the last entry of the log that it has applied.
        entry_id: The random id of that entry, empty before the first.
        max_staleness: Seconds without the store after which it stops by itself.
        time: Milliseconds of Unix time by the replica's clock.
        serves: The names of the regions that it serves; None: all.
    """

    replica: str
    number: int
    entry_id: bytes
    max_staleness: float
    time: int
    serves: frozenset[str] | None = None


POLL_PAGE: Final = 4_000
"""Most entries that one poll reads, so that a backlog of any length fits its time (S12)."""

UNKNOWN_REPLICA: Final = "unknown"
"""The name that stands for replicas that the store may have lost in a failover (R4)."""


SLOW_CLOCK: Final = 0.001
"""Part of a span that a replica's clock may lose against the store's. Time services slew a clock by
at most half of it."""


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """What the store knows of a replica.

    Attributes:
        replica: The replica's name.
        applied: The number of the last entry of the log whose KEKs it has dropped.
        max_staleness: Seconds without the store after which it stops by itself.
        silent_for: Seconds since its last heartbeat, by the store's clock.
        serves: The names of the regions that it serves; None: all.
    """

    replica: str
    applied: int
    max_staleness: float
    silent_for: float
    serves: frozenset[str] | None = None

    @property
    def lives(self) -> bool:
        """Whether it may serve: it has not been silent for so long that it stopped by itself."""
        return self.stops_within >= 0

    @property
    def stops_within(self) -> float:
        """Seconds after which it has stopped by itself; negative once it has.

        The replica counts its staleness by its own clocks, and the store counts the silence. So the
        staleness is stretched by what a clock that runs slow may lose.
        """
        return self.max_staleness * (1 + SLOW_CLOCK) - self.silent_for


@dataclass(frozen=True, slots=True)
class Seen:
    """What replicas observed, as far as a call asked for it.

    Attributes:
        observations: The last observation of each subject that has one.
        last_uses: When KEKs were last used, by kek_id, in milliseconds; without those never used.
        replicas: The replicas; None: the call did not ask for them.
    """

    observations: dict[str, Observation]
    last_uses: dict[bytes, int]
    replicas: list[ReplicaRow] | None = None


@dataclass(frozen=True, slots=True)
class ClusterFilter:
    """Selects the clusters of a list. A field that is None selects all.

    Attributes:
        organization: Selects clusters of this organization.
        state: Selects clusters with a region in this state.
        health: Selects clusters with a region whose last stored observation is this.
        key_uri: Selects clusters with a region whose current root key has this uri.
        can_wrap: Selects clusters with an enabled region whose root key wrapped, or did not wrap,
            the last time a replica tried.
        behind: A region's name, and a version of the root key `key_uri`. Selects clusters in which
            that region is enabled under the root key, has `auto_rotate`, and has a KEK in use that
            another version wrapped.
        covered: Selects clusters that one of the entries covers.
        name_prefix: Selects clusters whose name begins with this.
        own_since: For `health` and `can_wrap`: what a region's own replicas saw since then decides,
            in milliseconds of Unix time (`region_health`).
    """

    organization: str | None = None
    state: State | None = None
    health: Health | None = None
    key_uri: str | None = None
    can_wrap: bool | None = None
    behind: tuple[str, str] | None = None
    covered: tuple[Coverage, ...] | None = None
    name_prefix: str | None = None
    own_since: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A KEK that the sweep checks.

    Attributes:
        cluster: The cluster's name.
        region: The name of the region whose newest generation is checked.
        root: The root key id.
        kek: The KEK's id, in hex.
        refused: Whether the KEK's own last unwrap was refused.
        followed: Whether the policy of any cluster's enabled region of this name under the root
            key has `auto_rotate`.
    """

    cluster: str
    region: str
    root: str
    kek: str
    refused: bool
    followed: bool


@dataclass(frozen=True, slots=True)
class KeyUser:
    """A region that uses a root key.

    Attributes:
        root: The root key id.
        cluster: The cluster's name.
        organization: The cluster's organization, or None.
        region: The region's name.
    """

    root: str
    cluster: str
    organization: str | None
    region: str


class Store(Cursors, KeyUses, OrganizationsStore, OperationsStore, Protocol):
    """Where clusters live. Every method may raise StoreUnavailableError.

    Rows of decisions have a MAC. A row without a valid one raises RowNotAuthenticError (protocol
    A1). A banned cluster raises ClusterBannedError, whatever its rows are (protocol A6).
    """

    @property
    def uid(self) -> bytes:
        """The store's uid, which no other store has."""
        ...

    def cluster(self, name: str) -> Cluster | None:
        """Reads a cluster and verifies its rows; returns None if it does not exist."""
        ...

    def named(self, names: Sequence[str]) -> dict[str, Cluster | Unusable]:
        """Reads clusters as `cluster` does, and leaves out those that do not exist.

        A cluster that is banned, or whose rows are not authentic, is replaced by its error.
        """
        ...

    def superseded_wraps(self, name: str) -> list[SupersededWrap]:
        """Reads the superseded wraps of a cluster, oldest first, and verifies that all are there.

        A cluster is read without them, because they become more with every rotation. The list is
        empty if the cluster does not exist.
        """
        ...

    def owner_of(self, kek_id: bytes) -> str | None:
        """Returns the name of the cluster that a KEK belongs to, or None."""
        ...

    def clusters(self, which: ClusterFilter, after: str, limit: int) -> list[Cluster | Unusable]:
        """Reads up to `limit` clusters whose names follow `after`, by name.

        A cluster that is banned, or whose rows are not authentic, is replaced in the list by an
        error that names it. So is a banned cluster whose rows are gone, if nothing but coverage
        selects the list.
        """
        ...

    def census(self, own_since: int) -> dict[tuple[str, str], int]:
        """Counts regions by the names of their state and last observed health.

        Args:
            own_since: Milliseconds of Unix time: what a region's own replicas saw since then
                decides (`region_health`), here and in the next methods.
        """
        ...

    def cannot_wrap(self, own_since: int) -> int:
        """Counts enabled regions whose root key unwraps and, when last tried, did not wrap."""
        ...

    def unserved(self, serves: frozenset[str], most: int) -> dict[str, int]:
        """Counts enabled regions of clusters by name, as far as some replicas do not serve them.

        Args:
            serves: The names of the regions that the replicas serve.
            most: Most names to return; those with the most clusters.
        """
        ...

    def failing(self, own_since: int) -> dict[tuple[str, str], int]:
        """Returns since when a root key of an enabled region has failed, for the longest one.

        Returns:
            Milliseconds of Unix time, by the name of a health other than UNKNOWN and HEALTHY and by
            the region whose own replicas saw it; empty: replicas that serve every region.
        """
        ...

    def roots_in_use(
        self, prefix: str, serves: frozenset[str] | None = None
    ) -> list[tuple[str, str]]:
        """Returns the root keys that enabled regions use, of those whose ids begin with a prefix.

        Args:
            prefix: The beginning of the root keys' ids.
            serves: The names of the regions to look at; None: all.

        Returns:
            Pairs of a region's name and a root key's id, in their order.
        """
        ...

    def samples(
        self, prefix: str, serves: frozenset[str] | None = None, *, own: bool = False
    ) -> list[Sample]:
        """Chooses KEKs for the sweep, of root keys whose ids begin with a prefix.

        For each root key and each region that has it in use, it chooses the KEK that was checked
        longest ago, so that all get their turn, and then some of those that were refused. They come
        by region, and then by root key.

        Args:
            prefix: The beginning of the root keys' ids.
            serves: The names of the regions to look at; None: all.
            own: Whether what the regions' own replicas saw counts, or what the others did.
        """
        ...

    def users_of(self, key_uri: str, may: Callable[[KeyUser], bool]) -> list[KeyUser]:
        """Chooses an enabled region for each root key that has a uri, by root key id.

        One uri may stand for several root keys: by version, principal and options.

        Args:
            key_uri: The uri.
            may: Says whether a region may be chosen. It is called in a thread of the store, until
                each root key has its region.
        """
        ...

    def claim(self, works: Mapping[str, int]) -> frozenset[str]:
        """Claims pieces of work that only one replica shall do, by the store's clock.

        Args:
            works: By the name of each work, the milliseconds from the last claim to the next that
                may succeed.

        Returns:
            The names of the works that this replica shall do.
        """
        ...

    def requested(
        self, name: str, key: RequestKey | None, claim: Claim | None = None
    ) -> tuple[Cluster | Tombstone | Unusable | None, RecordedRequest | None, frozenset[Holder]]:
        """Reads a cluster, and the request recorded under a request_id, or None.

        In place of a cluster that is erased it reads its tombstone. All is of one moment, and costs
        one round trip (protocol S13).

        Args:
            name: The cluster's name.
            key: The request_id, or None.
            claim: The holders in which the request names keys. Without an organization they are for
                that of the cluster.

        Returns:
            The third is as `held_elsewhere` returns it for these holders.
        """
        ...

    def apply(self, changes: Sequence[Change]) -> list[CommittedChange | Exception]:
        """Carries out changes in one transaction. A change that raises drops out alone.

        The store locks cluster rows in sorted order, and the head of the log last (protocol S8).
        A change may erase regions (`domain.erasure`): what else the store has of their KEKs goes
        with them, and with a cluster its request ids. A new cluster of an erased one's name begins
        above it.

        Returns:
            What became of each change, in their order: the committed change, or what it raised.
        """
        ...

    def erasure_turn(self, every_ms: int) -> ErasureTurn | None:
        """Begins a turn to erase what is due, which one replica has at a time (protocol D3).

        Args:
            every_ms: Milliseconds from the last turn, of whichever replica, to the next.

        Returns:
            The turn, or None if it is too early for one.
        """
        ...

    def clear_traces(self) -> bool:
        """Clears the database's files of what was erased, as far as the database can (D4).

        It may hold up other changes for up to some seconds.

        Returns:
            Whether it is done. If not, somebody was reading an old state, or the database is too
            large to do it while it serves.
        """
        ...

    def ban(self, wanted: Ban) -> CommittedBan | None:
        """Bans the name of a cluster whose rows are not authentic, or are gone (protocol A6).

        It is one entry of the log, and needs no row of the cluster.

        Returns:
            The ban, which may be an earlier one; or None if the cluster's rows are authentic now,
            so that a change can revoke it.

        Raises:
            ClusterNotFoundError: Neither the log nor a row nor the replica knows the cluster, or
                the log has its erasure: then no row of it can serve.
        """
        ...

    def attempted(
        self, attempts: Sequence[Attempt]
    ) -> list[RecordedAttempt | ClusterNotFoundError]:
        """Appends attempts that changed nothing to the log, in one transaction (protocol R5).

        It locks and writes no cluster's rows.

        Returns:
            What became of each attempt, in their order; an error for one that names a cluster that
            does not exist.
        """
        ...

    def refused(
        self, root: str, observation: Observation, replica: str, kek: bytes | None = None
    ) -> int:
        """Records a refusal: an observation and one entry of the log (protocol F2).

        Args:
            root: The root key id.
            observation: The observation of the root key.
            replica: The replica that met the refusal.
            kek: The one KEK that was refused again; None: a first refusal.

        Returns:
            The number of the entry.
        """
        ...

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest entry (protocol S4)."""
        ...

    def poll(self, beat: Heartbeat) -> list[Entry]:
        """Writes a heartbeat and reads the entries after its number, oldest first.

        Returns:
            Up to `POLL_PAGE` entries. A page that is not full ends with the newest entry.

        Raises:
            StoreRolledBackError: The store lacks the entry that the heartbeat names, or another
                entry that this process has seen.
            StoreStaleError: The store has pruned entries that the replica has not applied, because
                it was silent. The replica drops everything and registers again (protocol S11).
        """
        ...

    def reconciled(self) -> bool:
        """Says whether an operator has declared the store to be right (protocol S1).

        Only declarations since the last registration or successful poll count. A replica whose
        store was rolled back then registers anew.
        """
        ...

    def leave(self, replica: str) -> None:
        """Removes a replica that stops."""
        ...

    def replicas(self) -> list[ReplicaRow]:
        """Reads every replica that has not left.

        One named `UNKNOWN_REPLICA` stands for those that the store may have lost in a failover.
        """
        ...

    def observe(
        self, observations: Sequence[Observation], found: Sequence[Transition] = ()
    ) -> None:
        """Writes observations as plain upserts, without an entry of the log (protocol S7).

        Args:
            observations: The observations.
            found: Transitions that some of them may show. The log gets an entry for each of which
                it has told another condition, in the transaction of its observation.
        """
        ...

    def observations(self, subjects: Sequence[str]) -> dict[str, Observation]:
        """Reads the last observations of subjects, by subject."""
        ...

    def external_id(self, owner: str) -> str | None:
        """Reads the external id that was issued for an owner, or None."""
        ...

    def issue_external_id(
        self, owner: str, external_id: str, event: AuditEvent, cluster: str | None = None
    ) -> str:
        """Keeps an external id for an owner, for good (protocol C2).

        Args:
            owner: The owner.
            external_id: The id.
            event: Who asked for it, for the entry of the log in the same transaction. The store
                writes an entry only if the owner had no id.
            cluster: Name of the cluster that the entry concerns, or None.

        Returns:
            The owner's external id: the given one, or the one that was issued before.
        """
        ...

    def issued_to(self, owner: str) -> Issued:
        """Reads the external id and the seats that were issued to an owner."""
        ...

    def issued_seats(self) -> list[IssuedSeat]:
        """Reads every seat that was issued, in the order in which they were."""
        ...

    def reserve_seats(
        self,
        owner: str,
        pool: Sequence[Seat],
        count: int,
        event: AuditEvent,
        cluster: str | None = None,
    ) -> list[IssuedSeat]:
        """Reserves seats, for good, until an owner has as many as asked for, or none (C2).

        Args:
            owner: The owner.
            pool: The seats of one provider and region to choose from, in their order; not empty. A
                seat is free if neither its name nor one of its principals was ever issued.
            count: How many seats of that provider and region the owner is to have reserved and not
                used.
            event: Who asked for them, for the entry of the log in the same transaction. The store
                writes an entry only if it reserves some.
            cluster: Name of the cluster that the entry concerns, or None.

        Returns:
            The owner's reserved seats, those from before first.

        Raises:
            SeatsExhaustedError: Not as many are free; nothing is reserved.
        """
        ...

    def used(self, times: Mapping[bytes, int]) -> None:
        """Writes when KEKs were last used, by kek_id, in milliseconds. Later times win."""
        ...

    def count_usage(
        self, writer: str, flush: int, counts: Mapping[UsageKey, int], within_ms: int
    ) -> None:
        """Adds counts of uses to those that the store has.

        No count is earlier or later, by the store's clock, than the time in which the writer
        counted. So a writer whose clock is wrong, or was set, counts into no other minutes.

        Args:
            writer: The process that counted them.
            flush: 1, 2, 3 … for each writer. Counts of a flush that the store has already are not
                added again, so that a writer may repeat one whose outcome it does not know.
            counts: At most 1,000 counts.
            within_ms: Milliseconds before now in which the writer counted them.
        """
        ...

    def usage(self, query: UsageQuery) -> UsageRows:
        """Reads counts of uses in the order of their keys, added up over the query's span."""
        ...

    def seen(
        self,
        subjects: Collection[str],
        kek_ids: Collection[bytes],
        *,
        with_replicas: bool = False,
    ) -> Seen:
        """Reads last observations, last uses and, if asked for, the replicas (as `replicas`).

        They are of one moment, and cost one round trip (protocol S13).
        """
        ...

    def events(self, query: EventQuery) -> EventPage:
        """Reads entries of the log, and verifies the seal of each and that they are one chain.

        Raises:
            RowNotAuthenticError: An entry was changed, removed or added; the message has its
                number.
        """
        ...

    def check_log(self, after: LogMark | None, limit: int) -> LogCheck:
        """Verifies the next part of the log's chain, up to `limit` entries.

        What it finds broken is part of the result and raises nothing.

        Args:
            after: Where the part before ended; None: at the last entry that pruning removed. If
                pruning has passed it, the part begins there, too.
            limit: Most entries to verify.

        Raises:
            RowNotAuthenticError: The row that names both ends of the log is not authentic.
        """
        ...

    def log_marks(self, numbers: Collection[int]) -> LogMarks:
        """Reads the ends of the log, and the entries of some numbers, each by its own seal.

        Raises:
            RowNotAuthenticError: A row that was read is not authentic.
        """
        ...

    def roots_used(self, roots: Collection[str], use: RootUse) -> frozenset[str]:
        """Returns those of some root key ids that a region uses now, among the uses that count."""
        ...

    def users_of_roots(self, roots: Collection[str]) -> Sequence[KeyUser]:
        """Returns which regions use some root keys now."""
        ...

    def last_refusals(self, roots: Collection[str]) -> dict[str, int]:
        """Returns the number of the newest entry that tells of a refusal of each root key.

        Root keys that were never refused are left out, as are those whose refusals were pruned.
        """
        ...

    def organization_of(self, cluster: str) -> str | None:
        """Returns the organization that a cluster has or, if it is gone, had last; None: none."""
        ...

    def mac(self, purpose: str, data: bytes) -> bytes:
        """Returns a MAC under the service key, such as that of a page token. It does no I/O.

        Args:
            purpose: What the bytes are for. A MAC for one purpose is worth nothing for another.
            data: The bytes.
        """
        ...

    def prune_turns(self, now_ms: int) -> None:
        """Removes some of the claims of the sweep's turns that nobody has renewed for a day.

        Such a claim holds against nobody. Its region is gone, or no replica serves it.

        Args:
            now_ms: Milliseconds of Unix time.
        """
        ...

    def prune_usage(self, now_ms: int, retention_ms: int) -> None:
        """Removes old counts of uses.

        Args:
            now_ms: Milliseconds of Unix time.
            retention_ms: Milliseconds for which counts stay.
        """
        ...

    def prune_history(self, now_ms: int, retention_ms: int) -> list[str]:
        """Removes superseded wraps that no backup needs any more (protocol C6).

        The log gets an entry for each transaction that removes any. A history loses its oldest
        wraps first: a wrap stays for as long as any wrap before it.

        Args:
            now_ms: Milliseconds of Unix time.
            retention_ms: Milliseconds for which wraps stay after they were superseded.

        Returns:
            The names of clusters whose history is not authentic, and stays as it is.
        """
        ...

    def prune(self, now_ms: int, log_retention_ms: int) -> None:
        """Removes requests and silent replicas after 24 hours, and entries of the log.

        The last of the older entries stays, and so does every entry that a live replica has not
        applied yet, or that is after a live cursor (protocol S11). Each cluster keeps its floor.
        Operations that ended as long ago as such entries go, too.

        Args:
            now_ms: Milliseconds of Unix time.
            log_retention_ms: Milliseconds for which entries stay at least.
        """
        ...


@runtime_checkable
class Notifies(Protocol):
    """A store that can notify replicas of changes at once.

    A notification only makes the next poll come sooner. It may come without a change, or get
    lost, so every promise rests on the poll alone.
    """

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls `on_change` soon after changes, from a thread of the store's own.

        It never blocks and never raises; it keeps trying while the store cannot be reached.

        Returns:
            A function that stops listening.
        """
        ...
