"""Acknowledgements: which replicas have applied a change that stops use (protocol R4)."""

from __future__ import annotations

from typing import Final, NamedTuple

from keyfold_server.domain.ports import Clock
from keyfold_server.domain.timing import Timing
from keyfold_server.service.fleet.confirmations import Confirmations, PendingReplica
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.requests import MutationCall, MutationRequest

_BEFORE_DEADLINE: Final = 0.5
"""Seconds before the caller's deadline at which the wait for other replicas ends."""


class Acknowledged(NamedTuple):
    """Who has applied a change that stops use.

    Attributes:
        confirmed: The names of the replicas that have dropped the keys.
        pending: The replicas that have not confirmed that they did.
        decision: The number of the change, or of a later one of the same cluster.
    """

    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]
    decision: int


class Acknowledgements:
    """Waits for the other replicas."""

    def __init__(
        self, mutations: Mutations, confirmations: Confirmations, clock: Clock, timing: Timing
    ) -> None:
        """Joins the wait to the other replicas.

        Args:
            mutations: Carries out changes.
            confirmations: Knows which replicas have applied a change.
            clock: Time.
            timing: The times to wait for other replicas.
        """
        self._mutations = mutations
        self._confirmations = confirmations
        self._clock = clock
        self._timing = timing

    async def of(self, call: MutationCall[MutationRequest], number: int | None) -> Acknowledged:
        """Waits for the other replicas to confirm; a repeated request waits, too.

        Args:
            call: The caller's request.
            number: The number of the change; None: an earlier request made it.
        """
        # A repeated request has no number. It waits for the cluster's newest decision instead: if
        # another replica carried the request out, this one may not have read of it yet.
        if number is None:
            number = await self._mutations.attempted(call, "repeated")
        ends = min(
            self._clock.monotonic() + self._timing.revoke_wait, call.deadline - _BEFORE_DEADLINE
        )
        confirmed, pending = await self._confirmations.wait(number, ends)
        return Acknowledged(tuple(confirmed), tuple(pending), number)
