"""Organizations: the vendor's customers, each with its settings and its key links.

An organization is one aggregate: its settings and all of its links change under one row, so limits
and "one link for each provider and region" hold without a race. One that nobody made has the
defaults, because clusters may name an organization before anybody makes it.

The changes are pure functions in `organization_changes`. This module knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from keyfold_server.domain.errors import InvalidOrganizationError, KeyLinkNotFoundError
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.key_links import UNUSED, KeyLink, LinkUse, etag
from keyfold_server.domain.patterns import Pattern
from keyfold_server.domain.texts import fault_of_text

MAX_DISPLAY_NAME: Final = 256
"""Most characters in the display name of an organization."""

MAX_PATTERNS: Final = 64
"""Most patterns of cluster names of one organization."""

MAX_KEY_LINKS: Final = 1_000
"""Most key links of one organization, whatever its own limit is."""

NAMED: Final = 10
"""Most clusters, or regions, that an error names."""

_PATTERN_CHARACTERS: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-*"
)
_LONGEST_PATTERN: Final = 128
_MOST: Final = 0xFFFF_FFFF


class DefaultKey(Enum):
    """What a region gets for which neither Enable nor AddRegions names a key."""

    REQUIRE_OWN = "REQUIRE_OWN"
    """Nothing: the call fails."""

    LINKED = "LINKED"
    """The key of the organization's link for the region; without one, the call fails."""

    PLATFORM = "PLATFORM"
    """The vendor's own key of the region."""

    @property
    def description(self) -> str:
        """One sentence for people."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS: Final = {
    DefaultKey.REQUIRE_OWN: (
        "A region for which a request names no key is refused: the customer has to bring a key."
    ),
    DefaultKey.LINKED: (
        "A region for which a request names no key uses the organization's key link for that "
        "region, and is refused if there is none."
    ),
    DefaultKey.PLATFORM: (
        "A region for which a request names no key uses the vendor's own platform key."
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What somebody decided about an organization. The default values are those of one nobody made.

    Attributes:
        display_name: The name for people; may be empty.
        default_key: What a region gets for which nobody names a key.
        cluster_patterns: Patterns of the names that its clusters may have; empty: any name.
        max_clusters: The most clusters; 0: any number.
        max_key_links: The most key links; 0: `MAX_KEY_LINKS`.
    """

    display_name: str = ""
    default_key: DefaultKey = DefaultKey.REQUIRE_OWN
    cluster_patterns: tuple[str, ...] = ()
    max_clusters: int = 0
    max_key_links: int = 0

    def check(self) -> None:
        """Refuses settings that cannot be meant.

        Raises:
            InvalidOrganizationError: A value is out of bounds, or a pattern narrows nothing.
        """
        if fault := fault_of_text(self.display_name, MAX_DISPLAY_NAME):
            raise InvalidOrganizationError(
                f"display_name {fault}", field="organization.display_name"
            )
        if len(self.cluster_patterns) > MAX_PATTERNS:
            raise InvalidOrganizationError(
                f"give at most {MAX_PATTERNS} cluster_patterns",
                field="organization.cluster_patterns",
            )
        for index, text in enumerate(self.cluster_patterns):
            _check_pattern(text, f"organization.cluster_patterns[{index}]")
        for name, value in (
            ("max_clusters", self.max_clusters),
            ("max_key_links", self.max_key_links),
        ):
            if not 0 <= value <= _MOST:
                raise InvalidOrganizationError(
                    f"{name} must be 0 to {_MOST:,}", field=f"organization.{name}"
                )

    def allows(self, cluster: str) -> bool:
        """Says whether a new cluster of the organization may have a name."""
        patterns = self.cluster_patterns
        return not patterns or any(Pattern(text).matches(cluster) for text in patterns)


def _check_pattern(text: str, path: str) -> None:
    if not 1 <= len(text) <= _LONGEST_PATTERN or not _PATTERN_CHARACTERS.issuperset(text):
        raise InvalidOrganizationError(
            "a pattern of cluster names has 1 to 128 of A-Z a-z 0-9 . _ - and *", field=path
        )
    if "**" in text or text == "*":
        raise InvalidOrganizationError(
            f"the pattern {text} allows more than it says: leave cluster_patterns empty to allow "
            "any name, and write a single * within a name otherwise",
            field=path,
        )


DEFAULTS: Final = Settings()


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization with its key links and holders.

    Attributes:
        name: The name, which is unique for ever.
        settings: What somebody decided about it.
        links: Its key links, sorted by name.
        version: A number that every change of it or of a link raises, also over a deletion; 0:
            nobody ever changed it.
        revision: 1, 2, 3 …, raised by every change of settings and holders; 0: nobody made it.
        created_at: When somebody made it, milliseconds of Unix time; None: nobody did.
        updated_at: When it or a link last changed, milliseconds of Unix time; None: never.
        holders: The accounts, projects, vaults and origins that are its own, sorted (protocol C9).
    """

    name: str
    settings: Settings = DEFAULTS
    links: tuple[KeyLink, ...] = ()
    version: int = 0
    revision: int = 0
    created_at: int | None = None
    updated_at: int | None = None
    holders: tuple[Holder, ...] = ()

    @property
    def etag(self) -> str:
        """A text that differs after every change of settings and holders; empty: nobody made it."""
        if self.created_at is None:
            return ""
        return etag("organization", self.name, self.created_at, self.revision)

    @property
    def is_kept(self) -> bool:
        """Whether there is anything about it beyond the clusters that name it."""
        return self.created_at is not None or bool(self.links) or bool(self.holders)

    def link(self, name: str) -> KeyLink:
        """Returns the link of a name.

        Raises:
            KeyLinkNotFoundError: It has no link of that name.
        """
        for link in self.links:
            if link.name == name:
                return link
        raise no_link(self.name, name)

    def serving(self, region: str) -> tuple[KeyLink, ...]:
        """Returns the links whose key a region may take."""
        return tuple(link for link in self.links if link.serves(region))

    @property
    def most_links(self) -> int:
        """The most key links that it may have."""
        return min(self.settings.max_key_links or MAX_KEY_LINKS, MAX_KEY_LINKS)


@dataclass(frozen=True, slots=True)
class OrganizationView:
    """An organization as the store has it at one moment, with what hangs on it.

    Attributes:
        organization: The organization; one with the defaults if the store has no row of it.
        cluster_count: How many clusters it has.
        clusters: The first of their names, if the view was asked for them.
        uses: The use of each of its links that is used, by the link's name, if asked for.
        held_elsewhere: The holders that another organization has, of those that were asked for.
    """

    organization: Organization
    cluster_count: int = 0
    clusters: tuple[str, ...] = ()
    uses: dict[str, LinkUse] = field(default_factory=dict)
    held_elsewhere: frozenset[Holder] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether somebody made it, a cluster names it, or it holds something."""
        return self.organization.is_kept or self.cluster_count > 0

    def use(self, link: str) -> LinkUse:
        """Returns the use of a link."""
        return self.uses.get(link, UNUSED)


def no_link(organization: str, name: str) -> KeyLinkNotFoundError:
    """Returns the error for a link that does not exist, or that the caller may not see."""
    return KeyLinkNotFoundError(
        f"organization {organization} has no key link {name}; ListKeyLinks lists its links",
        field="key_link",
    )


def sorted_links(links: Sequence[KeyLink]) -> tuple[KeyLink, ...]:
    """Returns links in their order."""
    return tuple(sorted(links, key=lambda link: link.name))
