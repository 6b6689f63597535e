"""Status: what is known of clusters, and asking the KMS where that is too old."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from keyfold_server.domain.cluster import Cluster, Region, existing
from keyfold_server.domain.errors import (
    ForbiddenError,
    InvalidPageError,
    KeyfoldError,
    KmsError,
    NotFoundError,
    RowNotAuthenticError,
)
from keyfold_server.domain.health import (
    COULD_NOT_TELL,
    Health,
    Observation,
    kek_subject,
    root_subject,
)
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import Clock, ClusterFilter
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.call import Call, Need
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.resolution import Resolution
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.observed.uses import UseRecorder
from keyfold_server.service.storage import Storage

MAX_PAGE: Final = 1_000
"""Clusters on one page."""

DEFAULT_PAGE: Final = 100
"""Clusters on a page where the request does not say."""

_FRESH: Final = 5.0
"""Seconds for which an answer of the KMS is good enough for a status, whatever the TTL."""

_BEFORE_DEADLINE: Final = 0.2
"""Seconds before the caller's deadline at which a status stops waiting for a KMS."""


@dataclass(frozen=True, slots=True)
class RegionReport:
    """A region, and what the KMS last answered about its newest KEK.

    Attributes:
        region: As the store has it.
        seen: The last observation, or None.
        last_uses: When its KEKs were last used, by kek_id, in milliseconds of Unix time; one that
            never was is left out.
        key_region: The provider's own name of the region in which the root key is, or empty.
        notices: What an operator should know besides, one line each.
    """

    region: Region
    seen: Observation | None
    last_uses: Mapping[bytes, int] = field(default_factory=dict)
    key_region: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A cluster with its regions' reports.

    Attributes:
        cluster: As the store has it.
        regions: By name.
    """

    cluster: Cluster
    regions: tuple[RegionReport, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the clusters.

    Attributes:
        entries: By name: a report, or the error of one whose rows are not authentic.
        more: Further ones follow.
    """

    entries: tuple[Report | RowNotAuthenticError, ...]
    more: bool


