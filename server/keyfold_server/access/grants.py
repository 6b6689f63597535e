"""Grants: what one `[[grant]]` of the policy file says, and which methods take which role.

Invariants: `RULES` is the one table of methods, and what is not in it is nobody's. Matching is
plain text work in linear time: nothing of the file becomes a regular expression, so no pattern
can be slow, and no character but `*` means anything but itself. A grant knows no other grant; what
several allow together is the policy's to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from keyfold_server.domain.errors import NotAllowedError
from keyfold_server.domain.keyspec import RootKey


class Role(Enum):
    """What a grant lets its callers do, as told in messages."""

    WRAP = "crypto:wrap"
    UNWRAP = "crypto:unwrap"
    OPERATOR = "operator"
    DESTROYER = "destroyer"
    AUDITOR = "auditor"

    @property
    def purpose(self) -> str:
        """What the role is for, after its name."""
        return _PURPOSES[self]


_PURPOSES: Final[Mapping[Role, str]] = {
    Role.WRAP: "wraps data keys",
    Role.UNWRAP: "opens wrapped keys",
    Role.OPERATOR: "gives clusters their keys, rotates, revokes and restores them",
    Role.DESTROYER: "destroys keys for good",
    Role.AUDITOR: "reads status and lists",
}

ROLES: Final[Mapping[str, frozenset[Role]]] = {
    "crypto": frozenset({Role.WRAP, Role.UNWRAP}),
    **{role.value: frozenset({role}) for role in Role},
    "admin": frozenset(Role),
}
"""What each word of a grant's `roles` stands for."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method takes.

    Attributes:
        roles: The roles, of which a grant must give one.
        each: Every one of the roles is needed; grants may give them one by one.
        open: It takes nothing: every caller that the transport let in may call it.
        whole: A request that names no region means all that the cluster has.
        new_cluster: It makes the cluster, so a name out of reach is refused, not hidden.
        new_regions: The same for its regions.
    """

    roles: tuple[Role, ...] = ()
    each: bool = False
    open: bool = False
    whole: bool = False
    new_cluster: bool = False
    new_regions: bool = False


_OPEN: Final = Rule(open=True)
_ANY_GRANT: Final = Rule(tuple(Role))
_REWRAP: Final = Rule((Role.UNWRAP, Role.WRAP), each=True)
_READ: Final = Rule((Role.AUDITOR, Role.OPERATOR, Role.DESTROYER))

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
    "TestKey": Rule((Role.OPERATOR,), new_regions=True),
    "GetAccessPolicy": Rule((Role.OPERATOR,), new_regions=True),
    "GetStatus": _READ,
    "ListClusters": _READ,
    "grpc.health.v1.Health/Check": _OPEN,
    "grpc.health.v1.Health/List": _OPEN,
    "grpc.health.v1.Health/Watch": _OPEN,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _ANY_GRANT,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANY_GRANT,
}
"""What each method takes: Keyfold's own by name, others as service and method.

