"""The policy: what the grants together let one caller do.

Invariant: only a rule and a grant allow anything, and a further grant never takes anything away.
The module must not know where grants come from, nor what a request looks like on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from keyfold_server.access.policy.grants import Grant, Role, rule
from keyfold_server.domain.cluster import no_cluster, no_region
from keyfold_server.domain.errors import KeyNotGrantedError, NotAllowedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.organization_changes import no_organization
from keyfold_server.domain.patterns import Patterns
from keyfold_server.domain.rights import (
    DENIED,
    HIDDEN,
    Coverage,
    Holding,
    Identity,
    Purpose,
    Use,
    Verdict,
)

ROLE_OF: Final[Mapping[Purpose, Role]] = {
    Purpose.WRAP: Role.WRAP,
    Purpose.UNWRAP: Role.UNWRAP,
}
"""The role that each use of a KEK needs."""

NOBODY: Final = Patterns(())
"""Patterns that match no caller."""

_REMEMBERED: Final = 16_384
"""Decisions that one caller's rights remember for each purpose."""

_CALLERS: Final = 4_096
"""Callers whose rights stay in memory."""

_MAKES_ORGANIZATION: Final = "CreateOrganization"
"""The method that makes an organization: nobody may make one that no grant covers."""

_DIGEST: Final = 8
"""Bytes of a digest of rights."""

_LONGEST_NAME: Final = 128
"""Characters of a name. A longer string cannot be a name; it is not remembered, because it would
fill memory."""


def purposes(rpc: str) -> tuple[Purpose, ...]:
    """Returns the purposes for which a data-plane method uses KEKs; empty for other methods."""
    roles = rule(rpc).roles
    if not set(roles) <= set(ROLE_OF.values()):
        return ()
    return tuple(purpose for purpose, role in ROLE_OF.items() if role in roles)


def _covers_all_of(grant: Grant, organization: str | None) -> bool:
    """Says whether a grant covers all of an organization; None: all of the store."""
    if grant.clusters is not None or grant.regions is not None:
        return False
    return grant.organizations is None or (
        organization is not None and grant.organizations.match(organization)
    )


def _texts(patterns: Patterns | None) -> tuple[str, ...] | None:
    return None if patterns is None else tuple(pattern.text for pattern in patterns.items)


