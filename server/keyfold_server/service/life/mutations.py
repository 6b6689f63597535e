"""Mutations: what every change of a cluster goes through, from the caller's rights to the commit.

A change belongs to the service, not to the caller (protocol W1). A caller who stops waiting cancels
nothing, and whatever has to follow a commit always runs. Until then the change keeps the caller's
places, so that changes that nobody waits for cannot pile up before the store (protocol R9).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final, TypeVar

from keyfold_server.domain.bans import Ban, CommittedBan
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    Decide,
    RecordedRequest,
    RequestKey,
    Timed,
    unchanged,
)
from keyfold_server.domain.cluster import Cluster, existing
from keyfold_server.domain.erasure import Tombstone
from keyfold_server.domain.errors import (
    AlreadyExistsError,
    ClusterBannedError,
    ClusterNotFoundError,
    ConflictError,
    DeadlineError,
    KeyfoldError,
    KmsError,
    NotFoundError,
    RequestIdReusedError,
    RequestInProgressError,
    RowNotAuthenticError,
    StateError,
    Unusable,
)
from keyfold_server.domain.holders import Claim
from keyfold_server.domain.log import Attempt, AuditEvent
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.reliance import Reliance
from keyfold_server.domain.seats import SeatClaim
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.groups import Groups
from keyfold_server.service.kms.gates import YIELDS
from keyfold_server.service.life.attempts import Attempts
from keyfold_server.service.life.requests import MutationCall, MutationRequest, MutationResult
from keyfold_server.service.limits import Limits
from keyfold_server.service.root_keys.holders import NamedHolders
from keyfold_server.service.storage import RunInStore, Storage
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_R = TypeVar("_R")

Work = Callable[[Cluster | None], Coroutine[Any, Any, _R]]
"""Carries out a change of a cluster, which it gets as it was a moment ago, or None."""

AUDITED: Final = (KmsError, StateError, AlreadyExistsError, ConflictError)
"""Refusals by the KMS or by the state, which the log records (protocol R5)."""

TOLD_BY_STATE: Final = (StateError, AlreadyExistsError, NotFoundError)
"""Refusals that rest on nothing but what the store shows: a stale replica does not give them."""


class Mutations:
    """Carries out changes, each in a task of its own."""

    def __init__(
        self,
        storage: Storage,
        changes: Changes,
        clock: Clock,
        tasks: Tasks,
        limits: Limits,
        attempts: Attempts,
        last_seen: Callable[[str], Cluster | None],
    ) -> None:
        """Joins changes to the store, to the other replicas, and to what an organization may ask.

        Args:
            storage: The store, in bounded threads.
            changes: Tells the other replicas, and knows whether the store is the right one.
            clock: Time.
            tasks: Keeps the tasks of changes that are under way.
            limits: The places and rates that changes use up.
            attempts: Appends refused changes to the log.
            last_seen: Returns a cluster as this replica verified it last, if it knows it.
        """
        self._attempts = attempts
        self._last_seen = last_seen
        self._limits = limits
        self._storage = storage
        self._changes = changes
        self._clock = clock
        self._under_way: set[tuple[str, str, str, str]] = set()
        self._tasks = tasks
        store = storage.store
        # Those of operations alone; see `YIELDS`.
        self._changing = Groups[Change, CommittedChange](
            lambda changes: storage.decide(store.apply, changes)
        )

    def now(self) -> int:
        """Returns milliseconds of Unix time."""
        return int(self._clock.wall() * 1000)

    async def run(
        self,
        call: MutationCall[MutationRequest],
        work: Work[_R],
        replay: Callable[[MutationResult], _R],
        named: NamedHolders | None = None,
    ) -> _R:
        """Carries out a change once, or answers from the state as it is now (protocol R6).

        Args:
            call: The caller's request.
            work: Takes the cluster as it was when the rights were checked, or None, and carries out
                the change.
            replay: Makes the answer to a request that was carried out before.
            named: The holders in which the request names keys; what is known of them is read
                together with the cluster.

        Raises:
            ClusterNotFoundError: The cluster does not exist, or the caller may not see it.
            ForbiddenError: The caller may not do this.
            StoreRolledBackError: The store is not the one that this replica knew.
            RequestInProgressError: A request with the same id is still being carried out.
            RequestIdReusedError: The id came before with another request.
            InvalidRequestIdError: The id is too long or not printable ASCII.
            DeadlineError: The caller's time is up; the change goes on.
            StoreStaleError: The state would refuse the change, but this replica is stale.
        """
        call.caller.rights.check_named(call.right, call.cluster, call.request.named)
        key = call.key()
        # A replica that is merely stale goes on: a Revoke that reaches the store counts.
        self._changes.check_store()
        task = self._tasks.start(self._once(call, key, work, replay, named))
        left = call.deadline - self._clock.monotonic()
        try:
            await asyncio.wait({task}, timeout=max(0.0, left))
        finally:
            if not task.done():
                self._limits.keep_places(call.caller.name, task, urgent=call.urgent)
        if not task.done():
            raise DeadlineError(
                "the deadline passed while the change was under way; it goes on: "
                "read the status, or repeat the request with the same request_id",
                cluster=call.cluster,
            )
        return task.result()

    async def commit(
        self,
        call: MutationCall[MutationRequest],
        decide: Decide | Timed,
        message: str = "",
        *,
        reliance: Reliance | None = None,
        seats: tuple[SeatClaim, ...] = (),
        claim: Claim | None = None,
    ) -> MutationResult:
        """Commits a change with its entry of the log and request_id, and applies it here.

        Args:
            call: The caller's request.
            decide: The change.
            message: A line of the entry for people, such as what was not done.
            reliance: What the change takes from the cluster's organization, or None.
            seats: The seats that regions take.
            claim: The holders in which it has proven keys, or None.
        """
        event = replace(self._event(call, "done"), message=message)
        change = Change(call.cluster, decide, event, call.key(), reliance, seats, claim)
        result = await self._apply(call, change)
        self._changes.applied_here(result.number, result.entry_id, call.cluster)
        return MutationResult(result.cluster, result.number)

    async def carried_out(self, call: MutationCall[MutationRequest]) -> bool:
        """Says whether this very request was carried out before, under its request_id."""
        key = call.key()
        read = self._storage.store.requested
        _, before, _ = await self._storage.decide(read, call.cluster, key)
        return key is not None and before is not None and before.digest == key.digest

    async def ban(self, call: MutationCall[MutationRequest]) -> CommittedBan | None:
        """Bans a cluster whose rows cannot be believed, and applies the ban here (protocol A6).

        Returns:
            The ban, or None if the rows are authentic now, so that a change can revoke the cluster.

        Raises:
            ClusterNotFoundError: Neither the log nor a row nor this replica knows the cluster.
        """
        seen = self._last_seen(call.cluster)
        ban = Ban(call.cluster, self._event(call, "done"), seen, call.key())
        made = await self._run_of(call)(self._storage.store.ban, ban)
        if made is not None:
            self._changes.banned_here(made, call.cluster)
        return made

    async def unchanged(self, call: MutationCall[MutationRequest], seen: Cluster) -> MutationResult:
        """Records a request that has nothing to change, so that repeating it is safe.

        Raises:
            ConcurrentChangeError: Another request has changed the cluster since `seen`.
        """
        change = Change(call.cluster, unchanged(seen), self._event(call, "unchanged"), call.key())
        return MutationResult((await self._apply(call, change)).cluster)

    async def attempted(
        self,
        call: MutationCall[MutationRequest],
        outcome: str,
        error: KeyfoldError | None = None,
    ) -> int:
        """Appends an attempt that changed nothing to the log.

        This is a write, because a database that takes no writes may be a frozen copy, and what it
        says may be out of date (protocol S2).

        Returns:
            The number of the cluster's newest decision.

        Raises:
            ClusterNotFoundError: The cluster does not exist.
        """
        attempts = [self._attempt(call, outcome, error)]
        (recorded,) = await self._run_of(call)(self._storage.store.attempted, attempts)
        if isinstance(recorded, ClusterNotFoundError):
            raise recorded
        return recorded.decided

    async def _apply(self, call: MutationCall[MutationRequest], change: Change) -> CommittedChange:
        if YIELDS.get() and not call.urgent:
            return await self._changing.ask(change)
        (result,) = await self._run_of(call)(self._storage.store.apply, [change])
        if not isinstance(result, CommittedChange):
            raise result
        return result

    async def _once(
        self,
        call: MutationCall[MutationRequest],
        key: RequestKey | None,
        work: Work[_R],
        replay: Callable[[MutationResult], _R],
        named: NamedHolders | None,
    ) -> _R:
        # From before the read, so that the read shows the record of a twin that has ended.
        with self._alone(key) as alone:
            # Not in the threads for reads, so that a flood of data-plane calls cannot delay a
            # change.
            read = self._storage.store.requested
            claim = None if named is None else named.claim
            found, before, elsewhere = await self._run_of(call)(read, call.cluster, key, claim)
            if named is not None:
                named.elsewhere = elsewhere
            try:
                tombstone = found if isinstance(found, Tombstone) else None
                cluster = None if isinstance(found, Tombstone) else _usable(call, found)
                place = self._authorized(call, cluster, tombstone)
            except (NotFoundError, ClusterBannedError):
                # What the caller may not see is told as late as what does not exist (C7, S2).
                self._changes.staleness.check(self._clock.monotonic())
                raise
            with place:
                if not alone:
                    raise RequestInProgressError(
                        "a request with this request_id is still being carried out; wait and "
                        "repeat it",
                        cluster=call.cluster,
                        retry_after=1.0,
                    )
                if key is None or before is None:
                    return await self._audited(call, lambda: work(cluster))
                _refuse_another(call, key, before)
                if cluster is None and call.bans:
                    # Whatever the first request did, the cluster has to be banned now.
                    return await self._audited(call, lambda: work(None))
                return replay(self._repeated(call, existing(cluster, call.cluster), before))

    @contextmanager
    def _alone(self, key: RequestKey | None) -> Iterator[bool]:
        """Yields whether no other request with this id is under way on this replica."""
        scope = None if key is None else (key.caller, key.rpc, key.cluster, key.request_id)
        if scope is None or scope in self._under_way:
            yield scope is None
            return
        self._under_way.add(scope)
        try:
            yield True
        finally:
            self._under_way.discard(scope)

    def _repeated(
        self, call: MutationCall[MutationRequest], cluster: Cluster, before: RecordedRequest
    ) -> MutationResult:
        """Returns the result of a request that was carried out before."""
        # A database that takes no writes may show a state that is long past (R6, S2).
        self._changes.staleness.check(self._clock.monotonic())
        # If another replica made the change, this one may not have read of it yet.
        self._changes.made_elsewhere(call.cluster)
        superseded = cluster.changed_since(before.version)
        return MutationResult(cluster, replayed=True, superseded=superseded)

    def _authorized(
        self,
        call: MutationCall[MutationRequest],
        cluster: Cluster | None,
        tombstone: Tombstone | None,
    ) -> AbstractContextManager[None]:
        """Checks the caller's rights by the cluster's organization, and counts the call for it.

        This comes first, so that a caller without rights cannot learn whether the cluster exists,
        or existed: a name that another organization has used answers as one that it uses (C8, D5).

        Returns:
            A context that holds a place among the organization's calls; Revoke needs none.

        Raises:
            ClusterNotFoundError: The cluster does not exist and the call does not make it, or the
                caller may not see it.
        """
        if cluster is None and call.makes_cluster:
            if tombstone is not None:
                call.caller.rights.check_cluster(
                    call.rpc, call.cluster, tombstone.organization, call.request.named
                )
            return nullcontext()
        if cluster is None and call.bans:
            self._authorize_ban(call)
            return nullcontext()
        cluster = existing(cluster, call.cluster)
        organization = cluster.organization
        call.caller.rights.check_cluster(call.right, call.cluster, organization, call.request.named)
        # An operation takes no place and no rate from the organization's callers: it yields.
        if organization is None or call.urgent or YIELDS.get():
            return nullcontext()
        account = self._limits.organizations.of(organization)
        account.charge(self._clock.monotonic())
        return account.room.place()

    def _authorize_ban(self, call: MutationCall[MutationRequest]) -> None:
        """Checks the rights to revoke a cluster whose row tells no organization (protocol A6).

        Raises:
            ClusterNotFoundError: The caller may not see the cluster as this replica verified it
                last or, if it does not know it, sees only clusters of certain organizations.
            NotAllowedError: The caller may not revoke it.
        """
        seen = self._last_seen(call.cluster)
        organization = None if seen is None else seen.organization
        call.caller.rights.check_cluster(call.rpc, call.cluster, organization, ())

    async def _audited(
        self, call: MutationCall[MutationRequest], work: Callable[[], Awaitable[_R]]
    ) -> _R:
        try:
            done = await work()
        except KeyfoldError as error:
            if isinstance(error, AUDITED):
                await self._attempts.append(self._attempt(call, error.reason, error))
            if isinstance(error, TOLD_BY_STATE):
                # A database that takes no writes may show a state that is long past (S2). A change
                # that it does not take fails by itself, but this answer needs no write.
                self._changes.staleness.check(self._clock.monotonic())
            raise
        if getattr(call.request, "validate_only", False):
            # It has tried somebody's key, which must not go unseen (protocol C8).
            await self._attempts.append(self._attempt(call, "validated"))
        return done

    def _run_of(self, call: MutationCall[MutationRequest]) -> RunInStore:
        """Returns what runs a call's store methods: the lane for Revoke (protocol R9)."""
        if call.urgent:
            return self._storage.revoking(call.caller.name).run
        return self._storage.decide

    def _attempt(
        self, call: MutationCall[MutationRequest], outcome: str, error: KeyfoldError | None = None
    ) -> Attempt:
        event = self._event(call, outcome, error)
        return Attempt(call.cluster, event, new=call.makes_cluster)

    def _event(
        self, call: MutationCall[MutationRequest], outcome: str, error: KeyfoldError | None = None
    ) -> AuditEvent:
        caller = call.caller
        replicas: set[str] = set()
        if error is not None and call.rpc == "Rotate":
            replicas = {*error.regions, error.region or ""} - {"", *call.request.named}
        return AuditEvent(
            caller.name,
            f"rpc:cluster:{call.rpc.lower()}",
            outcome,
            call.detail(replicas),
            proof=caller.rights.identity.proof,
            address=caller.address,
            on_behalf_of=caller.on_behalf_of,
            organization=getattr(call.request, "organization", None) or "",
            message="" if error is None else error.message,
            request_id=call.request_id,
            trace_id=caller.trace_id,
            kms_request_id="" if error is None else error.provider_request_id or "",
        )


def _usable(
    call: MutationCall[MutationRequest], found: Cluster | Unusable | None
) -> Cluster | None:
    """Returns a cluster that was read, or None where its rows serve nobody and a ban needs none.

    Raises:
        RowNotAuthenticError: The cluster's rows are not authentic.
        ClusterBannedError: The cluster's name is banned.
    """
    if not isinstance(found, Unusable):
        return found
    if not call.bans or found.cluster != call.cluster:
        if call.rpc == "Revoke" and isinstance(found, RowNotAuthenticError):
            # Nobody knows which regions the cluster has, so only all of them can be stopped.
            raise RowNotAuthenticError(
                f"{found.message}. To stop all use of this cluster's keys at once, call Revoke "
                "without regions, which needs no row",
                cluster=found.cluster,
            )
        raise found
    return None


def _refuse_another(
    call: MutationCall[MutationRequest], key: RequestKey, before: RecordedRequest
) -> None:
    """Refuses a request whose id came before with another request.

    Raises:
        RequestIdReusedError: It did.
    """
    if before.digest != key.digest:
        raise RequestIdReusedError(
            "this request_id came before with another request; use a new one",
            cluster=call.cluster,
            field="request_id",
        )
