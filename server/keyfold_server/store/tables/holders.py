"""Who has holders: the rows of all organizations, and the regions that use them (protocol C9).

An organization's own holders are read, and verified, as a part of it (`organizations`). What is
here only keeps others out, so nothing of it has to be verified: whoever edits the store to change
the answer spoils the rows of an organization or of a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import BindParameter, and_, bindparam, exists, func, select

from keyfold_server.domain.keyspec import PLATFORM
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import clusters, generations, holders, regions, wraps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keyfold_server.domain.holders import Holder
    from keyfold_server.store.database.trip import Answer

_TYPE: Final[BindParameter[str]] = bindparam("of_type")
_NAME: Final[BindParameter[str]] = bindparam("of_holder")
_OWN: Final = func.coalesce(
    bindparam("of_organization", type_=clusters.c.organization.type),
    select(clusters.c.organization)
    .where(clusters.c.name == bindparam("of_cluster"))
    .scalar_subquery(),
)

_HELD_BY: Final = select(holders.c.organization).where(
    holders.c.key_type == _TYPE, holders.c.holder == _NAME
)

_MINE: Final = exists().where(
    holders.c.organization == _OWN, holders.c.key_type == _TYPE, holders.c.holder == _NAME
)
"""Whether the organization has the holder itself. Then the database looks no further: the users of
its account may be many, and all its own."""

_USED_BY: Final = (
    select(wraps.c.organization)
    .join(generations, generations.c.kek_id == wraps.c.kek_id)
    .join(
        regions,
        and_(
            regions.c.cluster_uid == generations.c.cluster_uid,
            regions.c.name == generations.c.region,
        ),
    )
    .where(
        # A cluster without an organization is not held up by the use of others: its own uses may be
        # very many, and the database would have to read through them.
        _OWN.is_not(None),
        ~_MINE,
        wraps.c.root_holder == _NAME,
        wraps.c.root_type == _TYPE,
        wraps.c.root_external_id.is_(None),
        wraps.c.organization.is_not(None),
        wraps.c.organization != _OWN,
        regions.c.key_type != PLATFORM,
    )
    .limit(1)
)


def held_by(wanted: Sequence[Holder]) -> list[Step]:
    """Returns the steps that read which organizations have some holders, one for each holder."""
    return [Step(_HELD_BY, [{"of_type": type_, "of_holder": name}]) for type_, name in wanted]


def looking(organization: str | None, wanted: Sequence[Holder], *, cluster: str = "") -> list[Step]:
    """Returns the steps that look for others who have, or use, some holders.

    Args:
        organization: The organization; None: that of the cluster.
        wanted: The holders.
        cluster: The cluster's name; empty: there is none.
    """
    used = [
        {
            "of_type": type_,
            "of_holder": name,
            "of_organization": organization,
            "of_cluster": cluster,
        }
        for type_, name in wanted
    ]
    return held_by(wanted) + [Step(_USED_BY, [each]) for each in used]


def owners(wanted: Sequence[Holder], answers: Sequence[Answer]) -> dict[Holder, set[str]]:
    """Returns the organizations that have some holders, from the answers to `held_by`."""
    return {
        holder: {str(row[0]) for row in answer.rows}
        for holder, answer in zip(wanted, answers, strict=True)
    }


def check_again(
    organization: str | None, known: Mapping[Holder, set[str]], answers: Sequence[Answer]
) -> None:
    """Refuses a claim of a holder that another organization got since this transaction looked.

    Args:
        organization: The organization, or None.
        known: The organizations that were known to have each holder.
        answers: The answers to `held_by` for these holders, from under the lock of the log's head.

    Raises:
        LostRaceError: Another one has it now; the next try finds that out.
    """
    now = owners(tuple(known), answers)
    if any(now[holder] - known[holder] - {organization} for holder in known):
        raise LostRaceError


def elsewhere(
    organization: str | None, wanted: Sequence[Holder], answers: Sequence[Answer]
) -> frozenset[Holder]:
    """Returns the holders that others have or use, and an organization does not have.

    Args:
        organization: The organization, or None.
        wanted: The holders.
        answers: The answers to `looking`.
    """
    held = owners(wanted, answers[: len(wanted)])
    used = {h for h, a in zip(wanted, answers[len(wanted) :], strict=True) if a.rows}
    return frozenset(
        holder
        for holder in wanted
        if organization not in held[holder] and (held[holder] or holder in used)
    )
