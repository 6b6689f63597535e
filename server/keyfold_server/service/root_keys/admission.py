"""Admission: whether a cluster may get the root keys that a caller names for its regions.

Invariant: all keys of a request are admitted before the first one is tried, so that a key that the
caller may not name, or that must not be there, costs nobody a KMS call (protocol C1).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import KeyfoldError, KeyNotGrantedError
from keyfold_server.domain.holders import Claim
from keyfold_server.domain.keyspec import RegionSpec, RootKey
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.seats import asks_for_seat
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.holders import Holders, NamedHolders
from keyfold_server.service.root_keys.replica_of import replica_error
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.resolution import Resolution
from keyfold_server.service.root_keys.seats import SeatedKey, Seats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The root keys that a cluster may get.

    Attributes:
        roots: The root keys by region, as Keyfold calls them.
        seated: For each region whose key spec asks for a seat: the root key as each seat that the
            region may use. None of them was tried yet.
        claim: The holders that the change claims with these keys, or None.
    """

    roots: Mapping[str, RootKey]
    seated: Mapping[str, Sequence[SeatedKey]]
    claim: Claim | None = None


class Admission:
    """Admits the root keys of Enable, AddRegions and Rotate.

    Attributes:
        seats: The seats of owners.
    """

    def __init__(
        self,
        resolution: Resolution,
        residency: Residency,
        external_ids: ExternalIds,
        seats: Seats,
        holders: Holders,
    ) -> None:
        """Takes what resolves keys, what knows places and holders, and the issued identities."""
        self.seats: Final = seats
        self._resolution = resolution
        self._holders = holders
        self._residency = residency
        self._external_ids = external_ids

    async def permit(
        self,
        rights: Rights,
        specs: Iterable[RegionSpec],
        cluster: str,
        organization: str | None,
    ) -> dict[str, RootKey]:
        """Decides about the keys of a request alone, before any look-up; takes what `admit` takes.

        Returns:
            The root keys by region, without external ids.

        Raises:
            InvalidKeySpecError: A key spec does not fit its provider.
            KeyNotGrantedError: The caller may not name one of the keys.
        """
        roots = {}
        for spec in specs:
            if spec.key_spec is None:
                continue
            try:
                roots[spec.region] = await self._resolution.permitted(
                    rights, spec.key_spec, cluster, organization, spec.region
                )
            except KeyNotGrantedError as error:
                raise replica_error(spec, error) from None
        return roots

    async def check_named(self, rights: Rights, specs: Iterable[RegionSpec], cluster: str) -> None:
        """Refuses as `permit` does, before anybody knows the cluster's organization (C8)."""
        for spec in specs:
            if spec.key_spec is not None:
                await self._resolution.check_named(rights, spec.key_spec, cluster, spec.region)

    async def admit(
        self,
        rights: Rights,
        specs: Sequence[RegionSpec],
        cluster: str,
        organization: str | None,
        named: NamedHolders,
        current: Cluster | None = None,
    ) -> Admitted:
        """Returns the root keys that a caller gives to a cluster.

        Args:
            rights: The caller's rights.
            specs: The request's specs without `replica_of`; one without a key spec is left out of
                the answer.
            cluster: The cluster's name.
            organization: The cluster's organization, or None.
            named: What was read with the cluster about the holders that the request names.
            current: The cluster as it is, if regions of it get other keys; None: they are new.

        Raises:
            InvalidKeySpecError: A key spec does not fit its provider.
            KeyNotGrantedError: The caller may not name one of the keys, or names a seat.
            KeyHeldByAnotherError: Another organization has what holds one of the keys (C9).
            KeyVersionPinnedError: A spec's policy says `auto_rotate`, and its uri names a version.
            KeyElsewhereError: A key is outside its region, and the settings demand residency.
            ExternalIdNotIssuedError: A key needs an external id that Keyfold has not issued.
            SeatNotReservedError: A key spec asks for a seat, and none is reserved for the owner.
        """
        roots = await self.permit(rights, specs, cluster, organization)
        # Before anything that tells of the key itself, so that the answer is the same whether or
        # not it exists (C9).
        claim = await self._claim(specs, roots, cluster, organization, named)
        there = {} if current is None else {region.name: region for region in current.regions}
        roots = {r: self.seats.checked(root, there.get(r)) for r, root in roots.items()}
        for spec in specs:
            if spec.region in roots and spec.policy is not None and spec.policy.auto_rotate:
                await self._resolution.check_followed(roots[spec.region], cluster, spec.region)
        for region, root in roots.items():
            await self._residency.check(root, region, cluster)
        seated = {
            region: await self.seats.keys(root, cluster, organization, region, there.get(region))
            for region, root in roots.items()
            if asks_for_seat(root.principal)
        }
        return Admitted(
            {
                region: await self._external_ids.added_to(root, cluster, organization, region)
                for region, root in roots.items()
                if region not in seated
            },
            seated,
            claim,
        )

    async def named_holders(
        self, specs: Iterable[RegionSpec], organization: str | None
    ) -> NamedHolders:
        """Returns the holders in which a request names keys, before any look-up.

        Args:
            specs: The request's specs. A key that cannot be right is left out; the request is
                refused for it in its turn.
            organization: The organization that the request names, or None.
        """
        keys = []
        for spec in specs:
            if spec.key_spec is None:
                continue
            with suppress(KeyfoldError):
                root = await self._resolution.root_key(spec.key_spec, spec.region)
                keys.append((spec.key_spec.type, root))
        return NamedHolders(Claim(organization, await self._holders.of(keys)))

    async def _claim(
        self,
        specs: Iterable[RegionSpec],
        roots: Mapping[str, RootKey],
        cluster: str,
        organization: str | None,
        named: NamedHolders,
    ) -> Claim | None:
        keys = [
            (spec.key_spec.type, roots[spec.region]) for spec in specs if spec.key_spec is not None
        ]
        try:
            return await self._holders.claim(organization, keys, named=named)
        except KeyfoldError as error:
            raise error.at(cluster=cluster) from None

    async def readmit(self, cluster: Cluster, region: Region) -> RootKey:
        """Returns the root key that a region has, resolved anew; it needs no grant (C1).

        Raises:
            KeyElsewhereError: The settings name another PLATFORM key now, it is outside the
                region, and they demand residency.
            ExternalIdNotIssuedError: The key needs an external id that Keyfold has not issued.
        """
        root = await self._resolution.root_key(region.key_spec, region.name)
        current = region.newest.current.root
        root = await self._external_ids.added_to(
            self.seats.checked(root, region), cluster.name, cluster.organization, region.name
        )
        if (root.type, root.uri) != (current.type, current.uri):
            await self._residency.check(root, region.name, cluster.name)
        return root

    async def log_notices(self, cluster: str, roots: Mapping[str, RootKey]) -> None:
        """Logs which of a cluster's new root keys are outside the regions that use them."""
        for region, root in roots.items():
            for notice in (await self._residency.report(root, region)).notices:
                log.warning("cluster %s, region %s: %s", cluster, region, notice)
