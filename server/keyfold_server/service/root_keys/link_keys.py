"""The keys that a cluster's regions take from their organization: key links and the default rule.

What comes out is a key spec that is granted, proven and stored as if the caller had written it.
What the organization gives is checked once more when the change commits (`domain.reliance`). No KMS
is called here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    KeyLinkAmbiguousError,
    KeyLinkElsewhereError,
    KeyLinkMissingError,
    KeyLinkNotFoundError,
    NotAllowedError,
)
from keyfold_server.domain.key_links import KeyLink
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionSpec, check_name
from keyfold_server.domain.organizations import DefaultKey, Organization, OrganizationView
from keyfold_server.domain.reliance import Reliance, check_name_allowed
from keyfold_server.domain.rights import Rights
from keyfold_server.service.root_keys.geo_keys import GeoKeys
from keyfold_server.service.storage import Storage


def check_key_links(specs: Sequence[RegionSpec]) -> None:
    """Refuses a spec that has a key link and another key.

    Raises:
        InvalidKeySpecError: One of the specs has.
        InvalidNameError: A key link is not a valid name.
    """
    for index, spec in enumerate(specs):
        if not spec.key_link:
            continue
        path = f"region_specs[{index}].key_link"
        check_name(spec.key_link, path)
        if spec.key_spec is not None or spec.replica_of:
            other = "replica_of" if spec.replica_of else "a key_spec"
            raise InvalidKeySpecError(
                f"region {spec.region} has both key_link and {other}; give one of them",
                region=spec.region,
                field=path,
            )


@dataclass(frozen=True, slots=True)
class Given:
    """The specs of a request, with what the organization gives to them.

    Attributes:
        specs: The specs. Those that take a link's key have both the key and the link.
        reliance: What the change takes from the organization; None: nothing.
        view: The organization as it was read, or None.
    """

    specs: tuple[RegionSpec, ...]
    reliance: Reliance | None = None
    view: OrganizationView | None = None

    def check(self) -> None:
        """Refuses early what the commit would refuse, so that no KMS is called for it.

        Raises:
            ClusterNameNotAllowedError: The organization's patterns do not allow the new name.
            TooManyClustersError: It has as many clusters as it may.
        """
        if self.reliance is not None and self.view is not None:
            self.reliance.check(self.view)

    @property
    def rule(self) -> str:
        """What the organization says of a region without a key, for an error; may be empty."""
        if self.view is None:
            return ""
        own = self.view.organization
        return f" (default_key of organization {own.name} is {own.settings.default_key.value})"


class LinkKeys:
    """Gives regions the keys of their organization."""

    def __init__(self, storage: Storage, geo_keys: GeoKeys) -> None:
        """Takes the store, and what works out the keys of a geo's regions."""
        self._storage = storage
        self._geo_keys = geo_keys

    async def given(
        self,
        specs: Sequence[RegionSpec],
        cluster: str,
        organization: str | None,
        *,
        without: Collection[str] = (),
        makes: Rights | None = None,
    ) -> Given:
        """Returns specs with the keys that the organization gives.

        Args:
            specs: The request's specs.
            cluster: The cluster's name.
            organization: The cluster's organization, or None.
            without: The regions for which the request has no key. They get what the organization
                says, which may be nothing.
            makes: The caller's rights if the change makes the cluster, which then has to keep to
                the organization's limits.

        Raises:
            KeyLinkNotFoundError: The organization has no such link, or the cluster belongs to none.
            KeyLinkElsewhereError: A link does not serve the region that names it.
            KeyLinkMissingError: A region gets the key of its link, and none serves it.
            KeyLinkAmbiguousError: A region gets the key of its link, and several serve it.
            NotAllowedError: Neither the caller's grants nor the organization narrow the names that
                its clusters may have.
            ClusterNameNotAllowedError: Only the organization narrows them, and not to this one.
        """
        named = {spec.region: spec.key_link for spec in specs if spec.key_link}
        if organization is None:
            _refuse_links(named, cluster)
            return Given(tuple(specs))
        if not named and not without and makes is None:
            return Given(tuple(specs))
        view = await self._storage.decide(self._storage.store.organization, organization)
        own = view.organization
        if makes is not None and makes.names_freely("Enable", cluster, organization):
            _check_named(own, cluster)
        links = {region: own.link(name) for region, name in named.items()}
        rule = own.settings.default_key if without else None
        if rule is DefaultKey.LINKED:
            links |= _defaults(own, without)
        by_region = {spec.region: spec for spec in specs}
        for region, link in links.items():
            by_region[region] = await self._linked(by_region.get(region, RegionSpec(region)), link)
        if rule is DefaultKey.PLATFORM:
            for region in without:
                spec = by_region.get(region, RegionSpec(region))
                by_region[region] = replace(spec, key_spec=KeySpec(PLATFORM))
        relies = Reliance(
            own.name,
            tuple({link.name: link for link in links.values()}.values()),
            rule,
            cluster if makes is not None else "",
            counts=own.settings.max_clusters > 0,
        )
        return Given(tuple(by_region.values()), relies, view)

    async def _linked(self, spec: RegionSpec, link: KeyLink) -> RegionSpec:
        """Returns a spec with the key that a link has for its region.

        Raises:
            KeyLinkElsewhereError: The link was not proven in the region.
        """
        region = spec.region
        if not link.serves(region):
            why = f"name a key link for region {region}"
            if link.geo:
                why = (
                    f"it was proven in {', '.join(link.proven)}; if the geo has gained region "
                    f"{region}, replicate the key there and call UpdateKeyLink with its key"
                )
            raise KeyLinkElsewhereError(
                f"key link {link.name} is for {link.place}, and not for region {region}: {why}",
                region=region,
                field="region_specs",
            )
        key_spec = link.key_spec
        if link.geo:
            keys = await self._geo_keys.keys(key_spec, link.geo)
            key_spec = next((k.key_spec for k in keys if k.region == region), None) or key_spec
        # The link has worked the geo out, so the region is like one that is named by itself.
        return replace(spec, key_spec=key_spec, key_link=link.name, geo="")


