"""Reads entries of the log for people, by an index where there is one, and verifies each.

Of what an index finds, each entry is verified by its own seal, and by the chain where the next
entry is there too. Whether entries are missing from an index only the whole chain can say
(`log_chain`).
"""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BindParameter, Connection, Select, bindparam, literal, literal_column, select

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.events import Event, EventPage, LogMark, LogMarks
from keyfold_server.domain.health import ROOT
from keyfold_server.domain.log import EntryKind, KeyName
from keyfold_server.store.database.trip import Step, looking_for, one_of, rows_of
from keyfold_server.store.schema import clusters, log, meta, regions
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import listing, log_head
from keyfold_server.store.tables.log import ENTRY_ID, NUMBER, PREV
from keyfold_server.store.tables.log_chain import broken

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement

    from keyfold_server.domain.events import EventQuery, RootUse
    from keyfold_server.store.database.trip import Answer
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

_STEP: Final = 60 * 60 * 1000
"""Milliseconds by which the store's clock may have stepped back or forth between two entries. An
entry that was written while the clock was further off than that may be missing from a list that is
bounded in time."""

ROOTS: Final = 200
"""Most root keys of the clusters of one query. For more, the whole log is read."""

_END: Final = 1 << 62
"""A number that no entry has."""

_NAMES: Final = tuple(log.columns.keys())


def page(connection: Connection, query: EventQuery, seal: Seal) -> EventPage:
    """Reads a page of entries.

    Raises:
        RowNotAuthenticError: An entry was changed, removed or added.
    """
    head = log_head.read(connection, seal)
    low, high = _bounds(connection, query, head.pruned.number, head.newest.number + 1)
    ways = _ways(connection, query)
    if ways is None:
        rows = _scanned(connection, query, low, high)
        more = len(rows) == query.limit
        _check_whole(rows, low, high, more=more, newest_first=query.newest_first)
    else:
        rows, more = _found(connection, query, ways, low, high)
    _check(rows if not query.newest_first else rows[::-1], seal)
    ends = [row for row in (*rows[:1], *rows[-1:]) if row[NUMBER] == head.newest.number]
    if any(row[-1] != head.mac for row in ends):
        raise broken(head.newest.number)
    return EventPage([event(row) for row in rows], more)


def _bounds(connection: Connection, query: EventQuery, low: int, high: int) -> tuple[int, int]:
    """Returns the numbers between which to read, both excluded.

    If the clock never steps further than `_STEP`, an entry before one that is older than the start
    by more than that is itself before the start; and likewise at the end.
    """
    low = max(low, query.first - 1)
    if query.last is not None:
        high = min(high, query.last + 1)
    if query.after is not None:
        if query.newest_first:
            high = min(high, query.after)
        else:
            low = max(low, query.after)
    if query.start is not None:
        found = connection.execute(_BEFORE, {"time": query.start - _STEP}).scalar()
        low = max(low, found or 0)
    if query.end is not None:
        found = connection.execute(_AFTER, {"time": query.end + _STEP}).scalar()
        high = min(high, found or high)
    return low, high


_BEFORE: Final = (
    select(log.c.number).where(log.c.time < bindparam("time")).order_by(log.c.time.desc()).limit(1)
)
_AFTER: Final = (
    select(log.c.number).where(log.c.time >= bindparam("time")).order_by(log.c.time).limit(1)
)


