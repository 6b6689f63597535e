"""Grants: what one `[[grant]]` of the policy file says, and which role each method needs.

Invariant: `RULES` is the only table of methods, and nobody may call a method that is not in it. A
grant knows no other grant; `rights` says what several grants allow together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keyfold_server.domain.errors import NotAllowedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import Identity, NameableKeys


class Role(Enum):
    """What a grant lets its callers do. The values are the words of the policy file."""

    WRAP = "crypto:wrap"
    UNWRAP = "crypto:unwrap"
    OPERATOR = "operator"
    DESTROYER = "destroyer"
    AUDITOR = "auditor"
    ADMIN = "admin"

    @property
    def purpose(self) -> str:
        """What the role lets a caller do, for messages."""
        return _PURPOSES[self]


_PURPOSES: Final[Mapping[Role, str]] = {
    Role.WRAP: "wraps data keys",
    Role.UNWRAP: "opens wrapped keys",
    Role.OPERATOR: "gives clusters their keys, rotates, revokes and restores them",
    Role.DESTROYER: "deletes keys for good, and takes deletions back",
    Role.AUDITOR: "reads status, lists and events",
    Role.ADMIN: "does everything that other roles do, and makes organizations",
}

ROLES: Final[Mapping[str, frozenset[Role]]] = {
    "crypto": frozenset({Role.WRAP, Role.UNWRAP}),
    **{role.value: frozenset({role}) for role in Role},
    "admin": frozenset(Role),
}
"""The roles that each word of a grant's `roles` stands for."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a caller needs to call a method.

    Attributes:
        roles: The roles for the method. A caller needs one of them.
        each: True if a caller needs every one of the roles; several grants may give them.
        open: True if a caller needs no role.
        whole: True if a request that names no region means all regions of the cluster.
        new_cluster: True if the method makes the cluster. A caller that no grant lets make it is
            refused; for other methods such a cluster looks as if it did not exist.
        new_regions: True if the method may name regions that do not exist yet; the same holds for
            them.
        organization: True if the method is for an organization and for no cluster.
        otherwise: What a caller without the roles can do, for the message of the refusal.
    """

    roles: tuple[Role, ...] = ()
    each: bool = False
    open: bool = False
    whole: bool = False
    new_cluster: bool = False
    new_regions: bool = False
    organization: bool = False
    otherwise: str = ""


_OPEN: Final = Rule(open=True)
_ANY_GRANT: Final = Rule(tuple(Role))
_REWRAP: Final = Rule((Role.UNWRAP, Role.WRAP), each=True)
_READ: Final = Rule((Role.AUDITOR, Role.OPERATOR, Role.DESTROYER))
_ADMINISTER: Final = Rule((Role.ADMIN,), organization=True)
_LINK: Final = Rule((Role.OPERATOR,), organization=True)
_READ_ORGANIZATION: Final = Rule(_READ.roles, organization=True)

RULES: Final[Mapping[str, Rule]] = {
    "Wrap": Rule((Role.WRAP,)),
    "Unwrap": Rule((Role.UNWRAP,)),
    "GenerateDataKey": Rule((Role.WRAP,)),
    "Rewrap": _REWRAP,
    "BatchWrap": Rule((Role.WRAP,)),
    "BatchUnwrap": Rule((Role.UNWRAP,)),
    "BatchRewrap": _REWRAP,
    "Enable": Rule((Role.OPERATOR,), new_cluster=True, new_regions=True),
    "AddRegions": Rule((Role.OPERATOR,), new_regions=True),
    "Rotate": Rule((Role.OPERATOR,)),
    "Revoke": Rule((Role.OPERATOR,), whole=True),
    "Restore": Rule((Role.OPERATOR,), whole=True),
    "RetireGeneration": Rule((Role.OPERATOR,)),
    "DeleteCluster": Rule(
        (Role.DESTROYER,),
        whole=True,
        otherwise="an operator may delete a cluster that was never used, with waiting_period 0",
    ),
    "DeleteCluster:unused": Rule((Role.DESTROYER, Role.OPERATOR), whole=True),
    "UndeleteCluster": Rule((Role.DESTROYER,), whole=True),
    "TestKey": Rule((Role.OPERATOR,), new_regions=True),
    "GetAccessPolicy": Rule((Role.OPERATOR,), new_regions=True),
    "Recheck": _READ,
    "GetCaller": _OPEN,
    "GetStatus": _READ,
    "ListClusters": _READ,
    "ListKeyUsage": _READ,
    "CreateOrganization": _ADMINISTER,
    "GetOrganization": _READ_ORGANIZATION,
    "ListOrganizations": _READ,
    "UpdateOrganization": _ADMINISTER,
    "DeleteOrganization": _ADMINISTER,
    "CreateKeyLink": _LINK,
    "GetKeyLink": _READ_ORGANIZATION,
    "ListKeyLinks": _READ_ORGANIZATION,
    "UpdateKeyLink": _LINK,
    "DeleteKeyLink": _LINK,
    "StartOperation": Rule((Role.OPERATOR,)),
    "ListOperations": _READ,
    "GetOperation": _READ,
    "WaitOperation": _READ,
    "CancelOperation": Rule((Role.OPERATOR,)),
    "DeleteOperation": Rule((Role.OPERATOR,)),
    "ListEvents": Rule((Role.AUDITOR,)),
    "ListUsage": Rule((Role.AUDITOR,)),
    "VerifyEvents": Rule((Role.AUDITOR,)),
    "GetAnchor": Rule((Role.AUDITOR,)),
    "WatchEvents": _ANY_GRANT,
    "AdvanceCursor": Rule((Role.AUDITOR,)),
    "ListCursors": Rule((Role.AUDITOR,)),
    "DeleteCursor": Rule((Role.AUDITOR, Role.OPERATOR)),
    "grpc.health.v1.Health/Check": _OPEN,
    "grpc.health.v1.Health/List": _OPEN,
    "grpc.health.v1.Health/Watch": _OPEN,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _ANY_GRANT,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANY_GRANT,
}
"""The rule of each method: Keyfold's own by name, others by service and method.