def _refuse_links(named: Mapping[str, str], cluster: str) -> None:
    """Refuses key links of a cluster that belongs to no organization.

    Raises:
        KeyLinkNotFoundError: The request names one.
    """
    for region, link in named.items():
        raise KeyLinkNotFoundError(
            f"cluster {cluster} belongs to no organization, so it has no key link {link}; give "
            f"region {region} a key_spec",
            region=region,
            field="region_specs",
        )


def _check_named(organization: Organization, cluster: str) -> None:
    """Refuses a new cluster of whose name nothing says that it is the organization's (C8).

    Raises:
        NotAllowedError: The organization has no patterns.
        ClusterNameNotAllowedError: Its patterns do not allow the name.
    """
    if not organization.settings.cluster_patterns:
        raise NotAllowedError(
            f"your grants for organization {organization.name} do not narrow the names of its "
            "clusters, and it has no cluster_patterns, so you could take the names of others' "
            "clusters: have either of them narrow the names",
            cluster=cluster,
            field="cluster",
        )
    check_name_allowed(organization, cluster)


def _defaults(organization: Organization, regions: Iterable[str]) -> dict[str, KeyLink]:
    """Returns, by region, the one link whose key a region gets that names none.

    Raises:
        KeyLinkMissingError: No link serves one of the regions.
        KeyLinkAmbiguousError: Several links serve one of them.
    """
    found: dict[str, KeyLink] = {}
    missing: list[str] = []
    for region in regions:
        serving = organization.serving(region)
        if len(serving) > 1:
            names = ", ".join(f"{link.name} ({link.key_spec.type})" for link in serving)
            raise KeyLinkAmbiguousError(
                f"organization {organization.name} has linked several keys for region {region}: "
                f"{names}; name one of them as the region's key_link",
                region=region,
                field="region_specs",
            )
        if serving:
            found[region] = serving[0]
        else:
            missing.append(region)
    if missing:
        raise KeyLinkMissingError(
            f"organization {organization.name} has linked no key for region {', '.join(missing)}, "
            "and its default_key is LINKED; link one with CreateKeyLink, or give a key_spec",
            region=missing[0],
            field="region_specs",
        )
    return found
