"""Floors: a cluster's own row equals the newest decision about it in the log (protocol S10).

An entry that decides something about a cluster carries the uid, version, epoch and MAC of the row
that it left, and that row changes with nothing else. So a cluster whose row differs from the newest
such entry is not authentic: somebody put older rows back, or the database did not keep the newer
ones, whatever it reported.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, func, literal_column, select, union_all

from keyfold_server.domain.bans import banned
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.log import EntryKind
from keyfold_server.store.database.trip import looking_for, one_of
from keyfold_server.store.schema import clusters, log, regions
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables.log import CLUSTER, NUMBER, floor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import CompoundSelect, Connection, Select

    from keyfold_server.domain.log import Floor
    from keyfold_server.store.database.trip import Step
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

newest: Final = log.alias("newest")
"""The newest entry with a floor, for a statement that reads clusters."""

_every: Final = log.alias("every_floor")
_first: Final = regions.alias("first_region")

decided: Final = (
    select(func.max(_every.c.number))
    .where(_every.c.cluster == clusters.c.name, _every.c.version.is_not(None))
    .correlate(clusters)
    .scalar_subquery()
)
"""Number of a cluster's newest entry with a floor, for a statement that reads clusters."""

on_newest: Final = and_(
    newest.c.number == decided,
    # The entry stands beside the first region alone, since a decision may be long.
    regions.c.name
    == select(func.min(_first.c.name))
    .where(_first.c.cluster_uid == clusters.c.uid)
    .correlate(clusters)
    .scalar_subquery(),
)
"""The condition that joins `newest` to a statement that reads clusters and their regions."""

_LOOKED_AT: Final = 100
"""Most entries of a cluster among which a ban looks for an authentic one."""


_newest_of_name: Final = select(*newest.c).where(
    newest.c.version.is_not(None),
    newest.c.number
    == select(func.max(_every.c.number))
    .where(_every.c.cluster == newest.c.cluster, _every.c.version.is_not(None))
    .correlate(newest)
    .scalar_subquery(),
)

bans: Final = _newest_of_name.where(newest.c.kind == literal_column(f"'{EntryKind.BAN.value}'"))
"""Reads, of every name, the newest entry with a floor if it is a ban."""

_tombstones: Final = _newest_of_name.where(newest.c.row_mac.is_(None))


def looking_for_ends(names: Sequence[str]) -> list[Step]:
    """Returns the steps that read the newest entries with floors of some names if they are ends.

    An end is a ban or a tombstone: an entry after which no row of that name serves.
    """
    return looking_for(_ends_of, names)


@cache
def _ends_of(count: int) -> CompoundSelect[Any]:
    return union_all(*ends_of(count))


def ends_of(count: int) -> tuple[Select[Any], ...]:
    """Returns statements that together do so for a number of names; see `one_of`.

    There is one for each kind of end, because each has an index of its own, with few entries.
    """
    named = one_of(newest.c.cluster, count)
    return bans.where(named), _tombstones.where(named)


def of(connection: Connection, name: str, seal: Seal) -> tuple[Cells, Floor] | None:
    """Reads the newest authentic entry with a floor of a cluster, and its floor, or None.

    Whoever changed the newest entry must not thereby keep a Revoke from the log (protocol A6). So
    a tombstone below an entry that is not authentic does not count as one.
    """
    chosen = (
        select(*log.c)
        .where(log.c.cluster == name, log.c.version.is_not(None))
        .order_by(log.c.number.desc())
        .limit(_LOOKED_AT)
    )
    whole = True
    for row in map(tuple, connection.execute(chosen).all()):
        try:
            seal.check("log", row, name)
        except RowNotAuthenticError:
            whole = False
            continue
        found = floor(row)
        if found is not None:
            return row, found if whole else replace(found, erased=False)
    return None


def hold(name: str, found: Floor, entry: Cells | None, seal: Seal) -> int:
    """Refuses a cluster whose own row is not the one of its newest entry in the log.

    Args:
        name: The cluster's name.
        found: The cluster's own row as it was read.
        entry: The newest entry with a floor, from the same statement, or None.
        seal: Checks the entry.

    Returns:
        The entry's number.

    Raises:
        RowNotAuthenticError: The row is another one, or the log has no entry of the cluster.
    """
    if entry is None:
        raise not_authentic("clusters", name)
    seal.check("log", entry, name)
    if entry[CLUSTER] != name or floor(entry) != found:
        raise not_authentic("clusters", name)
    return int(entry[NUMBER])


def check_ban(name: str, entry: Cells | None, seal: Seal) -> None:
    """Refuses a cluster if its newest entry in the log bans its name, whatever its rows say.

    Args:
        name: The cluster's name.
        entry: The newest entry with a floor, or None.
        seal: Checks the entry.

    Raises:
        ClusterBannedError: The entry is a ban of that name.
        RowNotAuthenticError: The entry is not authentic.
    """
    if entry is None:
        return
    seal.check("log", entry, name)
    found = floor(entry)
    if found is not None and found.banned and entry[CLUSTER] == name:
        raise banned(name)
