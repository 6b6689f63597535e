"""Owners of issued identities: the names under which the store keeps them (protocol C2, D5).

Each name says what it names, since a cluster and an organization may have the same name.
"""

from __future__ import annotations


def of_organization(name: str) -> str:
    """Returns the owner that an organization is."""
    return f"organization:{name}"


def of_cluster(name: str) -> str:
    """Returns the owner that the cluster of a name is, as long as the cluster is there."""
    return f"cluster:{name}"


def of(cluster: str | None, organization: str | None) -> str | None:
    """Returns the owner of what is issued to a cluster: its organization, if it has one."""
    if organization:
        return of_organization(organization)
    return of_cluster(cluster) if cluster else None


def of_erased(uid: bytes) -> str:
    """Returns the owner that a cluster is once it is erased; a later one of its name is another."""
    return f"erased:{uid.hex()}"
