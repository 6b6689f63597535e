"""Transitions of root keys' health, each of which the log has once (protocol S0, S7).

Several replicas may observe a transition. The newest entry about a root key says which condition
the log has told, so whoever compares under the lock of the log's head writes a transition that
nobody has written yet.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select

from keyfold_server.domain.log import AuditEvent, EntryKind
from keyfold_server.domain.transitions import Condition
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import root_names
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.log import KeyName
    from keyfold_server.domain.transitions import Transition
    from keyfold_server.store.tables.log import Stamp


def missing(connection: Connection, found: Sequence[Transition], stamp: Stamp) -> list[Draft]:
    """Returns the entries of the transitions that the log lacks.

    Args:
        connection: A connection inside a transaction that has the lock of the log's head.
        found: The transitions.
        stamp: For the entries.
    """
    told = _told(connection, [each.root for each in found], stamp)
    lacking = [
        each
        for each in sorted(found, key=lambda each: each.root)
        if told.get(each.root, each.before) is not each.condition
    ]
    named = stamp.dialect.trip(connection, [root_names.reading(each.root) for each in lacking])
    return [
        _draft(each, root_names.of(answer.rows, stamp.seal))
        for each, answer in zip(lacking, named, strict=True)
    ]


def _told(
    connection: Connection, roots: Sequence[str], stamp: Stamp
) -> dict[str, Condition | None]:
    """Returns the condition that the log has told last of each root key, where it has told one."""
    of_root = table.c.root.in_(roots) & table.c.kek.is_(None)
    newest = select(func.max(table.c.number)).where(of_root).group_by(table.c.root)
    told: dict[str, Condition | None] = {}
    for row in connection.execute(select(*table.c).where(table.c.number.in_(newest))):
        stamp.seal.check("log", tuple(row))
        if row.kind == EntryKind.REFUSAL.value:
            told[row.root] = Condition.REFUSED
        else:
            # A newer release may know a condition that this one does not.
            known = row.outcome in Condition.__members__
            told[row.root] = Condition(row.outcome) if known else None
    return told


def _draft(found: Transition, key: KeyName | None) -> Draft:
    seen = found.seen
    detail = {
        "missing_permission": seen.missing_permission,
        "reason": seen.reason,
        "since": seen.since,
    }
    text = json.dumps(detail, sort_keys=True, separators=(",", ":"))
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