def _ways(connection: Connection, query: EventQuery) -> list[Step] | None:
    """Returns the steps that find the numbers of entries, or None to read the whole log.

    Their parameters lack the bounds.
    """
    newest = query.newest_first
    steps: list[Step] = []
    if query.clusters is not None:
        for name in query.clusters:
            steps += [
                Step(_numbers(way, newest), [{"value": name}]) for way in ("decided", "undecided")
            ]
        used = [regions.c.cluster_uid == clusters.c.uid, clusters.c.name.in_(query.clusters)]
    elif query.organizations is not None:
        steps += [
            Step(_numbers("organization", newest), [{"value": name}])
            for name in query.organizations
        ]
        mine = clusters.c.organization.in_(query.organizations)
        used = [regions.c.cluster_uid == clusters.c.uid, mine]
    elif query.caller is not None:
        return [Step(_numbers("caller", newest), [{"value": query.caller}])]
    else:
        return None
    subjects = select(regions.c.root_subject).where(*used).distinct().limit(ROOTS + 1)
    found = connection.execute(subjects).scalars().all()
    if len(found) > ROOTS:
        return None
    roots = sorted(subject.removeprefix(ROOT) for subject in found)
    steps += [
        Step(_numbers(way, newest), [{"value": root}]) for root in roots for way in ("root", "kek")
    ]
    return steps


@cache
def _numbers(way: str, newest_first: bool) -> Select[Any]:  # noqa: FBT001  a key of the cache
    """Returns the statement that finds the numbers of entries by one index."""
    value: BindParameter[Any] = bindparam("value")
    conditions: dict[str, tuple[ColumnElement[bool], ...]] = {
        "decided": (log.c.cluster == value, log.c.version.is_not(None)),
        "undecided": (log.c.cluster == value, log.c.version.is_(None)),
        "organization": (log.c.organization == value,),
        "root": (log.c.root == value, log.c.kek.is_(None)),
        "kek": (log.c.root == value, log.c.kek.is_not(None)),
        # A literal, since no partial index answers a parameter.
        "caller": (log.c.caller == value, log.c.caller != literal_column("''")),
    }
    number = log.c.number
    return (
        select(number)
        .where(*conditions[way], number > bindparam("low"), number < bindparam("high"))
        .order_by(number.desc() if newest_first else number)
        .limit(bindparam("most"))
    )


def _found(
    connection: Connection, query: EventQuery, ways: Sequence[Step], low: int, high: int
) -> tuple[list[Cells], bool]:
    """Returns the entries that the steps find, and whether there may be further ones."""
    bounds = {"low": low, "high": high, "most": query.limit}
    numbers: set[int] = set()
    more = False
    for step in ways:
        # Each step returns the next ones in order. So whatever one has left out comes after at
        # least as many as a page holds.
        found = connection.execute(step.statement, {**step.rows[0], **bounds}).scalars().all()
        numbers.update(found)
        more = more or len(found) == query.limit
    chosen = sorted(numbers, reverse=query.newest_first)[: query.limit]
    rows: list[Cells] = []
    for step in looking_for(_at, chosen):
        rows += map(tuple, connection.execute(step.statement, step.rows[0]))
    rows.sort(key=lambda row: row[NUMBER], reverse=query.newest_first)
    return rows, more or len(numbers) > query.limit


@cache
def _at(count: int) -> Select[Any]:
    return select(*log.c).where(one_of(log.c.number, count))


def _scanned(connection: Connection, query: EventQuery, low: int, high: int) -> list[Cells]:
    number = log.c.number
    ordered = (
        select(*log.c)
        .where(number > low, number < high)
        .order_by(number.desc() if query.newest_first else number)
        .limit(query.limit)
    )
    return [tuple(row) for row in connection.execute(ordered)]


def _check_whole(
    rows: Sequence[Cells], low: int, high: int, *, more: bool, newest_first: bool
) -> None:
    """Refuses a page of the whole log in which a number is missing."""
    numbers = [row[NUMBER] for row in rows]
    wanted = range(high - 1, low, -1) if newest_first else range(low + 1, high)
    for number, want in zip(numbers, wanted, strict=False):
        if number != want:
            raise broken(want)
    if not more and len(numbers) < len(wanted):
        raise broken(wanted[len(numbers)])


def _check(rows: Sequence[Cells], seal: Seal) -> None:
    """Verifies entries, which are in the order of their numbers."""
    for row in rows:
        try:
            seal.check("log", row)
        except RowNotAuthenticError:
            raise broken(row[NUMBER]) from None
    for one, next_ in pairwise(rows):
        if one[NUMBER] + 1 == next_[NUMBER] and next_[PREV] != one[-1]:
            raise broken(next_[NUMBER])


