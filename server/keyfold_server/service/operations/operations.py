"""Starts, shows, cancels and deletes operations, for callers.

A caller sees the operations that it started itself, and those of an organization, or of the whole
store, that a grant covers as a whole. All others look as if they did not exist (protocol C7).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.errors import (
    DeadlineError,
    InvalidNameError,
    InvalidOperationError,
    InvalidPageError,
    TooManyOperationsError,
)
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.operations import (
    BEGINNING,
    MAX_CLUSTERS,
    MOST_AT_ONCE,
    OPEN,
    OPEN_PER_CALLER,
    PREFIX,
    ActionKind,
    Census,
    Failure,
    Operation,
    OperationKey,
    Starter,
    Work,
    cancelled,
    deleted,
    existing_operation,
    no_operation,
    owner_of,
    started,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller, Rights
from keyfold_server.domain.texts import check_reason
from keyfold_server.service import tokens
from keyfold_server.service.operations.census import Counting
from keyfold_server.service.operations.control import Control
from keyfold_server.service.operations.items import Items
from keyfold_server.service.operations.waiting import until_ended
from keyfold_server.service.organizations.link_moves import LinkMoves
from keyfold_server.service.storage import Storage

_MAX_PAGE: Final = 1_000
"""Most operations on one page."""

_DEFAULT_PAGE: Final = 100
"""Operations on a page if the request does not say how many."""

_READ: Final = 200
"""Operations that are read at once."""

_PURPOSE: Final = "operations page"

_READS: Final = 10
"""Reads after which a page ends, however few operations it shows."""

_BEFORE_DEADLINE: Final = 0.5
"""Seconds before its caller's deadline at which a waiting call answers."""


@dataclass(frozen=True, slots=True)
class StartResult:
    """What came of StartOperation.

    Attributes:
        operation: The operation; None: the call was a dry run.
        census: What the operation has before it, as counted by a dry run, or None.
        replayed: Whether the caller had started it before.
    """

    operation: Operation | None
    census: Census | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class OperationsPage:
    """A page of operations, and the token of the next one; empty on the last."""

    operations: tuple[Operation, ...]
    next_token: str


