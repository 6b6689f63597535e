"""What every change of a cluster has in common: rights, request ids, the audit trail, the commit.

A change belongs to the service, not to the caller (protocol W1): who stops waiting cancels
nothing, and what follows a commit always runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from keyfold_server.domain.changes import (
    AuditEvent,
    Change,
    CommittedChange,
    Decide,
    RequestKey,
    unchanged,
)
from keyfold_server.domain.cluster import Cluster, existing
from keyfold_server.domain.errors import (
    AlreadyExistsError,
    ClusterNotFoundError,
    ConflictError,
    DeadlineError,
    InvalidRequestIdError,
    KeyfoldError,
    KmsError,
    RequestIdReusedError,
    RequestInProgressError,
    StateError,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.limits import Accounts
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_R = TypeVar("_R")

RequestT_co = TypeVar("RequestT_co", bound="MutationRequest", covariant=True)

MAX_REQUEST_ID: Final = 128
"""Characters of a request_id."""

_AUDITED: Final = (KmsError, StateError, AlreadyExistsError, ConflictError)
"""Refusals that belong in a cluster's chain: by the KMS or the state (protocol R5)."""


class MutationRequest(Protocol):
    """A parsed request: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        ...

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that it names; none: all that there are."""
        ...


@dataclass(frozen=True, slots=True)
class MutationCall(Generic[RequestT_co]):
    """A request for a change.

    Attributes:
        caller: Who asks, and what they may do.
        rpc: The method's name.
        request_id: The caller's id of the request, empty where there is none.
        request: The parsed request, a dataclass; what a repetition is compared with.
        deadline: Monotonic seconds until which the caller waits.
    """

    caller: Caller
    rpc: str
    request_id: str
    request: RequestT_co
    deadline: float

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self.request.cluster

    def detail(self) -> str:
        """Returns the parsed request as JSON with sorted keys; it holds no key material."""
        return json.dumps(asdict(self.request), sort_keys=True, separators=(",", ":"))

    def key(self) -> RequestKey | None:
        """Returns the request_id in its scope, or None where there is none.

        Raises:
            InvalidRequestIdError: It is too long or not printable ASCII.
        """
        if not self.request_id:
            return None
        if len(self.request_id) > MAX_REQUEST_ID or not (
            self.request_id.isascii() and self.request_id.isprintable()
        ):
            raise InvalidRequestIdError(
                f"request_id must be 1 to {MAX_REQUEST_ID} printable ASCII characters",
                field="request_id",
            )
        digest = hashlib.sha256(self.detail().encode()).digest()
        return RequestKey(self.caller.name, self.rpc, self.cluster, self.request_id, digest)


@dataclass(frozen=True, slots=True)
class MutationResult:
    """How a change ended.

    Attributes:
        cluster: As it is now, or as it would be.
        number: The change's number, or None where nothing was changed.
        replayed: The request_id was seen before.
        superseded: Something later changed the cluster since.
    """

    cluster: Cluster
    number: int | None = None
    replayed: bool = False
    superseded: bool = False


