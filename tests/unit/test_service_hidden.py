"""C8: no answer tells a hidden cluster from one that does not exist, whatever the call."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    InvalidKeySpecError,
    KeyfoldError,
    KeyNotGrantedError,
    NotAllowedError,
    UnknownProviderError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionSpec
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.life.reports import ClusterReport
from keyfold_server.service.life.revocation import RetireGenerationRequest
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse
from replicas import Member

ME: Final = Identity(("dns:app.example",), "certificate")

KEYS: Final = 'keys = [{ type = "FAKE", uri = "fake:one", principal = "ambient" }]'

GRANTS: Final = {
    "an operator, by name": f'roles = ["operator"]\nclusters = ["mine-*"]\n{KEYS}',
    "an operator, by name and organization": (
        f'roles = ["operator"]\nclusters = ["mine-*"]\norganizations = ["mine"]\n{KEYS}'
    ),
    "an operator whose pattern fits, by organization": (
        f'roles = ["operator"]\nclusters = ["*e*"]\norganizations = ["mine"]\n{KEYS}'
    ),
    "an operator without keys": 'roles = ["operator"]\norganizations = ["mine"]',
    "a destroyer": 'roles = ["destroyer"]\norganizations = ["mine"]',
    "a reader and a user": 'roles = ["crypto", "auditor"]\norganizations = ["mine"]',
}

TAKEN: Final = "rivale"
"""A cluster of another organization's."""

FREE: Final = "absente"
"""A name that no cluster has."""

Calls = dict[str, Callable[[str], Awaitable[object]]]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """Gives a house whose KMS describes access policies."""
    built = RegionalHouse(tmp_path)
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """Gives a replica with a cluster of one's own and one of another's."""
    one = await house.replica()
    await one.enable("mine-1", organization="mine")
    await one.enable(TAKEN, {"eu": "fake:two", "us": "fake:two"}, organization="rival")
    return one


@contextmanager
def granted(member: Member, *grants: str) -> Iterator[None]:
    """Gives the replica's callers these grants and no others."""
    text = "".join(f'[[grant]]\ncallers = ["{ME.name}"]\n{grant}\n' for grant in grants)
    member.rights = parse(text, "policy.toml").rights(ME)
    try:
        yield
    finally:
        member.rights = EVERYTHING


def try_key(
    one: Member, name: str, uri: str = "fake:one", organization: str | None = None
) -> Awaitable[object]:
    """Calls TestKey for a cluster."""
    request = TestKeyRequest(KeySpec("FAKE", uri), Scope(name, "eu", organization))
    return one.replica.trials.test(Caller(one.rights), request)


def access_policy(
    one: Member, name: str, uri: str = "fake:one", organization: str | None = None
) -> Awaitable[object]:
    """Calls GetAccessPolicy for a cluster."""
    request = AccessPolicyRequest(KeySpec("FAKE", uri), Scope(name, "eu", organization))
    return one.replica.access_policies.get(Caller(one.rights), request)


