"""Who needs a root key, by a scan of everything: what ListKeyUsage must equal (C6, C7).

The oracle reads every cluster and its whole history, and knows by itself which uris name one key
and who holds it. `World` makes thousands of random changes, as the service makes them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from builders import a_cluster, a_generation, a_region, an_event, applied, enabling
from fakes import FakeClock
from keyfold_server.domain.changes import (
    Change,
    Decide,
    Timed,
    deleted,
    restored,
    retired,
    revoked,
    rotated,
    undeleted,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster, Generation, Region, SupersededWrap, Wrap
from keyfold_server.domain.erasure import Due, erased
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.key_usage import KeyQuery, KeyUse, UseGroup, UsePlace
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter, Store
from keyfold_server.domain.provider import HasFamilies, HasTenants, KeyProvider
from keyfold_server.domain.rights import Coverage
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider
from keyfold_server.providers.gcp.provider import GcpKmsProvider

EVERYTHING: Final = (Coverage(None, None),)

_HEX: Final = "0123456789abcdef" * 2
_TENANTS: Final = tuple(f"{n}{n}{n}{n}0000-0000-4000-8000-000000000000" for n in "12")
_CLIENT: Final = "99990000-0000-4000-8000-000000000000"
_ROLES: Final = ("", "arn:aws:iam::111122223333:role/a", "arn:aws:iam::111122223333:role/A")
_MRK: Final = tuple(
    RootKey("AWS_KMS", f"arn:aws:kms:{region}:{account}:key/mrk-{digit * 32}", role)
    for region in ("eu-west-1", "us-east-1", "us-west-2")
    for account in ("111122223333", "444455556666")
    for digit in "12"
    for role in _ROLES[:2]
)
_ALONE: Final = tuple(
    RootKey(
        "AWS_KMS",
        f"arn:aws:kms:eu-west-1:111122223333:key/{digit * 8}-1111-1111-1111-{digit * 12}",
        role,
    )
    for digit in "12"
    for role in _ROLES
)
_AZURE: Final = tuple(
    RootKey("AZURE_KEY_VAULT", f"https://vault-{n}.vault.azure.net/keys/{name}", principal)
    for n in "12"
    for name in ("key", "Key", f"key/{_HEX}", "other")
    for principal in ("", *(f"{tenant}/{_CLIENT}" for tenant in _TENANTS))
)
_GCP: Final = tuple(
    RootKey(
        "GCP_CLOUD_KMS",
        f"projects/{project}/locations/europe-west1/keyRings/r/cryptoKeys/{name}",
        principal,
    )
    for project in ("first-project", "second-project")
    for name in ("k", "K")
    for principal in ("", "one@first-project.iam.gserviceaccount.com")
)
KEYS: Final = (*_MRK, *_ALONE, *_AZURE, *_GCP)


@dataclass(frozen=True, slots=True)
class Selector:
    """What a person asks for: all that is not None must match."""

    key: RootKey | None = None
    version: str | None = None
    principal: str | None = None
    holder: str | None = None

    def matches(self, root: RootKey, version: str) -> bool:
        """Says whether a wrap by a root key is meant."""
        return (
            (self.key is None or same_key(self.key, root))
            and (self.version is None or version in (self.version, f"x/{self.version}"))
            and self.principal in (None, root.principal)
            and (self.holder is None or self.holder in holders(root))
        )


def same_key(one: RootKey, other: RootKey) -> bool:
    """Says whether two uris name one key, or replicas of one."""
    return one.type == other.type and _identity(one) == _identity(other)


def _identity(root: RootKey) -> tuple[str, ...]:
    if root.type == "AWS_KMS" and "/mrk-" in root.uri:
        parts = root.uri.split(":")
        return tuple(parts[:3] + parts[4:])
    if root.type == "AZURE_KEY_VAULT":
        return tuple(re.sub(r"(/keys/[^/]+)/.*", r"\1", root.uri).lower().split("/"))
    return (root.uri,)


def holders(root: RootKey) -> set[str]:
    """Returns everything that holds a key: account, project, vault, and tenant."""
    if root.type == "AWS_KMS":
        return {root.uri.split(":")[4]}
    if root.type == "AZURE_KEY_VAULT":
        return {root.uri[: root.uri.index("/keys/")], root.principal.partition("/")[0]} - {""}
    return {"/".join(root.uri.split("/")[:2])}


class Scan:
    """All uses that a store has at a moment, by a look at everything."""

    def __init__(self, store: Store) -> None:
        """Reads every cluster and its whole history."""
        found = list(_scanned(store))
        self._uses = sorted(found, key=lambda each: each[0].place)

    def of(self, wanted: Selector) -> list[KeyUse]:
        """Returns the uses that are meant, in their order."""
        return [use for use, root in self._uses if wanted.matches(root, use.key_version)]


def _scanned(store: Store) -> Iterator[tuple[KeyUse, RootKey]]:
    for cluster in every_cluster(store):
        places = {g.kek_id: (r, g) for r in cluster.regions for g in r.generations}
        for region, generation in places.values():
            wrap = generation.current
            yield _use(cluster, region, generation, wrap, None), wrap.root
        for old in store.superseded_wraps(cluster.name):
            if old.kek_id in places:
                region, generation = places[old.kek_id]
                yield _use(cluster, region, generation, old, old.superseded_at), old.root


def every_cluster(store: Store) -> Iterator[Cluster]:
    """Reads every cluster."""
    after = ""
    while page := store.clusters(ClusterFilter(), after, 100):
        for each in page:
            assert isinstance(each, Cluster)
            after = each.name
            yield each


def _use(
    cluster: Cluster,
    region: Region,
    generation: Generation,
    wrap: Wrap | SupersededWrap,
    until: int | None,
) -> KeyUse:
    return KeyUse(
        cluster=cluster.name,
        cluster_uid=cluster.uid,
        organization=cluster.organization,
        region=region.name,
        state=region.state,
        policy=region.policy,
        generation=generation.number,
        kek_id=generation.kek_id,
        retired=generation.retired_at is not None,
        newest=generation.number == max(g.number for g in region.generations),
        rechecked=_root(wrap) == _root(region.newest.current),
        wrap=wrap.number,
        key_type=wrap.root.type,
        uri=wrap.root.uri,
        key_version=wrap.key_version,
        principal=wrap.root.principal,
        created_at=wrap.created_at,
        superseded_at=until,
    )


def _root(wrap: Wrap | SupersededWrap) -> tuple[RootKey, str]:
    return wrap.root, wrap.key_version


def sees(covered: Iterable[Coverage], use: KeyUse) -> bool:
    """Says whether an entry of a caller's rights covers a use."""
    return any(
        _fits(use.cluster, each.clusters)
        and _fits(use.organization, each.organizations)
        and _fits(use.region, each.regions)
        for each in covered
    )


