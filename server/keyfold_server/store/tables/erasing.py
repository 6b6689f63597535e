"""Erasing: the rows that go with a region or a cluster, and whose turn it is to erase (D3, D5).

What decides is `clusters`' and the log's. The row of the turns is an observation: whoever edits it
can make an erasure come later, or begin a pause anew, and could as well delete the rows by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select, update

from keyfold_server.domain import owners
from keyfold_server.domain.erasure import Due, ErasureTurn
from keyfold_server.domain.log import EntryKind
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import (
    clusters,
    erasing,
    generation_uses,
    history_checkpoints,
    identities,
    log,
    observations,
    regions,
    requests,
    wrap_history,
)
from keyfold_server.store.tables.identities import IdentityKind, reading, sealed
from keyfold_server.store.tables.rows import changing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

_ROW: Final = 1

_MOST: Final = 100
"""Most clusters that one turn is given."""

GAP: Final = 10 * 60_000
"""Milliseconds without a turn from which on the clock may have been set forward."""

PAUSE: Final = 24 * 3_600_000
"""The longest pause, in milliseconds."""

_HISTORY: Final = delete(wrap_history).where(wrap_history.c.cluster_uid == bindparam("uid"))
_CHECKPOINT: Final = delete(history_checkpoints).where(
    history_checkpoints.c.cluster_uid == bindparam("uid")
)
_OWN: Final = delete(clusters).where(clusters.c.uid == bindparam("gone"))
_REQUESTS: Final = delete(requests).where(requests.c.cluster == bindparam("name"))
_USES: Final = delete(generation_uses).where(generation_uses.c.kek_id == bindparam("kek"))
_SEEN: Final = delete(observations).where(
    # What the region's own replicas saw has a colon and the region behind the same subject.
    observations.c.subject >= bindparam("kek"),
    observations.c.subject < bindparam("end"),
)
_OVERDUE: Final = (
    select(func.count())
    .select_from(regions)
    .where(regions.c.purge_time.is_not(None), regions.c.purge_time <= bindparam("now"))
)
_NEWEST: Final = (
    select(log.c.number)
    # A literal, since no partial index answers a parameter.
    .where(log.c.kind == literal_column(f"'{EntryKind.ERASURE.value}'"))
    .order_by(log.c.number.desc())
    .limit(1)
)


def steps(
    ends: Sequence[Cluster], kek_ids: Sequence[bytes], issued: Iterable[Cells], seal: Seal
) -> list[Step]:
    """Returns the steps that take away what goes with regions, besides their own rows.

    The history of a cluster's wraps goes with the cluster, and not with one of its regions. It has
    no ciphertexts and is one chain, and it tells which root keys still open backups of the cluster.

    Args:
        ends: The clusters that are erased. The rows below their own rows must be gone.
        kek_ids: The KEKs that are erased.
        issued: The rows of the identities that those clusters own. They stay, for good (protocol
            C2), as those of an owner that never comes again.
        seal: Seals the rows.
    """
    by_name = {owners.of_cluster(each.name): each.uid for each in ends}
    moved = [
        sealed((kind, owners.of_erased(by_name[owner]), *others), seal)
        for kind, owner, *others, _ in issued
    ]
    keks = sorted(kek_ids)
    return [
        Step(_HISTORY, [{"uid": each.uid} for each in ends], exact=False),
        Step(_CHECKPOINT, [{"uid": each.uid} for each in ends], exact=False),
        Step(_OWN, [{"gone": each.uid} for each in ends]),
        Step(_REQUESTS, [{"name": each.name} for each in ends], exact=False),
        changing(identities, moved),
        # In one order, so that two transactions cannot wait for each other's rows.
        Step(
            _SEEN,
            [{"kek": f"kek:{kek.hex()}", "end": f"kek:{kek.hex()};"} for kek in keks],
            exact=False,
        ),
        Step(_USES, [{"kek": kek} for kek in keks], exact=False),
    ]


def looking_for_issued(ends: Sequence[Cluster]) -> list[Step]:
    """Returns the steps that read the identities which clusters own; `steps` takes the rows."""
    return [reading(kind, owners.of_cluster(each.name)) for each in ends for kind in IdentityKind]


def begin_turn(connection: Connection, every: int, now: int) -> ErasureTurn | None:
    """Begins a turn, or returns None if it is too early for one.

    Whoever sets the clock forward past the time of a deletion makes it due too early, and so does
    a start after a long stop, as far as anyone can tell. So after a gap nothing is erased for as
    long as the gap was, up to a day (protocol D3).

    Args:
        connection: A connection inside a transaction that writes.
        every: Milliseconds from the last turn, of whichever replica, to the next.
        now: Milliseconds of Unix time, by the store's clock.
    """
    last, resumes, clean = _standing(connection, now)
    if last is not None and 0 <= now - last < every:
        return None
    gap = 0 if last is None else now - last
    resumes = _resumes(gap, resumes, now)
    connection.execute(
        update(erasing).where(erasing.c.id == _ROW).values(turned_at=now, resumes_at=resumes)
    )
    return ErasureTurn(
        now,
        () if resumes is not None else tuple(_due(connection, now)),
        overdue=int(connection.execute(_OVERDUE, {"now": now}).scalar_one()),
        resumes=resumes,
        gap=gap if gap > GAP else None,
        traces=newest(connection) > clean,
    )


def _standing(connection: Connection, now: int) -> tuple[int | None, int | None, int]:
    """Locks the row of the turns, and makes it if there is none.

    Returns:
        When the last turn was, or None; until when nothing is erased, or None; and the number of
        the last erasure without traces.
    """
    row = connection.execute(
        select(erasing.c.turned_at, erasing.c.resumes_at, erasing.c.cleared)
        .where(erasing.c.id == _ROW)
        .with_for_update()
    ).first()
    if row is not None:
        return row[0], row[1], row[2]
    # If two replicas insert the row at once, one loses the race and tries again.
    connection.execute(insert(erasing).values(id=_ROW, turned_at=now, resumes_at=None, cleared=0))
    return None, None, 0


def _resumes(gap: int, resumes: int | None, now: int) -> int | None:
    """Returns when erasing goes on, or None if nothing stands in the way.

    It is never more than `PAUSE` ahead, also if somebody has set the clock back since.
    """
    if gap > GAP:
        return max(resumes or 0, now + min(gap, PAUSE))
    return None if resumes is None or resumes <= now else min(resumes, now + PAUSE)


def _due(connection: Connection, now: int) -> Iterable[Due]:
    """Yields what is due, oldest first."""
    first = (
        select(regions.c.cluster_uid)
        .where(regions.c.purge_time.is_not(None), regions.c.purge_time <= now)
        .group_by(regions.c.cluster_uid)
        .order_by(func.min(regions.c.purge_time))
        .limit(_MOST)
    )
    chosen = (
        select(clusters.c.name, regions.c.name)
        .join(clusters, clusters.c.uid == regions.c.cluster_uid)
        .where(
            regions.c.purge_time.is_not(None),
            regions.c.purge_time <= now,
            regions.c.cluster_uid.in_(first),
        )
        .order_by(regions.c.purge_time, clusters.c.name, regions.c.name)
    )
    by_name: dict[str, list[str]] = {}
    for name, region in connection.execute(chosen):
        by_name.setdefault(name, []).append(region)
    return (Due(name, tuple(sorted(some))) for name, some in by_name.items())


def newest(connection: Connection) -> int:
    """Returns the number of the newest erasure in the log, 0 if there is none."""
    return connection.execute(_NEWEST).scalar() or 0


def uncleared(connection: Connection) -> int:
    """Returns the number of the newest erasure if the files may have traces of it, else 0."""
    clean = connection.execute(select(erasing.c.cleared).where(erasing.c.id == _ROW)).scalar() or 0
    found = newest(connection)
    return found if found > clean else 0


def cleared(connection: Connection, number: int) -> None:
    """Notes that the database's files have no traces of erasures up to a number."""
    later = update(erasing).where(erasing.c.id == _ROW, erasing.c.cleared < number)
    connection.execute(later.values(cleared=number))
