"""Resolution: from the key specs that operators write to the root keys that are called.

Whether a caller may name a key is decided before anything else is told of it (protocol C1); then
its place is looked at, and what Keyfold issued for its owner is put in (C2). No KMS is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from keyfold_server.domain.errors import (
    ExternalIdNotIssuedError,
    InvalidKeySpecError,
    KeyfoldError,
)
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RootKey
from keyfold_server.domain.provider import HasRegions, TakesExternalIds
from keyfold_server.domain.residency import KeyLocation, ResidencyPolicy, ResidencyReport
from keyfold_server.domain.rights import Rights
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.external_ids import ExternalIds


class Resolution:
    """Turns key specs into root keys."""

    def __init__(
        self,
        kms: KmsClient,
        platform: Callable[[str], RootKey | None],
        regions: ResidencyPolicy,
        external_ids: ExternalIds,
    ) -> None:
        """Joins what a key spec is resolved by.

        Args:
            kms: The key services.
            platform: The vendor's own key of a region, or None.
            regions: Where the vendor's regions are.
            external_ids: What was issued to whom.
        """
        self._kms = kms
        self._platform = platform
        self._regions = regions
        self._external_ids = external_ids

    async def named(self, spec: KeySpec, region: str) -> RootKey:
        """Returns the root key that a spec names in a region, in canonical form.

        It has no external id yet: it may be granted and looked at, not called.

        Raises:
            InvalidKeySpecError: It does not fit its provider, or is PLATFORM where the server
                has no such key.
            UnknownProviderError: No provider of its type.
        """
        root = RootKey(spec.type, spec.uri, spec.principal, spec.options)
        if spec.type == PLATFORM:
            platform = self._platform(region)
            if platform is None and not region:
                raise InvalidKeySpecError(
                    "this server has no one platform key for all regions; name the region, or set "
                    "KEYFOLD_PLATFORM_KEY",
                    field="region",
                )
            if platform is None:
                raise InvalidKeySpecError(
                    f"this server has no platform key for region {region}; give the region a key "
                    "of its own, or set KEYFOLD_PLATFORM_KEY",
                    field="key_spec.type",
                )
            root = platform
        provider = await self._kms.provider(root.type)
        return provider.canonical(root)

    async def resolve(
        self, spec: KeySpec, region: str, cluster: str, organization: str | None
    ) -> RootKey:
        """Returns the root key that a spec means for a cluster, as it is called.

        Raises:
            InvalidKeySpecError: As `named` says.
            ExternalIdNotIssuedError: Its provider demands an external id, and there is none.
        """
        root = await self.named(spec, region)
        return await self.identified(root, cluster, organization, region)

    async def permitted(
        self,
        rights: Rights,
        spec: KeySpec,
        cluster: str | None,
        organization: str | None,
        region: str,
    ) -> RootKey:
        """Returns what `named` does, if a caller may name it there (protocol C1).

        Raises:
            InvalidKeySpecError: As `named` says.
            KeyNotGrantedError: They may not.
        """
        try:
            root = await self.named(spec, region)
            named = RootKey(PLATFORM, "") if spec.type == PLATFORM else root
            rights.check_key(cluster, organization, region or None, named)
        except KeyfoldError as error:
            raise error.at(cluster=cluster, region=region or None) from None
        return root

    async def granted(
        self,
        rights: Rights,
        spec: KeySpec,
        cluster: str | None,
        organization: str | None,
        region: str,
    ) -> RootKey:
        """Returns the root key that a caller names, as it is called, if they may name it there.

        Raises:
            InvalidKeySpecError: As `named` says.
            KeyNotGrantedError: They may not.
            ExternalIdNotIssuedError: As `resolve` says.
        """
        root = await self.permitted(rights, spec, cluster, organization, region)
        return await self.identified(root, cluster, organization, region)

    async def identified(
        self, root: RootKey, cluster: str | None, organization: str | None, region: str
    ) -> RootKey:
        """Returns a root key with the external id of its owner, where its provider demands one.

        Raises:
            ExternalIdNotIssuedError: There is none.
        """
        if not await self.takes_external_id(root):
            return root
        external_id = await self._external_ids.of(organization, cluster)
        if external_id is not None:
            return replace(root, external_id=external_id)
        if not (organization or cluster):
            raise ExternalIdNotIssuedError(
                "an external id is issued for an organization or a cluster; name one of them",
                field="organization",
            )
        owner = f"organization {organization}" if organization else f"cluster {cluster}"
        raise ExternalIdNotIssuedError(
            f"no external id was issued for {owner}; call GetAccessPolicy for it (keyfold "
            "access-policy), have the customer put what it shows in place, then ask again",
            cluster=cluster,
            region=region or None,
            field="key_spec.auth_principal",
        )

    async def takes_external_id(self, root: RootKey) -> bool:
        """Says whether a root key's provider demands an external id of Keyfold."""
        provider = await self._kms.provider(root.type)
        return isinstance(provider, TakesExternalIds) and provider.needs_external_id(root)

    async def place(self, root: RootKey, region: str) -> ResidencyReport:
        """Returns where a root key is, and what is to be said of that.

        Args:
            root: In canonical form, `PLATFORM` resolved.
            region: The region that uses it, or empty where none is named.
        """
        try:
            key = await self._whereabouts(root)
        except KeyfoldError:
            # A stored key whose provider is gone from the server: a status is still one.
            return ResidencyReport()
        notice = self._regions.notice(region, key) if region else ""
        refused = notice if self._regions.required else ""
        return ResidencyReport(key.region, (notice,) if notice else (), refused)

    async def check_place(self, root: RootKey, region: str, cluster: str) -> None:
        """Refuses a root key that is not in its region, where the settings demand residency.

        Raises:
            KeyElsewhereError: It is not, or nobody can tell.
        """
        try:
            self._regions.check(region, await self._whereabouts(root))
        except KeyfoldError as error:
            raise error.at(cluster=cluster, region=region) from None

    async def _whereabouts(self, root: RootKey) -> KeyLocation:
        provider = await self._kms.provider(root.type)
        region = provider.region(root) if isinstance(provider, HasRegions) else ""
        host = root.uri.partition("://")[2].partition("/")[0]
        return KeyLocation(root.type, region, host or root.uri)
