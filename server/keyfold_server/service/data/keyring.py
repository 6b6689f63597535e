"""The keyring: which KEK a call may use at this moment (protocol F1, C7), or what it needs first.

This is the one place where rights, state, staleness, freshness and grace decide about a use. It
is synchronous and calls neither store nor KMS: it raises `NeedsLoad` for what is not in memory,
and whoever catches that loads it and runs the call again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from keyfold_server.domain.envelope import Kek
from keyfold_server.domain.errors import (
    ContextNotGrantedError,
    KeyfoldError,
    KmsError,
    NotAsked,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Purpose, Verdict
from keyfold_server.service.data import denials
from keyfold_server.service.data.cache_entries import CachedKek, ClusterView, RegionView
from keyfold_server.service.data.call import Call, Need, NeedsLoad
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.limits import Accounts

OUTAGE_BELIEVED: Final = 10.0
"""Seconds for which KEKs serve on grace after the KMS may be called again; that call takes time.
After that a KEK without a proof waits for the KMS's answer, which may be a refusal by now."""

OWN_LASTS: Final = 10.0
"""Seconds for which a KEK that a call fetched for itself may serve that call. It is longer than
any load takes, and short if the process was paused between the load and the use (F1)."""


class GrantedKek(NamedTuple):
    """A KEK that may be used now.

    Attributes:
        kek: The KEK.
        contexts: Alternative sets of entries. The call's context must hold all entries of one of
            them; empty: any context will do.
        ttl: Seconds for which a plaintext that the KEK opened may be kept: its region's TTL.
    """

    kek: Kek
    contexts: tuple[Mapping[str, str], ...]
    ttl: float


def check_context(contexts: tuple[Mapping[str, str], ...], context: Mapping[str, str]) -> None:
    """Refuses a context that meets none of the alternatives that the caller's grants demand.

    Raises:
        ContextNotGrantedError: The context lacks an entry of each alternative.
    """
    if contexts and not any(
        all(context.get(key) == value for key, value in wanted.items()) for wanted in contexts
    ):
        names = sorted({key for wanted in contexts for key in wanted})
        raise ContextNotGrantedError(
            f"the caller's grants demand certain context entries for {', '.join(names)}; send them",
            field="context",
        )


