"""Regions whose key spec asks for a seat: which of them have that key as a seat already.

A file keeps the word `seat`, while a region shows the seat's own principal, and only the server
knows which principals are seats.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from keyfold import calls
from keyfold.cli.input.documents import Cluster
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError, KeyVersionPinnedError
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus, RegionStatus, State

_ASKS: Final = re.compile(r"(?P<before>(?:[^/:\s]+/)?)seat")
"""The word alone or, for Azure, behind the customer's tenant."""


def with_own_seats(session: Session, wanted: Cluster, found: ClusterStatus) -> Cluster:
    """Returns a cluster in which regions that have the seat they ask for name its principal.

    The server says so: it tries a rotation to what the file asks for, and the region keeps its key.
    A region that cannot be rotated now is left as it is.

    Args:
        session: The connection.
        wanted: The cluster as the file declares it.
        found: The cluster as it is.
    """
    own = {spec.region or spec.geo: key for spec in wanted.specs if (key := _own(spec, found))}
    own = {where: key for where, key in own.items() if _keeps(session, wanted, found, where, key)}
    specs = (
        replace(spec, key_spec=own.get(spec.region or spec.geo, spec.key_spec))
        for spec in wanted.specs
    )
    return replace(wanted, specs=tuple(specs))


def _own(spec: RegionSpec, found: ClusterStatus) -> KeySpec | None:
    """Returns the key that a region has, if it may be the one that a spec asks for."""
    asked = spec.key_spec
    asks = None if asked is None else _ASKS.fullmatch(asked.auth_principal)
    if asked is None or asks is None:
        return None
    for region in _regions(spec, found):
        key = region.key_spec
        seated = (
            key.auth_principal.startswith(asks["before"]) and key.auth_principal != asks["before"]
        )
        if seated and asked == replace(key, auth_principal=asked.auth_principal):
            return key
    return None


def _keeps(
    session: Session, wanted: Cluster, found: ClusterStatus, where: str, key: KeySpec
) -> bool:
    """Says whether a region has its key after a rotation to what the file asks for."""
    [spec] = (replace(s, policy=None) for s in wanted.specs if where in (s.region, s.geo))
    if all(each.state is not State.ENABLED for each in _regions(spec, found)):
        return True
    call = calls.rotate(
        found.cluster,
        [spec],
        new_generation=False,
        request_id=None,
        validate_only=True,
        only_named_regions=False,
    )
    try:
        after, _ = session.ask(call)
    except KeyVersionPinnedError:
        return True  # It keeps its key, which has no newer version.
    except KeyfoldError:
        return False  # The plan tries it again, and says what is wrong.
    return any(each.key_spec == key for each in _regions(spec, after.status))


def _regions(spec: RegionSpec, status: ClusterStatus) -> list[RegionStatus]:
    """Returns the regions that a spec is for."""
    return [
        each
        for each in status.regions
        if each.region == spec.region or (spec.geo and spec.geo == each.geo)
    ]
