"""The life of a cluster's keys, and what is known of them, for asyncio."""


# ruff: noqa: ASYNC109  the timeout is the call's deadline, which the server is told

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from keyfold import calls
from keyfold.aio.connection import Connection
from keyfold.calls import pages
from keyfold.calls.pages import EVERYTHING, ClusterFilter, Page
from keyfold.models.access_policy import AccessPolicy
from keyfold.models.key_test import KeyTest
from keyfold.models.results import Enabled, RegionsAdded, Restored, Retired, Revoked, Rotated
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus


class Lifecycle(Connection):
    """The calls of operators.

    Each change is sent with a request_id, a fresh one unless the caller has one, so that gRPC
    may repeat it. A caller who repeats a change whose outcome is not known keeps its id: the
    error holds it.
    """

    async def enable(
        self,
        cluster: str,
        region_specs: Iterable[RegionSpec],
        *,
        organization: str = "",
        regions: Iterable[str] = (),
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> Enabled:
        """As `Client.enable`."""
        call = calls.enable(
            cluster,
            region_specs,
            organization=organization,
            regions=regions,
            request_id=request_id,
            validate_only=validate_only,
        )
        return await self._ask(call, timeout)

    async def add_regions(
        self,
        cluster: str,
        region_specs: Iterable[RegionSpec],
        *,
        organization: str = "",
        regions: Iterable[str] = (),
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> RegionsAdded:
        """As `Client.add_regions`."""
        call = calls.add_regions(
            cluster,
            region_specs,
            organization=organization,
            regions=regions,
            request_id=request_id,
            validate_only=validate_only,
        )
        return await self._ask(call, timeout)

    async def rotate(
        self,
        cluster: str,
        region_specs: Iterable[RegionSpec],
        *,
        new_generation: bool = False,
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> Rotated:
        """As `Client.rotate`."""
        call = calls.rotate(
            cluster,
            region_specs,
            new_generation=new_generation,
            request_id=request_id,
            validate_only=validate_only,
        )
        return await self._ask(call, timeout)

    async def revoke(
        self,
        cluster: str,
        *,
        regions: Iterable[str] = (),
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Revoked:
        """As `Client.revoke`."""
        return await self._ask(calls.revoke(cluster, regions, reason, request_id), timeout)

    async def restore(
        self,
        cluster: str,
        *,
        regions: Iterable[str] = (),
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Restored:
        """As `Client.restore`."""
        return await self._ask(calls.restore(cluster, regions, reason, request_id), timeout)

    async def retire_generation(
        self,
        cluster: str,
        region: str,
        generation: int,
        *,
        bring_back: bool = False,
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Retired:
        """As `Client.retire_generation`."""
        call = calls.retire_generation(
            cluster,
            region,
            generation,
            bring_back=bring_back,
            reason=reason,
            request_id=request_id,
        )
        return await self._ask(call, timeout)

    async def test_key(
        self,
        key_spec: KeySpec,
        *,
        cluster: str = "",
        region: str = "",
        organization: str = "",
        timeout: float | None = None,
    ) -> KeyTest:
        """As `Client.test_key`."""
        return await self._ask(calls.test_key(key_spec, cluster, region, organization), timeout)

    async def get_access_policy(
        self,
        key_spec: KeySpec,
        *,
        cluster: str = "",
        region: str = "",
        organization: str = "",
        timeout: float | None = None,
    ) -> AccessPolicy:
        """As `Client.get_access_policy`."""
        call = calls.get_access_policy(key_spec, cluster, region, organization)
        return await self._ask(call, timeout)

    async def get_status(self, cluster: str, *, timeout: float | None = None) -> ClusterStatus:
        """As `Client.get_status`."""
        return await self._ask(calls.get_status(cluster), timeout)

    async def list_clusters(
        self,
        narrow: ClusterFilter = EVERYTHING,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[ClusterStatus]:
        """As `Client.list_clusters`."""
        page: Page | None = pages.first_page(narrow, page_size)
        spoilt: list[str] = []
        while page is not None:
            response = await self.send(page, timeout=timeout)
            for cluster in page.read(response):
                yield cluster
            spoilt += response.not_authentic
            page = pages.next_page(page, response)
        pages.check_authentic(spoilt)
