"""Who needs a root key: its uses among the wraps and in their history, paged and counted.

A use is found by a column that its row's MAC covers. The indexes on those columns also hold the
cluster's name, so a page begins where the page before ended, however many uses a key has. One
statement reads a page together with all rows of its clusters, which vouch for the uses. A count
vouches for nothing, as no filter does (`listing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    and_,
    cast,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)

from keyfold_server.domain.errors import ClusterBannedError, RowNotAuthenticError, Unusable
from keyfold_server.domain.key_usage import KeyUse, KeyUsePage, KeyUseSummary, UseGroup, UsePlace
from keyfold_server.domain.lifecycle import State
from keyfold_server.store import seal as seals
from keyfold_server.store.schema import clusters, generations, regions, wrap_history, wraps
from keyfold_server.store.tables import clusters as cluster_rows
from keyfold_server.store.tables import listing
from keyfold_server.store.tables import wrap_history as history

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select, Table

    from keyfold_server.domain.cluster import SupersededWrap, Wrap
    from keyfold_server.domain.key_usage import KeyQuery
    from keyfold_server.domain.rights import Coverage
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

_PLACE: Final = len(UsePlace._fields)
_KEK: Final = _PLACE
_UID: Final = _PLACE + 1
_NUMBER: Final = _PLACE + 2
_HISTORY: Final = _PLACE + 3
_OWNER: Final = _HISTORY + len(wrap_history.columns)
"""Columns of the statement that reads a page: a use's place, its KEK, its cluster's uid, its number
in the history and its row there; or, from `_OWNER` on, rows of a cluster."""

_OWNERS: Final = cluster_rows.AGGREGATE.with_only_columns(
    *(null() for _ in range(_OWNER)), *cluster_rows.AGGREGATE.selected_columns
)
_NO_OWNER: Final = tuple(null() for _ in cluster_rows.AGGREGATE.selected_columns)


def read(
    connection: Connection,
    seal: Seal,
    query: KeyQuery,
    covered: Collection[Coverage],
    after: UsePlace | None,
    limit: int,
) -> KeyUsePage:
    """Reads a page of uses, and verifies the clusters that they are of."""
    uses: list[Cells] = []
    owners: list[Cells] = []
    for row in map(tuple, connection.execute(_page(query, covered, after, limit + 1))):
        if row[_UID] is None:
            owners.append(row[_OWNER:])
        else:
            uses.append(row[:_OWNER])
    shown = uses[:limit]
    # Somebody who edited a row may have put something else in the place of a name or number, which
    # no page can begin after.
    places = [UsePlace(*cells[:_PLACE]) for cells in shown if _is_place(cells[:_PLACE])]
    last = places[-1] if places else None
    entries = _verified(shown, cluster_rows.of(owners, seal), seal)
    return KeyUsePage(tuple(entries), last, more=len(uses) > limit and last is not None)


def summary(
    connection: Connection, query: KeyQuery, covered: Collection[Coverage], oldest_backup: int
) -> KeyUseSummary:
    """Counts all uses, and the banned clusters that have no rows."""
    uses = union_all(
        *(_facts(query, each, table, covered, oldest_backup) for table, each in _chosen(query))
    ).subquery()
    *alike, created_at, superseded_at = uses.c
    counted = select(*alike, func.count(), func.min(created_at), func.max(superseded_at))
    groups = [_group(tuple(row)) for row in connection.execute(counted.group_by(*alike))]
    lost = select(func.count()).select_from(listing.every_rowless_ban().subquery())
    return KeyUseSummary(tuple(groups), int(connection.execute(lost).scalar_one()))


def _page(
    query: KeyQuery, covered: Collection[Coverage], after: UsePlace | None, limit: int
) -> CompoundSelect[Any]:
    """Selects the first uses after a place, then all rows of their clusters."""
    parts = [_first(_places(each, table, covered), after, limit) for table, each in _chosen(query)]
    order: list[ColumnElement[Any]] = [literal_column(str(n + 1)) for n in range(_PLACE)]
    page = union_all(*parts).order_by(*order).limit(limit).cte("page")
    superseded = and_(
        wrap_history.c.cluster_uid == page.c.uid, wrap_history.c.number == page.c.history
    )
    found = select(*page.c, *wrap_history.c, *_NO_OWNER)
    both: CompoundSelect[Any] = union_all(
        found.select_from(page).outerjoin(wrap_history, superseded),
        _OWNERS.where(clusters.c.uid.in_(select(page.c.uid))),
    )
    return both.order_by(*order)


def _chosen(query: KeyQuery) -> Iterator[tuple[Table, list[ColumnElement[bool]]]]:
    """Yields the conditions that together choose every use once, each for one index.

    A union of them keeps the order of the indexes, which an OR would not.
    """
    for table in (wraps, wrap_history):
        columns = table.c
        also = []
        if query.key_version is not None:
            also.append(_version(columns.key_version, query.key_version, and_older=query.and_older))
        if query.principal is not None:
            also.append(columns.root_principal == query.principal)
        if query.family is not None:
            if query.holder is not None:
                of_tenant = columns.root_tenant == query.holder
                also.append(or_(columns.root_holder == query.holder, of_tenant))
            yield table, [columns.root_family == query.family, *also]
        elif query.holder is not None:
            yield table, [columns.root_holder == query.holder, *also]
            other = columns.root_holder != query.holder
            yield table, [columns.root_tenant == query.holder, other, *also]
        else:
            yield table, also


def _version(column: ColumnElement[str], version: str, *, and_older: bool) -> ColumnElement[bool]:
    if and_older:
        # Numbers of equal length have the order of their digits, in every collation.
        length = func.length(column)
        same = and_(length == len(version), column <= version)
        return or_(length < len(version), same)
    # Some providers write a version with the name of its key in front.
    return or_(column == version, column.endswith(f"/{version}", autoescape=True))


def _joined(
    table: Table, covered: Collection[Coverage], *columns: ColumnElement[Any]
) -> Select[Any]:
    """Selects columns of wraps with their generations, and with their clusters if `covered` asks.

    The name of a wrap's cluster stands in the wrap's index. So the database passes over what a
    caller may not see without a look at other tables.
    """
    found = (
        select(*columns)
        .select_from(table)
        .join(generations, generations.c.kek_id == table.c.kek_id)
    )
    if any(each.organizations is not None for each in covered):
        found = found.join(clusters, clusters.c.uid == table.c.cluster_uid)
    return found


def _visible(table: Table, covered: Collection[Coverage]) -> ColumnElement[bool]:
    return listing.covered_with_regions(covered, table.c.cluster, generations.c.region)


def _places(
    conditions: Sequence[ColumnElement[bool]], table: Table, covered: Collection[Coverage]
) -> Select[Any]:
    past = table is wrap_history
    number = table.c.number if past else cast(null(), BigInteger)
    return _joined(
        table,
        covered,
        table.c.cluster,
        generations.c.region,
        generations.c.number.label("generation"),
        (table.c.wrap if past else table.c.number).label("wrap"),
        table.c.kek_id,
        table.c.cluster_uid.label("uid"),
        number.label("history"),
    ).where(*conditions, _visible(table, covered))


def _first(uses: Select[Any], after: UsePlace | None, limit: int) -> Select[Any]:
    place = list(uses.selected_columns)[:_PLACE]
    if after is not None:
        # The first condition is for the index, which holds no more of a place than the name.
        uses = uses.where(place[0] >= after.cluster, tuple_(*place) > tuple_(*after))
    return select(uses.order_by(*place).limit(limit).subquery())


def _facts(
    query: KeyQuery,
    conditions: Sequence[ColumnElement[bool]],
    table: Table,
    covered: Collection[Coverage],
    oldest_backup: int,
) -> Select[Any]:
    """Selects what uses are grouped by, and the times of their wraps."""
    past = table is wrap_history
    place = and_(
        regions.c.cluster_uid == generations.c.cluster_uid, regions.c.name == generations.c.region
    )
    facts = _joined(
        table,
        covered,
        _visible(table, covered).label("visible"),
        (true() if past else false()).label("superseded"),
        (false() if query.uri is None else table.c.root_uri != query.uri).label("other_uri"),
        regions.c.state.label("state"),
        generations.c.retired_at.is_not(None).label("retired"),
        (table.c.superseded_at < oldest_backup if past else false()).label("expired"),
        table.c.created_at,
        (table.c.superseded_at if past else cast(null(), BigInteger)).label("superseded_at"),
    )
    return facts.join(regions, place).where(*conditions)


def _group(cells: Cells) -> UseGroup:
    visible, superseded, other_uri, state, retired, expired, count, since, until = cells
    try:
        state = State(state)
    except ValueError:
        # Somebody edited it. A region that may be in service needs its key.
        state = State.ENABLED
    return UseGroup(
        visible=bool(visible),
        superseded=bool(superseded),
        other_uri=bool(other_uri),
        state=state,
        retired=bool(retired),
        expired=bool(expired),
        count=count,
        since=since,
        until=until,
    )


def _is_place(cells: Cells) -> bool:
    return all(map(isinstance, cells, (str, str, int, int)))


def _verified(
    uses: Iterable[Cells], owners: Mapping[str, StoredCluster | Unusable], seal: Seal
) -> Iterator[KeyUse | Unusable]:
    """Yields uses, and the error of a cluster in the place of its first use."""
    spoilt = set()
    for cells in uses:
        name = cells[0] if isinstance(cells[0], str) else None
        try:
            yield _use(cells, name, owners, seal)
        except (ClusterBannedError, RowNotAuthenticError) as error:
            if name not in spoilt:
                spoilt.add(name)
                yield error


def _use(
    cells: Cells, name: str | None, owners: Mapping[str, StoredCluster | Unusable], seal: Seal
) -> KeyUse:
    """Returns the use in a row.

    Raises:
        RowNotAuthenticError: A row of the cluster or of its history is not authentic.
        ClusterBannedError: The cluster's name is banned.
    """
    owner = None if name is None else owners.get(name)
    stored = None if owner is None else cluster_rows.authentic(owner)
    if stored is None or stored.cluster.uid != cells[_UID]:
        raise seals.not_authentic("wraps", name)
    cluster = stored.cluster
    region = next((each for each in cluster.regions if each.name == cells[1]), None)
    ring = () if region is None else region.generations
    generation = next((each for each in ring if each.kek_id == cells[_KEK]), None)
    if region is None or generation is None:
        raise seals.not_authentic("wraps", name)
    wrap: Wrap | SupersededWrap = generation.current
    superseded_at = None
    if cells[_NUMBER] is not None:
        row = cells[_HISTORY:_OWNER]
        seal.check("wrap_history", row, name)
        if row[1] > stored.history_count:
            raise seals.not_authentic("wrap_history", name)
        wrap = old = history.superseded(row)
        superseded_at = old.superseded_at
    asked = region.newest.current
    return KeyUse(
        cluster=cluster.name,
        cluster_uid=cluster.uid,
        organization=cluster.organization,
        region=region.name,
        state=region.state,
        policy=region.policy,
        generation=generation.number,
        kek_id=generation.kek_id,
        retired=generation.retired_at is not None,
        newest=generation is region.newest,
        rechecked=(wrap.root, wrap.key_version) == (asked.root, asked.key_version),
        wrap=wrap.number,
        key_type=wrap.root.type,
        uri=wrap.root.uri,
        key_version=wrap.key_version,
        principal=wrap.root.principal,
        created_at=wrap.created_at,
        superseded_at=superseded_at,
    )
