"""ListClusters: what it narrows by, and one page after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from keyfold.calls.call import Call, Plane
from keyfold.errors.reasons import RowNotAuthenticError
from keyfold.models.status import ClusterStatus, Health, State
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class ClusterFilter:
    """What `list_clusters` narrows by; each field that is set must hold.

    Attributes:
        organization: Only clusters of this organization.
        state: Only clusters with a region in this state.
        health: Only clusters with a region of this health, as last recorded.
        key_uri: Only clusters with a region whose root key has this uri.
    """

    organization: str = ""
    state: State = State.UNSPECIFIED
    health: Health = Health.UNSPECIFIED
    key_uri: str = ""


EVERYTHING: Final = ClusterFilter()
"""Narrows nothing."""

Page: TypeAlias = Call[api.ListClustersResponse, tuple[ClusterStatus, ...]]
"""One page of ListClusters."""


def first_page(narrow: ClusterFilter, page_size: int) -> Page:
    """Prepares ListClusters for its first page."""
    request = api.ListClustersRequest(
        organization=narrow.organization,
        state=narrow.state.to_message(),
        health=narrow.health.to_message(),
        key_uri=narrow.key_uri,
        page_size=page_size,
    )
    return Call("ListClusters", request, clusters_of, Plane.CONTROL)


def next_page(page: Page, response: api.ListClustersResponse) -> Page | None:
    """Prepares the page after one that was answered, or None after the last."""
    if not response.next_page_token:
        return None
    request = api.ListClustersRequest.FromString(page.request.SerializeToString())
    request.page_token = response.next_page_token
    return replace(page, request=request)


def check_authentic(names: Iterable[str]) -> None:
    """Refuses where a list named clusters whose stored rows somebody else wrote.

    Raises:
        RowNotAuthenticError: There is such a cluster.
    """
    spoilt = ", ".join(names)
    if spoilt:
        raise RowNotAuthenticError(
            f"the stored rows of {spoilt} do not carry the service key's seal; restore them from "
            "a backup, and find out who writes to the store",
            metadata={"source": "keyfold"},
        )


def clusters_of(response: api.ListClustersResponse) -> tuple[ClusterStatus, ...]:
    """Reads the clusters of a page, or of several put together."""
    return tuple(map(ClusterStatus.from_message, response.clusters))
