"""Who calls, and what they may do: what the service asks, and who answers is `access`.

A right is a plain decision about names. It is asked before anything is looked up where names are
enough, and again once the cluster's organization is known; a data key's use asks it for each KEK
(protocol C7).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from keyfold_server.domain.keyspec import RootKey


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, and how that was proven.

    Attributes:
        names: As callers are written (protocol section 7): `spiffe://…`, `uri:…`, `dns:…`,
            `jwt:ISSUER#SUBJECT`, `socket:PATH`, `local`. The first is the one that is told; a
            certificate may prove several.
        proof: `certificate`, `token`, `socket` or `loopback`.
    """

    names: tuple[str, ...]
    proof: str

    @property
    def name(self) -> str:
        """The name that is told, and that scopes request ids."""
        return self.names[0]


class NeedsKeysError(Exception):
    """A token's key is not known, and may be once its issuer was asked: a request, no answer."""


class Purpose(Enum):
    """What a KEK is used for."""

    WRAP = "wrap"
    UNWRAP = "unwrap"


class Verdict(Enum):
    """How a use was decided."""

    HIDDEN = "hidden"
    """The caller may not see what was named: it looks as what does not exist."""

    DENIED = "denied"
    """The caller may see it and not use it so."""

    ALLOWED = "allowed"


@dataclass(frozen=True, slots=True)
class Use:
    """The decision about one use of one region's KEKs.

    Attributes:
        verdict: Whether it is allowed.
        contexts: Where not empty: the entries, of which the context must hold all of one
            alternative. Empty where any context will do.
    """

    verdict: Verdict
    contexts: tuple[Mapping[str, str], ...] = ()


HIDDEN: Final = Use(Verdict.HIDDEN)
DENIED: Final = Use(Verdict.DENIED)


class Rights(Protocol):
    """What one caller may do. Synchronous, asks nobody, and remembers what it decided."""

    @property
    def identity(self) -> Identity:
        """Who it is."""
        ...

    def use(self, cluster: str, organization: str | None, region: str, purpose: Purpose) -> Use:
        """Decides about a use of a region's KEKs, the cluster's organization being known."""
        ...

    def sees(self, cluster: str, organization: str | None, region: str | None = None) -> bool:
        """Says whether the caller may know of a cluster, or of one of its regions."""
        ...

    def check(self, rpc: str) -> None:
        """Refuses a method for which no grant of the caller has a role, whatever is named.

        Raises:
            NotAllowedError: There is no such grant.
        """
        ...

    def check_named(self, rpc: str, cluster: str, regions: Collection[str]) -> None:
        """Refuses by the names alone, before anything is looked up.

        Args:
            rpc: The method's name.
            cluster: The cluster that the request names.
            regions: The regions that it names; empty: all of the cluster's.

        Raises:
            ClusterNotFoundError: The caller may see no cluster of that name.
            NotAllowedError: The method makes the cluster, and the name is outside of what the
                caller may make; or the caller may see it, and not do this.
        """
        ...

    def check_cluster(
        self, rpc: str, cluster: str, organization: str | None, regions: Collection[str]
    ) -> None:
        """Decides as `check_named` does, once the cluster's organization is known.

        Raises:
            ClusterNotFoundError: The caller may not see the cluster.
            RegionNotFoundError: The caller may not see a region that is named.
            NotAllowedError: The caller may see it, and not do this; or no region is named, and
                its grants are narrowed to some.
        """
        ...

    def check_key(
        self, cluster: str | None, organization: str | None, region: str | None, key: RootKey
    ) -> None:
        """Refuses a key that the caller may not name there (protocol C1).

        Args:
            cluster: The cluster that gets the key; None: TestKey for none.
            organization: The cluster's organization.
            region: The region that gets it.
            key: As it is called, in canonical form; `PLATFORM` with an empty uri.

        Raises:
            KeyNotGrantedError: No grant names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes one call, as the audit trail tells it, and what they may do.

    Attributes:
        rights: What they may do; also says who they are.
        address: From where, as gRPC writes it.
        on_behalf_of: For whom, where the caller says so and is believed; else empty.
    """

    rights: Rights
    address: str = ""
    on_behalf_of: str = ""

    @property
    def name(self) -> str:
        """The caller's name."""
        return self.rights.identity.name
