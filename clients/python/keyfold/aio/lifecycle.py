"""Enabling, rotating, revoking and inspecting the keys of clusters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from keyfold import calls
from keyfold.aio.connection import Connection
from keyfold.calls import pages
from keyfold.calls.call import next_page
from keyfold.calls.pages import EVERYTHING, ClusterFilter, Page
from keyfold.models.access_policy import AccessPolicy
from keyfold.models.key_test import KeyTest
from keyfold.models.recheck import Recheck
from keyfold.models.results import Enabled, RegionsAdded, Restored, Retired, Revoked, Rotated
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus


class Lifecycle(Connection):
    """The calls that manage the keys of clusters, for operators.

    Every change carries a request_id, so that gRPC can repeat it safely; the client makes one
    unless the caller passes one. To repeat a change whose outcome is unknown, pass the request_id
    that the error holds.
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
        """Enables a cluster: gives all of its regions their root keys, or none of them.

        The server proves each key before it stores anything. If `regions` lists the cluster's
        regions, an error names those that have no spec. `validate_only` proves the keys and
        stores nothing.

        Raises:
            ClusterExistsError: The cluster has other keys already.
            InvalidInputError: A spec, name or policy cannot be used; the class says which.
            KmsError: A root key cannot be proven: a `RefusedError` or a `CouldNotTellError`.
            KeyHeldByAnotherError: The key belongs to another organization.
            StateError: The organization does not let this cluster or this key in; the class
                says why.

        Example:
            >>> key = keyfold.KeySpec("LOCAL", "local:acme")
            >>> enabled = await client.enable("test", [keyfold.RegionSpec("eu", key)])
            >>> [(one.region, str(one.state)) for one in enabled.status.regions]
            [('eu', 'ENABLED')]
        """
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
        into_revoked: bool = False,
        timeout: float | None = None,
    ) -> RegionsAdded:
        """Gives root keys to further regions of a cluster, to all of them or to none.

        If all regions of the cluster are revoked, the call fails with `ClusterRevokedError` unless
        `into_revoked` is true. The new regions then serve, and the others stay revoked.

        Raises:
            ClusterNotFoundError: There is no such cluster, or the caller may not see it.
            RegionExistsError: A region has another key already.
            ClusterRevokedError: All regions of the cluster are revoked.
            InvalidInputError: A spec, name or policy cannot be used; the class says which.
            KmsError: A root key cannot be proven: a `RefusedError` or a `CouldNotTellError`.
            ConcurrentChangeError: Another change of the cluster came first.
        """
        call = calls.add_regions(
            cluster,
            region_specs,
            organization=organization,
            regions=regions,
            request_id=request_id,
            validate_only=validate_only,
            into_revoked=into_revoked,
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
        only_named_regions: bool = False,
        timeout: float | None = None,
    ) -> Rotated:
        """Moves regions to their key's newest version, or to the key that a spec names.

        All of these regions move or none does, and every wrapped key stays valid. The server
        needs the old key until this call returns, and not afterwards. `new_generation` also makes
        a new key encryption key, which wraps from then on.

        Regions whose key is a replica of a named region's key move along. With
        `only_named_regions` they stay where they are, and have keys of their own from then on.

        Raises:
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            RevokedError: A region is revoked.
            KeyVersionPinnedError: The key's uri names one version, so there is no newer one.
            InvalidInputError: A spec, name or policy cannot be used; the class says which.
            KmsError: A root key cannot be proven: a `RefusedError` or a `CouldNotTellError`.
            ConcurrentChangeError: Another change of the cluster came first.
        """
        call = calls.rotate(
            cluster,
            region_specs,
            new_generation=new_generation,
            request_id=request_id,
            validate_only=validate_only,
            only_named_regions=only_named_regions,
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
        """Stops all use of keys at once in the named regions; without `regions`, in the cluster.

        Raises:
            NotFoundError: There is no such cluster or region, or the caller may not see it.
        """
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
        """Proves the keys of revoked regions again and resumes service, region by region.

        A region whose key cannot be proven stays revoked. That is a result and not an error: see
        `Restored.not_restored`.

        Raises:
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            ClusterBannedError: The cluster's stored rows are not authentic.
            ConcurrentChangeError: Another change of the cluster came first.
        """
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
        """Retires an old generation, so that it no longer unwraps, or brings it back.

        The newest generation wraps and cannot be retired. Keys that a retired generation wrapped
        stay as they are: after `bring_back`, they can be unwrapped again. The status shows when
        each generation was last used, in `Generation.last_use_time`.

        Raises:
            NotFoundError: There is no such cluster, region or generation.
            GenerationInUseError: It is the newest generation, which wraps.
            ConcurrentChangeError: Another change of the cluster came first.

        Example:
            >>> region = keyfold.RegionSpec("eu")
            >>> rotated = await client.rotate("test", [region], new_generation=True)
            >>> retired = await client.retire_generation("test", "eu", 1)
            >>> [one.retire_time is None for one in retired.status.regions[0].generations]
            [False, True]
        """
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
        geo: str = "",
        timeout: float | None = None,
    ) -> KeyTest:
        """Tries a root key step by step and stores nothing.

        A key that does not work is a result and not an error: see `KeyTest.accessible`. With a
        `geo` in place of a region, the server tries the replica of the key in each of the geo's
        regions: see `KeyTest.replicas`.

        Raises:
            InvalidKeySpecError: The spec cannot be a key of its provider.
            UnknownProviderError: The server has no such provider.
        """
        call = calls.test_key(key_spec, cluster, region, organization, geo)
        return await self._ask(call, timeout)

    async def get_access_policy(
        self,
        key_spec: KeySpec,
        *,
        cluster: str = "",
        region: str = "",
        organization: str = "",
        seats: int = 0,
        timeout: float | None = None,
    ) -> AccessPolicy:
        """Returns what a customer attaches to a root key so that Keyfold may use it, and no more.

        The key and the cluster need not exist yet, and the server calls no KMS. For an AWS role
        the server issues the external id, once and for good: the organization's if the call names
        one, and otherwise the cluster's. If the key spec asks for a seat, the server reserves one,
        or as many as `seats` says: the same ones again until regions take them.

        Raises:
            InvalidKeySpecError: The spec cannot be a key of its provider.
            UnknownProviderError: The server has no such provider.
            SeatsExhaustedError: The server has no seat left for the key.
        """
        call = calls.get_access_policy(key_spec, cluster, region, organization, seats)
        return await self._ask(call, timeout)

    async def recheck(
        self,
        cluster: str = "",
        *,
        regions: Iterable[str] = (),
        key_uri: str = "",
        timeout: float | None = None,
    ) -> Recheck:
        """Has the KMS prove root keys now, ahead of the server's regular check.

        Name a cluster, with some of its regions if you like, or the uri of a root key. A key that
        does not work is a result and not an error. If the KMS refuses a key, no replica uses it
        any more, as after any refusal; the call itself revokes and restores nothing.

        Raises:
            InvalidRecheckError: The call names both a cluster and a key, or neither.
            NotFoundError: There is no such cluster or region, or no region uses the key.
        """
        return await self._ask(calls.recheck(cluster, regions, key_uri), timeout)

    async def get_status(self, cluster: str, *, timeout: float | None = None) -> ClusterStatus:
        """Returns what the server knows of a cluster.

        Raises:
            ClusterNotFoundError: There is no such cluster, or the caller may not see it.
            ClusterBannedError: The cluster was revoked while its stored rows were not
                authentic.
            RowNotAuthenticError: Somebody other than Keyfold wrote the cluster's stored rows.
        """
        return await self._ask(calls.get_status(cluster), timeout)

    async def list_clusters(
        self,
        narrow: ClusterFilter = EVERYTHING,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[ClusterStatus]:
        """Yields clusters by name, and fetches one page after another.

        `page_size` is 1 to 1,000, or 0 for the server's choice; `timeout` is the deadline of each
        page. If somebody other than Keyfold wrote a cluster's stored rows, the others are still
        listed, and RowNotAuthenticError names every such cluster at the end. ClusterBannedError
        does so for clusters that were revoked in that state.

        Raises:
            RowNotAuthenticError: Some clusters' stored rows are not Keyfold's; see above.
            ClusterBannedError: Some clusters were revoked in that state; see above.

        Example:
            >>> narrow = keyfold.ClusterFilter(state=keyfold.State.ENABLED)
            >>> [one.cluster async for one in client.list_clusters(narrow)]
            ['prod', 'test']
        """
        page: Page | None = pages.first_page(narrow, page_size)
        spoilt: list[str] = []
        banned: list[str] = []
        while page is not None:
            response = await self.send(page, timeout=timeout)
            for cluster in page.result(response):
                yield cluster
            spoilt += response.not_authentic
            banned += response.banned
            page = next_page(page, response)
        pages.check_usable(spoilt, banned)
