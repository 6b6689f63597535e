"""Resolution: from the key specs that operators write to root keys in canonical form.

Invariant: a caller that may not name a key learns nothing about it (protocol C1). Nothing here
calls a KMS, and a root key that comes out has no external id yet (`external_ids` adds it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    KeyfoldError,
    KeyVersionPinnedError,
    UnknownProviderError,
)
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RootKey
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.seats import asks_for_seat
from keyfold_server.service.kms.client import KmsClient


class Resolution:
    """Turns key specs into root keys."""

    def __init__(self, kms: KmsClient, platform: Callable[[str], RootKey | None]) -> None:
        """Takes what a key spec is resolved with.

        Args:
            kms: The providers, which know the canonical form of their uris.
            platform: Returns the vendor's own key in a region, or None.
        """
        self._kms = kms
        self._platform = platform

    async def root_key(self, spec: KeySpec, region: str) -> RootKey:
        """Returns the root key that a spec names in a region, in canonical form.

        Its principal may ask for a seat, as the spec does.

        Raises:
            InvalidKeySpecError: The spec does not fit its provider, or is PLATFORM where the
                server has no such key.
            UnknownProviderError: The server has no provider of the spec's type.
            WrongRegionError: One of both, and this replica does not serve the region: so it may
                lack what the settings of the region's own replicas have.
        """
        try:
            return await self._root_key(spec, region)
        except (InvalidKeySpecError, UnknownProviderError):
            if region:
                self._kms.served.check(region)
            raise

    async def _root_key(self, spec: KeySpec, region: str) -> RootKey:
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
        # The type first: a misspelt PLATFORM has no uri either.
        provider = await self._kms.provider(root.type)
        spec.check_uri()
        if not asks_for_seat(root.principal):
            return provider.canonical(root)
        if not region:
            raise InvalidKeySpecError(
                "a seat is for one region; name the region that is to use the key", field="region"
            )
        # The provider checks the principal once it is known (`seats`).
        return replace(provider.canonical(replace(root, principal="")), principal=root.principal)

    async def check_followed(self, root: RootKey, cluster: str, region: str) -> None:
        """Refuses `auto_rotate` for a root key that has no newer version.

        Raises:
            KeyVersionPinnedError: The key's uri names one version of it.
        """
        pinned = await self._kms.pinned(root)
        if pinned is not None:
            raise KeyVersionPinnedError(
                f"auto_rotate cannot follow the key of region {region}, whose uri names version "
                f"{pinned}; name the key without a version, or leave auto_rotate out",
                cluster=cluster,
                region=region,
            )

    async def permitted(
        self,
        rights: Rights,
        spec: KeySpec,
        cluster: str | None,
        organization: str | None,
        region: str,
    ) -> RootKey:
        """Returns the root key that a spec names, if the caller may name it there (protocol C1).

        Raises:
            InvalidKeySpecError: As `root_key` says.
            KeyNotGrantedError: The caller may not name this key there.
        """
        try:
            root = await self.root_key(spec, region)
            rights.check_key(cluster, organization, region or None, _granted(spec, root))
        except KeyfoldError as error:
            raise error.at(cluster=cluster, region=region or None) from None
        return root

    async def check_named(self, rights: Rights, spec: KeySpec, cluster: str, region: str) -> None:
        """Refuses a spec as `permitted` does, before anybody knows the cluster's organization.

        So what is wrong with a key shows nothing of whether the cluster exists (protocol C8).
        """
        try:
            root = await self.root_key(spec, region)
            rights.check_key_named(cluster, region or None, _granted(spec, root))
        except KeyfoldError as error:
            raise error.at(cluster=cluster, region=region or None) from None


def _granted(spec: KeySpec, root: RootKey) -> RootKey:
    """Returns what a grant must name: PLATFORM itself, and not the vendor's key behind it."""
    return RootKey(PLATFORM, "") if spec.type == PLATFORM else root
