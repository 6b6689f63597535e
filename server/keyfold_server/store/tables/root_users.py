"""Which regions use a root key now, and when the log last told of its refusal.

Like every filter, these reads only choose what to look at: whoever looks verifies what it finds.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from keyfold_server.domain.health import ROOT
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import KeyUser
from keyfold_server.store.database.trip import Step, looking_for, one_of
from keyfold_server.store.schema import clusters, log, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sqlalchemy import Connection, Select

    from keyfold_server.store.schema import Cells

_USERS: Final = select(
    regions.c.root_subject, clusters.c.name, clusters.c.organization, regions.c.name
).join(clusters, clusters.c.uid == regions.c.cluster_uid)


def reading(roots: Collection[str]) -> list[Step]:
    """Returns the steps that read who uses some root keys; `of` takes the rows."""
    return looking_for(_reading, [f"{ROOT}{root}" for root in roots])


@cache
def _reading(count: int) -> Select[Any]:
    return _USERS.where(one_of(regions.c.root_subject, count))


def of(found: Iterable[Cells]) -> list[KeyUser]:
    """Returns the uses in the rows that `reading` returned."""
    return [
        KeyUser(subject.removeprefix(ROOT), cluster, organization, region)
        for subject, cluster, organization, region in found
    ]


def under(connection: Connection, key_uri: str, may: Callable[[KeyUser], bool]) -> list[KeyUser]:
    """Chooses the first enabled region that may be chosen, for each root key that has a uri."""
    using = _USERS.where(regions.c.root_uri == key_uri, regions.c.state == State.ENABLED.value)
    chosen: dict[str, KeyUser] = {}
    rows = connection.execute(using.order_by(regions.c.root_subject, clusters.c.name))
    for user in of(tuple(row) for row in rows):
        if user.root not in chosen and may(user):
            chosen[user.root] = user
    return list(chosen.values())


def refusals(roots: Collection[str]) -> list[Step]:
    """Returns the steps that read the number of each root key's newest refusal, if it has one."""
    return looking_for(_refusals, roots)


@cache
def _refusals(count: int) -> Select[Any]:
    return (
        select(log.c.root, func.max(log.c.number))
        .where(
            one_of(log.c.root, count),
            log.c.kek.is_(None),
            log.c.kind == EntryKind.REFUSAL.value,
        )
        .group_by(log.c.root)
    )
