"""The client's calls for operators: what each returns, in Python's own types."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import keyfold
from keyfold_server.domain.errors import AccessDeniedError
from keyfold_server.domain.residency import ResidencyPolicy
from served import Served, served

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
SPEC = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


def test_life_of_a_key(client: keyfold.Client, server: Served) -> None:
    """Enable, add_regions, rotate, revoke and restore return the cluster as it then is."""
    policy = keyfold.RegionPolicy(timedelta(0), timedelta(hours=1))
    spec = keyfold.RegionSpec("eu", keyfold.KeySpec("AWS_KMS", KEY, "me", {"a": "b"}), policy)
    server.make_key(KEY)
    server.keyfold.add_silent_replica("host-2", stops_within=3)
    enabled = client.enable("test", [spec], organization="acme", regions=["eu"])
    [region] = enabled.status.regions
    assert (region.key_spec, region.policy) == (spec.key_spec, policy)
    added = client.add_regions("test", [keyfold.RegionSpec("us", spec.key_spec)])
    assert [one.region for one in added.status.regions] == ["eu", "us"]
    rotated = client.rotate("test", [keyfold.RegionSpec("eu")], new_generation=True)
    assert [one.generation for one in rotated.status.regions[0].generations] == [1, 2]
    assert [one.stops_within for one in rotated.pending] == [timedelta(seconds=3.003)]
    assert not server.requests["Rotate"][0].region_specs[0].HasField("key_spec")
    assert not server.requests["Rotate"][0].region_specs[0].HasField("policy")
    revoked = client.revoke("test", regions=["eu"], reason="asked")
    assert revoked.status.regions[0].state is keyfold.State.REVOKED
    assert revoked.status.regions[0].can_wrap is None
    assert revoked.confirmed == (server.keyfold.replica.changes.replica,)
    with pytest.raises(keyfold.RevokedError):
        client.wrap("test", "eu", bytes(32))
    client.revoke("test")
    more = [keyfold.RegionSpec("ap", spec.key_spec)]
    with pytest.raises(keyfold.ClusterRevokedError) as refused:
        client.add_regions("test", more)
    assert isinstance(refused.value, keyfold.StateError)
    into = client.add_regions("test", more, into_revoked=True)
    assert [(one.region, one.state.name) for one in into.status.regions] == [
        ("ap", "ENABLED"),
        ("eu", "REVOKED"),
        ("us", "REVOKED"),
    ]
    assert [one.into_revoked for one in server.requests["AddRegions"]] == [False, False, True]
    restored = client.restore("test", regions=["eu"])
    assert (restored.restored, restored.not_restored) == (("eu",), ())
    client.wrap("test", "eu", bytes(32))


def test_region_that_stays_revoked(client: keyfold.Client, server: Served) -> None:
    """A region that cannot be restored is part of the result, with its error."""
    key = keyfold.KeySpec("LOCAL", "local:a")
    client.enable("test", [keyfold.RegionSpec("eu", key), keyfold.RegionSpec("us", key)])
    client.revoke("test")
    server.local_keys.disable("a")
    restored = client.restore("test")
    assert [one.region for one in restored.not_restored] == ["eu", "us"]
    assert isinstance(restored.not_restored[0].error, keyfold.KeyDisabledError)


def test_status_in_words(client: keyfold.Client) -> None:
    """The status has Python's own types: enums, times in UTC, None for unset fields."""
    status = client.get_status("prod")
    region = status.regions[0]
    assert (region.state, region.health) == ("ENABLED", "HEALTHY")
    assert (region.can_wrap, region.can_unwrap, region.key_owner) == (True, True, "CLUSTER")
    assert region.last_check_time == datetime.fromtimestamp(1_800_000_000, UTC)
    assert region.last_error is None
    assert (region.key_region, region.notices) == ("", ())
    assert region.policy == keyfold.RegionPolicy(None, None)
    assert status.update_time == datetime.fromtimestamp(1_800_000_000, UTC)