class Statuses:
    """Answers GetStatus and ListClusters."""

    def __init__(  # noqa: PLR0913  all that is known of a cluster meets here
        self,
        storage: Storage,
        loads: Loads,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        uses: UseRecorder,
        resolution: Resolution,
        clock: Clock,
        timing: Timing,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins the answers to memory, KMS and store.

        Args:
            storage: The store.
            loads: Bring KEKs into memory.
            kek_wrapper: Try whether root keys wrap.
            health: What was seen of keys.
            uses: When KEKs were last used.
            resolution: Where root keys are.
            clock: Time.
            timing: The server's own times.
            check_fresh: Raises where this replica is stale: a database that it can still read may
                be one that takes no changes any more, and what it says long untrue.
        """
        self._check_fresh = check_fresh
        self._uses = uses
        self._resolution = resolution
        self._storage = storage
        self._loads = loads
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._clock = clock
        self._timing = timing

    async def get(self, rights: Rights, name: str, deadline: float) -> Report:
        """Returns a cluster's report; asks the KMS where its last answer is older than the TTL.

        A revoked region's KMS is not asked.

        Raises:
            ClusterNotFoundError: There is no such cluster, or the caller may not see it.
            NotAllowedError: The caller may not read its status.
            StoreStaleError: This replica has not seen the store for too long.
        """
        check_name(name, "cluster")
        rights.check_named("GetStatus", name, ())
        self._check_fresh(self._clock.monotonic())
        cluster = existing(await self._storage.run(self._storage.store.cluster, name), name)
        seen = [region.name for region in cluster.regions if _reads(rights, cluster, region)]
        rights.check_cluster("GetStatus", name, cluster.organization, seen)
        report = await self.report(cluster, rights)
        old = [r.region for r in report.regions if self._is_old(r)]
        if not old:
            return report
        ends = deadline - _BEFORE_DEADLINE
        await asyncio.gather(*(self._ask(rights, cluster, region, ends) for region in old))
        return await self.report(cluster, rights)

    async def page(self, rights: Rights, which: ClusterFilter, size: int, token: str) -> Page:
        """Returns a page of reports by name; asks no KMS.

        It reads on until the page is full of clusters that the caller may see: a page that ended
        sooner would have to say where, with a name that the caller may not know.

        Raises:
            InvalidPageError: The size is out of bounds, or the token is not one.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        self._check_fresh(self._clock.monotonic())
        size = size or DEFAULT_PAGE
        after = _from_token(token)
        seen: list[Cluster | RowNotAuthenticError] = []
        while len(seen) <= size:
            found = await self._storage.run(self._storage.store.clusters, which, after, size + 1)
            seen += [entry for entry in found if _listed(entry, which, rights)]
            if len(found) <= size:
                break
            after = _name(found[-1])
        entries: list[Report | RowNotAuthenticError] = [
            entry if isinstance(entry, RowNotAuthenticError) else await self.report(entry, rights)
            for entry in seen[:size]
        ]
        return Page(tuple(entries), more=len(seen) > size)

    async def report(self, cluster: Cluster, rights: Rights) -> Report:
        """Returns what a caller may see of a cluster, with what was last observed of its keys."""
        newest = [
            (region, region.newest) for region in cluster.regions if _reads(rights, cluster, region)
        ]
        kek_ids = [g.kek_id for region, _ in newest for g in region.generations]
        known, used = await asyncio.gather(
            self._health.known(
                [kek_subject(g) for _, g in newest] + [root_subject(g.current) for _, g in newest]
            ),
            self._uses.known(cluster.name, kek_ids),
        )
        reports = []
        for region, g in newest:
            seen = _decisive(known.get(kek_subject(g)), known.get(root_subject(g.current)))
            uses = {
                each.kek_id: used[each.kek_id] for each in region.generations if each.kek_id in used
            }
            place = await self._resolution.place(g.current.root, region.name)
            silence = self._silence(cluster, region, seen)
            notices = place.notices if silence is None else (*place.notices, silence)
            reports.append(RegionReport(region, seen, uses, place.key_region, notices))
        return Report(cluster, tuple(reports))

    def _silence(self, cluster: Cluster, region: Region, seen: Observation | None) -> str | None:
        """Says what becomes of a region's calls here while nobody can tell of its key (F1, F6)."""
        if region.state is not State.ENABLED or seen is None or seen.health not in COULD_NOT_TELL:
            return None
        ends = self._loads.freshness.grace_ends(cluster.name, region.newest.kek_id)
        if ends is None:
            return (
                "the KMS cannot be asked, and the replica that answers here has no key of this "
                "region in memory: its calls fail until the KMS answers"
            )
        left = ends - self._clock.monotonic()
        at = datetime.fromtimestamp(self._clock.wall() + left, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if left <= 0:
            return f"the KMS cannot be asked, and the outage grace ended at {at}: calls fail"
        return (
            "the KMS cannot be asked; the replica that answers here serves on from memory until "
            f"{at} at the latest, which is counted from its last proof"
        )

    def _is_old(self, report: RegionReport) -> bool:
        if report.region.state is not State.ENABLED:
            return False
        seen = report.seen
        if seen is None:
            return True
        # Seen at a time that has yet to come, it is from before a clock was set back.
        age = abs(self._clock.wall() - seen.last_check / 1000)
        if seen.can_wrap is None or seen.can_unwrap is None:
            # A KMS that refused or could not be asked a moment ago is spared a while.
            return seen.health is Health.HEALTHY or age > _FRESH
        ttl = report.region.policy.cache_ttl
        return age > max(_FRESH, self._timing.cache_ttl if ttl is None else ttl)

    async def _ask(self, rights: Rights, cluster: Cluster, region: Region, ends: float) -> None:
        """Has a region's key unwrap and wrap; the answers go to the health book."""
        call = Call(rights, self._clock.monotonic())
        await self._loads.satisfy([Need(cluster.name)], call, ends)
        if not call.failed:
            need = Need(cluster.name, region.newest.kek_id)
            await self._loads.satisfy([need], call, ends)
        left = max(0.0, ends - self._clock.monotonic())
        try:
            await asyncio.wait_for(
                self._kek_wrapper.prove_wrap(cluster, region.name, region.newest), timeout=left
            )
        except TimeoutError:
            return
        except KmsError as error:
            self._health.wrapping(region.newest, error)
        except KeyfoldError:
            return
        else:
            self._health.wrapping(region.newest, None)


def _decisive(kek: Observation | None, root: Observation | None) -> Observation | None:
    """Returns the observation that tells a KEK's health.

    The root key's, unless the KEK was refused by itself: that stands until its own unwrap
    succeeds, whatever proves the root key meanwhile (protocol F4).
    """
    if kek is not None and kek.health is not Health.HEALTHY:
        return kek if root is None else replace(kek, can_wrap=root.can_wrap)
    return root or kek


def _listed(entry: Cluster | RowNotAuthenticError, which: ClusterFilter, rights: Rights) -> bool:
    """Says whether a cluster that the store found belongs on a caller's page.

    Where some of its regions are hidden, the filter may have found one of those, and listing the
    cluster would tell of it. What was observed of keys is not told apart there: a caller whose
    grants are narrowed to regions finds by state and key alone.
    """
    if isinstance(entry, RowNotAuthenticError):
        return rights.sees(entry.cluster or "", None)
    seen = [region for region in entry.regions if _reads(rights, entry, region)]
    if len(seen) == len(entry.regions):
        return True
    return (
        bool(seen)
        and which.health is None
        and (which.state is None or any(r.state is which.state for r in seen))
        and (which.key_uri is None or any(r.newest.current.root.uri == which.key_uri for r in seen))
    )


def _reads(rights: Rights, cluster: Cluster, region: Region) -> bool:
    """Says whether the caller may read a region's status: to see it is not enough."""
    try:
        rights.check_cluster("GetStatus", cluster.name, cluster.organization, (region.name,))
    except (ForbiddenError, NotFoundError):
        return False
    return True


def _name(entry: Cluster | RowNotAuthenticError) -> str:
    return (entry.cluster or "") if isinstance(entry, RowNotAuthenticError) else entry.name


def page_token(name: str) -> str:
    """Returns the token of the page that begins after a cluster."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def _from_token(token: str) -> str:
    if not token:
        return ""
    try:
        name = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode()
        return check_name(name, "page_token")
    except (KeyfoldError, ValueError, binascii.Error):
        raise InvalidPageError(
            "page_token is not one that this server gave out; pass next_page_token back as it came",
            field="page_token",
        ) from None
