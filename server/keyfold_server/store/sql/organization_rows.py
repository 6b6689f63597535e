"""Steps that write an organization's rows, in a change of it and in a batch that claims for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyfold_server.store import schema
from keyfold_server.store.tables import rows

if TYPE_CHECKING:
    from keyfold_server.store.database.trip import Step
    from keyfold_server.store.tables.organizations import StoredOrganization

_ORGANIZATIONS: Final = schema.organizations
_LINKS: Final = schema.key_links
_HOLDERS: Final = schema.holders


def steps(before: StoredOrganization, after: StoredOrganization) -> list[Step]:
    """Returns the steps that write the rows that differ; each must write all of its rows."""
    gone = [row for name, row in before.links.items() if name not in after.links]
    fresh = [row for name, row in after.links.items() if name not in before.links]
    changed = [
        row
        for name, row in after.links.items()
        if name in before.links and before.links[name] != row
    ]
    released = [row for each, row in before.held.items() if each not in after.held]
    claimed = [row for each, row in after.held.items() if each not in before.held]
    own, was = after.own, before.own
    found = [
        # The own row comes first, because the rows below refer to it; and goes last.
        rows.inserting(_ORGANIZATIONS, [own] if own is not None and was is None else []),
        rows.deleting(_LINKS, [row[:2] for row in gone]),
        rows.inserting(_LINKS, fresh),
        rows.changing(_LINKS, changed),
        rows.deleting(_HOLDERS, [row[:3] for row in released]),
        rows.inserting(_HOLDERS, claimed),
        rows.changing(_ORGANIZATIONS, [own] if own is not None and was is not None else []),
        rows.deleting(_ORGANIZATIONS, [was[:1]] if was is not None and own is None else []),
    ]
    return [step for step in found if step.rows]
