"""The part of SqlStore for organizations and their key links.

A change takes three round trips, as a batch of changes of clusters does: one to lock and read, one
to write rows and to lock the head of the log, and one to append the entry and to commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    RequestIdReusedError,
    RequestInProgressError,
    RowNotAuthenticError,
)
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.organization_changes import described
from keyfold_server.domain.organizations import NAMED, OrganizationView
from keyfold_server.store import schema
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import Step, require_taken, rows_of
from keyfold_server.store.sql import operation_changes, organization_rows
from keyfold_server.store.tables import holders, log, log_head, organizations, requests, rows
from keyfold_server.store.tables import organization_members as members
from keyfold_server.store.tables.log import Draft
from keyfold_server.store.tables.log_head import Position
from keyfold_server.store.tables.organizations import floor_name

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from keyfold_server.domain.changes import RecordedRequest, RequestKey
    from keyfold_server.domain.holders import Holder
    from keyfold_server.domain.log import Floor
    from keyfold_server.domain.organization_changes import OrganizationChange
    from keyfold_server.store.database.trip import Answer
    from keyfold_server.store.sql.floors import Floors
    from keyfold_server.store.sql.history import HighWaterMark
    from keyfold_server.store.sql.transactions import Transactions, Unit


@dataclass(frozen=True, slots=True)
class _Made:
    """A change as the transaction has made it, or an attempt that changed nothing."""

    view: OrganizationView
    number: int
    newest: Position
    floor: Floor | None


class OrganizationStore:
    """The part of a `domain.ports.Store` that keeps organizations."""

    _transactions: Transactions
    _floors: Floors

    def organization(
        self, name: str, *, link: str | None = None, users: int = 0
    ) -> OrganizationView:
        """Reads an organization and verifies its rows; see `domain.ports.Store`."""
        floor = self._floors.of(floor_name(name))
        wanted = [*organizations.reading([name]), members.counting(name)]
        if users:
            wanted += [members.uses(name, link, users), members.keys(name, link)]
            if link is None:
                wanted.append(members.first_clusters(name, users))
        return self._transactions.fetch(
            wanted, lambda unit: self._view(name, unit.answers, floor, users=bool(users))
        )

    def requested_organization(
        self, name: str, key: RequestKey | None
    ) -> tuple[OrganizationView, RecordedRequest | None]:
        """Reads an organization, and the record of a request, in one round trip."""
        floor, seal = self._floors.of(floor_name(name)), self._transactions.seal
        recorded = requests.reading([key] if key is not None else [])

        def work(unit: Unit) -> tuple[OrganizationView, RecordedRequest | None]:
            read, counted, *others = unit.answers
            known = requests.of(rows_of(others), seal)
            view = self._view(name, [read, counted], floor, users=False)
            return view, None if key is None else known.get(requests.scope(key))

        wanted = [*organizations.reading([name]), members.counting(name), *recorded]
        return self._transactions.fetch(wanted, work)

    def organization_names(
        self, after: str, limit: int, patterns: tuple[str, ...] | None
    ) -> list[str]:
        """Reads up to `limit` names of organizations that follow `after`, by name."""
        return self._transactions.read(lambda c: members.names_after(c, after, limit, patterns))

    def organizations(
        self, names: Sequence[str]
    ) -> dict[str, OrganizationView | RowNotAuthenticError]:
        """Reads organizations by name, each with the number of its clusters."""
        if not names:
            return {}
        known = {name: self._floors.of(floor_name(name)) for name in names}
        seal = self._transactions.seal
        reading = organizations.reading(names)

        def work(unit: Unit) -> dict[str, OrganizationView | RowNotAuthenticError]:
            read = rows_of(unit.answers[: len(reading)])
            counted = {row[0]: row[1] for row in rows_of(unit.answers[len(reading) :])}
            views: dict[str, OrganizationView | RowNotAuthenticError] = {}
            for name, stored in organizations.of(names, read, seal).items():
                held = organizations.held(stored, known[name])
                views[name] = (
                    held
                    if isinstance(held, RowNotAuthenticError)
                    else OrganizationView(held.organization, counted.get(name, 0))
                )
            return views

        return self._transactions.fetch([*reading, *members.counting_each(names)], work)

    def held_elsewhere(
        self, organization: str | None, wanted: Collection[Holder]
    ) -> frozenset[Holder]:
        """Returns the holders in which an organization may name no key, in one round trip."""
        looked = sorted(wanted)
        if not looked:
            return frozenset()
        name = organization or ""
        floor = self._floors.of(floor_name(name))
        reading = organizations.reading([name]) if name else []
        looking = holders.looking(organization, looked)

        def work(unit: Unit) -> frozenset[Holder]:
            found = holders.elsewhere(organization, looked, unit.answers[len(reading) :])
            if not name:
                return found
            read = rows_of(unit.answers[: len(reading)])
            stored = organizations.of([name], read, self._transactions.seal)[name]
            own = organizations.authentic(organizations.held(stored, floor)).organization
            return found.difference(own.holders)

        return self._transactions.fetch([*reading, *looking], work)

    def change_organization(self, change: OrganizationChange) -> OrganizationView:
        """Carries out a change of an organization in one transaction; see `domain.ports.Store`."""
        floor = self._floors.of(floor_name(change.organization))

        def work(unit: Unit) -> tuple[_Made, HighWaterMark]:
            return self._changed(change, unit, floor, looking), unit.mark

        name, dialect = change.organization, self._transactions.database.dialect
        looking = holders.looking(name, change.holders)
        first = [
            *(organizations.locking([name]) if dialect.locks_rows else []),
            *organizations.reading([name]),
            members.counting(name),
            members.first_clusters(name, NAMED),
            members.uses(name, None, NAMED),
            *looking,
            *requests.reading([change.request] if change.request is not None else []),
            *(operation_changes.reading(change.operation, dialect) if change.operation else []),
        ]
        try:
            made, mark = self._transactions.write("organization", work, first)
        except LostRaceError:
            raise ConcurrentChangeError(
                f"another request changed organization {name} at the same time; ask again",
                field="organization",
            ) from None
        self._transactions.history.advance(made.newest, mark)
        if made.floor is not None:
            self._floors.raise_to(made.number, floor_name(name), made.floor)
        return made.view

    def _changed(
        self,
        change: OrganizationChange,
        unit: Unit,
        floor: Floor | None,
        looking: Sequence[Step],
    ) -> _Made:
        """Decides a change on what the transaction has read, and writes it."""
        stamp, reach = self._transactions.stamp(unit), self._transactions.reach
        name, seal = change.organization, stamp.seal
        locked, answers = unit.answers[0], unit.answers
        if stamp.dialect.locks_rows:
            answers = answers[1:]
        others, of_operation = operation_changes.apart(change.operation, answers, stamp.dialect)
        read, counted, firsts, used, *others = others
        looked, recorded = others[: len(looking)], others[len(looking) :]
        stored = organizations.authentic(
            organizations.held(organizations.of([name], read.rows, seal)[name], floor)
        )
        if stamp.dialect.locks_rows and stored.own is not None and not locked.rows:
            # Another transaction made the row between the lock and the read. Nothing holds it, so
            # a third one could change it before this one does, and its change would be lost.
            raise LostRaceError
        _refuse_repeated(change.request, requests.of(rows_of(recorded), seal))
        count, names = counted.rows[0][0], tuple(str(row[0]) for row in firsts.rows)
        current = stored.organization
        elsewhere = holders.elsewhere(name, change.holders, looked)
        users = members.uses_of(used.rows)
        view = OrganizationView(current, count, names, users, held_elsewhere=elsewhere)
        moved = None
        if change.operation is not None and of_operation is not None:
            moved = operation_changes.decided(change.operation, of_operation, stamp)
        # An operation that was started, or ended, before has changed its organization then.
        after = current if moved is not None and not moved.changes else change.decide(view)
        reach("organization:decided")
        steps: list[Step] = []
        floor_after = None
        if after is current:
            draft = Draft(EntryKind.ATTEMPT, change.event, organization=name)
        else:
            made = organizations.sealed(after, seal, stored)
            floor_after = made.floor
            draft = Draft(
                EntryKind.DECISION,
                change.event,
                organization=name,
                floor=floor_after,
                decision=described(current, after),
            )
            steps = organization_rows.steps(stored, made)
        if moved is not None:
            steps += moved.steps
        if change.request is not None:
            cells = requests.recorded(change.request, after.version, stamp.now, seal)
            steps.append(rows.inserting(schema.requests, [cells]))
        closing = log.closing(stamp.dialect, wake=floor_after is not None)
        again = holders.held_by(change.holders) if stamp.dialect.locks_rows else []
        trip = stamp.dialect.trip(unit.connection, [*steps, *closing, *again])
        for step, answer in zip(steps, trip, strict=False):
            require_taken(step, answer)
        reach("organization:rows-written")
        drafts = [draft] if moved is None else [draft, *moved.drafts]
        ends = len(steps) + len(closing)
        if again:
            # Under the lock of the head nobody else makes a claim. Without it, two could make one.
            owners = holders.owners(change.holders, looked[: len(again)])
            holders.check_again(name, owners, trip[ends:])
        numbered, unit.ending = log.ended(log_head.of(trip[ends - 1].rows, seal), drafts, stamp)
        reach("organization:numbered")
        view = OrganizationView(after, count, names, users)
        return _Made(view, numbered[0].number, numbered[-1], floor_after)

    def _view(
        self, name: str, answers: Sequence[Answer], floor: Floor | None, *, users: bool
    ) -> OrganizationView:
        read, counted = answers[:2]
        found = organizations.of([name], read.rows, self._transactions.seal)[name]
        stored = organizations.authentic(organizations.held(found, floor))
        uses = members.uses_of(answers[2].rows, answers[3].rows) if users else {}
        names = tuple(str(row[0]) for answer in answers[4:] for row in answer.rows)
        return OrganizationView(stored.organization, counted.rows[0][0], names, uses)


def _refuse_repeated(key: RequestKey | None, known: dict[requests.Scope, RecordedRequest]) -> None:
    before = known.get(requests.scope(key)) if key is not None else None
    if key is None or before is None:
        return
    if before.digest != key.digest:
        raise RequestIdReusedError(
            f"request_id {key.request_id} came before with another {key.rpc} of organization "
            f"{key.cluster}; use a new request_id",
            field="request_id",
        )
    raise RequestInProgressError(
        f"the same {key.rpc} of organization {key.cluster} was just carried out; repeat it to get "
        "its answer"
    )