def test_what_went_wrong(tmp_path: Path) -> None:
    """The last error comes with the permission that is missing; notices come as they are."""
    regions = ResidencyPolicy({"eu": {"AWS_KMS": ("eu-central-1",)}})
    with served(tmp_path, regions=regions) as server, keyfold.Client(server.target) as client:
        server.make_key(KEY)
        client.enable("test", [keyfold.RegionSpec("eu", keyfold.KeySpec("AWS_KMS", KEY))])
        denied = AccessDeniedError(
            "no", provider_request_id="r-1", missing_permission="kms:Encrypt"
        )
        server.aws.fail(denied, operations=("wrap",))
        server.clock.advance(61)
        seen = client.get_status("test").regions[0]
    assert seen.last_error == keyfold.KmsFailure("ACCESS_DENIED", "no", "r-1", "kms:Encrypt")
    notice = "the root key is in eu-west-1, and region eu in eu-central-1"
    assert (seen.key_region, seen.notices) == ("eu-west-1", (notice,))


def test_retire_generation(client: keyfold.Client, server: Served) -> None:
    """A retired generation unwraps nothing until it is brought back; the status has its times."""
    server.keyfold.add_silent_replica("host-2", stops_within=3)
    wrapped = client.wrap("prod", "eu", bytes(32)).wrapped_key
    with pytest.raises(keyfold.GenerationInUseError):
        client.retire_generation("prod", "eu", 1)
    client.rotate("prod", [keyfold.RegionSpec("eu")], new_generation=True)
    retired = client.retire_generation("prod", "eu", 1, reason="old", request_id="mine")
    assert (retired.confirmed, [one.replica for one in retired.pending]) == (
        (server.keyfold.replica.changes.replica,),
        ["host-2"],
    )
    first, second = retired.status.regions[0].generations
    assert first.retire_time == datetime.fromtimestamp(1_800_000_000, UTC)
    assert first.last_use_time is not None
    assert (second.retire_time, second.last_use_time) == (None, None)
    request = server.requests["RetireGeneration"][-1]
    assert (request.reason, request.request_id, request.bring_back) == ("old", "mine", False)
    with pytest.raises(keyfold.GenerationRetiredError):
        client.unwrap("prod", wrapped)
    client.retire_generation("prod", "eu", 1, bring_back=True)
    assert client.unwrap("prod", wrapped).generation == 1
    with pytest.raises(keyfold.GenerationNotFoundError):
        client.retire_generation("prod", "eu", 3)


def test_access_policy(client: keyfold.Client) -> None:
    """An access policy keeps the order of its statements and marks those of the vendor."""
    key = keyfold.KeySpec("AWS_KMS", "arn:key", "arn:role")
    policy = client.get_access_policy(key, cluster="new", region="eu", organization="acme")
    again = client.get_access_policy(key, organization="acme")
    assert policy.principal == "arn:role"
    assert len(policy.external_id) == 48
    assert again.external_id == policy.external_id
    assert policy.bound_context == {"keyfold:cluster": "new", "keyfold:region": "eu"}
    first, second = policy.statements
    assert (first.language, first.permissions) == ("json", ("kms:Encrypt", "kms:Decrypt"))
    assert (first.attach_to, first.by_vendor, second.by_vendor) == ("arn:key", False, True)
    assert policy.notices == ("the role's session lasts 10 minutes",)
    with pytest.raises(keyfold.InvalidNameError):
        client.get_access_policy(key)


def test_replica_of_a_multi_region_key(client: keyfold.Client, server: Served) -> None:
    """A region may take the replica of another region's key in place of a key spec."""
    key = keyfold.KeySpec("AWS_KMS", "arn:aws:kms:eu:111122223333:key/mrk-1")
    for region in ("eu", "us"):
        server.make_key(f"arn:aws:kms:{region}:111122223333:key/mrk-1")
    policy = keyfold.RegionPolicy(auto_rotate=True)
    client.enable("test", [keyfold.RegionSpec("eu", key, policy)])
    added = client.add_regions("test", [keyfold.RegionSpec("us", replica_of="eu")])
    assert added.status.regions[0].policy == policy
    assert added.status.regions[1].key_spec.uri == "arn:aws:kms:us:111122223333:key/mrk-1"
    sent = server.requests["AddRegions"][0].region_specs[0]
    assert (sent.replica_of, sent.HasField("key_spec")) == ("eu", False)
    assert keyfold.RegionSpec.from_message(sent) == keyfold.RegionSpec("us", replica_of="eu")


