"""Callers and their rights: the decisions that the service needs and `access` makes.

A right is a plain decision about names. The service asks for it before it looks anything up, if
names are enough, and again once it knows the cluster's organization. A data-plane call asks for
each KEK (protocol C7).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

from keyfold_server.domain.keyspec import RootKey


class Claim(NamedTuple):
    """What a caller's token says about its organization, in one claim.

    Attributes:
        name: The claim's name.
        organization: The organization's name; empty: the claim names none.
        fault: Why it names none, to follow "the claim"; empty: it names one.
    """

    name: str
    organization: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller's names, and how they were proven.

    Attributes:
        names: The names that were proven: `spiffe://…`, `uri:…`, `dns:…`, `jwt:ISSUER#SUBJECT`,
            `socket:PATH` or `local`. A certificate may prove several. Logs and the audit trail
            show the first.
        proof: `certificate`, `token`, `socket` or `loopback`.
        claims: Those claims of its token by which grants of the policy go; empty: it has no token,
            or no grant goes by claims.
    """

    names: tuple[str, ...]
    proof: str
    claims: tuple[Claim, ...] = ()

    @property
    def name(self) -> str:
        """The name that logs and the audit trail show. Request ids belong to it."""
        return self.names[0]

    def claim(self, name: str) -> Claim | None:
        """Returns what its token says in a claim; None: nobody has read that claim."""
        return next((claim for claim in self.claims if claim.name == name), None)


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves an identity, and for how long; times are in seconds of Unix time.

    Attributes:
        identity: The identity that it proves.
        begins: When it begins to be valid.
        ends: When it ends.
    """

    identity: Identity
    begins: float
    ends: float


class NeedsKeysError(Exception):
    """Raised for a token whose key is not known yet: fetch the issuer's keys, then check again."""


class Purpose(Enum):
    """The purpose for which a call uses a KEK."""

    WRAP = "wrap"
    UNWRAP = "unwrap"


class Verdict(Enum):
    """The outcome of a decision about a use."""

    HIDDEN = "hidden"
    """The caller may not see what it named, which must look like something that does not exist."""

    DENIED = "denied"
    """The caller may see it, and may not use it for this purpose."""

    ALLOWED = "allowed"


@dataclass(frozen=True, slots=True)
class Use:
    """The decision about one use of one region's KEKs.

    Attributes:
        verdict: The outcome.
        contexts: Alternative sets of entries. The call's context must hold all entries of one of
            them; empty: any context will do.
    """

    verdict: Verdict
    contexts: tuple[Mapping[str, str], ...] = ()


HIDDEN: Final = Use(Verdict.HIDDEN)
DENIED: Final = Use(Verdict.DENIED)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The clusters that one grant covers, as patterns in which `*` is any run of characters.

    Attributes:
        clusters: Alternative patterns of their names; None: any name.
        organizations: Alternative patterns of their organizations; None: any organization, or none
            at all.
        regions: Alternative patterns of the regions that the grant covers; None: all of them.
    """

    clusters: tuple[str, ...] | None
    organizations: tuple[str, ...] | None
    regions: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the grant covers everything that the store has."""
        return self.clusters is self.organizations is self.regions is None


@dataclass(frozen=True, slots=True)
class NameableKeys:
    """Root keys that a grant lets its caller name, to show them to that caller.

    Attributes:
        type: The provider type; `*`: any key.
        uri: The pattern of their uris; empty: any uri.
        principal: The pattern of the principals; `ambient`: the server's own identity alone.
        options: The options that a key spec must have, exactly these.
    """

    type: str
    uri: str
    principal: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Holding:
    """One grant as it holds for one caller, to show it to that caller.

    Attributes:
        roles: The roles' words, sorted.
        methods: The methods that they allow by themselves, where the grant covers what the method
            is about.
        clusters: Alternative patterns of the clusters that the grant covers; None: any.
        organizations: Alternative patterns of their organizations; None: any, or none at all.
        regions: Alternative patterns of the regions that the grant covers; None: all.
        context: Entries that a data key's context must contain.
        keys: The root keys that the caller may name; empty: none.
        by_claim: Whether the organization is that in the caller's token.
    """

    roles: tuple[str, ...]
    methods: tuple[str, ...]
    clusters: tuple[str, ...] | None
    organizations: tuple[str, ...] | None
    regions: tuple[str, ...] | None
    context: Mapping[str, str]
    keys: tuple[NameableKeys, ...]
    by_claim: bool