class Keyring:
    """The KEKs of one replica's memory, each given out only while it may be used."""

    def __init__(
        self,
        cache: KeyCache,
        clock: Clock,
        check_serving: Callable[[float], None],
        on_grace: Callable[[CachedKek, float], None],
        organizations: Accounts,
    ) -> None:
        """Joins the keyring to its parts; every callable is synchronous and cheap.

        Args:
            cache: Cluster views and open KEKs.
            clock: Monotonic time.
            check_serving: Raises where this replica must not serve (stale, rolled back).
            on_grace: Called with each KEK that serves on grace, and the time, so that its root
                key is refreshed.
            organizations: The accounts to which uses of an organization's keys are charged.
        """
        self._organizations = organizations
        self._cache = cache
        self._clock = clock
        self._check_serving = check_serving
        self._on_grace = on_grace

    def now(self) -> float:
        """Returns the time, in monotonic seconds.

        Raises:
            UnavailableError: This replica must not serve at that time.
        """
        now = self._clock.monotonic()
        self._check_serving(now)
        return now

    def wrapping(
        self, cluster: str, region: str, now: float, call: Call, items: int = 1
    ) -> GrantedKek:
        """Returns the KEK that wraps for a region.

        Args:
            cluster: The cluster's name.
            region: The region's name.
            now: What `now` returned.
            call: The call.
            items: How many keys the KEK wraps, which the organization's rate counts; 0 if
                `charge` will count them.

        Raises:
            NeedsLoad: Something is not in memory.
            KeyfoldError: The call may not use the KEK; the reason says why.
        """
        view = self._cache.view(cluster) or denials.missing_cluster(cluster, Purpose.WRAP, call)
        use = call.rights.use(cluster, view.cluster.organization, region, Purpose.WRAP)
        if use.verdict is not Verdict.ALLOWED:
            denials.not_allowed(view, region, Purpose.WRAP, call)
        found = view.regions.get(region)
        if found is None:
            denials.unknown_region(view, region, call)
        kek = self._kek(view, found, found.newest, now, call)
        self._charge(view, now, items)
        return GrantedKek(kek, use.contexts, found.ttl)

    def opening(
        self, cluster: str, kek_id: bytes, now: float, call: Call, items: int = 1
    ) -> GrantedKek:
        """Returns the KEK that a wrapped key names; raises as `wrapping` does."""
        view = self._cache.view(cluster) or denials.missing_cluster(cluster, Purpose.UNWRAP, call)
        found = view.keks.get(kek_id)
        if found is None:
            denials.unknown_kek(self._cache, view, kek_id, call)
        region = found[0]
        use = call.rights.use(
            cluster, view.cluster.organization, region.region.name, Purpose.UNWRAP
        )
        if use.verdict is not Verdict.ALLOWED:
            denials.not_allowed(view, region.region.name, Purpose.UNWRAP, call)
        kek = self._kek(view, region, kek_id, now, call)
        self._charge(view, now, items)
        return GrantedKek(kek, use.contexts, region.ttl)

    def charge(self, cluster: str, now: float, items: int) -> None:
        """Counts the items of a batch that use KEKs of a cluster, once it has all these KEKs.

        Raises:
            RateLimitedError: The organization's keys are used more often than its rate allows.
        """
        view = self._cache.peek(cluster)
        if view is not None:
            self._charge(view, now, items)

    def _charge(self, view: ClusterView, now: float, items: int) -> None:
        organization = view.cluster.organization
        if items and organization is not None:
            self._organizations.of(organization).charge(now, items)

    def _kek(
        self, view: ClusterView, region: RegionView, kek_id: bytes, now: float, call: Call
    ) -> Kek:
        """Returns a KEK that may be used at this moment (protocol F1)."""
        view.check_usable(region)
        opened = view.open.get(kek_id)
        if opened is not None and now < opened.root.proof + opened.ttl:
            opened.root.used = opened
            opened.used_at = now
            return opened.kek
        own = call.own.get(kek_id)
        if (
            own is not None
            and own.view is view
            and own.invalidations == own.root.invalidations
            and now < own.began + OWN_LASTS
        ):
            own.used_at = now
            self._cache.record_use(own)
            return own.kek
        return self._not_fresh(view, region, kek_id, opened, now, call)

    def _not_fresh(
        self,
        view: ClusterView,
        region: RegionView,
        kek_id: bytes,
        opened: CachedKek | None,
        now: float,
        call: Call,
    ) -> Kek:
        cluster = view.cluster.name
        # Checked only here: a view never holds an open KEK that this refuses.
        view.check_opens(kek_id)
        need = Need(cluster, kek_id)
        if region.ttl > 0:
            refused = view.refused.get(kek_id)
            if refused is not None and now < refused.until:
                raise _again(refused.error, refused.until - now, view, region)
            if opened is not None:
                root = opened.root
                if (
                    root.unknown is not None
                    and now < root.unknown_until + OUTAGE_BELIEVED
                    and now < root.proof + opened.ttl + opened.grace
                ):
                    # The KMS cannot be asked. Grace is a hard bound from the last proof (F1).
                    root.used = opened
                    opened.used_at = now
                    self._on_grace(opened, now)
                    return opened.kek
                if root.not_asked is not None and now < root.not_asked_until:
                    # We did not ask, which is no outage: the KEK ends at its TTL (protocol F8).
                    raise _again(root.not_asked, root.not_asked_until - now, view, region)
            root_id = view.keks[kek_id][1].current.root_id
            known = self._cache.known_root(root_id)
            if known is not None and known.unknown is not None and now < known.unknown_until:
                # The outage of a root key is remembered (protocol W2).
                raise _again(known.unknown, known.unknown_until - now, view, region)
        failed = call.failed.get(need)
        if failed is not None:
            raise failed.at(cluster=cluster, region=region.region.name)
        raise NeedsLoad((need,))


def _again(
    error: KmsError | NotAsked, retry_after: float, view: ClusterView, region: RegionView
) -> KeyfoldError:
    """Returns a remembered error, with its place and the time to try again."""
    copy = error.at(cluster=view.cluster.name, region=region.region.name)
    copy.retry_after = retry_after
    return copy
