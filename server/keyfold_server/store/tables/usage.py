"""Counts of uses: observations without a MAC or a number (protocol S7)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, func, select, tuple_

from keyfold_server.domain.usage import MINUTE, UsageKey
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import clusters, usage, usage_flushes
from keyfold_server.store.tables.listing import covered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Insert, Select

    from keyfold_server.domain.usage import UsageQuery
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.trip import Answer
    from keyfold_server.store.schema import Cells

_FLUSHED: Final = select(usage_flushes.c.number).where(
    usage_flushes.c.writer == bindparam("writer")
)


def flushed(writer: str) -> Step:
    """Returns the step that reads the number of a process's last flush."""
    return Step(_FLUSHED, [{"writer": writer}])


def is_new(found: Iterable[Cells], flush: int) -> bool:
    """Returns whether the store lacks a flush, by the rows that `flushed` read."""
    return all(row[0] < flush for row in found)


def between(counts: Mapping[UsageKey, int], first: int, last: int) -> dict[UsageKey, int]:
    """Returns counts whose minutes lie between two times, each moved there if it did not.

    Args:
        counts: The counts.
        first: The first time, in milliseconds of Unix time.
        last: The last time.
    """
    earliest, latest = (time - time % MINUTE for time in (first, last))
    moved: dict[UsageKey, int] = {}
    for key, count in counts.items():
        there = key._replace(time=min(max(key.time, earliest), latest))
        moved[there] = moved.get(there, 0) + count
    return moved


def adding(
    writer: str, flush: int, counts: Mapping[UsageKey, int], now: int, dialect: Dialect
) -> list[Step]:
    """Returns the steps that note a flush and add its counts; `is_noted` takes their answers.

    The note comes first. Whoever writes the same flush at the same time waits there for the other
    one's end, and then notes nothing.
    """
    names = usage.columns.keys()
    # All replicas write in one order, so that two cannot wait for each other's rows.
    rows = [dict(zip(names, (*key, count), strict=True)) for key, count in sorted(counts.items())]
    note = {"writer": writer, "number": flush, "written_at": now}
    return [Step(_note(dialect), [note]), Step(_add(dialect), rows)]


def is_noted(answers: Sequence[Answer]) -> bool:
    """Returns whether the flush was noted; if not, the store has it, and the counts must go."""
    return answers[0].count > 0


@cache
def _add(dialect: Dialect) -> Insert:
    return dialect.upsert(usage, adding="count")


@cache
def _note(dialect: Dialect) -> Insert:
    return dialect.upsert(usage_flushes, if_later="number")


def read(connection: Connection, query: UsageQuery) -> list[tuple[UsageKey, int]]:
    """Reads a page of counts, added up over the query's span."""
    return [(UsageKey(*row[:-1]), int(row[-1])) for row in connection.execute(_page(query))]


def _page(query: UsageQuery) -> Select[Any]:
    which, columns = query.which, usage.c
    time = columns.time - columns.time % which.span
    key = (time, columns.cluster, columns.region, columns.caller, columns.method, columns.outcome)
    chosen = select(*key, func.sum(columns.count))
    if which.cluster is not None:
        chosen = chosen.where(columns.cluster == which.cluster)
    if which.caller is not None:
        chosen = chosen.where(columns.caller == which.caller)
    start = which.start
    if query.after is not None:
        chosen = chosen.where(tuple_(*key) > tuple_(*query.after))
        start = max(start or 0, query.after.time)
    if start is not None:
        chosen = chosen.where(columns.time >= start)
    if which.end is not None:
        chosen = chosen.where(columns.time < which.end)
    whole = any(each.is_whole for each in query.covered)
    if which.organization is not None or not whole:
        # The database looks up the cluster of each count, so it never goes through all clusters.
        seen = select(clusters.c.uid).where(
            clusters.c.name == columns.cluster, covered(query.covered)
        )
        if which.organization is not None:
            seen = seen.where(clusters.c.organization == which.organization)
        chosen = chosen.where(seen.exists())
    return chosen.group_by(*key).order_by(*key).limit(query.limit)


def prune(connection: Connection, before: int, flushes_before: int) -> None:
    """Removes counts and notes of flushes that are older than two times."""
    connection.execute(delete(usage).where(usage.c.time < before))
    connection.execute(delete(usage_flushes).where(usage_flushes.c.written_at < flushes_before))
