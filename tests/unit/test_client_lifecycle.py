"""The client's calls for operators: what each returns, in Python's own types."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import keyfold
from fake_server import FakeServer

SPEC = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A fake Keyfold server in memory."""
    with FakeServer() as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


def test_life_of_a_key(client: keyfold.Client, server: FakeServer) -> None:
    """Enable, add_regions, rotate, revoke and restore return the cluster as it then is."""
    policy = keyfold.RegionPolicy(timedelta(0), timedelta(hours=1))
    spec = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:b", "me", {"a": "b"}), policy)
    enabled = client.enable("test", [spec], organization="acme", regions=["eu"])
    [region] = enabled.status.regions
    assert (region.key_spec, region.policy) == (spec.key_spec, policy)
    added = client.add_regions("test", [keyfold.RegionSpec("us", spec.key_spec)])
    assert [one.region for one in added.status.regions] == ["eu", "us"]
    rotated = client.rotate("test", [keyfold.RegionSpec("eu")], new_generation=True)
    assert [one.generation for one in rotated.status.regions[0].generations] == [1, 2]
    assert [one.stops_within for one in rotated.pending] == [timedelta(seconds=3)]
    assert not server.requests["Rotate"][0].region_specs[0].HasField("key_spec")
    assert not server.requests["Rotate"][0].region_specs[0].HasField("policy")
    revoked = client.revoke("test", regions=["eu"], reason="asked")
    assert revoked.status.regions[0].state is keyfold.State.REVOKED
    assert revoked.status.regions[0].can_wrap is None
    assert revoked.confirmed == ("host-1",)
    with pytest.raises(keyfold.RevokedError):
        client.wrap("test", "eu", bytes(32))
    restored = client.restore("test", regions=["eu"])
    assert (restored.restored, restored.not_restored) == (("eu",), ())
    client.wrap("test", "eu", bytes(32))


def test_region_that_stays_revoked(client: keyfold.Client) -> None:
    """A region that cannot be restored is part of the result, with its error."""
    disabled = keyfold.KeySpec("LOCAL", "local:disabled")
    client.enable("test", [keyfold.RegionSpec("eu", disabled), keyfold.RegionSpec("us", disabled)])
    client.revoke("test")
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
    assert status.update_time is None


def test_what_went_wrong(client: keyfold.Client, server: FakeServer) -> None:
    """The last error comes with the permission that is missing; notices come as they are."""
    region = server.toy.clusters["prod"].regions[0]
    region.last_error.reason, region.last_error.message = "ACCESS_DENIED", "no"
    region.last_error.request_id, region.last_error.missing_permission = "r-1", "kms:Encrypt"
    region.key_region = "eu-west-1"
    region.notices.append("the key is elsewhere")
    seen = client.get_status("prod").regions[0]
    assert seen.last_error == keyfold.KmsFailure("ACCESS_DENIED", "no", "r-1", "kms:Encrypt")
    assert (seen.key_region, seen.notices) == ("eu-west-1", ("the key is elsewhere",))


def test_retire_generation(client: keyfold.Client, server: FakeServer) -> None:
    """A retired generation unwraps nothing until it is brought back; the status has its times."""
    wrapped = client.wrap("prod", "eu", bytes(32)).wrapped_key
    with pytest.raises(keyfold.GenerationInUseError):
        client.retire_generation("prod", "eu", 1)
    client.rotate("prod", [keyfold.RegionSpec("eu")], new_generation=True)
    retired = client.retire_generation("prod", "eu", 1, reason="old", request_id="mine")
    assert (retired.confirmed, [one.replica for one in retired.pending]) == (
        ("host-1",),
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
    assert (policy.principal, policy.external_id) == ("arn:role", "kf-acme")
    assert policy.bound_context == {"keyfold:cluster": "new", "keyfold:region": "eu"}
    first, second = policy.statements
    assert (first.language, first.permissions) == ("json", ("kms:Encrypt", "kms:Decrypt"))
    assert (first.attach_to, first.by_vendor, second.by_vendor) == ("arn:key", False, True)
    assert policy.notices == ("the role's session lasts 10 minutes",)
    with pytest.raises(keyfold.InvalidNameError):
        client.get_access_policy(key)


def test_replica_of_a_multi_region_key(client: keyfold.Client, server: FakeServer) -> None:
    """A region may take the replica of another region's key in place of a key spec."""
    key = keyfold.KeySpec("AWS_KMS", "arn:aws:kms:eu:111122223333:key/mrk-1")
    policy = keyfold.RegionPolicy(auto_rotate=True)
    client.enable("test", [keyfold.RegionSpec("eu", key, policy)])
    added = client.add_regions("test", [keyfold.RegionSpec("us", replica_of="eu")])
    assert added.status.regions[0].policy == policy
    assert added.status.regions[1].key_spec.uri == "arn:aws:kms:us:111122223333:key/mrk-1"
    sent = server.requests["AddRegions"][0].region_specs[0]
    assert (sent.replica_of, sent.HasField("key_spec")) == ("eu", False)
    assert keyfold.RegionSpec.from_message(sent) == keyfold.RegionSpec("us", replica_of="eu")


def test_key_test(client: keyfold.Client) -> None:
    """A key that does not work is a result with its steps, not an error."""
    test = client.test_key(keyfold.KeySpec("LOCAL", "local:forbidden"), cluster="prod")
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
    assert (test.summary, test.key_region, test.notices) == (
        "the key does not unwrap",
        "here",
        ("the key is here",),
    )
    assert test.steps[0].latency == timedelta(milliseconds=7)


def test_list_clusters_goes_through_pages(client: keyfold.Client, server: FakeServer) -> None:
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
