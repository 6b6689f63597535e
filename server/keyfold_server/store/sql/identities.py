"""The part of SqlStore for issued identities: external ids and seats (protocol C2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.domain.errors import SeatsExhaustedError
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.seats import Issued, IssuedSeat
from keyfold_server.store.database.trip import require_taken
from keyfold_server.store.tables import identities, log, log_head
from keyfold_server.store.tables.identities import IdentityKind
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.log import AuditEvent
    from keyfold_server.domain.seats import Seat
    from keyfold_server.store.database.trip import Step
    from keyfold_server.store.sql.transactions import Transactions, Unit


class IdentityStore:
    """The part of a `domain.ports.Store` that keeps issued identities."""

    _transactions: Transactions

    def external_id(self, owner: str) -> str | None:
        """Reads the external id that Keyfold issued for an owner, or None."""
        return self._transactions.fetch(
            [identities.reading(IdentityKind.EXTERNAL_ID, owner)],
            lambda unit: identities.of(unit.answers[0].rows, self._transactions.seal),
        )

    def issue_external_id(
        self, owner: str, external_id: str, event: AuditEvent, cluster: str | None = None
    ) -> str:
        """Keeps an external id for an owner, for good; returns the one that the owner has."""
        reach, seal = self._transactions.reach, self._transactions.seal

        def work(unit: Unit) -> str:
            known = identities.of(unit.answers[0].rows, seal)
            reach("issue:looked")
            if known is None:
                stamp = self._transactions.stamp(unit)
                self._add(
                    unit, identities.adding(owner, external_id, stamp.now, seal), event, cluster
                )
            return known or external_id

        reading = identities.reading(IdentityKind.EXTERNAL_ID, owner)
        return self._transactions.write_or_fail("issue", work, [reading])

    def issued_to(self, owner: str) -> Issued:
        """Reads the external id and the seats of an owner."""
        seal = self._transactions.seal

        def work(unit: Unit) -> Issued:
            own, seats = (answer.rows for answer in unit.answers)
            external_id = identities.of(own, seal)
            at = 0 if external_id is None else own[0][identities.CREATED_AT]
            return Issued(external_id or "", at, tuple(identities.seats_of(seats, seal)))

        return self._transactions.fetch([identities.reading(k, owner) for k in IdentityKind], work)

    def issued_seats(self) -> list[IssuedSeat]:
        """Reads every seat that was issued."""
        return self._transactions.fetch(
            [identities.reading_seats()],
            lambda unit: identities.seats_of(unit.answers[0].rows, self._transactions.seal),
        )

    def reserve_seats(
        self,
        owner: str,
        pool: Sequence[Seat],
        count: int,
        event: AuditEvent,
        cluster: str | None = None,
    ) -> list[IssuedSeat]:
        """Reserves seats until an owner has as many as asked for; see `domain.ports.Store`."""
        reach, seal = self._transactions.reach, self._transactions.seal
        place = pool[0].provider, pool[0].region

        def work(unit: Unit) -> list[IssuedSeat]:
            issued = identities.seats_of(unit.answers[0].rows, seal)
            reach("issue:looked")
            theirs = [
                each
                for each in issued
                if each.owner == owner
                and not each.used
                and (each.seat.provider, each.seat.region) == place
            ]
            missing = count - len(theirs)
            if missing <= 0:
                return theirs
            taken = {s.seat.name for s in issued}
            taken_as = {p.casefold() for s in issued for p in s.seat.principals}
            free = [
                seat
                for seat in pool
                if seat.name not in taken
                and taken_as.isdisjoint(p.casefold() for p in seat.principals)
            ]
            if len(free) < missing:
                raise SeatsExhaustedError(
                    f"{len(free)} seats are free for {place[0]} keys in region {place[1]}, and "
                    f"{missing} more are needed; the vendor has to add seats to the settings"
                )
            now = self._transactions.stamp(unit).now
            new = [IssuedSeat(seat, owner, now) for seat in free[:missing]]
            self._add(unit, identities.adding_seats(new, seal), event, cluster)
            return [*theirs, *new]

        return self._transactions.write_or_fail("issue", work, [identities.reading_seats()])

    def _add(self, unit: Unit, adding: Step, event: AuditEvent, cluster: str | None) -> None:
        """Adds rows, and the entry of the log that says so."""
        reach, stamp = self._transactions.reach, self._transactions.stamp(unit)
        closing = log.closing(stamp.dialect, wake=False)
        added, *_, locked = stamp.dialect.trip(unit.connection, [adding, *closing])
        require_taken(adding, added)
        reach("issue:written")
        head = log_head.of(locked.rows, stamp.seal)
        draft = Draft(EntryKind.IDENTITY, event, cluster=cluster)
        _, unit.ending = log.ended(head, [draft], stamp)
        reach("issue:numbered")
