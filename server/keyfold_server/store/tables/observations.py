"""What was seen of root keys: plain upserts, no MAC and no number (protocol S7).

They decide nothing: service rests on each replica's own proofs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from keyfold_server.domain.health import Health, Observation
from keyfold_server.store.schema import Cells, observations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.dialect import Dialect


def write(connection: Connection, seen: Sequence[Observation], dialect: Dialect) -> None:
    """Writes observations over what was there."""
    rows = [
        {
            "subject": o.subject,
            "health": o.health.value,
            "since": o.since,
            "last_check": o.last_check,
            "last_success": o.last_success,
            # Providers' own words; not every database takes a NUL.
            "message": o.message.replace("\0", ""),
            "request_id": o.request_id.replace("\0", ""),
            "can_wrap": o.can_wrap,
            "can_unwrap": o.can_unwrap,
            "reason": o.reason or None,
            "missing_permission": o.missing_permission.replace("\0", "") or None,
        }
        # In one order everywhere, so that two replicas cannot wait for each other's rows.
        for o in sorted(seen, key=lambda o: o.subject)
    ]
    if rows:
        connection.execute(dialect.upsert(observations), rows)


def read(connection: Connection, subjects: Sequence[str]) -> dict[str, Observation]:
    """Reads what was last seen, by subject."""
    if not subjects:
        return {}
    statement = select(*observations.c).where(observations.c.subject.in_(set(subjects)))
    return {row[0]: _observation(tuple(row)) for row in connection.execute(statement).all()}


def _observation(row: Cells) -> Observation:
    subject, health, *others, reason, missing_permission = row
    # A newer release may know a health that this one does not.
    known = Health(health) if health in Health.__members__ else Health.UNKNOWN
    cells: Cells = (*others, reason or "", missing_permission or "")
    return Observation(subject, known, *cells)