class GrantedRights:
    """What the grants of one policy let one caller do; see `domain.rights.Rights`."""

    __slots__ = ("_callable", "_digest", "_grants", "_identity", "_lapsed", "_unwrap", "_wrap")

    def __init__(self, identity: Identity, grants: Iterable[Grant]) -> None:
        """Takes the caller, and the grants that name it, whether they hold for it or not."""
        self._identity = identity
        told = [(grant, grant.lapse(identity)) for grant in grants]
        self._grants = tuple(grant.held(identity) for grant, why in told if not why)
        self._lapsed = tuple((grant.roles, why) for grant, why in told if why)
        self._callable: set[str] = set()
        self._digest = b""
        self._wrap: dict[tuple[str, str | None, str], Use] = {}
        self._unwrap: dict[tuple[str, str | None, str], Use] = {}

    @property
    def identity(self) -> Identity:
        """The caller's identity."""
        return self._identity

    @property
    def owner(self) -> str:
        """The name under which cursors and operations belong to the caller."""
        organizations = sorted(
            {str(grant.organizations) for grant in self._grants if grant.organization_claim}
        )
        # No caller's name begins like that, and no organization's name has a space.
        prefix = "".join(f"organization:{name} " for name in organizations)
        return prefix + self._identity.name

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """The grants that hold for the caller; see `domain.rights.Rights`."""
        return tuple(
            Holding(
                roles=tuple(sorted(role.value for role in grant.roles)),
                methods=grant.methods(),
                clusters=_texts(grant.clusters),
                organizations=_texts(grant.organizations),
                regions=_texts(grant.regions),
                context=grant.context or {},
                keys=tuple(key.nameable() for key in grant.keys),
                by_claim=grant.organization_claim is not None,
            )
            for grant in self._grants
        )

    @property
    def lapsed(self) -> tuple[str, ...]:
        """Why grants do not hold for the caller; see `domain.rights.Rights`."""
        return tuple(dict.fromkeys(why for _, why in self._lapsed))

    @property
    def digest(self) -> bytes:
        """8 bytes that differ wherever the caller may see something else; remembered."""
        if not self._digest:
            seen = sorted(
                repr(
                    (
                        sorted(role.value for role in grant.roles),
                        _texts(grant.clusters),
                        _texts(grant.organizations),
                        _texts(grant.regions),
                    )
                )
                for grant in self._grants
            )
            self._digest = sha256(repr(seen).encode()).digest()[:_DIGEST]
        return self._digest

    def use(self, cluster: str, organization: str | None, region: str, purpose: Purpose) -> Use:
        """Decides about a use of a region's KEKs; remembers the decision for the next call."""
        known = self._wrap if purpose is Purpose.WRAP else self._unwrap
        key = (cluster, organization, region)
        found = known.get(key)
        if found is None:
            found = self._decide(cluster, organization, region, ROLE_OF[purpose])
            if len(cluster) <= _LONGEST_NAME and len(region) <= _LONGEST_NAME:
                if len(known) >= _REMEMBERED:
                    known.clear()
                known[key] = found
        return found

    def _decide(self, cluster: str, organization: str | None, region: str, role: Role) -> Use:
        seeing = [g for g in self._grants if g.covers(cluster, organization)]
        seeing = [g for g in seeing if g.covers_region(region)]
        if not seeing:
            return HIDDEN
        contexts = [grant.context for grant in seeing if role in grant.roles]
        if not contexts:
            return DENIED
        narrow = tuple(context for context in contexts if context)
        return Use(Verdict.ALLOWED, narrow if len(narrow) == len(contexts) else ())

    def sees(self, cluster: str, organization: str | None, region: str | None = None) -> bool:
        """Says whether a grant of any role covers the cluster, and the region if one is given."""
        return any(
            grant.covers(cluster, organization) and (region is None or grant.covers_region(region))
            for grant in self._grants
        )

    def coverage(self, organization: str | None, rpc: str | None = None) -> tuple[Coverage, ...]:
        """Returns which clusters the caller may know of; see `domain.rights.Rights`."""
        covering = (
            Coverage(_texts(grant.clusters), _texts(grant.organizations), _texts(grant.regions))
            for grant in self._with_role(rpc)
            if organization is None
            or grant.organizations is None
            or grant.organizations.match(organization)
        )
        return tuple(dict.fromkeys(covering))

    def covers(
        self, rpc: str, cluster: str | None, organization: str | None, region: str | None = None
    ) -> bool:
        """Says whether a grant with a role covers something; see `domain.rights.Rights`."""
        return any(
            (
                grant.covers(cluster, organization)
                if cluster is not None
                else _covers_all_of(grant, organization)
            )
            and (region is None or grant.covers_region(region))
            for grant in self._with_role(rpc)
        )

    def covers_all_regions(self, rpc: str, cluster: str, organization: str | None) -> bool:
        """Says whether a grant with a role covers all of a cluster; see `domain.rights.Rights`."""
        return any(
            grant.covers(cluster, organization) and grant.covers_region(None)
            for grant in self._with_role(rpc)
        )

    def _with_role(self, rpc: str | None) -> Iterable[Grant]:
        """Returns the grants with a role for a method; None: all grants."""
        if rpc is None:
            return self._grants
        roles = rule(rpc).roles
        return [grant for grant in self._grants if not grant.roles.isdisjoint(roles)]

    def check(self, rpc: str) -> None:
        """Refuses a method for which the caller has no role.

        Raises:
            NotAllowedError: No grant gives the caller a role for the method.
        """
        if rpc not in self._callable:
            self._check_roles(rpc, self._grants, None)
            self._callable.add(rpc)

    def check_named(self, rpc: str, cluster: str, regions: Collection[str]) -> None:
        """Refuses by the names alone, before any look at the store; see `domain.rights.Rights`.

        Grants for certain organizations count, because the cluster's organization may be one of
        them. So the answer is the same whether the cluster exists or not.
        """
        seeing = [grant for grant in self._grants if grant.covers_name(cluster)]
        acting = self._check_reach(rpc, cluster, seeing)
        made = rule(rpc).new_regions
        # A region that no grant covers is hidden; `check_cluster` says so once the cluster exists.
        named = [r for r in regions if made or any(grant.covers_region(r) for grant in seeing)]
        self._check_regions(rpc, cluster, named, acting)
        self._check_whole(rpc, cluster, regions, acting)

    def check_cluster(
        self, rpc: str, cluster: str, organization: str | None, regions: Collection[str]
    ) -> None:
        """Refuses by the cluster's organization, too; see `domain.rights.Rights`."""
        seeing = [grant for grant in self._grants if grant.covers(cluster, organization)]
        acting = self._check_reach(rpc, cluster, seeing)
        if not rule(rpc).new_regions:
            for region in regions:
                if not any(grant.covers_region(region) for grant in seeing):
                    raise no_region(cluster, region)
        self._check_regions(rpc, cluster, regions, acting)
        self._check_whole(rpc, cluster, regions, acting)

    def check_key(
        self, cluster: str | None, organization: str | None, region: str | None, key: RootKey
    ) -> None:
        """Refuses a key that no grant names for this cluster and region (protocol C1)."""
        if cluster is None and organization is not None:
            self.check_organization_key(organization, region, key)
            return
        covering = [
            grant
            for grant in self._grants
            if (grant.covers_all() if cluster is None else grant.covers(cluster, organization))
        ]
        self._check_key(covering, cluster, region, key)

    def may_name(self, type_: str, uri: str) -> bool:
        """Says whether a grant names a root key; see `domain.rights.Rights`."""
        return any(
            granted.covers(type_, uri)
            for grant in self._grants
            if Role.OPERATOR in grant.roles
            for granted in grant.keys
        )

    def check_key_named(self, cluster: str, region: str | None, key: RootKey) -> None:
        """Refuses a key by the names alone; grants for certain organizations count."""
        covering = [grant for grant in self._grants if grant.covers_name(cluster)]
        self._check_key(covering, cluster, region, key)

    def check_organization(self, rpc: str, organization: str) -> None:
        """Refuses a method for an organization; see `domain.rights.Rights`."""
        seeing = [grant for grant in self._grants if grant.covers_organization(organization)]
        if not seeing and rpc != _MAKES_ORGANIZATION:
            raise no_organization(organization)
        try:
            self._check_roles(rpc, seeing, None)
        except NotAllowedError as error:
            raise NotAllowedError(
                f"{error.message}, for organization {organization}", field="organization"
            ) from None

    def covers_organization(self, rpc: str, organization: str, region: str | None) -> bool:
        """Says whether a grant covers an organization; see `domain.rights.Rights`."""
        return any(
            grant.covers_organization(organization) and grant.covers_region(region)
            for grant in self._with_role(rpc)
        )

    def organizations(self, rpc: str) -> tuple[str, ...] | None:
        """Returns patterns of organizations; see `domain.rights.Rights`."""
        whole = [
            grant
            for grant in self._with_role(rpc)
            if grant.clusters is None and grant.regions is None
        ]
        found: dict[str, None] = {}
        for grant in whole:
            if grant.organizations is None:
                return None
            found.update(dict.fromkeys(_texts(grant.organizations) or ()))
        return tuple(found)

    def check_organization_key(self, organization: str, region: str | None, key: RootKey) -> None:
        """Refuses a key for an organization as a whole; see `domain.rights.Rights`."""
        covering = [grant for grant in self._grants if grant.covers_organization(organization)]
        self._check_key(covering, None, region, key, organization=organization)

    def names_freely(self, rpc: str, cluster: str, organization: str) -> bool:
        """Says whether only grants count that narrow no names; see `domain.rights.Rights`."""
        # Without keys nobody makes a cluster, so a grant without keys counts for nothing here.
        making = [
            grant
            for grant in self._with_role(rpc)
            if grant.keys and grant.covers(cluster, organization)
        ]
        return bool(making) and all(
            grant.clusters is None and not grant.covers_organizations() for grant in making
        )

    def _check_key(
        self,
        covering: Iterable[Grant],
        cluster: str | None,
        region: str | None,
        key: RootKey,
        *,
        organization: str | None = None,
    ) -> None:
        for grant in covering:
            if (
                grant.covers_region(region)
                and Role.OPERATOR in grant.roles
                and any(granted.matches(key) for granted in grant.keys)
            ):
                return
        principal = key.principal or "ambient"
        place = "without a cluster" if cluster is None else f"for cluster {cluster}"
        if organization is not None:
            place = f"for all of organization {organization}"
        raise KeyNotGrantedError(
            f"no grant of {self._identity.name} names this {key.type} key as principal {principal} "
            f"{place}{f', region {region}' if region else ''}; have type, uri, principal and "
            "options added to a grant's keys",
            cluster=cluster,
            region=region,
            field="key_spec",
        )

    def _check_reach(self, rpc: str, cluster: str, seeing: list[Grant]) -> list[Grant]:
        """Returns the grants with a role for the method; refuses if no grant covers the cluster."""
        if not seeing:
            if not rule(rpc).new_cluster:
                raise no_cluster(cluster)
            raise NotAllowedError(
                f"{self._identity.name} may not make cluster {cluster}: no grant covers it; use "
                "a name and organization that a grant covers, or ask for a grant",
                cluster=cluster,
            )
        return self._check_roles(rpc, seeing, cluster)

    def _check_roles(
        self, rpc: str, grants: Iterable[Grant], cluster: str | None, region: str | None = None
    ) -> list[Grant]:
        """Returns the grants with a role for the method; refuses if a role is missing."""
        wanted = rule(rpc)
        if wanted.open:
            return list(grants)
        acting = [grant for grant in grants if not grant.roles.isdisjoint(wanted.roles)]
        had = {role for grant in acting for role in grant.roles}
        lacking = [role for role in wanted.roles if role not in had]
        if lacking and (wanted.each or len(lacking) == len(wanted.roles)):
            word = " and " if wanted.each else " or "
            roles = word.join(f"{role.value} ({role.purpose})" for role in lacking)
            place = "" if cluster is None else f" for cluster {cluster}"
            place += "" if region is None else f", region {region}"
            otherwise = f"; {wanted.otherwise}" if wanted.otherwise else ""
            raise NotAllowedError(
                f"{self._identity.name} may not call {rpc.partition(':')[0]}{place}: ask for a "
                f"grant of the role {roles}{otherwise}{self._why_lapsed(lacking)}",
                cluster=cluster,
                region=region,
            )
        return acting

    def _why_lapsed(self, lacking: Collection[Role]) -> str:
        """Returns why grants of missing roles do not hold for the caller, for a message."""
        reasons = dict.fromkeys(why for roles, why in self._lapsed if not roles.isdisjoint(lacking))
        if not reasons:
            return ""
        return (
            f"; a grant that names this caller does not hold, because {', and '.join(reasons)}: "
            "have the issuer of its tokens write the name of one organization there"
        )

    def _check_regions(
        self, rpc: str, cluster: str, regions: Iterable[str], acting: list[Grant]
    ) -> None:
        """Refuses a region for which the caller lacks the role."""
        for region in regions:
            there = [grant for grant in acting if grant.covers_region(region)]
            self._check_roles(rpc, there, cluster, region)

    def _check_whole(
        self, rpc: str, cluster: str, regions: Collection[str], acting: list[Grant]
    ) -> None:
        """Refuses a request for all regions, if the caller has the role for some regions only."""
        if regions or not rule(rpc).whole or any(g.covers_region(None) for g in acting):
            return
        raise NotAllowedError(
            f"{self._identity.name} may call {rpc.partition(':')[0]} for some regions only; name "
            "the regions",
            cluster=cluster,
            field="regions",
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy file's content.

    Attributes:
        grants: The grants. Their order has no meaning.
        on_behalf_of: The callers that Keyfold believes when they say whom they call for.
    """

    grants: tuple[Grant, ...]
    on_behalf_of: Patterns = NOBODY

    @property
    def claims(self) -> frozenset[str]:
        """The claims by which grants go."""
        return frozenset(g.organization_claim for g in self.grants if g.organization_claim)

    def granted(self, identity: Identity) -> tuple[Grant, ...]:
        """Returns the grants that name the caller, by any of its names, as they are written."""
        return tuple(g for g in self.grants if _named(identity, g.callers.match))

    def rights(self, identity: Identity) -> GrantedRights:
        """Returns what a caller may do."""
        return GrantedRights(identity, self.granted(identity))

    def believes(self, identity: Identity) -> bool:
        """Says whether Keyfold believes the name that the caller says it calls for."""
        return _named(identity, self.on_behalf_of.match)


def _named(identity: Identity, match: Callable[[str], bool]) -> bool:
    return any(map(match, identity.names))


class CachedPolicy:
    """A policy that remembers the rights of recent callers.

    Attributes:
        policy: The policy.
        claims: The claims of tokens by which its grants go.
    """

    def __init__(self, policy: Policy) -> None:
        """Begins with no rights in memory."""
        self.policy = policy
        self.claims = policy.claims
        self._rights: dict[Identity, GrantedRights] = {}

    def rights(self, identity: Identity) -> GrantedRights:
        """Returns a caller's rights: the same object for each of its calls."""
        found = self._rights.get(identity)
        if found is None:
            found = self.policy.rights(identity)
            if len(self._rights) >= _CALLERS:
                self._rights.clear()
            self._rights[identity] = found
        return found
