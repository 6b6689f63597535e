"""The life of a cluster's keys, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyfold import calls
from keyfold.calls import pages
from keyfold.calls.pages import EVERYTHING, ClusterFilter, Page
from keyfold.client.connection import Connection
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

    def enable(
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
        """Gives a cluster its keys, in all of its regions or in none.

        Each key is proven first. Where `regions` lists the cluster's regions, one without a
        spec is named in the error. `validate_only` proves the keys and stores nothing.

        Example:
            >>> key = keyfold.KeySpec("LOCAL", "local:acme")
            >>> enabled = client.enable("test", [keyfold.RegionSpec("eu", key)])
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
        return self._ask(call, timeout)

    def add_regions(
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
        """Gives keys to further regions of a cluster, to all of them or to none."""
        call = calls.add_regions(
            cluster,
            region_specs,
            organization=organization,
            regions=regions,
            request_id=request_id,
            validate_only=validate_only,
        )
        return self._ask(call, timeout)

    def rotate(
        self,
        cluster: str,
        region_specs: Iterable[RegionSpec],
        *,
        new_generation: bool = False,
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> Rotated:
        """Moves regions to their key's newest version, or to the key that a spec names.

        All named regions move or none; every wrapped key stays valid. The old key is needed
        until this returns, and not after. `new_generation` also makes a new key encryption
        key, which wraps from then on.
        """
        call = calls.rotate(
            cluster,
            region_specs,
            new_generation=new_generation,
            request_id=request_id,
            validate_only=validate_only,
        )
        return self._ask(call, timeout)

    def revoke(
        self,
        cluster: str,
        *,
        regions: Iterable[str] = (),
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Revoked:
        """Stops all use of regions at once, of all of them if none is named."""
        return self._ask(calls.revoke(cluster, regions, reason, request_id), timeout)

    def restore(
        self,
        cluster: str,
        *,
        regions: Iterable[str] = (),
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Restored:
        """Proves keys again and resumes service, region by region.

        A region whose key cannot be proven stays revoked and is no error: see `not_restored`.
        """
        return self._ask(calls.restore(cluster, regions, reason, request_id), timeout)

    def retire_generation(
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
        """Takes an old generation out of use, so that it opens nothing any more; or takes it back.

        The newest generation wraps and cannot be retired. What is wrapped under a retired one
        stays as it is: `bring_back` makes it open again. `Generation.last_use_time` in the
        status tells when each was last used.

        Example:
            >>> rotated = client.rotate("test", [keyfold.RegionSpec("eu")], new_generation=True)
            >>> retired = client.retire_generation("test", "eu", 1)
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
        return self._ask(call, timeout)

    def test_key(
        self,
        key_spec: KeySpec,
        *,
        cluster: str = "",
        region: str = "",
        organization: str = "",
        timeout: float | None = None,
    ) -> KeyTest:
        """Tries a root key step by step and stores nothing.

        A key that does not work is an answer, not an error: see `accessible`.
        """
        return self._ask(calls.test_key(key_spec, cluster, region, organization), timeout)

    def get_access_policy(
        self,
        key_spec: KeySpec,
        *,
        cluster: str = "",
        region: str = "",
        organization: str = "",
        timeout: float | None = None,
    ) -> AccessPolicy:
        """Tells what the customer attaches to a root key so that Keyfold may use it, and no more.

        The key and the cluster need not exist yet, and no KMS is asked. For an AWS role it
        issues the external id, once and for good, for the organization where one is named.
        """
        call = calls.get_access_policy(key_spec, cluster, region, organization)
        return self._ask(call, timeout)

    def get_status(self, cluster: str, *, timeout: float | None = None) -> ClusterStatus:
        """Tells what is known of a cluster."""
        return self._ask(calls.get_status(cluster), timeout)

    def list_clusters(
        self,
        narrow: ClusterFilter = EVERYTHING,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[ClusterStatus]:
        """Goes through clusters by name, asking for one page after another.

        `page_size` is 1 to 1,000, or 0 for the server's choice; `timeout` is for each page.
        A cluster whose stored rows somebody else wrote does not keep the others from being
        listed: RowNotAuthenticError names all such at the end.

        Example:
            >>> narrow = keyfold.ClusterFilter(state=keyfold.State.ENABLED)
            >>> [one.cluster for one in client.list_clusters(narrow)]
            ['prod', 'test']
        """
        page: Page | None = pages.first_page(narrow, page_size)
        spoilt: list[str] = []
        while page is not None:
            response = self.send(page, timeout=timeout)
            yield from page.read(response)
            spoilt += response.not_authentic
            page = pages.next_page(page, response)
        pages.check_authentic(spoilt)
