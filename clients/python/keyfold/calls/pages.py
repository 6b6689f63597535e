"""ListClusters: its filter, and its calls for one page after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from keyfold.arguments import checked
from keyfold.calls.call import Call, Plane
from keyfold.errors.reasons import ClusterBannedError, RowNotAuthenticError
from keyfold.models.status import ClusterStatus, Health, State
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class ClusterFilter:
    """The filter of `list_clusters`. A cluster must match every field that is set.

    Attributes:
        organization: The organization that the cluster belongs to.
        state: The state of at least one of the cluster's regions.
        health: The health of at least one of the cluster's regions, as the server last recorded
            it.
        key_uri: The uri of the root key of at least one of the cluster's regions.
        can_wrap: Whether the root key of at least one of the cluster's enabled regions wrapped
            when the server last tried. False finds keys whose next rotation would fail.
        name_prefix: What the cluster's name begins with.
    """

    organization: str = ""
    state: State = State.UNSPECIFIED
    health: Health = Health.UNSPECIFIED
    key_uri: str = ""
    can_wrap: bool | None = None
    name_prefix: str = ""


EVERYTHING: Final = ClusterFilter()
"""The filter that every cluster matches."""

Page: TypeAlias = Call[api.ListClustersResponse, tuple[ClusterStatus, ...]]
"""The call for one page."""


@checked
def first_page(narrow: ClusterFilter, page_size: int) -> Page:
    """Prepares the call for the first page."""
    request = api.ListClustersRequest(
        organization=narrow.organization,
        state=narrow.state.to_message(),
        health=narrow.health.to_message(),
        key_uri=narrow.key_uri,
        page_size=page_size,
        can_wrap=narrow.can_wrap,
        name_prefix=narrow.name_prefix,
    )
    return Call("ListClusters", request, clusters_of, Plane.CONTROL)


def check_usable(not_authentic: Iterable[str], banned: Iterable[str]) -> None:
    """Raises an error if the server named clusters whose stored rows serve nobody.

    Raises:
        RowNotAuthenticError: `not_authentic` has at least one cluster.
        ClusterBannedError: `banned` alone has one.
    """
    spoilt, stopped = ", ".join(not_authentic), ", ".join(banned)
    if spoilt:
        raise RowNotAuthenticError(
            f"the stored rows of {spoilt} do not carry the service key's seal; restore them from "
            "a backup, and find out who writes to the store",
            metadata={"source": "keyfold"},
        )
    if stopped:
        raise ClusterBannedError(
            f"{stopped}: revoked while the stored rows were not authentic, or were gone; find out "
            "who writes to the store, and have the operator run `keyfold-server seal`",
            metadata={"source": "keyfold"},
        )


def clusters_of(response: api.ListClustersResponse) -> tuple[ClusterStatus, ...]:
    """Reads the clusters of one page, or of several pages merged into one message."""
    return tuple(map(ClusterStatus.from_message, response.clusters))
