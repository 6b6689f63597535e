"""The keys that regions will have from their organization once a plan's earlier steps are taken.

The server cannot try a call that names a key link which the same plan makes or changes, or that
relies on a rule which the same plan sets. It can try the same call with the key itself, which
needs the same rights and proves the same key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from keyfold.cli.commands.documents.actual import Actual
from keyfold.cli.commands.documents.organizations import link_name, organization_name
from keyfold.cli.input.documents import Document
from keyfold.errors import KeyLinkAmbiguousError, KeyLinkMissingError, KeySpecMissingError
from keyfold.models.organizations import DefaultKey, KeyLink
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus


@dataclass(frozen=True, slots=True)
class Trial:
    """The specs with which a call is tried.

    Attributes:
        specs: The specs; None: the call cannot be tried before the earlier steps are taken.
        links: The key links that the regions will use whose key stands there now, by region.
    """

    specs: list[RegionSpec] | None
    links: dict[str, str]

    def as_it_will_be(self, status: ClusterStatus) -> ClusterStatus:
        """Returns the status that a trial foretold, with the links that it did not name."""
        regions = (
            replace(one, key_link=self.links.get(one.region, one.key_link))
            for one in status.regions
        )
        return replace(status, regions=tuple(regions))


class PlannedKeys:
    """Knows what earlier steps of a plan change about the keys that organizations give."""

    def __init__(self, document: Document, exists: Actual, changing: Iterable[str]) -> None:
        """Takes the document, what exists, and the resources that earlier steps change."""
        self._document = document
        self._exists = exists
        self._changing = frozenset(changing)

    def changes_rules(self, organization: str) -> bool:
        """Says whether an earlier step changes the organization itself."""
        return organization_name(organization) in self._changing

    def _concerns(self, organization: str) -> bool:
        names = (link_name(*key) for key in self._document.key_links if key[0] == organization)
        return self.changes_rules(organization) or not self._changing.isdisjoint(names)

    def trial(self, organization: str, specs: Iterable[RegionSpec]) -> Trial:
        """Returns how specs of a cluster of an organization are tried.

        Raises:
            KeySpecMissingError: A region names no key, and its organization will give it none.
            KeyLinkMissingError: It will have no link for the region.
            KeyLinkAmbiguousError: It will have several.
        """
        specs = list(specs)
        links: dict[str, str] = {}
        if not organization or not self._concerns(organization):
            return Trial(specs, links)
        tried: list[RegionSpec] = []
        for spec in specs:
            if spec.key_spec or spec.replica_of:
                tried.append(spec)
                continue
            if not spec.key_link and self._default(organization) is DefaultKey.PLATFORM:
                tried.append(replace(spec, key_spec=KeySpec("PLATFORM")))
                continue
            link = self._link(organization, spec)
            if link is None:
                tried.append(spec)
            elif link.key_spec is not None and link.region:
                links[spec.region] = link.key_link
                tried.append(replace(spec, key_spec=link.key_spec, key_link=""))
            else:
                # Of a geo's link only the server knows the replica.
                return Trial(None, {})
        return Trial(tried, links)

    def _link(self, organization: str, spec: RegionSpec) -> KeyLink | None:
        """Returns the link whose key a region will get; None: the server knows no more of it."""
        links = self._links(organization)
        if spec.key_link:
            return links.get(spec.key_link)
        why = f"region {spec.region} names no key, and organization {organization} "
        if self._default(organization) is DefaultKey.REQUIRE_OWN:
            raise KeySpecMissingError(f"{why}will not give it one; nothing was changed")
        serving = [link for link in links.values() if link.geo or link.region == spec.region]
        if not serving:
            raise KeyLinkMissingError(f"{why}will have no key link for it; nothing was changed")
        if len(serving) > 1 and not any(link.geo for link in serving):
            names = ", ".join(link.key_link for link in serving)
            raise KeyLinkAmbiguousError(f"{why}will have several: {names}; nothing was changed")
        return next((link for link in serving if link.geo), serving[0])

    def _links(self, organization: str) -> dict[str, KeyLink]:
        links = dict(self._exists.key_links(organization))
        for (owner, name), entry in self._document.key_links.items():
            if owner == organization and (entry.value.key_spec or name not in links):
                links[name] = entry.value
        return links

    def _default(self, organization: str) -> DefaultKey:
        entry = self._document.organizations.get(organization)
        if entry is not None and "default_key" in entry.given:
            rule = entry.value.default_key
        else:
            found = self._exists.organization(organization)
            rule = DefaultKey.UNSPECIFIED if found is None else found.default_key
        return DefaultKey.REQUIRE_OWN if rule is DefaultKey.UNSPECIFIED else rule