def test_recheck(client: keyfold.Client, server: Served) -> None:
    """A key that does not work is a result with its error, not an error of the call."""
    client.enable("test", [SPEC])
    good = client.recheck("test", regions=["eu"])
    assert (good.results[0].health, good.results[0].error) == (keyfold.Health.HEALTHY, None)
    assert (good.confirmed, good.pending, good.more) == ((), (), False)
    server.local_keys.disable("acme")
    [bad] = client.recheck(key_uri="local:acme").results
    assert (bad.cluster, bad.region, bad.type, bad.uri) == ("prod", "eu", "LOCAL", "local:acme")
    assert (bad.health, bad.can_unwrap, bad.can_wrap) == (keyfold.Health.KEY_DISABLED, False, None)
    assert isinstance(bad.error, keyfold.KeyDisabledError)
    assert client.recheck("test").confirmed == (server.keyfold.replica.changes.replica,)
    with pytest.raises(keyfold.KeyNotUsedError):
        client.recheck(key_uri="local:none")
    with pytest.raises(keyfold.InvalidRecheckError):
        client.recheck()


def test_key_test(client: keyfold.Client, server: Served) -> None:
    """A key that does not work is a result with its steps, not an error."""
    server.make_key(KEY)
    denied = AccessDeniedError("the KMS does not permit it", missing_permission="kms:Decrypt")
    server.aws.fail(denied, operations=("unwrap",))
    server.aws.latency = 0.007
    test = client.test_key(keyfold.KeySpec("AWS_KMS", KEY), cluster="prod", region="us-east-1")
    assert not test.accessible
    assert [(step.step, step.outcome) for step in test.steps] == [
        ("AUTHENTICATE", "PASSED"),
        ("DESCRIBE", "PASSED"),
        ("WRAP", "PASSED"),
        ("UNWRAP", "FAILED"),
        ("CONTEXT", "SKIPPED"),
    ]
    assert (test.steps[3].reason, test.steps[3].missing_permission) == (
        "ACCESS_DENIED",
        "kms:Decrypt",
    )
    assert "the key does not unwrap what it wrapped" in test.summary
    assert test.key_region == "eu-west-1"
    assert len(test.notices) == 1
    assert "another region than us-east-1" in test.notices[0]
    assert test.steps[0].latency == timedelta(milliseconds=7)


def test_list_clusters_goes_through_pages(client: keyfold.Client, server: Served) -> None:
    """The client lists all clusters page by page, and fetches only the pages that it needs."""
    for name in ("a", "b", "c", "d"):
        client.enable(name, [SPEC])
    assert [one.cluster for one in client.list_clusters(page_size=2)] == [
        "a",
        "b",
        "c",
        "d",
        "prod",
    ]
    assert len(server.requests["ListClusters"]) == 3
    next(iter(client.list_clusters(page_size=2)))
    assert len(server.requests["ListClusters"]) == 4
    narrow = keyfold.ClusterFilter(organization="acme", state=keyfold.State.ENABLED)
    assert [one.cluster for one in client.list_clusters(narrow)] == ["prod"]


def test_get_caller(client: keyfold.Client, server: Served) -> None:
    """A caller learns its name, its grants, and which replica says so."""
    me = client.get_caller()
    assert (me.caller, me.names, me.proof) == ("local", ("local",), keyfold.CallerProof.LOOPBACK)
    assert (me.expire_time, me.organization, me.notices) == (None, "", ())
    assert me.replica is not None
    assert me.replica.replica == server.keyfold.replica.changes.replica
    assert me.replica.version == keyfold.__version__
    assert me.may("Revoke", "prod", "", "eu")
    assert not me.may("NoSuchMethod")


def test_what_a_grant_allows() -> None:
    """A grant is read as the server reads it: all lists match, and * is any run of characters."""
    grant = keyfold.CallerGrant(
        roles=("operator",),
        methods=("Revoke",),
        cluster_patterns=("prod-*", "x"),
        organization_patterns=("*",),
        region_patterns=("eu-*",),
        context={},
    )
    assert grant.allows("Revoke")
    assert grant.allows("Revoke", "prod-1", "acme", "eu-1")
    assert not grant.allows("Enable", "prod-1", "acme", "eu-1")
    assert not grant.allows("Revoke", "prod-1", "", "eu-1"), "it needs an organization"
    assert not grant.allows("Revoke", "dev", "acme", "eu-1")
    assert not grant.allows("Revoke", "prod-1", "acme", "us")