Nobody may call a method without a rule. What follows a colon says of what the rule is: a cluster
that was never used has one of its own (protocol D6).
"""


def rule(rpc: str) -> Rule:
    """Returns a method's rule.

    Raises:
        NotAllowedError: The method has no rule.
    """
    found = RULES.get(rpc)
    if found is None:
        raise NotAllowedError(f"no rule lets anybody call {rpc}; use a method of the contract")
    return found


KEY_SEPARATORS: Final = "/:"
"""The characters that separate the segments of key uris and principals."""

_CALLER_SEPARATORS: Final = "/:#"
_DNS: Final = "dns:"


def caller_pattern(text: str) -> Pattern:
    """Returns the pattern of a caller's name.

    `*` alone matches every caller. Elsewhere it stays within one segment: `/`, `:` and `#` separate
    segments, and in a DNS name `.` does, too, as in a certificate's wildcard.
    """
    if text == "*":
        return Pattern(text)
    return Pattern(text, _CALLER_SEPARATORS + ("." if text.startswith(_DNS) else ""))


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """Root keys that an operator may name; all fields must match together (protocol C1).

    Attributes:
        type: The provider type.
        uri: The pattern of the canonical uri. None matches any uri; the file allows that only for
            PLATFORM and LOCAL.
        principal: The pattern of the principal under which Keyfold calls the key. None matches
            only the server's own identity.
        options: The provider's options, sorted by key. They must be exactly these.
    """

    type: str
    uri: Pattern | None = None
    principal: Pattern | None = None
    options: tuple[tuple[str, str], ...] = ()

    def nameable(self) -> NameableKeys:
        """Returns what is shown of these keys to a caller that may name them."""
        return NameableKeys(
            self.type,
            "" if self.uri is None else self.uri.text,
            "ambient" if self.principal is None else self.principal.text,
            dict(self.options),
        )

    def matches(self, key: RootKey) -> bool:
        """Says whether a root key in canonical form is one of these keys."""
        if not self.covers(key.type, key.uri) or key.options != self.options:
            return False
        if self.principal is None or not key.principal:
            # `*` would match an empty principal, too, but the server's own identity must be
            # written out as `ambient`.
            return self.principal is None and not key.principal
        return self.principal.matches(key.principal)

    def covers(self, type_: str, uri: str) -> bool:
        """Says whether a root key is one of these, under whatever principal and options."""
        return type_ == self.type and (self.uri is None or self.uri.matches(uri))

    def __str__(self) -> str:
        words = [self.type]
        if self.uri is not None:
            words += [self.uri.text, "as", self.principal.text if self.principal else "ambient"]
        words += [f"{name}={value}" for name, value in self.options]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant of the policy. A field that is None does not narrow it.

    Attributes:
        where: The file and line of the grant, for messages.
        callers: The callers that have the grant.
        roles: The roles that the grant gives them.
        clusters: The names of the clusters that the grant covers.
        organizations: The organizations whose clusters the grant covers. A cluster without an
            organization does not match.
        regions: The regions that the grant covers.
        context: Entries that a data key's context must contain; empty or None allows any context.
        keys: The root keys that an operator may name; empty allows none.
        organization_claim: The claim of the caller's token that names the one organization which
            the grant covers for this caller; None: the grant is the same for each of its callers.
    """

    where: str
    callers: Patterns
    roles: frozenset[Role]
    clusters: Patterns | None = None
    organizations: Patterns | None = None
    regions: Patterns | None = None
    context: Mapping[str, str] | None = None
    keys: tuple[KeyGrant, ...] = ()
    organization_claim: str | None = None

    def lapse(self, identity: Identity) -> str:
        """Returns why the grant does not hold for a caller that it names; empty: it holds."""
        if self.organization_claim is None:
            return ""
        claim = identity.claim(self.organization_claim)
        if claim is None:
            return f"the caller has no token with the claim {self.organization_claim}"
        if claim.fault:
            return f"the claim {claim.name} {claim.fault}"
        if self.organizations is not None and not self.organizations.match(claim.organization):
            return f"the claim {claim.name} names an organization for which it does not hold"
        return ""

    def held(self, identity: Identity) -> Grant:
        """Returns the grant as it holds for a caller: for the organization in its token alone."""
        claim = identity.claim(self.organization_claim) if self.organization_claim else None
        if claim is None:
            return self
        # A valid name has no `*`, so the pattern matches that name alone.
        return replace(self, organizations=Patterns((Pattern(claim.organization),)))

    def methods(self) -> tuple[str, ...]:
        """Returns the methods of Keyfold's own that this grant allows by itself, of what it covers.

        A method for an organization is not among them if the grant is narrowed to some clusters.
        """
        return tuple(
            rpc
            for rpc, needed in RULES.items()
            if "/" not in rpc and not needed.open and self._allows(needed)
        )

    def _allows(self, needed: Rule) -> bool:
        if needed.organization and self.clusters is not None:
            return False
        if needed.each:
            return self.roles.issuperset(needed.roles)
        return not self.roles.isdisjoint(needed.roles)

    def covers_name(self, cluster: str) -> bool:
        """Says whether the grant covers a cluster of this name, for some organization."""
        return self.clusters is None or self.clusters.match(cluster)

    def covers(self, cluster: str, organization: str | None) -> bool:
        """Says whether the grant covers a cluster, by its name and its organization."""
        if not self.covers_name(cluster):
            return False
        return self.organizations is None or (
            organization is not None and self.organizations.match(organization)
        )

    def covers_organizations(self) -> bool:
        """Says whether the grant covers the clusters of every organization."""
        return self.organizations is None or any(p.text == "*" for p in self.organizations.items)

    def covers_organization(self, organization: str) -> bool:
        """Says whether the grant covers an organization itself, and not only some of its clusters.

        A grant that is narrowed to some regions covers the key links of those.
        """
        return self.clusters is None and (
            self.organizations is None or self.organizations.match(organization)
        )

    def covers_all(self) -> bool:
        """Says whether the grant covers every cluster, including those that do not exist yet."""
        return self.clusters is None and self.organizations is None

    def covers_region(self, region: str | None) -> bool:
        """Says whether the grant covers a region; None means all possible regions."""
        return self.regions is None or (region is not None and self.regions.match(region))