class Rights(Protocol):
    """The rights of one caller. It is synchronous, does no I/O and remembers its decisions."""

    @property
    def identity(self) -> Identity:
        """The caller's identity."""
        ...

    @property
    def owner(self) -> str:
        """The name under which cursors and operations belong to the caller.

        It is the caller's own name and, where grants of the caller go by a claim of its token, the
        organization in it. So who administers two customers has nothing of one with the other's
        token.
        """
        ...

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """The grants that hold for the caller, in the order of the policy."""
        ...

    @property
    def lapsed(self) -> tuple[str, ...]:
        """Why grants that name the caller do not hold for it; each reason once."""
        ...

    @property
    def digest(self) -> bytes:
        """8 bytes that differ wherever the caller may see something else, on every replica."""
        ...

    def use(self, cluster: str, organization: str | None, region: str, purpose: Purpose) -> Use:
        """Decides about a use of a region's KEKs, once the cluster's organization is known."""
        ...

    def sees(self, cluster: str, organization: str | None, region: str | None = None) -> bool:
        """Says whether the caller may know of a cluster, or of one of its regions."""
        ...

    def coverage(self, organization: str | None, rpc: str | None = None) -> tuple[Coverage, ...]:
        """Returns which clusters the caller may know of: those that one of the entries covers.

        Args:
            organization: The organization whose clusters are meant; None: those of all.
            rpc: A method for which the caller needs a role there; None: any role will do.
        """
        ...

    def covers(
        self, rpc: str, cluster: str | None, organization: str | None, region: str | None = None
    ) -> bool:
        """Says whether a grant with a role for a method covers something.

        Args:
            rpc: The method's name.
            cluster: A cluster's name; None: what concerns the whole organization or, without one,
                the whole store. Only a grant that narrows no more than that covers it.
            organization: The organization, or None.
            region: A region that the grant must cover, too; None: any region will do.
        """
        ...

    def covers_all_regions(self, rpc: str, cluster: str, organization: str | None) -> bool:
        """Says whether a grant with a role for a method covers a cluster, whatever the region."""
        ...

    def check(self, rpc: str) -> None:
        """Refuses a method that no grant of the caller allows, whatever the request names.

        Raises:
            NotAllowedError: No grant of the caller has a role for the method.
        """
        ...

    def check_named(self, rpc: str, cluster: str, regions: Collection[str]) -> None:
        """Refuses a request by its names alone, before the service looks anything up.

        Args:
            rpc: The method's name.
            cluster: The cluster that the request names.
            regions: The regions that it names; empty: all regions of the cluster.

        Raises:
            ClusterNotFoundError: The caller may see no cluster of that name.
            NotAllowedError: The method makes the cluster, and the caller may not make one of that
                name; or the caller may see the cluster, and may not call the method for it.
        """
        ...

    def check_cluster(
        self, rpc: str, cluster: str, organization: str | None, regions: Collection[str]
    ) -> None:
        """Decides as `check_named` does, once the cluster's organization is known.

        Raises:
            ClusterNotFoundError: The caller may not see the cluster.
            RegionNotFoundError: The caller may not see a region that the request names.
            NotAllowedError: The caller may see the cluster, and may not call the method for it;
                or the request names no region, and the grants are limited to some regions.
        """
        ...

    def check_key(
        self, cluster: str | None, organization: str | None, region: str | None, key: RootKey
    ) -> None:
        """Refuses a root key that the caller may not name for a region (protocol C1).

        Args:
            cluster: The cluster that gets the key; None: TestKey or GetAccessPolicy for the
                organization as a whole or, if that is None, too, for anybody.
            organization: The cluster's organization, or None.
            region: The region that gets the key, or None.
            key: The root key in canonical form; `PLATFORM` with an empty uri.

        Raises:
            KeyNotGrantedError: No grant allows the key.
        """
        ...

    def may_name(self, type_: str, uri: str) -> bool:
        """Says whether a grant names a root key, for some cluster and under some principal.

        Args:
            type_: The provider's type.
            uri: The key's uri in canonical form.
        """
        ...

    def check_key_named(self, cluster: str, region: str | None, key: RootKey) -> None:
        """Decides as `check_key` does, before the cluster's organization is known (protocol C8).

        Raises:
            KeyNotGrantedError: No grant allows the key, whatever the cluster's organization is.
        """
        ...

    def check_organization(self, rpc: str, organization: str) -> None:
        """Refuses a method for an organization, before the service looks anything up.

        Only grants that are not narrowed to some clusters count.

        Raises:
            OrganizationNotFoundError: The caller may see no organization of that name.
            NotAllowedError: The caller may see it, and may not call the method for it; or the
                method makes it.
        """
        ...

    def covers_organization(self, rpc: str, organization: str, region: str | None) -> bool:
        """Says whether a grant with a role for a method covers an organization and a region.

        Args:
            rpc: The method's name.
            organization: The organization's name.
            region: A region; None: all of the organization's regions.
        """
        ...

    def organizations(self, rpc: str) -> tuple[str, ...] | None:
        """Returns patterns of the organizations for which the caller may call a method.

        Returns:
            Alternative patterns, in which `*` is any run of characters; None: any organization.
        """
        ...

    def check_organization_key(self, organization: str, region: str | None, key: RootKey) -> None:
        """Refuses a root key that the caller may not link for an organization (protocol C1).

        Args:
            organization: The organization that gets the key.
            region: The region whose clusters get it; None: all regions.
            key: The root key in canonical form.

        Raises:
            KeyNotGrantedError: No grant allows the key for the organization as a whole.
        """
        ...

    def names_freely(self, rpc: str, cluster: str, organization: str) -> bool:
        """Says whether the caller may make a cluster only under grants that narrow no names.

        Then the organization's own patterns have to narrow them, or its callers could learn and
        take the names of others' clusters (protocol C8).
        """
        ...


@dataclass(slots=True)
class Caller:
    """The caller of one call: its rights, and what the audit trail records about it.

    Nobody changes it. It is not frozen, because every call makes one and that takes three times as
    long for a frozen one.

    Attributes:
        rights: The caller's rights, which also have its identity.
        address: The caller's address as gRPC writes it.
        on_behalf_of: The person or program for whom a trusted caller says that it calls, or empty.
        trace_id: The id of the call's trace, in hex; empty: it has none, or nobody needs it.
        expires: When the first of its credentials ends, in seconds of Unix time; None: it has none.
    """

    rights: Rights
    address: str = ""
    on_behalf_of: str = ""
    trace_id: str = ""
    expires: float | None = None

    @property
    def name(self) -> str:
        """The caller's name."""
        return self.rights.identity.name

    @property
    def owner(self) -> str:
        """The name under which cursors and operations belong to the caller."""
        return self.rights.owner