A method without a rule is refused to everybody.
"""


def rule(rpc: str) -> Rule:
    """Returns a method's rule.

    Raises:
        NotAllowedError: It has none.
    """
    found = RULES.get(rpc)
    if found is None:
        raise NotAllowedError(f"no rule lets anybody call {rpc}; use a method of the contract")
    return found


KEY_SEPARATORS: Final = "/:"
"""Where the segments of key uris and principals end."""

_CALLER_SEPARATORS: Final = "/:#"
_DNS: Final = "dns:"


class Pattern:
    """A text in which each `*` stands for any run of characters, the empty one too.

    With separators, text and pattern are split at them, the separators must be the same, and a
    `*` stays within its segment: `spiffe://example.org/ns/*/sa/web` names one account in every
    namespace, and never a longer path.
    """

    __slots__ = ("_segments", "_split", "text")

    def __init__(self, text: str, separators: str = "") -> None:
        """Takes the text as the file has it, and the characters that no `*` stands for."""
        self.text = text
        self._split = re.compile(f"([{re.escape(separators)}])") if separators else None
        self._segments = [part.split("*") for part in self._parts(text)] if "*" in text else None

    def matches(self, text: str) -> bool:
        """Says whether the whole text fits."""
        if self._segments is None:
            return text == self.text
        parts = self._parts(text)
        return len(parts) == len(self._segments) and all(map(_fits, parts, self._segments))

    def _parts(self, text: str) -> list[str]:
        return [text] if self._split is None else self._split.split(text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _fits(text: str, pieces: list[str]) -> bool:
    """Says whether a text is made of the pieces, in order, with anything between them.

    Taking each middle piece where it first occurs is right: it leaves the most to the others.
    """
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    end = len(text) - len(last)
    if len(first) > end or not (text.startswith(first) and text.endswith(last)):
        return False
    at = len(first)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def caller_pattern(text: str) -> Pattern:
    """Returns the pattern of a caller's name.

    `*` alone is every caller. Elsewhere it stays within one segment: segments end at `/`, `:` and
    `#`, and those of a DNS name at `.` too, as in a certificate's wildcard.
    """
    if text == "*":
        return Pattern(text)
    return Pattern(text, _CALLER_SEPARATORS + ("." if text.startswith(_DNS) else ""))


@dataclass(frozen=True, slots=True)
class Patterns:
    """Alternatives, of which one must match."""

    items: tuple[Pattern, ...]

    def match(self, text: str) -> bool:
        """Says whether the text fits any of them."""
        return any(pattern.matches(text) for pattern in self.items)

    def __str__(self) -> str:
        return ", ".join(pattern.text for pattern in self.items)


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """Root keys that an operator may name: a tuple that matches as a whole (protocol C1).

    Attributes:
        type: The provider type, exactly.
        uri: The canonical uri; None: any, which the file allows for PLATFORM and LOCAL alone.
        principal: As whom Keyfold calls; None: as itself, and as nobody else.
        options: The provider's options, exactly, sorted by key.
    """

    type: str
    uri: Pattern | None = None
    principal: Pattern | None = None
    options: tuple[tuple[str, str], ...] = ()

    def matches(self, key: RootKey) -> bool:
        """Says whether a root key, in canonical form, is one of these."""
        if key.type != self.type or key.options != self.options:
            return False
        if self.uri is not None and not self.uri.matches(key.uri):
            return False
        if self.principal is None or not key.principal:
            # `*` matches the empty text too, but the server's own identity is only written out.
            return self.principal is None and not key.principal
        return self.principal.matches(key.principal)

    def __str__(self) -> str:
        words = [self.type]
        if self.uri is not None:
            words += [self.uri.text, "as", self.principal.text if self.principal else "ambient"]
        words += [f"{name}={value}" for name, value in self.options]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant. What is None is not narrowed; without `keys` none may be named.

    Attributes:
        where: File and line, for messages.
        callers: To whom.
        roles: What they may do.
        clusters: In which clusters, by name.
        organizations: Only in clusters of these; one that belongs to none does not match.
        regions: In which regions.
        context: Entries that a data key's context must hold; empty: any context will do.
        keys: The root keys that an operator may name.
    """

    where: str
    callers: Patterns
    roles: frozenset[Role]
    clusters: Patterns | None = None
    organizations: Patterns | None = None
    regions: Patterns | None = None
    context: Mapping[str, str] | None = None
    keys: tuple[KeyGrant, ...] = ()

    def covers_name(self, cluster: str) -> bool:
        """Says whether there can be a cluster of that name that the grant covers."""
        return self.clusters is None or self.clusters.match(cluster)

    def covers(self, cluster: str, organization: str | None) -> bool:
        """Says whether it covers a cluster whose organization is known."""
        if not self.covers_name(cluster):
            return False
        return self.organizations is None or (
            organization is not None and self.organizations.match(organization)
        )

    def covers_all(self) -> bool:
        """Says whether it covers every cluster, those included that are not there yet."""
        return self.clusters is None and self.organizations is None

    def covers_region(self, region: str | None) -> bool:
        """Says whether it covers a region, or all there can be where None is given."""
        return self.regions is None or (region is not None and self.regions.match(region))
