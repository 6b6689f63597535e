"""Chooses the KEKs that the sweep checks next (protocol F4, F5).

The choice rests on observations, which decide nothing. If somebody tampers with them, the sweep
asks a KMS too often or too seldom, and the use of no key changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import case, func, select, true

from keyfold_server.domain.health import ROOT, Health
from keyfold_server.domain.ports import Sample
from keyfold_server.store.schema import clusters, observations, regions
from keyfold_server.store.tables.region_health import enabled, own_subject

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

_KEK: Final = observations.alias("kek")

_REFUSED: Final = 4
"""Most refused KEKs of one root key that one sweep checks."""

_KEK_SUBJECT: Final = "kek:"
"""Prefix of a KEK's subject; the KEK's id follows, in hex."""


def roots(
    connection: Connection, prefix: str, serves: frozenset[str] | None
) -> list[tuple[str, str]]:
    """Returns the enabled regions of the root keys whose ids begin with `prefix`, and those ids.

    An index has all of it, so this is cheap for replicas whose turn it is not.

    Args:
        connection: A connection inside a transaction.
        prefix: The beginning of the root keys' ids.
        serves: The names of the regions to look at; None: all.
    """
    found = select(regions.c.name, regions.c.root_subject).where(*_of(prefix, serves)).distinct()
    return sorted((name, root.removeprefix(ROOT)) for name, root in connection.execute(found))


def _of(prefix: str, serves: frozenset[str] | None) -> tuple[ColumnElement[bool], ...]:
    root = regions.c.root_subject
    return (
        enabled(),
        root >= f"{ROOT}{prefix}",
        # The letter g comes after every hex digit.
        root < f"{ROOT}{prefix}g",
        true() if serves is None else regions.c.name.in_(sorted(serves)),
    )


def read(
    connection: Connection, prefix: str, serves: frozenset[str] | None, *, own: bool
) -> list[Sample]:
    """Chooses KEKs of the root keys whose ids begin with `prefix`, by region and root key.

    For each root key and each region that has it in use, these are first the KEK that the sweep
    checked longest ago, then some that their KMS refused.

    Args:
        connection: A connection inside a transaction.
        prefix: The beginning of the root keys' ids.
        serves: The names of the regions to look at; None: all.
        own: Whether what the regions' own replicas saw counts, or what the others did.
    """
    kek = own_subject(regions.c.kek_subject) if own else regions.c.kek_subject
    refused = case((_KEK.c.health != Health.HEALTHY.value, 1), else_=0)
    root = regions.c.root_subject
    place = func.row_number().over(
        partition_by=(regions.c.name, root, refused),
        order_by=(func.coalesce(_KEK.c.last_check, 0), regions.c.kek_subject),
    )
    ranked = (
        select(
            clusters.c.name.label("cluster"),
            regions.c.name.label("region"),
            root.label("root"),
            regions.c.kek_subject.label("kek"),
            refused.label("refused"),
            place.label("place"),
            # This counts all clusters under the root key there, not only the chosen ones.
            func.max(func.coalesce(regions.c.auto_rotate, 0))
            .over(partition_by=(regions.c.name, root))
            .label("followed"),
        )
        .select_from(regions)
        .join(clusters, clusters.c.uid == regions.c.cluster_uid)
        .outerjoin(_KEK, _KEK.c.subject == kek)
        .where(*_of(prefix, serves))
        .subquery()
    )
    chosen = (
        select(
            ranked.c.cluster,
            ranked.c.region,
            ranked.c.root,
            ranked.c.kek,
            ranked.c.refused,
            ranked.c.followed,
        )
        .where(ranked.c.place <= case((ranked.c.refused == 1, _REFUSED), else_=1))
        .order_by(ranked.c.region, ranked.c.root, ranked.c.refused, ranked.c.place)
    )
    return [
        Sample(
            cluster,
            region,
            root.removeprefix(ROOT),
            kek.removeprefix(_KEK_SUBJECT),
            bool(refused),
            bool(followed),
        )
        for cluster, region, root, kek, refused, followed in connection.execute(chosen)
    ]
