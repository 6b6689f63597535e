"""Decisions: which replicas have confirmed a decision, for whoever asks later (protocol R4).

Revoke answers within seconds, and a replica that cannot be reached then may be pending for minutes.
What becomes of it reads as an operation whose name Revoke returned. Nothing is stored for it: the
log has the decision, and the replicas' heartbeats say what they have applied.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import InvalidOperationError, KeyfoldError
from keyfold_server.domain.events import Event, EventQuery
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.operations import no_operation
from keyfold_server.domain.ports import ReplicaRow
from keyfold_server.domain.rights import Caller
from keyfold_server.service.fleet.confirmations import Confirmations, PendingReplica
from keyfold_server.service.operations.waiting import until_ended
from keyfold_server.service.storage import Storage

_PREFIX: Final = "operations/decision/"
"""The beginning of every name. No caller's operation has it: callers are hexadecimal digits."""

_DIGITS: Final = 18
"""Most digits in the number of a decision."""

_KINDS: Final = frozenset((EntryKind.DECISION, EntryKind.BAN))
"""The kinds of entries that replicas confirm, and that a name may mean."""


def decision_name(number: int) -> str:
    """Returns the name under which callers follow the decision of a number."""
    return f"{_PREFIX}{number}"


@dataclass(frozen=True, slots=True)
class Followed:
    """A decision about a cluster, and which replicas have confirmed it.

    Attributes:
        event: The decision.
        regions: The regions that it concerns, as far as the caller may know of them.
        confirmed: The names of the replicas that have applied it.
        pending: The replicas that may still serve without it. Those that are gone, or have stopped
            because they were silent for too long, are neither.
    """

    event: Event
    regions: tuple[str, ...]
    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return decision_name(self.event.number)

    @property
    def ended(self) -> bool:
        """Whether no replica serves without it any more."""
        return not self.pending


class Decisions:
    """Answers GetOperation and WaitOperation about decisions."""

    def __init__(
        self,
        storage: Storage,
        confirmations: Confirmations,
        has_applied: Callable[[int, bytes], bool],
        left: Callable[[float], float],
    ) -> None:
        """Joins the calls to the store.

        Args:
            storage: The store.
            confirmations: Knows what replicas say about what they have applied.
            has_applied: Says whether this replica has applied an entry, by its number and its id.
            left: Returns the seconds that are left before an answer must be on its way.
        """
        self._storage = storage
        self._confirmations = confirmations
        self._has_applied = has_applied
        self._left = left

    async def get(self, caller: Caller, name: str) -> Followed | None:
        """Returns a decision; None: the name is that of another kind of operation.

        Raises:
            OperationNotFoundError: The log does not have it, or the caller may not see it.
        """
        known = await self._visible(caller, name, "GetOperation")
        return None if known is None else await self._followed(*known)

    async def wait(
        self, caller: Caller, name: str, most: float, deadline: float
    ) -> Followed | None:
        """Returns a decision once no replica serves without it, or as it is when the time is up.

        A store that does not answer meanwhile only means that nobody knows yet.

        Args:
            caller: The caller.
            name: The operation's name.
            most: Most seconds to wait; 0: until the deadline.
            deadline: Monotonic seconds until which the caller waits.
        """
        known = await self._visible(caller, name, "WaitOperation")
        if known is None:
            return None
        return await until_ended(lambda: self._followed(*known), most, self._left(deadline))

    async def refuse(self, caller: Caller, name: str, rpc: str) -> None:
        """Refuses to cancel or to delete a decision; returns if the name means no decision.

        Raises:
            OperationNotFoundError: The caller may not see it.
            InvalidOperationError: It may.
        """
        if await self._visible(caller, name, rpc) is not None:
            raise InvalidOperationError(
                "this operation shows which replicas have confirmed a decision, which is made: it "
                "cannot be cancelled or deleted; Restore takes revoked regions back",
                field="name",
            )

    async def _visible(
        self, caller: Caller, name: str, rpc: str
    ) -> tuple[Event, tuple[str, ...]] | None:
        """Returns the decision that a name means, with the regions that the caller may know of."""
        number = name.removeprefix(_PREFIX)
        if number == name:
            return None
        if not (number.isascii() and number.isdigit() and len(number) <= _DIGITS):
            raise no_operation(f"{name[:160]!a}")
        first = int(number)
        query = EventQuery(None, newest_first=False, limit=1, first=first, last=first)
        page = await self._storage.run(self._storage.store.events, query)
        for event in page.events:
            shown = _shown(event, caller, rpc)
            if event.number == first and shown is not None:
                return event, shown
        raise no_operation(name)

    async def _followed(self, event: Event, regions: tuple[str, ...]) -> Followed:
        rows: list[ReplicaRow] | None = None
        with suppress(KeyfoldError):  # Without the store nobody knows who else has confirmed.
            rows = await self._storage.run(self._storage.store.replicas)
        mine = self._has_applied(event.number, event.entry_id)
        confirmed, pending = self._confirmations.told(event.number, rows, mine=mine)
        return Followed(event, regions, tuple(confirmed), tuple(pending))


def _shown(event: Event, caller: Caller, rpc: str) -> tuple[str, ...] | None:
    """Returns the regions of a decision that a caller may know of; None: it may not see it."""
    cluster, organization, rights = event.cluster, event.organization, caller.rights
    if event.kind not in _KINDS or cluster is None or not rights.covers(rpc, cluster, organization):
        return None
    regions = event.regions
    seen = tuple(r for r in regions if rights.covers(rpc, cluster, organization, r))
    return None if regions and not seen else seen
