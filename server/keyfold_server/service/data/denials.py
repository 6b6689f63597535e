"""Denials: the errors for what does not exist, and for what a caller must not see.

Both get the same answer in code, reason and words, and cost the same: one read of the store for
each call (protocol C7). Each function raises that error, or `NeedsLoad` where the store must be
read first.
"""

from __future__ import annotations

from typing import Final, NoReturn

from keyfold_server.domain.cluster import no_cluster, no_region
from keyfold_server.domain.errors import UnknownKekError, WrongClusterError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.rights import Purpose
from keyfold_server.service.data.cache_entries import ClusterView
from keyfold_server.service.data.call import Call, Need, NeedsLoad
from keyfold_server.service.data.key_cache import KeyCache

_METHOD: Final = {Purpose.WRAP: "Wrap", Purpose.UNWRAP: "Unwrap"}
"""The method that stands for a purpose in decisions about names alone."""


def missing_cluster(cluster: str, purpose: Purpose, call: Call) -> NoReturn:
    """Requires the read of a cluster that is not in memory, or says why the call cannot have it.

    Raises:
        NeedsLoad: The cluster must be read first.
        KeyfoldError: The caller may see no cluster of that name, or the read failed.
    """
    check_name(cluster, "cluster")
    # A caller that may see no cluster of this name is refused without a read of the store.
    call.rights.check_named(_METHOD[purpose], cluster, ())
    need = Need(cluster)
    failed = call.failed.get(need)
    if failed is not None:
        raise failed
    raise NeedsLoad((need,))


def not_allowed(view: ClusterView, region: str, purpose: Purpose, call: Call) -> NoReturn:
    """Refuses a use that the caller has no right to.

    What a caller may not see gets the same answer as what does not exist, and costs the same:
    one read of the store per call (protocol C7).
    """
    name, organization = view.cluster.name, view.cluster.organization
    rights, method = call.rights, _METHOD[purpose]
    rights.check_named(method, name, ())
    if not rights.sees(name, organization):
        _read_again(view, call)
        raise no_cluster(name)
    if not rights.sees(name, organization, region):
        _read_again(view, call)
        raise _unknown(name) if purpose is Purpose.UNWRAP else no_region(name, region)
    rights.check_cluster(method, name, organization, (region,))
    raise AssertionError("a use was refused that its method is allowed")


def unknown_region(view: ClusterView, region: str, call: Call) -> NoReturn:
    """Says that the region does not exist, once the store was read for this call."""
    check_name(region, "region")
    _read_again(view, call)
    raise no_region(view.cluster.name, region)


def unknown_kek(cache: KeyCache, view: ClusterView, kek_id: bytes, call: Call) -> NoReturn:
    """Says that the KEK is not the cluster's, once the store was read for this call."""
    name = view.cluster.name
    if not call.rights.sees(name, view.cluster.organization):
        not_allowed(view, "", Purpose.UNWRAP, call)
    _read_again(view, call)
    if kek_id not in call.owners:
        raise NeedsLoad((Need(name, kek_id),))
    owner = call.owners[kek_id]
    if owner is not None and _may_see(cache, owner, call):
        raise WrongClusterError(
            f"this wrapped key belongs to cluster {owner}; unwrap it there, or move it with Rewrap",
            cluster=name,
            field="wrapped_key",
        )
    raise _unknown(name)


def _may_see(cache: KeyCache, cluster: str, call: Call) -> bool:
    """Says whether the caller may know that another cluster exists."""
    view = cache.view(cluster)
    if view is not None:
        return call.rights.sees(cluster, view.cluster.organization)
    need = Need(cluster)
    if need in call.failed:
        return False
    raise NeedsLoad((need,))


def _read_again(view: ClusterView, call: Call) -> None:
    """Requires one read of the store for this call: another replica may have changed it."""
    name = view.cluster.name
    if name in call.read:
        return
    failed = call.failed.get(Need(name))
    if failed is not None:
        raise failed
    raise NeedsLoad((Need(name),))


def _unknown(cluster: str) -> UnknownKekError:
    return UnknownKekError(
        f"cluster {cluster} has no key encryption key of the id that this wrapped key names",
        cluster=cluster,
        field="wrapped_key",
    )
