"""What root keys have in common: the whole key, what holds it, and the tenant that uses it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyGroups:
    """What a root key has in common with others. The store keeps it with each wrap, for filters.

    Attributes:
        family: The name of the whole key: of all replicas of a multi-Region key, and of a key whose
            uri names a version. It is the key's uri where the provider has nothing of the kind.
        holder: What holds the key: an AWS account, a Google project, a vault's origin.
        tenant: The customer's tenant whose principal uses the key, empty if there is none.
    """

    family: str
    holder: str
    tenant: str = ""