class Operations:
    """Answers StartOperation and the calls of `google.longrunning.Operations`."""

    def __init__(
        self,
        storage: Storage,
        items: Items,
        counting: Callable[[Work], Counting],
        moves: LinkMoves,
        clock: Clock,
        hasten: Callable[[], None],
        control: Control,
    ) -> None:
        """Joins the calls to the store.

        Args:
            storage: The store.
            items: Finds the items of operations, for a dry run.
            counting: Returns what counts items.
            moves: Begins moves of key links.
            clock: Monotonic time.
            hasten: Has the runner look at once.
            control: Knows whether somebody can run an operation.
        """
        self._storage = storage
        self._items = items
        self._counting = counting
        self._moves = moves
        self._clock = clock
        self._hasten = hasten
        self._control = control

    async def start(
        self, caller: Caller, name: str, work: Work, deadline: float, *, dry_run: bool
    ) -> StartResult:
        """Starts an operation, or counts what it would have before it.

        Raises:
            InvalidOperationError: The name, the scope or the action cannot be right.
            NotAllowedError: The caller may not do this to any region.
            OrganizationNotFoundError: The caller may see no region of the organization.
            OperationExistsError: The caller has another operation of that name.
            TooManyOperationsError: Too many have not ended.
            WrongRegionError: It calls KMSs, and this replica does not serve every region.
            KeyfoldError: What `LinkMoves.begin` raises, if the operation moves a key link.
        """
        check(work)
        caller.rights.check(work.kind.rpc)
        _check_reach(caller.rights, work)
        moves = work.kind is ActionKind.MOVE_LINK
        if dry_run:
            self._control.check(work)
            if moves:
                await self._moves.begin(caller, work, self._ends(deadline), None)
            return StartResult(None, await self._census(work, caller.rights, deadline))
        key = OperationKey(owner_of(caller.owner), check_name(name, "operation"))
        store = self._storage.store
        known = await self._storage.run(store.operation, key)
        if known is None:
            self._control.check(work)
            await self._check_room(key)
        starter = Starter(caller.rights.identity, caller.address, caller.on_behalf_of)
        change = started(key, os.urandom(16), work, starter)
        change = replace(change, event=self._event(caller, "start", key, work))
        if moves and known is None:
            await self._moves.begin(caller, work, self._ends(deadline), change)
            made = await self._storage.run(store.operation, key)
        else:
            made = await self._storage.decide(store.change_operation, change)
        operation = existing_operation(made, key)
        self._hasten()
        return StartResult(operation, operation.census, replayed=known is not None)

    async def _check_room(self, key: OperationKey) -> None:
        found = await self._storage.run(self._storage.store.open_operations, OPEN)
        mine = sum(each.key.owner == key.owner for each in found)
        # Nobody needs to know how many operations others have (protocol C7).
        if mine >= OPEN_PER_CALLER:
            raise TooManyOperationsError(
                f"{mine} operations of this caller have not ended, and a caller may have "
                f"{OPEN_PER_CALLER}",
                field="operation",
            )
        if len(found) >= OPEN:
            raise TooManyOperationsError(
                f"{OPEN:,} operations of all callers have not ended, and there may be no more",
                field="operation",
            )

    async def _census(self, work: Work, rights: Rights, deadline: float) -> Census:
        counting = self._counting(work)
        try:
            async with asyncio.timeout(self.left(deadline)):
                async with aclosing(self._items.after(work, rights, BEGINNING)) as items:
                    async for item in items:
                        await counting.add(item)
        except TimeoutError:
            raise DeadlineError(
                "the deadline passed before all regions were counted; allow more time"
            ) from None
        return counting.census()

    async def get(self, caller: Caller, name: str) -> Operation:
        """Returns an operation.

        Raises:
            OperationNotFoundError: It does not exist, or the caller may not see it.
        """
        return await self._visible(caller, name, "GetOperation")

    async def failures(self, operation: Operation) -> list[Failure]:
        """Returns the failures that an operation lists."""
        if not operation.progress.listed:
            return []
        return await self._storage.run(self._storage.store.operation_failures, operation.uid)

    async def notice(self, operation: Operation) -> str:
        """Returns what keeps an operation from going on, as far as it is known; may be empty."""
        return await self._control.notice(operation)

    async def wait(self, caller: Caller, name: str, most: float, deadline: float) -> Operation:
        """Returns an operation once it has ended, or as it is when the time is up.

        Args:
            caller: The caller.
            name: The operation's name.
            most: Most seconds to wait; 0: until the deadline.
            deadline: Monotonic seconds until which the caller waits.
        """
        return await until_ended(
            lambda: self._visible(caller, name, "WaitOperation"), most, self.left(deadline)
        )

    async def cancel(self, caller: Caller, name: str) -> None:
        """Cancels an operation, which ends once what is under way has ended.

        Raises:
            OperationEndedError: It has ended already.
        """
        operation = await self._visible(caller, name, "CancelOperation")
        event = self._event(caller, "cancel", operation.key, operation.work)
        change = replace(cancelled(operation.key), event=event)
        await self._storage.decide(self._storage.store.change_operation, change)
        self._hasten()

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes an operation that has ended.

        Raises:
            OperationRunningError: It has not ended.
        """
        operation = await self._visible(caller, name, "DeleteOperation")
        event = self._event(caller, "delete", operation.key, operation.work)
        change = replace(deleted(operation.key), event=event)
        await self._storage.decide(self._storage.store.change_operation, change)

    async def page(self, caller: Caller, size: int, token: str) -> OperationsPage:
        """Returns a page of the operations that a caller may see, in the order of their names."""
        if not 0 <= size <= _MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {_MAX_PAGE:,}", field="page_size")
        size, after = size or _DEFAULT_PAGE, self._key_in(token)
        shown: list[Operation] = []
        for _ in range(_READS):
            found = await self._storage.run(self._storage.store.operations, after, _READ)
            for operation in found:
                if len(shown) == size:
                    return OperationsPage(tuple(shown), self._token(after))
                after = operation.key
                if _sees(caller.rights, operation, "ListOperations"):
                    shown.append(operation)
            if len(found) < _READ:
                return OperationsPage(tuple(shown), "")
        return OperationsPage(tuple(shown), self._token(after))

    async def _visible(self, caller: Caller, name: str, rpc: str) -> Operation:
        key = _key_of(caller, name)
        found = await self._storage.run(self._storage.store.operation, key)
        if found is None or not _sees(caller.rights, found, rpc):
            raise no_operation(name)
        return found

    def _event(self, caller: Caller, verb: str, key: OperationKey, work: Work) -> AuditEvent:
        detail = json.loads(work.encoded()) | {"operation": key.name, "owner": key.owner}
        return AuditEvent(
            caller.name,
            f"rpc:operation:{verb}",
            "done",
            json.dumps(detail, sort_keys=True, separators=(",", ":")),
            proof=caller.rights.identity.proof,
            address=caller.address,
            on_behalf_of=caller.on_behalf_of,
            organization=work.organization or "",
            trace_id=caller.trace_id,
        )

    def _token(self, after: OperationKey) -> str:
        return tokens.sealed(self._storage.store.mac, _PURPOSE, "/".join(after).encode())

    def _key_in(self, token: str) -> OperationKey:
        if not token:
            return OperationKey("", "")
        data = tokens.opened(self._storage.store.mac, _PURPOSE, token)
        if data is None:
            raise InvalidPageError(
                "page_token is not one that this server gave out; pass next_page_token back as it "
                "came",
                field="page_token",
            )
        owner, _, name = data.decode().partition("/")
        return OperationKey(owner, name)

    def left(self, deadline: float) -> float:
        """Returns the seconds that are left before an answer must be on its way."""
        return max(0.0, self._ends(deadline) - self._clock.monotonic())

    def _ends(self, deadline: float) -> float:
        return deadline - _BEFORE_DEADLINE


def check(work: Work) -> None:
    """Refuses work that cannot be right, whatever the store has.

    Raises:
        InvalidOperationError: It cannot be right.
        InvalidNameError: A name is not valid.
    """
    if work.organization is not None:
        check_name(work.organization, "organization")
    if work.key_link:
        check_name(work.key_link, "key_link")
    for name in work.clusters:
        check_name(name, "clusters")
    if len(work.clusters) > MAX_CLUSTERS:
        raise InvalidOperationError(
            f"clusters may name {MAX_CLUSTERS:,} clusters, not {len(work.clusters):,}; use another "
            "scope",
            field="clusters",
        )
    if not 1 <= work.at_once <= MOST_AT_ONCE:
        raise InvalidOperationError(
            f"max_concurrency must be 1 to {MOST_AT_ONCE}, or 0", field="max_concurrency"
        )
    check_reason(work.reason)
    _check_action(work)


def _check_action(work: Work) -> None:
    if work.key_spec is not None:
        work.key_spec.check_uri()
    if work.kind is ActionKind.MOVE_LINK and not work.key_link:
        raise InvalidOperationError(
            "a key link is moved as a whole; give it as the scope", field="scope.key_link"
        )
    if work.kind is ActionKind.MOVE_LINK and work.key_spec is None:
        raise InvalidOperationError(
            "the action names no key to move to; give one", field="action.move_link.key_spec"
        )
    if work.kind is ActionKind.POLICY and work.policy is None:
        raise InvalidOperationError("the action sets no policy; give one", field="policy.policy")


def _check_reach(rights: Rights, work: Work) -> None:
    """Refuses the organization of somebody else, whether it exists or not (protocol C8).

    The operation would find no region. But those who may see that organization would see it, with
    its caller's reason, among their operations and in their log.
    """
    organization = work.organization
    if organization is not None and not rights.coverage(organization, work.kind.rpc):
        rights.check_organization(work.kind.rpc, organization)


def _sees(rights: Rights, operation: Operation, rpc: str) -> bool:
    own = operation.key.owner == owner_of(rights.owner)
    return own or rights.covers(rpc, None, operation.work.organization)


def _key_of(caller: Caller, name: str) -> OperationKey:
    """Returns the full name that a name means: of the caller's own operation, if it is short."""
    owner, _, short = name.removeprefix(PREFIX).rpartition("/")
    try:
        check_name(short, "name")
        check_name(owner or short, "name")
    except InvalidNameError:
        raise no_operation(f"{name[:160]!a}") from None
    return OperationKey(owner or owner_of(caller.owner), short)