class Mutations:
    """Carries out changes, one task each."""

    def __init__(
        self,
        storage: Storage,
        changes: Changes,
        clock: Clock,
        tasks: Tasks,
        organizations: Accounts,
    ) -> None:
        """Joins the changes to the store, to who must learn of them, and to what each may ask."""
        self._organizations = organizations
        self._storage = storage
        self._changes = changes
        self._clock = clock
        self._under_way: set[tuple[str, str, str, str]] = set()
        self._tasks = tasks

    def now(self) -> int:
        """Returns milliseconds of Unix time."""
        return int(self._clock.wall() * 1000)

    async def cluster(self, name: str) -> Cluster | None:
        """Reads a cluster from the store."""
        return await self._storage.run(self._storage.store.cluster, name)

    async def run(
        self,
        call: MutationCall[MutationRequest],
        work: Callable[[], Coroutine[Any, Any, _R]],
        replay: Callable[[MutationResult], _R],
    ) -> _R:
        """Carries out a change once, or answers from the state as it is now (protocol R6).

        Args:
            call: The caller's request.
            work: The change.
            replay: Makes the answer to a request that was carried out before.

        Raises:
            ClusterNotFoundError: There is no such cluster, or the caller may not see it.
            ForbiddenError: The caller may not do this.
            StoreRolledBackError: The store is not the one that this replica knew.
            RequestInProgressError: Its twin is still being carried out.
            RequestIdReusedError: The id came before with another request.
            DeadlineError: The caller's time is up; the change goes on.
        """
        call.caller.rights.check_named(call.rpc, call.cluster, call.request.named)
        # Not refused on a replica that is merely stale: a Revoke that reaches the store counts.
        self._changes.check_store()
        task = self._tasks.start(self._once(call, work, replay))
        left = call.deadline - self._clock.monotonic()
        done, _ = await asyncio.wait({task}, timeout=max(0.0, left))
        if not done:
            raise DeadlineError(
                "the deadline passed while the change was being carried out, which goes on; "
                "read the status, or repeat the request with the same request_id",
                cluster=call.cluster,
            )
        return task.result()

    async def commit(self, call: MutationCall[MutationRequest], decide: Decide) -> MutationResult:
        """Commits a change with its audit event and request_id, and applies it here."""
        change = Change(call.cluster, decide, self._event(call, "done"), call.key())
        result = await self._apply(change)
        self._changes.applied_here(result.number, result.change_id, call.cluster)
        return MutationResult(result.cluster, result.number)

    async def unchanged(self, call: MutationCall[MutationRequest], seen: Cluster) -> MutationResult:
        """Records a request that found everything as it wants it, so that repeating it is safe.

        Raises:
            ConcurrentChangeError: It is not so any more.
        """
        change = Change(call.cluster, unchanged(seen), self._event(call, "unchanged"), call.key())
        return MutationResult((await self._apply(change)).cluster)

    async def attempted(self, call: MutationCall[MutationRequest], outcome: str) -> int:
        """Appends an attempt that changed nothing to the cluster's chain.

        A write: a database that takes none is not believed about what there is (protocol S2).

        Returns:
            The number of the store's last change.
        """
        return (await self._apply(Change(call.cluster, None, self._event(call, outcome)))).number

    async def note(self, call: MutationCall[MutationRequest], outcome: str) -> None:
        """Appends an attempt that failed to the cluster's chain, if it can be."""
        try:
            await self.attempted(call, outcome)
        except ClusterNotFoundError:
            # A cluster that was never made has no chain, and the line per call says the rest.
            return
        except KeyfoldError as error:
            log.warning("an attempt could not be recorded: %s", error.reason)

    async def _apply(self, change: Change) -> CommittedChange:
        (result,) = await self._storage.decide(self._storage.store.apply, [change])
        if not isinstance(result, CommittedChange):
            raise result
        return result

    async def _once(
        self,
        call: MutationCall[MutationRequest],
        work: Callable[[], Awaitable[_R]],
        replay: Callable[[MutationResult], _R],
    ) -> _R:
        with await self._authorize(call):
            return await self._authorized(call, work, replay)

    async def _authorized(
        self,
        call: MutationCall[MutationRequest],
        work: Callable[[], Awaitable[_R]],
        replay: Callable[[MutationResult], _R],
    ) -> _R:
        key = call.key()
        if key is None:
            return await self._audited(call, work)
        scope = (key.caller, key.rpc, key.cluster, key.request_id)
        if scope in self._under_way:
            raise RequestInProgressError(
                "a request with this request_id is still being carried out; wait and repeat it",
                cluster=call.cluster,
                retry_after=1.0,
            )
        self._under_way.add(scope)
        try:
            before = await self._storage.decide(self._storage.store.request, key)
            if before is None:
                return await self._audited(call, work)
            if before.digest != key.digest:
                raise RequestIdReusedError(
                    "this request_id came before with another request; use a new one",
                    cluster=call.cluster,
                    field="request_id",
                )
            cluster = existing(await self.cluster(call.cluster), call.cluster)
            later = cluster.version > before.version
            # Another replica may have made the change, and this one not have heard of it.
            self._changes.made_elsewhere(call.cluster)
            return replay(MutationResult(cluster, replayed=True, superseded=later))
        finally:
            self._under_way.discard(scope)

    async def _authorize(self, call: MutationCall[MutationRequest]) -> AbstractContextManager[None]:
        """Decides by the cluster's organization, before anything tells whether it exists.

        Returns:
            What holds a place among that organization's calls.
        """
        # Not behind the data plane's reads: a flood of those must not get in Revoke's way.
        cluster = await self._storage.decide(self._storage.store.cluster, call.cluster)
        if cluster is None:
            return nullcontext()
        organization = cluster.organization
        call.caller.rights.check_cluster(call.rpc, call.cluster, organization, call.request.named)
        if organization is None:
            return nullcontext()
        account = self._organizations.of(organization)
        account.charge(self._clock.monotonic())
        return account.room.place()

    async def _audited(
        self, call: MutationCall[MutationRequest], work: Callable[[], Awaitable[_R]]
    ) -> _R:
        try:
            return await work()
        except _AUDITED as error:
            await self.note(call, error.reason)
            raise

    def _event(self, call: MutationCall[MutationRequest], outcome: str) -> AuditEvent:
        caller = call.caller
        return AuditEvent(
            self.now(),
            caller.name,
            f"rpc:cluster:{call.rpc.lower()}",
            outcome,
            call.detail(),
            proof=caller.rights.identity.proof,
            address=caller.address,
            on_behalf_of=caller.on_behalf_of,
        )
