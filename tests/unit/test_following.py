"""The rules of replicas that follow, whatever an operator rotates."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, cast

from hypothesis import given
from hypothesis import strategies as st

from builders import a_cluster, a_region
from callers import EVERYTHING
from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import InvalidKeySpecError, KeyfoldError, RevokedError
from keyfold_server.domain.keyspec import KeySpec, RegionSpec, RootKey
from keyfold_server.domain.lifecycle import Action, State
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.seats import SeatPool
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.following import Following, left, moves, related
from keyfold_server.service.root_keys.replica_of import ReplicaKeys, check_replica_of
from keyfold_server.service.root_keys.resolution import Resolution
from regional import RegionalProvider

REGIONS: Final = ("ap-south-1", "eu-west-1", "me-south-1", "us-east-1")
OWN: Final = ("mrk-one", "mrk-two", "single")


class Kms:
    """A provider of keys, and what resolves their specs; it calls no KMS."""

    def __init__(self) -> None:
        self._provider = RegionalProvider()

    async def provider(self, _type: str) -> RegionalProvider:
        return self._provider

    async def root_key(self, spec: KeySpec, _region: str) -> RootKey:
        return RootKey(spec.type, spec.uri)


_KMS: Final = Kms()
KEYS: Final = ReplicaKeys(
    cast("KmsClient", _KMS), cast("Resolution", _KMS), ResidencyPolicy(), SeatPool()
)


def key(region: str, name: str) -> KeySpec:
    """Returns a key in a region."""
    return KeySpec("FAKE", f"fake:{region}.{name}")


def spec_of(region: str, wish: str) -> RegionSpec:
    """Returns a spec: a key's name, another region as source, or nothing for the same key."""
    if wish in OWN:
        return RegionSpec(region, key(region, wish))
    return RegionSpec(region, replica_of=wish)


def rotated(seen: Cluster, specs: list[RegionSpec], *, only_named: bool) -> Cluster:
    """Returns the cluster after a rotation, which raises if it may not happen."""

    async def plan() -> Cluster:
        check_replica_of(specs)
        for spec in specs:
            seen.region(spec.region).following(Action.ROTATE, seen.name)
        every = await KEYS.spelled_out(EVERYTHING, specs, seen.name, seen)
        if not only_named:
            every += await Following(KEYS).of(EVERYTHING, every, seen)
        after = [
            related(
                replace(
                    seen.region(s.region), key_spec=s.key_spec or seen.region(s.region).key_spec
                ),
                s,
                every,
                seen,
            )
            for s in every
        ]
        changed = {region.name: region for region in (*after, *left(every, seen))}
        assert len(changed) == len(after) + len(left(every, seen))
        return replace(
            seen, regions=tuple(changed.get(region.name, region) for region in seen.regions)
        )

    return asyncio.run(plan())


def replica_of(source: Region, region: str) -> KeySpec:
    """Returns the replica of a region's key in another region."""
    return asyncio.run(KEYS.replica(source.key_spec, source.name, region))


def holds(cluster: Cluster) -> None:
    """Checks what holds of the replicas of a cluster at any time."""
    for region in cluster.regions:
        if region.replica_of:
            source = cluster.region(region.replica_of)
            assert not source.replica_of, "no replica is the source of another"
            assert region.key_spec == replica_of(source, region.name)


WISHES: Final = st.sampled_from(("", *OWN, *REGIONS))
STEPS: Final = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(REGIONS), WISHES, min_size=1),
        st.booleans(),
        st.frozensets(st.sampled_from(REGIONS), max_size=1),
    ),
    max_size=8,
)


@given(STEPS)
def test_a_relation_always_holds(steps: list[tuple[dict[str, str], bool, frozenset[str]]]) -> None:
    """A replica's key is that of its source, and no rotation leaves one behind without a word.

    A region that a request does not name keeps its key, unless it is a replica of a region that the
    request names. One whose source moved has moved with it, has been named in an error, or was left
    because the request said so; a revoked one is never moved.
    """
    cluster = a_cluster(regions=[a_region(name) for name in REGIONS])
    cluster = replace(
        cluster,
        regions=tuple(replace(r, key_spec=key(r.name, "mrk-one")) for r in cluster.regions),
    )
    for wishes, only_named, revoked in steps:
        states = {name: State.REVOKED if name in revoked else State.ENABLED for name in REGIONS}
        seen = replace(
            cluster, regions=tuple(replace(r, state=states[r.name]) for r in cluster.regions)
        )
        specs = [spec_of(region, wish) for region, wish in wishes.items()]
        try:
            after = rotated(seen, specs, only_named=only_named)
        except (InvalidKeySpecError, RevokedError) as error:
            check_refused(seen, error, wishes)
            continue
        holds(after)
        for before, now in zip(seen.regions, after.regions, strict=True):
            if before.name in wishes:
                if wishes[before.name] == "":
                    assert now.key_spec == before.key_spec
                continue
            source = before.replica_of
            if now.key_spec != before.key_spec:
                assert source in wishes
                assert not only_named
                assert before.in_service
                assert now.replica_of
            elif before.replica_of and not now.replica_of:
                assert only_named
                spec = next(s for s in specs if s.region == source)
                assert spec.replica_of or moves(spec, seen)
        cluster = after


def check_refused(seen: Cluster, error: KeyfoldError, wishes: dict[str, str]) -> None:
    """Checks that a refusal names the replicas that it is about, if no region of the request."""
    for region in error.regions:
        assert seen.region(region).replica_of in wishes
        assert region not in wishes
        assert f"region {region}: " in error.message
        assert "only_named_regions" in error.message
