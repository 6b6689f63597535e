"""Residency: where a region's root key is, and whether it may be there.

The settings say where the vendor's regions are (`domain.residency`), and a provider reads a key's
place from its uri, so nobody calls a KMS to find out.
"""

from __future__ import annotations

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import HasRegions
from keyfold_server.domain.residency import KeyLocation, ResidencyPolicy, ResidencyReport
from keyfold_server.service.kms.client import KmsClient


class Residency:
    """Compares the place of a root key with the region that uses it."""

    def __init__(self, kms: KmsClient, regions: ResidencyPolicy) -> None:
        """Takes the providers, and where the settings say that regions are."""
        self._kms = kms
        self._regions = regions

    async def report(self, root: RootKey, region: str) -> ResidencyReport:
        """Returns where a root key is, with notices for an operator if it is in the wrong place.

        Args:
            root: The root key in canonical form, with PLATFORM resolved.
            region: The name of the region that uses it; empty: no region is named.
        """
        try:
            key = await self._location(root)
        except KeyfoldError:
            # The server no longer has the key's provider. A status does not need it.
            return ResidencyReport()
        notice = self._regions.notice(region, key) if region else ""
        refused = notice if self._regions.required else ""
        return ResidencyReport(key.region, (notice,) if notice else (), refused)

    async def check(self, root: RootKey, region: str, cluster: str | None) -> None:
        """Refuses a root key outside its region, where the settings demand residency.

        Raises:
            KeyElsewhereError: The key is elsewhere, or its uri does not tell where it is.
        """
        try:
            self._regions.check(region, await self._location(root))
        except KeyfoldError as error:
            raise error.at(cluster=cluster, region=region) from None

    async def _location(self, root: RootKey) -> KeyLocation:
        provider = await self._kms.provider(root.type)
        region = provider.region(root) if isinstance(provider, HasRegions) else ""
        host = root.uri.partition("://")[2].partition("/")[0]
        return KeyLocation(root.type, region, host or root.uri)