def event(row: Cells) -> Event:
    """Returns the event of a verified row."""
    cells = dict(zip(_NAMES, row, strict=True))
    type_, uri, principal = cells["key_type"], cells["key_uri"], cells["key_principal"]
    return Event(
        number=cells["number"],
        entry_id=cells["entry_id"],
        time=cells["time"],
        kind=EntryKind.of(cells["kind"]),
        action=cells["action"],
        outcome=cells["outcome"],
        cluster=cells["cluster"],
        uid=cells["cluster_uid"],
        organization=cells["organization"],
        root=cells["root"],
        key=None if type_ is None else KeyName(type_, uri, principal),
        caller=cells["caller"],
        proof=cells["proof"],
        address=cells["address"],
        on_behalf_of=cells["on_behalf_of"],
        message=cells["message"] or "",
        request_id=cells["request_id"] or "",
        trace_id=cells["trace_id"] or "",
        kms_request_id=cells["kms_request_id"] or "",
        replica=cells["replica"],
        epoch=cells["epoch"],
        request=_object(cells["detail"]),
        decision=None if cells["decision"] is None else _object(cells["decision"]),
    )


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {"value": found}


def marking(numbers: Collection[int]) -> list[Step]:
    """Returns the steps that read the ends of the log and some entries; `marks` takes the rows."""
    return [_OWN, Step(log_head.READ), *looking_for(_at, sorted(numbers))]


_OWN: Final = Step(select(*meta.c))


def marks(answers: Sequence[Answer], seal: Seal, now: int) -> LogMarks:
    """Returns the ends of the log and the entries that were read, each by its own seal.

    Raises:
        RowNotAuthenticError: A row that was read is not authentic.
    """
    own, ends, *others = answers
    for row in own.rows:
        seal.check("meta", row)
    if not own.rows:
        raise not_authentic("meta")
    head = log_head.of(ends.rows, seal)
    found: dict[int, LogMark] = {}
    for row in rows_of(others):
        _check([row], seal)
        found[row[NUMBER]] = LogMark(row[NUMBER], row[ENTRY_ID], row[-1])
    newest, pruned = head.newest, head.pruned
    return LogMarks(
        store_uid=own.rows[0][1],
        service_key_id=seal.service_key_id,
        now=now,
        newest=LogMark(newest.number, newest.entry_id, head.mac),
        pruned=LogMark(pruned.number, pruned.entry_id, head.pruned_mac),
        found=found,
    )


def roots_used(connection: Connection, roots: Collection[str], use: RootUse) -> frozenset[str]:
    """Returns those of some root key ids that a region uses now, among the uses that count."""
    # As a filter does, this only chooses: whoever edits the store can read the whole log there.
    counts = [listing.covered_with_regions(use.covered)]
    if use.cluster is not None:
        counts.append(clusters.c.name == use.cluster)
    if use.organization is not None:
        counts.append(clusters.c.organization == use.organization)
    one = (
        select(literal(1))
        .select_from(regions.join(clusters, clusters.c.uid == regions.c.cluster_uid))
        .where(regions.c.root_subject == bindparam("subject"), *counts)
        .limit(1)
    )
    return frozenset(
        root
        for root in sorted(roots)
        if connection.execute(one, {"subject": ROOT + root}).first() is not None
    )


def organization_of(connection: Connection, cluster: str) -> str | None:
    """Returns the organization that a cluster has or, if it is gone, had last."""
    row = connection.execute(
        select(clusters.c.organization).where(clusters.c.name == cluster)
    ).first()
    if row is None:
        newest = (
            select(log.c.organization)
            .where(log.c.cluster == cluster, log.c.version.is_not(None))
            .order_by(log.c.number.desc())
            .limit(1)
        )
        row = connection.execute(newest).first()
    return None if row is None else row[0]
