"""What every change of an organization goes through, from the caller's rights to the commit.

It is for organizations what `life.mutations` is for clusters. A change belongs to the service, not
to the caller (protocol W1): a caller who stops waiting cancels nothing. A request_id is looked at
after the rights (protocol R6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from keyfold_server.domain.changes import RecordedRequest
from keyfold_server.domain.errors import (
    DeadlineError,
    KeyfoldError,
    RequestIdReusedError,
    RequestInProgressError,
)
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.log import Attempt, AuditEvent
from keyfold_server.domain.operations import OperationChange
from keyfold_server.domain.organization_changes import (
    DecideOrganization,
    OrganizationChange,
    claiming,
)
from keyfold_server.domain.organizations import NAMED, OrganizationView
from keyfold_server.domain.ports import Clock
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.life.attempts import Attempts
from keyfold_server.service.life.mutations import AUDITED, TOLD_BY_STATE
from keyfold_server.service.limits import Limits
from keyfold_server.service.organizations.requests import (
    OrganizationCall,
    OrganizationRequest,
    OrganizationResult,
)
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

_R = TypeVar("_R")

Work = Callable[[OrganizationView], Coroutine[Any, Any, OrganizationResult]]
"""Carries out a change of an organization, which it gets as it was a moment ago."""


class OrganizationMutations:
    """Carries out changes of organizations, each in a task of its own."""

    def __init__(
        self,
        storage: Storage,
        changes: Changes,
        clock: Clock,
        tasks: Tasks,
        limits: Limits,
        attempts: Attempts,
    ) -> None:
        """Joins changes to the store, and to what an organization may ask.

        Args:
            storage: The store, in bounded threads.
            changes: Knows whether the store is the right one.
            clock: Time.
            tasks: Keeps the tasks of changes that are under way.
            limits: The places and rates that changes use up.
            attempts: Appends refused changes to the log.
        """
        self._storage = storage
        self._changes = changes
        self._clock = clock
        self._tasks = tasks
        self._limits = limits
        self._attempts = attempts
        self._under_way: set[tuple[str, str, str, str]] = set()

    def now(self) -> int:
        """Returns milliseconds of Unix time."""
        return int(self._clock.wall() * 1000)

    async def run(
        self, call: OrganizationCall[OrganizationRequest], work: Work
    ) -> OrganizationResult:
        """Carries out a change once, or answers from the state as it is now (protocol R6).

        The caller's rights must have been checked: they rest on the names alone.

        Args:
            call: The caller's request.
            work: Carries out the change.

        Raises:
            StoreRolledBackError: The store is not the one that this replica knew.
            RequestInProgressError: A request with the same id is still being carried out.
            RequestIdReusedError: The id came before with another request.
            InvalidRequestIdError: The id is too long or not printable ASCII.
            DeadlineError: The caller's time is up; the change goes on.
            StoreStaleError: The state would refuse the change, but this replica is stale.
        """
        call.key()
        self._changes.check_store()
        account = self._limits.organizations.of(call.organization)
        account.charge(self._clock.monotonic())
        with account.room.place():
            task = self._tasks.start(self._once(call, work))
            left = call.deadline - self._clock.monotonic()
            try:
                await asyncio.wait({task}, timeout=max(0.0, left))
            finally:
                if not task.done():
                    self._limits.keep_places(call.caller.name, task, urgent=False)
        if not task.done():
            raise DeadlineError(
                "the deadline passed while the change was under way; it goes on: read the "
                "organization, or repeat the request with the same request_id"
            )
        return task.result()

    async def commit(
        self,
        call: OrganizationCall[OrganizationRequest],
        decide: DecideOrganization,
        operation: OperationChange | None = None,
        *,
        holders: tuple[Holder, ...] = (),
    ) -> OrganizationResult:
        """Commits a change with its entry of the log and request_id.

        With `validate_only` it only decides, on the organization as it is now.

        Args:
            call: The caller's request.
            decide: The change.
            operation: The change of an operation that belongs to it, or None.
            holders: The holders in which the change has proven keys, which it claims (C9).
        """
        if call.request.validate_only:
            return OrganizationResult(await self._tried(call, decide))
        change = OrganizationChange(
            call.organization,
            claiming(decide, holders, self.now()),
            self._event(call, "done"),
            call.key(),
            operation,
            holders,
        )
        store = self._storage.store
        return OrganizationResult(await self._storage.decide(store.change_organization, change))

    async def _tried(
        self, call: OrganizationCall[OrganizationRequest], decide: DecideOrganization
    ) -> OrganizationView:
        store = self._storage.store
        view = await self._storage.decide(store.organization, call.organization, users=NAMED)
        return OrganizationView(decide(view), view.cluster_count, uses=view.uses)

    async def _once(
        self, call: OrganizationCall[OrganizationRequest], work: Work
    ) -> OrganizationResult:
        key = call.key()
        scope = None if key is None else (key.caller, key.rpc, key.cluster, key.request_id)
        # From before the read, so that the read shows the record of a twin that has ended.
        with self._alone(scope):
            read = self._storage.store.requested_organization
            view, before = await self._storage.decide(read, call.organization, key)
            if key is not None and before is not None:
                return self._replayed(key.digest, before, view)
            return await self._audited(call, lambda: work(view))

    @contextmanager
    def _alone(self, scope: tuple[str, str, str, str] | None) -> Iterator[None]:
        """Refuses a request whose twin is under way on this replica."""
        if scope is None:
            yield
            return
        if scope in self._under_way:
            raise RequestInProgressError(
                "a request with this request_id is still being carried out; wait and repeat it",
                retry_after=1.0,
            )
        self._under_way.add(scope)
        try:
            yield
        finally:
            self._under_way.discard(scope)

    def _replayed(
        self, digest: bytes, before: RecordedRequest, view: OrganizationView
    ) -> OrganizationResult:
        """Returns the result of a request that was carried out before."""
        if before.digest != digest:
            raise RequestIdReusedError(
                "this request_id came before with another request; use a new one",
                field="request_id",
            )
        # A database that takes no writes may show a state that is long past (R6, S2).
        self._changes.staleness.check(self._clock.monotonic())
        superseded = view.organization.version > before.version
        return OrganizationResult(view, replayed=True, superseded=superseded)

    async def _audited(
        self,
        call: OrganizationCall[OrganizationRequest],
        work: Callable[[], Awaitable[_R]],
    ) -> _R:
        try:
            done = await work()
        except KeyfoldError as error:
            if isinstance(error, AUDITED):
                await self._attempts.append(Attempt(None, self._event(call, error.reason, error)))
            if isinstance(error, TOLD_BY_STATE):
                # A database that takes no writes may show a state that is long past (S2).
                self._changes.staleness.check(self._clock.monotonic())
            raise
        if call.request.validate_only:
            # It may have tried somebody's key, which must not go unseen (protocol C8).
            await self._attempts.append(Attempt(None, self._event(call, "validated")))
        return done

    def _event(
        self,
        call: OrganizationCall[OrganizationRequest],
        outcome: str,
        error: KeyfoldError | None = None,
    ) -> AuditEvent:
        caller = call.caller
        return AuditEvent(
            caller.name,
            _ACTIONS[call.rpc],
            outcome,
            call.detail(),
            proof=caller.rights.identity.proof,
            address=caller.address,
            on_behalf_of=caller.on_behalf_of,
            organization=call.organization,
            message="" if error is None else error.message,
            request_id=call.request_id,
            trace_id=caller.trace_id,
            kms_request_id="" if error is None else error.provider_request_id or "",
        )


_ACTIONS: Final = {
    f"{verb}{noun}": f"rpc:{subject}:{verb.lower()}"
    for verb in ("Create", "Update", "Delete")
    for noun, subject in (("Organization", "organization"), ("KeyLink", "key_link"))
} | {"StartOperation": "rpc:key_link:move"}
"""The action in the log, by the method's name."""
