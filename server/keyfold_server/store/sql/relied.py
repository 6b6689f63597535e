"""What a batch of changes takes from organizations: read under their locks, and checked there.

The locks keep a link from being deleted, and a limit from being passed, between the check and the
commit (`domain.reliance`). A batch locks clusters first and then organizations, each in order; what
changes an organization locks no cluster.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from keyfold_server.domain.organizations import OrganizationView
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import rows_of
from keyfold_server.store.tables import organization_members as members
from keyfold_server.store.tables import organizations
from keyfold_server.store.tables.organizations import StoredOrganization

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from keyfold_server.domain.changes import Change
    from keyfold_server.domain.errors import RowNotAuthenticError
    from keyfold_server.domain.reliance import Reliance
    from keyfold_server.store.database.trip import Answer, Step
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.floors import Floors


class Relied:
    """The organizations that the changes of a batch rely on.

    Attributes:
        locking: The steps that lock them.
        reading: The steps that read them, after every lock.
    """

    def __init__(self, wanted: Sequence[Change], floors: Floors) -> None:
        """Takes the changes, and the floors that this process has seen."""
        relied = [change.reliance for change in wanted if change.reliance is not None]
        claims = [change.claim.organization for change in wanted if change.claim is not None]
        names = {*(each.organization for each in relied), *claims}
        self._names = sorted(name for name in names if name is not None)
        self._counted = sorted({each.organization for each in relied if each.counts})
        # From before the read, so that what it finds cannot be older.
        self._floors = {name: floors.of(organizations.floor_name(name)) for name in self._names}
        self._found: dict[str, StoredOrganization | RowNotAuthenticError] = {}
        self._counts = Counter[str]()
        self.locking = organizations.locking(self._names)
        self._reading = organizations.reading(self._names)
        self.reading: list[Step] = [*self._reading, *members.counting_each(self._counted)]

    def take(self, answers: Sequence[Answer], seal: Seal) -> None:
        """Takes the answers to `reading`."""
        of_organizations = len(self._reading)
        read = rows_of(answers[:of_organizations])
        for name, stored in organizations.of(self._names, read, seal).items():
            self._found[name] = organizations.held(stored, self._floors[name])
        # In place of those of an earlier try of the transaction.
        self._counts = Counter({row[0]: row[1] for row in rows_of(answers[of_organizations:])})

    def check_locked(self, names: Collection[str]) -> None:
        """Refuses a row that another transaction made after these locks were taken.

        Nothing holds such a row, so that a third transaction could change it before the commit.

        Args:
            names: The organizations whose rows are locked.

        Raises:
            LostRaceError: There is such a row.
        """
        for name, stored in self._found.items():
            if isinstance(stored, StoredOrganization) and stored.own and name not in names:
                raise LostRaceError

    def check(self, reliance: Reliance | None) -> None:
        """Refuses a change whose organization no longer gives what it takes.

        Raises:
            RowNotAuthenticError: The organization's rows are not authentic.
            KeyfoldError: What `Reliance.check` raises.
        """
        if reliance is None:
            return
        name = reliance.organization
        organization = self.stored(name).organization
        reliance.check(OrganizationView(organization, self._counts[name]))

    def stored(self, name: str) -> StoredOrganization:
        """Returns an organization as the batch has left it so far.

        Raises:
            RowNotAuthenticError: Its rows are not authentic.
        """
        return organizations.authentic(self._found[name])

    def change(self, stored: StoredOrganization) -> None:
        """Replaces an organization by what the batch makes of it."""
        self._found[stored.organization.name] = stored

    def made(self, reliance: Reliance | None) -> None:
        """Counts a cluster that a change of the batch makes."""
        if reliance is not None:
            self._counts[reliance.organization] += 1
