"""Proofs of a link's key: that it wraps and unwraps in each region that the link serves.

A link's key is tried as Enable tries a key, for the organization and no cluster: so a key policy
that demands the organization lets it pass, and one that demands a cluster does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass

from keyfold_server.domain.errors import (
    InvalidKeyLinkError,
    KeyElsewhereError,
    KeyfoldError,
    KmsError,
)
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.key_links import KeyLink, KeyUse
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionSpec, RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.seats import asks_for_seat
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.each_region import for_each_region
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.geo_keys import GeoKeys
from keyfold_server.service.root_keys.holders import Holders
from keyfold_server.service.root_keys.replica_of import replica_error
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.resolution import Resolution
from keyfold_server.service.root_keys.seats import SeatedKey, Seats


@dataclass(frozen=True, slots=True)
class LinkedKey:
    """The key of a link in one region.

    Attributes:
        spec: The region with the key spec, and with the region whose replica it is.
        root: The root key in canonical form, without an external id.
    """

    spec: RegionSpec
    root: RootKey


@dataclass(frozen=True, slots=True)
class ProvenKey:
    """The key of a link once it is proven.

    Attributes:
        regions: The regions in which it is, sorted.
        holders: The holders that a change which stores it claims (protocol C9).
    """

    regions: tuple[str, ...]
    holders: tuple[Holder, ...]


class LinkProofs:
    """Proves the keys of links."""

    def __init__(
        self,
        resolution: Resolution,
        residency: Residency,
        identities: tuple[ExternalIds, Seats],
        holders: Holders,
        geo_keys: GeoKeys,
        kek_wrapper: KekWrapper,
        regions: ResidencyPolicy,
        clock: Clock,
    ) -> None:
        """Joins the proofs to the KMSs.

        Args:
            resolution: Resolves key specs.
            residency: Knows where keys are.
            identities: The external ids and the seats of owners.
            holders: Knows whose the accounts of keys are.
            geo_keys: Works out the keys of a geo's regions.
            kek_wrapper: Makes and proves KEKs.
            regions: The geos of the settings.
            clock: Time.
        """
        self._resolution = resolution
        self._residency = residency
        self._external_ids, self._seats = identities
        self._holders = holders
        self._geo_keys = geo_keys
        self._kek_wrapper = kek_wrapper
        self._regions = regions
        self._clock = clock

    def regions(self, region: str, geo: str) -> tuple[str, ...]:
        """Returns the regions that a link is to serve, sorted.

        Raises:
            UnknownGeoError: The settings have no such geo.
        """
        return self._regions.geos.regions(geo, "key_link.geo") if geo else (region,)

    def missing(self, link: KeyLink) -> tuple[str, ...]:
        """Returns the regions that a link's geo has now and in which its key was not proven."""
        return self._regions.geos.missing(link.geo, link.proven) if link.geo else ()

    async def replicas(self, link: KeyLink) -> dict[str, KeySpec]:
        """Returns the replicas of the key of a geo's link by region, as far as there are some."""
        if not link.geo:
            return {}
        try:
            specs = await self._geo_keys.keys(link.key_spec, link.geo)
        except KeyfoldError:
            # The settings have changed since the link was made; what they lack is shown as missing.
            return {}
        return {spec.region: spec.key_spec for spec in specs if spec.key_spec is not None}

    async def keys(self, key_spec: KeySpec, region: str, geo: str) -> dict[str, LinkedKey]:
        """Returns the key of a link in each region that it is to serve, and calls no KMS.

        Raises:
            InvalidKeyLinkError: The key is the vendor's.
            InvalidKeySpecError: The key spec is wrong, or the key has no replica in a region.
        """
        if key_spec.type == PLATFORM:
            raise InvalidKeyLinkError(
                "a key link is for a key of the customer's own; where the vendor's key shall be "
                "used, set the organization's default_key to PLATFORM",
                field="key_spec.type",
            )
        specs: Sequence[RegionSpec] = [RegionSpec(region, key_spec)]
        if geo:
            specs = await self._geo_keys.keys(key_spec, geo)
        return {
            spec.region: LinkedKey(
                spec, await self._resolution.root_key(spec.key_spec, spec.region)
            )
            for spec in specs
            if spec.key_spec is not None
        }

    def check_granted(
        self, rights: Rights, organization: str, keys: Mapping[str, LinkedKey]
    ) -> None:
        """Refuses keys that the caller may not name for the organization (protocol C1).

        Raises:
            KeyNotGrantedError: One of them is such a key, or a seat's.
        """
        for region, key in keys.items():
            rights.check_organization_key(organization, region, key.root)
            self._seats.checked(key.root, None)

    async def prove(
        self,
        organization: str,
        keys: Mapping[str, LinkedKey],
        users: Sequence[KeyUse] = (),
    ) -> ProvenKey:
        """Proves the key of a link in each of its regions, all or none.

        Args:
            organization: The organization's name.
            keys: The key by region.
            users: The keys that the link's users have. Where the key asks for a seat, it is proven
                with one of theirs, since each keeps its own, or else with a reserved one.

        Raises:
            WrongRegionError: This replica does not serve one of the regions.
            KeyHeldByAnotherError: Another organization has what holds a key.
            KeyElsewhereError: A key is in another region than the link says.
            ExternalIdNotIssuedError: A key needs an external id that Keyfold has not issued.
            SeatNotReservedError: The key asks for a seat, and no user of the link has one, and the
                organization has none reserved.
            KmsError: A key could not be proven; the message names each region where that is so.
        """
        self._kek_wrapper.served.check_each(keys)
        holders = await self._holders.of((key.root.type, key.root) for key in keys.values())
        await self._holders.check(organization, holders)
        roots: dict[str, RootKey] = {}
        seated: dict[str, list[SeatedKey]] = {}
        for region, key in keys.items():
            await self._check_place(key, region)
            if asks_for_seat(key.root.principal):
                # The link keeps the word, and each cluster-region that uses it takes a seat of its
                # own: a seat tells them apart. The proof takes none.
                theirs = [each.key_spec.principal for each in users if each.region == region]
                seated[region] = await self._seats.keys(
                    key.root, None, organization, region, users=theirs
                )
            else:
                roots[region] = await self._external_ids.added_to(
                    key.root, None, organization, region
                )
        now = int(self._clock.wall() * 1000)
        await for_each_region(
            {
                region: _told(
                    keys[region].spec,
                    self._seats.choose(seated[region], "", organization, region)
                    if region in seated
                    else self._kek_wrapper.create("", organization, region, roots[region], 1, now),
                )
                for region in sorted(keys)
            },
            None,
        )
        return ProvenKey(tuple(sorted(keys)), holders)

    async def _check_place(self, key: LinkedKey, region: str) -> None:
        """Refuses a key that is known to be in another region than its link says.

        Enable only points such a key out, since a cluster may want it; a link that says one region
        and has a key in another one is a mistake that every cluster would repeat.

        Raises:
            KeyElsewhereError: It is.
        """
        await self._residency.check(key.root, region, None)
        place = await self._residency.report(key.root, region)
        if place.notices:
            raise KeyElsewhereError(place.notices[0], region=region, field="key_spec.uri")


async def _told(spec: RegionSpec, proof: Awaitable[object]) -> None:
    """Awaits the proof of a region's key; an error says so where the key is a replica."""
    try:
        await proof
    except KmsError as error:
        raise replica_error(spec, error) from None
