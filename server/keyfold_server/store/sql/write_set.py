"""The rows that a batch of changes will write; the batch decides everything before it writes.

So a change that drops out leaves no trace, and a few statements write the rows of the whole batch.
A second change of the same cluster sees what the first one made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.changes import (
    Change,
    Decision,
    RecordedRequest,
    RequestKey,
    Timed,
    parts,
)
from keyfold_server.domain.cluster import Cluster, SupersededWrap
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    RequestIdReusedError,
    RequestInProgressError,
    Unusable,
)
from keyfold_server.domain.log import EntryKind, Floor
from keyfold_server.store import schema
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import Cells
from keyfold_server.store.tables import (
    cluster_rows,
    clusters,
    erasing,
    requests,
    rows,
    wrap_history,
)
from keyfold_server.store.tables.cluster_rows import CHILDREN
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Table

    from keyfold_server.domain.erasure import Tombstone
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.claims import Claims
    from keyfold_server.store.sql.relied import Relied
    from keyfold_server.store.sql.taken_seats import TakenSeats
    from keyfold_server.store.tables.requests import Scope


@dataclass(slots=True)
class _Pending:
    """A cluster as the store has it, and as the batch will leave it."""

    before: StoredCluster | None
    after: StoredCluster | None


@dataclass(frozen=True, slots=True)
class Decided:
    """A change that the batch will write.

    Attributes:
        cluster: The cluster as the change leaves it.
        ordinal: Place of its entry among the drafts of the batch.
        floor: The cluster's own row as the change leaves it; None: the change changes nothing.
    """

    cluster: Cluster
    ordinal: int
    floor: Floor | None


class WriteSet:
    """Decides changes one by one on their clusters' rows, and collects the rows to write.

    Attributes:
        drafts: The entries of the log in their order: for each change one for what it claims, if
            it does, and its own.
        makes: The names of the clusters that are new, and the number of the tombstone above which
            each begins, 0 if the name has none.
        ends: The clusters that are erased, as the batch found them.
    """

    def __init__(
        self,
        found: Mapping[str, StoredCluster | Unusable],
        recorded: Mapping[Scope, RecordedRequest],
        relied: Relied,
        seats: TakenSeats,
        claims: Claims,
        tombstones: Mapping[str, Tombstone],
        *,
        seal: Seal,
        now: int,
    ) -> None:
        """Takes what the batch has read under its locks.

        Args:
            found: The clusters that exist, by name, and those whose names are banned.
            recorded: The requests that were carried out before, by scope.
            relied: The organizations that changes rely on.
            seats: The seats that changes take.
            claims: What the changes claim for organizations.
            tombstones: The tombstones of the names that have one.
            seal: Seals the rows.
            now: Milliseconds of Unix time, by the store's clock.
        """
        self._found = found
        self._recorded = dict(recorded)
        self._relied = relied
        self._seats = seats
        self._claims = claims
        self._tombstones = tombstones
        self._seal = seal
        self._now = now
        self._pending: dict[str, _Pending] = {}
        self._history: list[Cells] = []
        self._requests: list[Cells] = []
        self._erased_keks: list[bytes] = []
        self.drafts: Final[list[Draft]] = []
        self.makes: Final[dict[str, int]] = {}
        self.ends: Final[list[Cluster]] = []

    def add(self, change: Change) -> Decided:
        """Decides a change and adds its rows; if it raises, it adds nothing.

        Raises:
            RowNotAuthenticError: The cluster's rows are not authentic.
            ClusterBannedError: The cluster's name is banned.
            SeatTakenError: Another cluster-region has taken a seat of the change.
            RequestInProgressError: The request was carried out in the meantime.
            RequestIdReusedError: The request's id came before with another request.
            ConcurrentChangeError: An earlier change of the batch erases the cluster.
            OrganizationMismatchError: The change makes a cluster of a name that another
                organization has used.
            KeyHeldByAnotherError: The change names a key in what another organization has.
            ValueError: The cluster does not differ from the current one as the decision says.
            Exception: Whatever the change's own decision raises.
        """
        pending = self._pending_of(change.cluster)
        self._refuse_repeated(change.request)
        self._relied.check(change.reliance)
        self._seats.check(change.seats)
        current = pending.after.cluster if pending.after is not None else None
        decide = change.decide
        if isinstance(decide, Timed):
            decide = decide.at(self._now)
        decision = decide(current)
        tombstone = self._tombstones.get(change.cluster) if current is None else None
        if tombstone is not None:
            decision = replace(decision, cluster=tombstone.successor(decision.cluster))
        _check_parts(current, decision, change.cluster)
        cluster = decision.cluster
        if cluster is current:
            draft = Draft(
                EntryKind.ATTEMPT,
                change.event,
                cluster=cluster.name,
                uid=cluster.uid,
                organization=cluster.organization,
            )
        else:
            stored, history = self._stored(pending.after, current, decision)
            claimed = self._claims.decided(change, self._seal, self._now)
            draft = Draft(
                EntryKind.ERASURE if decision.removed else EntryKind.DECISION,
                change.event,
                cluster=cluster.name,
                floor=stored.floor,
                decision=decision.described(
                    current, {claim.region: claim.seat for claim in change.seats}
                ),
                organization=cluster.organization,
            )
            # From here on nothing raises.
            pending.after = stored
            if claimed is not None:
                self._claims.keep(claimed)
                self.drafts.append(claimed.draft)
            self._history += history
            self._seats.made(change.seats, cluster)
            self._erased_keks += {kek_id for _, kek_id, _ in decision.removed}
            if current is None:
                self.makes[cluster.name] = 0 if tombstone is None else tombstone.number
                self._relied.made(change.reliance)
            if not cluster.regions:
                self.ends.append(cluster)
        # A later cluster of the name must not inherit the requests of this one (protocol D5).
        if change.request is not None and cluster.regions:
            self._record(change.request, cluster.version)
        self.drafts.append(draft)
        return Decided(cluster, len(self.drafts) - 1, draft.floor)

    def _stored(
        self, before: StoredCluster | None, current: Cluster | None, decision: Decision
    ) -> tuple[StoredCluster, list[Cells]]:
        """Returns the sealed rows of a cluster after a decision, and those of its history."""
        if before is None:
            children = cluster_rows.encoded(decision.cluster, self._seal)
            stored = StoredCluster(decision.cluster, children)
        else:
            children = cluster_rows.encoded(decision.cluster, self._seal, before.children)
            stored = replace(before, cluster=decision.cluster, children=children)
        history: list[Cells] = []
        for old in _superseded(current, decision, self._now):
            stored, row = wrap_history.appended(stored, old, self._seal)
            history.append(row)
        if not decision.cluster.regions:
            return replace(stored, own=()), history
        return clusters.sealed(stored, self._seal), history

    def steps(self, issued: Iterable[Cells]) -> list[Step]:
        """Returns the steps that write the rows that differ; each must write all of its rows.

        Args:
            issued: The rows of identities whose owners are erased.
        """
        finished = [
            (pending.before, pending.after)
            for _, pending in sorted(self._pending.items())
            if pending.after is not None and pending.after is not pending.before
        ]
        own = [(before, after.own) for before, after in finished]
        steps = [
            # A new cluster's own row comes first, because the rows below refer to it.
            rows.inserting(schema.clusters, [row for before, row in own if before is None]),
            *(rows.deleting(table, _gone(table, finished)) for table in reversed(CHILDREN)),
        ]
        for table in CHILDREN:
            fresh: list[Cells] = []
            changed: list[Cells] = []
            for before, after in finished:
                known = before.children[table] if before is not None else {}
                for key, row in after.children[table].items():
                    if key not in known:
                        fresh.append(row)
                    elif known[key] != row:
                        changed.append(row)
            steps += [rows.inserting(table, fresh), rows.changing(table, changed)]
        steps += [
            rows.inserting(schema.wrap_history, self._history),
            # An existing cluster's own row comes last.
            rows.changing(
                schema.clusters, [row for before, row in own if before is not None and row]
            ),
            rows.inserting(schema.requests, self._requests),
            rows.changing(schema.identities, self._seats.rows(self._seal)),
            *self._claims.steps(),
            *erasing.steps(self.ends, self._erased_keks, issued, self._seal),
        ]
        return [step for step in steps if step.rows]

    def _pending_of(self, name: str) -> _Pending:
        found = self._found.get(name)
        if isinstance(found, Unusable):
            # A copy, because two changes may raise this error and each adds its traceback.
            raise found.at()
        pending = self._pending.setdefault(name, _Pending(found, found))
        if pending.after is not None and not pending.after.own:
            raise ConcurrentChangeError(
                f"cluster {name} was erased by another request; read its status", cluster=name
            )
        return pending

    def _refuse_repeated(self, key: RequestKey | None) -> None:
        known = self._recorded.get(requests.scope(key)) if key is not None else None
        if key is None or known is None:
            return
        if known.digest != key.digest:
            raise RequestIdReusedError(
                f"request_id {key.request_id} came before with another {key.rpc} of cluster "
                f"{key.cluster}; use a new request_id",
                cluster=key.cluster,
                field="request_id",
            )
        raise RequestInProgressError(
            f"the same {key.rpc} of cluster {key.cluster} was just carried out; repeat it to get "
            "its answer",
            cluster=key.cluster,
        )

    def _record(self, key: RequestKey, version: int) -> None:
        self._requests.append(requests.recorded(key, version, self._now, self._seal))
        self._recorded[requests.scope(key)] = RecordedRequest(key.digest, version)


def _check_parts(current: Cluster | None, decision: Decision, name: str) -> None:
    """Refuses a decision that does to the cluster's parts anything but what it says (S5).

    Raises:
        ValueError: The decision renames the cluster, or adds, supersedes or removes a wrap without
            saying so, or says so without doing it.
    """
    before = parts(current.regions) if current is not None else frozenset()
    gone = decision.superseded | decision.removed
    successors = {(region, kek_id, number + 1) for region, kek_id, number in decision.superseded}
    if (
        decision.cluster.name != name
        or (current is not None and decision.cluster.uid != current.uid)
        or not gone <= before
        or decision.superseded & decision.removed
        or decision.added & before
        or not successors <= decision.added
        or parts(decision.cluster.regions) != before - gone | decision.added
    ):
        raise ValueError(
            f"a change of cluster {name} renamed it, or did not do to its parts what it said"
        )


def _superseded(current: Cluster | None, decision: Decision, now: int) -> Iterator[SupersededWrap]:
    """Yields the wraps that a decision moves to the history, in the order of the cluster.

    The time is the store's, because pruning goes by it: a replica whose clock is wrong must not
    have its wraps pruned early.
    """
    if current is None or not decision.superseded:
        return
    for region in current.regions:
        for generation in region.generations:
            part = (region.name, generation.kek_id, generation.current.number)
            if part in decision.superseded:
                yield generation.superseded(now)


def _gone(
    table: Table, finished: Iterable[tuple[StoredCluster | None, StoredCluster]]
) -> list[Cells]:
    """Returns the keys of the rows of a table that the clusters no longer have."""
    return [
        key
        for before, after in finished
        if before is not None
        for key in before.children[table].keys() - after.children[table].keys()
    ]