def _fits(name: str | None, patterns: tuple[str, ...] | None) -> bool:
    return patterns is None or (
        name is not None and any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def paged(store: Store, query: KeyQuery, covered: tuple[Coverage, ...], limit: int) -> list[KeyUse]:
    """Reads all pages."""
    found: list[KeyUse] = []
    after: UsePlace | None = None
    while True:
        page = store.key_usage(query, covered, after, limit)
        assert len(page.entries) <= limit
        assert page.last is not None or not page.more
        for each in page.entries:
            assert isinstance(each, KeyUse)
            found.append(each)
        if not page.more:
            return found
        assert len(page.entries) == limit
        after = page.last


def counted(
    uses: Iterable[KeyUse], covered: tuple[Coverage, ...], uri: str | None, oldest: int
) -> set[UseGroup]:
    """Counts uses as a store does."""
    groups: dict[UseGroup, list[KeyUse]] = {}
    for use in uses:
        alike = UseGroup(
            visible=sees(covered, use),
            superseded=use.superseded,
            other_uri=uri is not None and use.uri != uri,
            state=use.state,
            retired=use.retired,
            expired=use.superseded_at is not None and use.superseded_at < oldest,
            count=0,
            since=0,
            until=None,
        )
        groups.setdefault(alike, []).append(use)
    return {
        replace(
            alike,
            count=len(those),
            since=min(use.created_at for use in those),
            until=max(use.superseded_at or 0 for use in those) or None,
        )
        for alike, those in groups.items()
    }


class Groups:
    """Says what root keys have in common, by the real providers."""

    def __init__(self) -> None:
        """Makes the providers, which call nobody here."""
        self._providers: dict[str, KeyProvider] = {
            "AWS_KMS": AwsKmsProvider(),
            "AZURE_KEY_VAULT": AzureKeyVaultProvider(),
            "GCP_CLOUD_KMS": GcpKmsProvider(),
        }

    def of(self, root: RootKey) -> KeyGroups:
        """Returns the groups of a key."""
        provider = self._providers[root.type]
        assert provider.canonical(root) == root
        return KeyGroups(
            provider.family(root) if isinstance(provider, HasFamilies) else root.uri,
            provider.account(root),
            provider.tenant(root) if isinstance(provider, HasTenants) else "",
        )

    def query(self, wanted: Selector) -> KeyQuery:
        """Returns the query of a selector."""
        return KeyQuery(
            family=None if wanted.key is None else self.of(wanted.key).family,
            uri=None if wanted.key is None else wanted.key.uri,
            key_version=wanted.version,
            principal=wanted.principal,
            holder=wanted.holder,
        )


class World:
    """A store in which people do what they can, at random."""

    def __init__(self, store: Store, clock: FakeClock, seed: int) -> None:
        """Begins with nothing; the clock is the store's."""
        self._store = store
        self._clock = clock
        self._random = random.Random(seed)
        self._clusters: dict[str, Cluster] = {}
        self._organizations: dict[str, str | None] = {}
        self.groups = Groups()
        self.done = Counter[str]()

    @property
    def now(self) -> int:
        """Milliseconds of Unix time."""
        return round(self._clock.wall() * 1000)

    def turn(self) -> None:
        """Does one thing, if it can be done."""
        if self._random.random() < 0.2:
            self._clock.advance(self._random.randrange(60))
        acts: dict[str, Callable[[], bool]] = {
            "enable": self._enable,
            "add": self._add,
            "rotate": self._rotate,
            "retire": self._retire,
            "revoke": self._revoke,
            "restore": self._restore,
            "delete": self._delete,
            "undelete": self._undelete,
            "erase": self._erase,
            "prune": self._prune,
        }
        name = self._random.choices(list(acts), [4, 3, 12, 6, 3, 4, 4, 1, 2, 1])[0]
        self.done[name] += acts[name]()

    def selectors(self) -> Iterator[Selector]:
        """Yields questions about every key, version, principal and holder."""
        principals = sorted({key.principal for key in KEYS})
        all_holders = sorted(set().union(*map(holders, KEYS)))
        for key in KEYS:
            yield Selector(key=key)
            version, holder = self._random.choice("123"), self._random.choice(sorted(holders(key)))
            yield self._random.choice(
                (
                    Selector(key=key, version=version),
                    Selector(key=key, principal=key.principal),
                    Selector(key=key, version=version, holder=holder),
                )
            )
        for principal in principals:
            yield Selector(principal=principal)
            yield Selector(principal=principal, holder=self._random.choice(all_holders))
        for holder in all_holders:
            yield Selector(holder=holder)
            yield Selector(holder=holder, version=self._random.choice("123"))
        yield Selector(key=replace(KEYS[0], uri=KEYS[0].uri.replace("mrk-1", "mrk-f")))
        yield Selector(holder="nobody")

    def rights(self) -> tuple[Coverage, ...]:
        """Returns some caller's rights."""
        return self._random.choice(
            (
                EVERYTHING,
                (),
                (Coverage(("c-*", "C-1"), None),),
                (Coverage(None, ("org",)), Coverage(("*-2*",), None, ("eu*",))),
                (Coverage(("C-*",), ("*",), ("us",)),),
            )
        )

    def pick(self, most: int, least: int = 1) -> int:
        """Returns a number between two."""
        return self._random.randint(least, most)

    def _wrap(self, key: RootKey) -> Wrap:
        version = self._random.choice(("1", "2", "3", "x/2"))
        return Wrap(1, key, version, None, b"sealed", self.now, self.groups.of(key))

    def _region(self, name: str) -> Region:
        key = self._random.choice(KEYS)
        made = replace(a_generation(at=self.now), current=self._wrap(key))
        return replace(
            a_region(name, at=self.now),
            key_spec=KeySpec(key.type, key.uri, key.principal),
            generations=(made,),
        )

    def _change(self, name: str, decide: Decide | Timed) -> bool:
        made = applied(self._store, Change(name, decide, an_event())).cluster
        if made.regions:
            self._clusters[name] = made
        else:
            del self._clusters[name]
        return True

    def _of_state(self, state: State) -> tuple[str, tuple[str, ...]] | None:
        """Returns a cluster and one of its regions that is in a state, or None."""
        cluster = self._any()
        names = [r.name for r in cluster.regions if r.state is state] if cluster else []
        return (cluster.name, (self._random.choice(names),)) if cluster and names else None

    def _any(self) -> Cluster | None:
        return self._random.choice(list(self._clusters.values())) if self._clusters else None

    def _enable(self) -> bool:
        name = f"{self._random.choice('cC')}-{self._random.randrange(30)}"
        if name in self._clusters:
            return False
        names = self._random.sample(["eu", "EU", "us", "ap"], self.pick(3))
        organization = self._random.choice((None, "org", "Org"))
        # The name of an erased cluster stays with its organization.
        organization = self._organizations.setdefault(name, organization)
        made = a_cluster(name, [self._region(each) for each in names], organization=organization)
        self._clusters[name] = applied(self._store, enabling(made)).cluster
        return True

    def _add(self) -> bool:
        cluster = self._any()
        free = {"eu", "EU", "us", "ap"} - {r.name for r in cluster.regions} if cluster else set()
        if cluster is None or not free:
            return False
        regions = [self._region(self._random.choice(sorted(free)))]
        return self._change(cluster.name, with_regions(cluster, regions, self.now))

    def _rotate(self) -> bool:
        cluster = self._any()
        can = [r for r in cluster.regions if r.in_service] if cluster else []
        if cluster is None or not can:
            return False
        some = self._random.sample(can, self.pick(len(can)))
        moved = [self._moved(region) for region in some]
        return self._change(cluster.name, with_regions(cluster, moved, self.now))

    def _moved(self, region: Region) -> Region:
        same = region.newest.current.root
        key = self._random.choice([*KEYS[: len(KEYS) // 4], same, same, same])
        wraps = {g.kek_id: self._wrap(key) for g in region.generations}
        fresh = None
        if self._random.random() < 0.3 and len(region.generations) < 5:
            number = region.newest.number + 1
            fresh = replace(a_generation(number=number, at=self.now), current=self._wrap(key))
        spec = KeySpec(key.type, key.uri, key.principal)
        return rotated(region, spec, region.policy, wraps, fresh)

    def _retire(self) -> bool:
        cluster = self._any()
        kept = [r for r in cluster.regions if r.state is not State.DELETED] if cluster else []
        old = [(r, g) for r in kept for g in r.generations[:-1]]
        if cluster is None or not old:
            return False
        region, generation = self._random.choice(old)
        back = generation.retired_at is not None
        decide = retired(cluster.name, region.name, generation.number, self.now, back=back)
        return self._change(cluster.name, decide)

    def _revoke(self) -> bool:
        cluster = self._any()
        if cluster is None:
            return False
        some = self._random.choice([(), (cluster.regions[0].name,)])
        return self._change(cluster.name, revoked(cluster.name, some, self.now))

    def _restore(self) -> bool:
        cluster = self._any()
        shut = [r.name for r in cluster.regions if r.state is State.REVOKED] if cluster else []
        if cluster is None or not shut:
            return False
        return self._change(cluster.name, restored(cluster, shut, self.now))

    def _delete(self) -> bool:
        found = self._of_state(State.REVOKED)
        return found is not None and self._change(found[0], deleted(*found, waiting=0))

    def _undelete(self) -> bool:
        found = self._of_state(State.DELETED)
        return found is not None and self._change(found[0], undeleted(*found, self.now))

    def _erase(self) -> bool:
        found = self._of_state(State.DELETED)
        return found is not None and self._change(found[0], erased(Due(*found), by=1 << 60))

    def _prune(self) -> bool:
        assert self._store.prune_history(self.now, self._random.randrange(20_000_000)) == []
        return True
