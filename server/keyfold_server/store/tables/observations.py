"""Observations of root keys and KEKs: plain upserts without a MAC or a number (protocol S7).

They decide nothing, because each replica serves on its own proofs. The sweep's claims are rows of
the same table.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, Connection, bindparam, delete, or_, select, text

from keyfold_server.domain.health import Health, Observation
from keyfold_server.store.database.trip import Step, looking_for, one_of
from keyfold_server.store.schema import TURNS, Cells, observations

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Insert, Select
    from sqlalchemy.sql.dml import ReturningInsert

    from keyfold_server.store.database.dialect import Dialect

_PRUNED_AT_ONCE: Final = 1_000
"""Most claims that one pruning removes."""

_BEFORE: Final = observations.c.last_check < bindparam("before", type_=BigInteger)

_PRUNE: Final = delete(observations).where(
    observations.c.subject.in_(
        select(observations.c.subject)
        .where(text(TURNS), _BEFORE)
        .order_by(observations.c.last_check)
        .limit(_PRUNED_AT_ONCE)
    ),
    # Once more, because a replica may renew a claim while this statement waits for its row.
    _BEFORE,
)


def writing(seen: Sequence[Observation], dialect: Dialect) -> Step:
    """Returns the step that writes observations, each in place of its subject's former one."""
    rows = [
        {
            "subject": o.subject,
            "health": o.health.value,
            "since": o.since,
            "last_check": o.last_check,
            "last_success": o.last_success,
            # These are the KMS's words, and not every database takes a NUL.
            "message": o.message.replace("\0", ""),
            "request_id": o.request_id.replace("\0", ""),
            "can_wrap": o.can_wrap,
            "can_unwrap": o.can_unwrap,
            "reason": o.reason or None,
            "missing_permission": o.missing_permission.replace("\0", "") or None,
        }
        # All replicas write in one order, so that two cannot wait for each other's rows.
        for o in sorted(seen, key=lambda o: o.subject)
    ]
    return Step(_upsert(dialect), rows)


@cache
def _upsert(dialect: Dialect) -> Insert:
    return dialect.upsert(observations)


def reading(subjects: Collection[str]) -> list[Step]:
    """Returns the steps that read the last observation of each subject; `of` takes the rows."""
    return looking_for(_reading, subjects)


@cache
def _reading(count: int) -> Select[Any]:
    return select(*observations.c).where(one_of(observations.c.subject, count))


def of(found: Iterable[Cells]) -> dict[str, Observation]:
    """Returns observations by subject, without the subjects that have none."""
    return {row[0]: _observation(row) for row in found}


def claim(
    connection: Connection, works: Mapping[str, int], now: int, dialect: Dialect
) -> frozenset[str]:
    """Claims pieces of work for the calling replica, in one statement.

    Args:
        connection: A connection inside a transaction that writes.
        works: By the name of each work, which is the subject of its row, the milliseconds after the
            last claim before which nobody may claim it again.
        now: Milliseconds of Unix time, by the store's clock.
        dialect: Differences of this database from others.

    Returns:
        The names of the works whose claims succeeded.
    """
    rows = [
        {
            "subject": name,
            "health": Health.UNKNOWN.value,
            # Of a claim, the time before which the claim before it must lie.
            "since": now - after_ms,
            "last_check": now,
            "message": "",
            "request_id": "",
        }
        # All replicas claim in one order, so that two cannot wait for each other's rows.
        for name, after_ms in sorted(works.items())
    ]
    return frozenset(connection.execute(_claiming(dialect).values(rows)).scalars())


@cache
def _claiming(dialect: Dialect) -> ReturningInsert[tuple[Any]]:
    held = observations.c.last_check
    statement = dialect.upsert(
        observations, only=lambda new: or_(held <= new["since"], held > new["last_check"])
    )
    return statement.returning(observations.c.subject)


def prune_turns(connection: Connection, before: int) -> None:
    """Removes some of the claims of turns that were made before a time."""
    connection.execute(_PRUNE, {"before": before})


def _observation(row: Cells) -> Observation:
    subject, health, *others, reason, missing_permission = row
    # A newer release may know a health that this one does not.
    known = Health(health) if health in Health.__members__ else Health.UNKNOWN
    cells: Cells = (*others, reason or "", missing_permission or "")
    return Observation(subject, known, *cells)
