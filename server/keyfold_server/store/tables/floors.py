"""Floors: a cluster's own row equals the newest decision about it in the log (protocol S10).

An entry that decides something about a cluster carries the uid, version, epoch and MAC of the row
that it left, and that row changes with nothing else. So a cluster whose row differs from the newest
such entry is not authentic: somebody put older rows back, or the database did not keep the newer
ones, whatever it reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, func, select

from keyfold_server.store.schema import clusters, log, regions
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables.log import CLUSTER, NUMBER, floor

if TYPE_CHECKING:
    from keyfold_server.domain.log import Floor
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
