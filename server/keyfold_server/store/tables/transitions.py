"""Transitions of root keys' health, each of which the log has once (protocol S0, S7).

Several replicas may observe a transition. The newest entry about a root key says which condition
the log has told, so whoever compares under the lock of the log's head writes a transition that
nobody has written yet. What a region's own replicas observe has entries of its own, with the region
in their detail.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, select

from keyfold_server.domain.log import AuditEvent, EntryKind
from keyfold_server.domain.transitions import Condition
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import root_names
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.health import Observation
    from keyfold_server.domain.log import KeyName
    from keyfold_server.domain.transitions import Transition
    from keyfold_server.store.tables.log import Stamp


_MOST: Final = 100
"""Most entries about a root key that are read to find what the log has told of it."""

_NEWEST: Final = (
    select(*table.c)
    .where(table.c.root == bindparam("of_root"), table.c.kek.is_(None))
    .order_by(table.c.number.desc())
    .limit(_MOST)
)
_KIND, _OUTCOME, _DETAIL = (
    list(table.columns).index(column) for column in (table.c.kind, table.c.outcome, table.c.detail)
)


def detail_of(seen: Observation) -> dict[str, object]:
    """Returns what an entry of the log tells of an observation beside its outcome."""
    detail: dict[str, object] = {
        "missing_permission": seen.missing_permission,
        "reason": seen.reason,
        "since": seen.since,
    }
    if seen.region:
        detail["region"] = seen.region
    return detail


def missing(connection: Connection, found: Sequence[Transition], stamp: Stamp) -> list[Draft]:
    """Returns the entries of the transitions that the log lacks.

    Args:
        connection: A connection inside a transaction that has the lock of the log's head.
        found: The transitions.
        stamp: For the entries.
    """
    told = _told(connection, found, stamp)
    lacking = [
        each
        for each in sorted(found, key=lambda each: (each.root, each.seen.region))
        if told.get((each.root, each.seen.region), each.before) is not each.condition
    ]
    named = stamp.dialect.trip(connection, [root_names.reading(each.root) for each in lacking])
    return [
        _draft(each, root_names.of(answer.rows, stamp.seal))
        for each, answer in zip(lacking, named, strict=True)
    ]


def _told(
    connection: Connection, found: Sequence[Transition], stamp: Stamp
) -> dict[tuple[str, str], Condition | None]:
    """Returns the condition that the log has told last of each root key, by root key and region.

    Where it has told none, or that is followed by more than `_MOST` entries about other regions,
    there is no condition.
    """
    roots = sorted({each.root for each in found})
    steps = [Step(_NEWEST, [{"of_root": root}]) for root in roots]
    told: dict[tuple[str, str], Condition | None] = {}
    for root, answer in zip(roots, stamp.dialect.trip(connection, steps), strict=True):
        for row in answer.rows:
            stamp.seal.check("log", row)
            kind, outcome, detail = row[_KIND], row[_OUTCOME], json.loads(row[_DETAIL])
            # A newer release may know a condition that this one does not.
            known = Condition(outcome) if outcome in Condition.__members__ else None
            refused = kind == EntryKind.REFUSAL.value
            told.setdefault(
                (root, detail.get("region", "")), Condition.REFUSED if refused else known
            )
    return told


def _draft(found: Transition, key: KeyName | None) -> Draft:
    seen = found.seen
    text = json.dumps(detail_of(seen), sort_keys=True, separators=(",", ":"))
    event = AuditEvent(
        "",
        "kms:root_key:observe",
        found.condition.value,
        text,
        key=key,
        message=seen.message,
        kms_request_id=seen.request_id,
    )
    return Draft(EntryKind.HEALTH, event, root=found.root)