def calls(one: Member, blob: bytes) -> Calls:
    """Returns calls of every method that names a cluster, apart from Enable."""
    long = "x" * 999
    return {
        "Wrap": one.wrap,
        "Unwrap": lambda name: one.unwrap(blob, name),
        "Rewrap": lambda name: one.rewrap(blob, cluster=name),
        "AddRegions": lambda name: one.add_regions({"as": "fake:one"}, name),
        "AddRegions, another's key": lambda name: one.add_regions({"as": "fake:two"}, name),
        "AddRegions, a replica": lambda name: one.add_regions(
            {"as": RegionSpec("as", replica_of="eu")}, name
        ),
        "AddRegions, of": lambda name: one.add_regions(
            {"as": "fake:one"}, name, organization="mine"
        ),
        "Rotate": lambda name: one.rotate({"eu": None}, name),
        "Rotate, another's key": lambda name: one.rotate({"eu": "fake:two"}, name),
        "Rotate, no region": lambda name: one.rotate({"nowhere": None}, name),
        "Rotate, a bad id": lambda name: one.rotate({"eu": None}, name, request_id=long),
        "Revoke": one.revoke,
        "Revoke, a bad id": lambda name: one.revoke(name, request_id=long),
        "Revoke, again": lambda name: one.revoke(name, request_id="again"),
        "Restore": one.restore,
        "Restore, a bad id": lambda name: one.restore(name, request_id=long),
        "RetireGeneration": lambda name: one.replica.revocation.retire(
            one.asked("RetireGeneration", RetireGenerationRequest(name, "eu", 1, False, ""))  # noqa: FBT003
        ),
        "DeleteCluster": one.delete,
        "DeleteCluster, a region": lambda name: one.delete(name, ["nowhere"]),
        "DeleteCluster, only tried": lambda name: one.delete(name, validate_only=True),
        "DeleteCluster, a bad id": lambda name: one.delete(name, request_id=long),
        "UndeleteCluster": one.undelete,
        "GetStatus": one.status,
        "TestKey": lambda name: try_key(one, name),
        "TestKey, another's key": lambda name: try_key(one, name, "fake:two"),
        "TestKey, no key": lambda name: try_key(one, name, "nonsense"),
        "TestKey, of mine": lambda name: try_key(one, name, organization="mine"),
        "TestKey, of theirs": lambda name: try_key(one, name, organization="rival"),
        "GetAccessPolicy": lambda name: access_policy(one, name),
        "GetAccessPolicy, another's key": lambda name: access_policy(one, name, "fake:two"),
        "GetAccessPolicy, of mine": lambda name: access_policy(one, name, organization="mine"),
        "GetAccessPolicy, of theirs": lambda name: access_policy(one, name, organization="rival"),
    }


async def answer(call: Awaitable[object], name: str) -> object:
    """Returns everything in an answer but the name that the caller gave."""
    try:
        answered = await call
    except KeyfoldError as error:
        text = re.sub(rf"\b{name}\b", "NAME", error.message)
        return (type(error), text, error.region, error.field, error.retry_after)
    text = re.sub(r"request_id=.\w+.", "request_id", repr(answered))
    return re.sub(rf"\b{name}\b", "NAME", text)


@pytest.mark.parametrize("grant", GRANTS)
async def test_no_answer_tells_hidden_from_absent(one: Member, grant: str) -> None:
    """C8: per call, a cluster that the caller may not see gets the answer of a free name."""
    blob = await one.wrap(TAKEN)
    asked = calls(one, blob)
    with granted(one, GRANTS[grant]):
        for method, call in asked.items():
            hidden = await answer(call(TAKEN), TAKEN)
            absent = await answer(call(FREE), FREE)
            assert hidden == absent, method


@pytest.mark.parametrize("grant", GRANTS)
async def test_no_answer_of_a_stale_replica_tells_hidden_from_absent(
    house: RegionalHouse, one: Member, grant: str
) -> None:
    """C8, S2: a replica without a fresh store says so of either name, or of neither."""
    blob = await one.wrap(TAKEN)
    asked = calls(one, blob)
    house.clock.advance(3_600)
    with granted(one, GRANTS[grant]):
        for method, call in asked.items():
            hidden = await answer(call(TAKEN), TAKEN)
            absent = await answer(call(FREE), FREE)
            assert hidden == absent, method


@pytest.mark.parametrize("serves", ["eu", "as"])
async def test_no_answer_of_a_regions_replica_tells_hidden_from_absent(
    house: RegionalHouse, one: Member, serves: str
) -> None:
    """C8: whether the replica serves a region shows nothing of the clusters that have it."""
    blob = await one.wrap(TAKEN)
    member = await house.replica(served=ServedRegions.of([serves], {}))
    asked = calls(member, blob)
    for grant in GRANTS.values():
        with granted(member, grant):
            for method, call in asked.items():
                hidden = await answer(call(TAKEN), TAKEN)
                absent = await answer(call(FREE), FREE)
                assert hidden == absent, method


