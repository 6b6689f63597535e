"""What a batch of changes claims for organizations (protocol C9), in the transaction of the batch.

A claim is a decision about the organization, with an entry of its own beside that of the cluster's
change. Two batches of two organizations lock nothing in common before the head of the log, so each
looks once more under that lock (`looking_again`): one of them finds the other's claim.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.holders import refuse_held
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.organization_changes import claiming, described
from keyfold_server.domain.organizations import OrganizationView
from keyfold_server.store.sql import organization_rows
from keyfold_server.store.tables import holders, organizations
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.changes import Change
    from keyfold_server.domain.holders import Claim, Holder
    from keyfold_server.store.database.trip import Answer, Step
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.relied import Relied
    from keyfold_server.store.tables.organizations import StoredOrganization

ACTION: Final = "rpc:organization:claim"
"""Action of the entry of a claim."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim that a change makes.

    Attributes:
        before: The organization without it.
        after: The organization with it.
        draft: The entry of the claim.
    """

    before: StoredOrganization
    after: StoredOrganization
    draft: Draft


class Claims:
    """The claims of a batch.

    Attributes:
        reading: The steps that look for others who have what the batch claims.
    """

    def __init__(self, wanted: Sequence[Change], relied: Relied) -> None:
        """Takes the changes, and the organizations that the batch locks and reads."""
        self._relied = relied
        self._claims = list(dict.fromkeys(c.claim for c in wanted if c.claim is not None))
        self._looking = [holders.looking(c.organization, c.holders) for c in self._claims]
        self.reading: list[Step] = [step for steps in self._looking for step in steps]
        self._elsewhere: dict[Claim, frozenset[Holder]] = {}
        self._owners: defaultdict[Holder, set[str]] = defaultdict(set)
        self._before: dict[str, StoredOrganization] = {}

    def take(self, answers: Sequence[Answer]) -> None:
        """Takes the answers to `reading`."""
        self._before.clear()
        self._owners.clear()
        each = iter(answers)
        for claim, looking in zip(self._claims, self._looking, strict=True):
            looked = list(islice(each, len(looking)))
            self._elsewhere[claim] = holders.elsewhere(claim.organization, claim.holders, looked)
            for holder, names in holders.owners(
                claim.holders, looked[: len(claim.holders)]
            ).items():
                self._owners[holder] |= names

    def decided(self, change: Change, seal: Seal, now: int) -> Claimed | None:
        """Decides what a change claims; `keep` makes it part of the batch.

        Returns:
            The claim; None: the change claims nothing that its organization does not have.

        Raises:
            KeyHeldByAnotherError: Another organization has what the change claims.
            TooManyHoldersError: The organization would have too many holders.
            RowNotAuthenticError: The organization's rows are not authentic.
        """
        claim = change.claim
        if claim is None:
            return None
        name = claim.organization
        # A change before this one in the batch may have claimed it for another organization.
        taken = {each for each in claim.holders if self._owners[each] - {name}}
        if name is None:
            refuse_held(claim.holders, taken)
            return None
        before = self._relied.stored(name)
        current = before.organization
        view = OrganizationView(current, held_elsewhere=self._elsewhere[claim] | taken)
        after = claiming(lambda view: view.organization, claim.holders, now)(view)
        if after is current:
            return None
        made = organizations.sealed(after, seal, before)
        new = sorted(str(each) for each in set(after.holders) - set(current.holders))
        detail = json.dumps({"holders": new}, separators=(",", ":"))
        draft = Draft(
            EntryKind.DECISION,
            replace(change.event, action=ACTION, detail=detail, message=""),
            organization=name,
            floor=made.floor,
            decision=described(current, after),
        )
        return Claimed(before, made, draft)

    def keep(self, claimed: Claimed) -> None:
        """Makes a claim part of the batch, so that later changes see it."""
        name = claimed.after.organization.name
        self._before.setdefault(name, claimed.before)
        self._relied.change(claimed.after)
        for holder in claimed.after.held:
            self._owners[holder].add(name)

    def steps(self) -> list[Step]:
        """Returns the steps that write the organizations that claim something."""
        return [
            step
            for name, before in sorted(self._before.items())
            for step in organization_rows.steps(before, self._relied.stored(name))
        ]

    def looking_again(self) -> list[Step]:
        """Returns the steps that look once more, under the lock of the log's head."""
        return holders.held_by(tuple(self._owners)) if self._claims else []

    def check_again(self, answers: Sequence[Answer]) -> None:
        """Refuses the batch if another organization has made a claim since it looked.

        Raises:
            LostRaceError: One has; the next try finds that out.
        """
        holders.check_again(None, self._owners, answers)