@pytest.mark.parametrize("name", [TAKEN, FREE, "mine-2"])
async def test_a_key_is_decided_before_any_look_up(one: Member, name: str) -> None:
    """C8: a key that the caller may not name is refused without a read of the store."""
    reads = one.line.counts["cluster"]
    grant = f'roles = ["operator"]\nclusters = ["*e*"]\norganizations = ["mine"]\n{KEYS}'
    of = "mine"
    with granted(one, grant):
        for uri, error in (
            ("fake:two", KeyNotGrantedError),
            ("nonsense", InvalidKeySpecError),
        ):
            for call in (
                one.enable(name, {"eu": uri}, organization=of),
                one.enable(name, {"eu": uri}, organization=of, validate_only=True),
                one.add_regions({"as": uri}, name),
                try_key(one, name, uri),
                try_key(one, name, uri, of),
                access_policy(one, name, uri),
                access_policy(one, name, uri, of),
            ):
                with pytest.raises(error):
                    await call
        with pytest.raises(UnknownProviderError):
            await one.enable(name, {"eu": KeySpec("NOPE", "x")}, organization=of)
        # A replica of a key that the request does not have is wrong whether the cluster has it.
        with pytest.raises(InvalidKeySpecError, match="no key spec for region eu"):
            await one.enable(name, {"us": RegionSpec("us", replica_of="eu")}, organization=of)
    assert one.line.counts["cluster"] == reads


@pytest.mark.parametrize("name", [TAKEN, FREE])
async def test_a_name_outside_ones_patterns_costs_no_look_up(one: Member, name: str) -> None:
    """C8: such a name is decided by the policy alone, so its answer takes one time."""
    blob = await one.wrap(TAKEN)
    one.loads.drop_all()
    asked = calls(one, blob)
    reads = one.line.counts["cluster"]
    with granted(
        one,
        GRANTS["an operator, by name and organization"],
        'roles = ["crypto"]\nclusters = ["mine-*"]',
    ):
        for call in asked.values():
            with pytest.raises(ClusterNotFoundError):
                await call(name)
        for of in (None, "mine", "rival"):
            with pytest.raises(NotAllowedError):
                await one.enable(name, organization=of)
    assert one.line.counts["cluster"] == reads


async def test_a_stranger_takes_no_place_of_a_rival(one: Member) -> None:
    """C8: calls on a hidden cluster neither wait among its organization's calls nor fill them."""
    await one.wrap(TAKEN)
    room = one.replica.organizations.of("rival").room
    with one.replica.room_of(TAKEN, EVERYTHING):
        assert not room.empty
    with granted(one, GRANTS["a reader and a user"]), one.replica.room_of(TAKEN, one.rights):
        assert room.empty


async def test_an_operator_without_keys_makes_nothing(one: Member) -> None:
    """C8: without keys an operator may manage a customer's clusters, and feels out no name."""
    with granted(one, GRANTS["an operator without keys"]):
        for name in (TAKEN, FREE, "mine-1"):
            with pytest.raises(KeyNotGrantedError):
                await one.enable(name, organization="mine")
        await one.rotate({"eu": None}, "mine-1")


async def test_trying_a_key_tells_nothing_of_a_rivals_cluster(one: Member) -> None:
    """C8: a key is tried for a hidden name as for a free one, under the caller's organization."""
    grant = f'roles = ["operator"]\nclusters = ["*e*"]\norganizations = ["mine"]\n{KEYS}'
    with granted(one, grant):
        for name in (TAKEN, FREE):
            with pytest.raises(ClusterNotFoundError):
                await try_key(one, name)
            await try_key(one, name, organization="mine")
            await access_policy(one, name, organization="mine")


@pytest.mark.parametrize("grant", GRANTS)
async def test_a_list_reads_nothing_of_a_rivals_clusters(one: Member, grant: str) -> None:
    """C8: the store hands no hidden cluster to a list, so a filter takes one time for any name."""
    store = one.replica._storage.store
    of_none = ClusterFilter(organization="nobodys")
    with granted(one, GRANTS[grant]):
        page = await one.replica.listing.page(one.rights, ClusterFilter(), 100, "")
        assert [entry.cluster.name for entry in page.entries if isinstance(entry, ClusterReport)]
        covered = one.rights.coverage(None)
        assert TAKEN not in [
            found.name
            for found in store.clusters(ClusterFilter(covered=covered), "", 100)
            if isinstance(found, Cluster)
        ]
        reads = one.line.counts["clusters"]
        for which in (ClusterFilter(organization="rival"), of_none):
            assert not (await one.replica.listing.page(one.rights, which, 100, "")).entries
        if "organizations" in GRANTS[grant]:
            assert one.line.counts["clusters"] == reads
