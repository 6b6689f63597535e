"""`keyfold apply`: its plan, what it does, and where it stops."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml

import keyfold
from cli_runner import Cli, Ran, Terminal
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.seats import Seat
from served import KEY, Served, served
from wire_errors import WireError

DOCUMENT: Final = """
organizations:
  - organization: beta
    default_key: LINKED
    cluster_patterns: ["beta-*"]
key_links:
  - organization: beta
    key_link: main
    region: eu
    key_spec: {type: LOCAL, uri: "local:a"}
---
clusters:
  - cluster: beta-1
    organization: beta
    region_specs:
      - region: eu
  - cluster: beta-2
    organization: beta
    regions: [eu, us]
    region_specs:
      - {region: eu, key_link: main, policy: {cache_ttl: 1m, auto_rotate: true}}
      - {region: us, key_spec: {type: LOCAL, uri: "local:b"}}
"""


def arn(region: str, name: str = "one") -> str:
    """Returns the uri of a multi-Region key's replica in a region."""
    return f"arn:aws:kms:{region}:111122223333:key/mrk-{name}"


@pytest.fixture
def geos() -> dict[str, tuple[str, ...]]:
    """The geos of the server's settings; a test may change them."""
    return {"EU": ("eu-1", "eu-2")}


@pytest.fixture
def server(tmp_path: Path, geos: dict[str, tuple[str, ...]]) -> Iterator[Served]:
    """A server with the cluster prod of organization acme, and with multi-Region keys."""
    with served(tmp_path, regions=ResidencyPolicy(geos=Geos(geos))) as running:
        for region in ("eu-1", "eu-2", "eu-3"):
            for name in ("one", "two"):
                running.make_key(arn(region, name))
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def apply(cli: Cli, document: str | dict[str, Any], *options: str) -> Ran:
    """Applies a document."""
    text = document if isinstance(document, str) else json.dumps(document)
    return cli("apply", "-f", "-", *options, stdin=text)


def changes(ran: Ran) -> list[Any]:
    """Returns the changes of a plan, or of what became of it, without their results."""
    assert ran.code in {0, 13}, ran.err
    return [
        {name: value for name, value in one.items() if name not in {"result", "notes"}}
        for one in ran.json["changes"]
    ]


def logged(server: Served) -> list[tuple[str, str, str]]:
    """Returns what the log has of all calls: the call, its outcome, and what it was about."""
    with server.client() as client:
        return [
            (one.action, one.outcome, one.cluster or one.organization)
            for one in client.list_events()
        ]


def region(name: str = "eu", **fields: Any) -> dict[str, Any]:
    """Returns a region spec, by default with the key of prod."""
    key = {"key_spec": {"type": "LOCAL", "uri": "local:acme"}}
    has_key = not fields.keys().isdisjoint({"key_spec", "key_link", "replica_of"})
    return {"region": name, **({} if has_key else key), **fields}


def prod(*specs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Returns a document with the cluster prod."""
    return {"clusters": [{"cluster": "prod", "region_specs": list(specs), **fields}]}


def a_key(name: str) -> dict[str, str]:
    """Returns the key spec of a LOCAL key."""
    return {"type": "LOCAL", "uri": f"local:{name}"}


def fields_of(ran: Ran) -> dict[str, tuple[Any, Any]]:
    """Returns the old and new value of each field that changes."""
    return {
        field["field"]: (field["old"], field["new"])
        for change in changes(ran)
        for field in change["fields"]
    }


# --- the plan and what it leads to ---


def test_the_plan_is_what_apply_does(cli: Cli, server: Served) -> None:
    """The plan stores nothing; apply makes its changes, each with one entry in the log."""
    before = logged(server)
    planned = apply(cli, DOCUMENT, "--plan", "-o", "json")
    assert planned.code == 13
    assert {one["result"] for one in planned.json["changes"]} == {"PLANNED"}
    assert all(one["proven"] for one in changes(planned))
    tried = logged(server)[len(before) :]
    assert {outcome for _, outcome, _ in tried} == {"validated"}
    assert cli("organizations", "get", "beta").code == 3

    done = apply(cli, DOCUMENT, "-o", "json")
    assert done.code == 0
    assert {one["result"] for one in done.json["changes"]} == {"DONE"}
    assert changes(done) == changes(planned)
    assert done.json["plan"] == planned.json["plan"]
    made = [one for one in logged(server)[len(before) :] if one[1] != "validated"]
    assert made == [
        ("rpc:organization:create", "done", "beta"),
        ("rpc:key_link:create", "done", "beta"),
        ("rpc:cluster:enable", "done", "beta-1"),
        ("rpc:cluster:enable", "done", "beta-2"),
    ]
    assert fields_of(planned)["region_specs[eu].key_link"] == (None, "main")
    status = server.status("beta-2")
    assert [one.key_link for one in status.regions] == ["main", ""]
    assert status.declared_regions == ("eu", "us")


def test_a_second_apply_changes_nothing(cli: Cli, server: Served) -> None:
    """What is as the file says is not touched: no call but those that read, no entry in the log."""
    apply(cli, DOCUMENT)
    before, asked = logged(server), {name for name, all_ in server.requests.items() if all_}
    for name in asked:
        server.requests[name].clear()
    again = apply(cli, DOCUMENT)
    assert again.code == 0
    assert (
        again.out.decode()
        .splitlines()[-1]
        .endswith(": 0 to create, 0 to change, 0 to rotate in place, 0 to delete, 4 unchanged")
    )
    assert apply(cli, DOCUMENT, "--plan").code == 0
    assert logged(server) == before
    reads = {"GetOrganization", "ListKeyLinks", "ListClusters", "GetStatus", "ListEvents"}
    assert {name for name, all_ in server.requests.items() if all_} <= reads


def test_a_person_reads_the_plan(cli: Cli) -> None:
    """A line for each change, its fields old and new, what stays, and a summary."""
    document = prod(region(key_spec=a_key("a"), policy={"cache_ttl": "30s"}))
    document["organizations"] = [{"organization": "acme"}]
    cli("enable", "other", "--organization", "acme", "--region", "eu=LOCAL,local:b")
    shown = apply(cli, document, "--plan").out.decode().splitlines()
    assert shown[:-1] == [
        "rotate cluster/prod in place",
        "  region_specs[eu].key_spec: LOCAL local:acme → LOCAL local:a",
        "  region_specs[eu].policy.cache_ttl: 30s",
        "unchanged: organization/acme",
        "not in the file, left alone: cluster/other",
        "not in the file, left alone: region/prod/us",
    ]
    assert shown[-1].endswith(
        ": 0 to create, 0 to change, 1 to rotate in place, 0 to delete, 1 unchanged"
    )


# --- never by replacement ---


def test_a_changed_key_rotates_in_place(cli: Cli, server: Served) -> None:
    """The region moves to the new key, its policy changes with it, and what was wrapped opens."""
    with server.client() as client:
        wrapped = client.wrap("prod", "eu", b"k" * 32).wrapped_key
    document = prod(region(key_spec=a_key("a"), policy={"outage_grace": "1h"}))
    planned = apply(cli, document, "--plan", "-o", "json")
    assert fields_of(planned) == {
        "region_specs[eu].key_spec": (a_key("acme"), a_key("a")),
        "region_specs[eu].policy.outage_grace": (None, "3600s"),
    }
    [request] = server.requests["Rotate"]
    assert request.validate_only
    assert changes(apply(cli, document, "-o", "json")) == changes(planned)
    eu, us = server.status().regions
    assert (eu.key_spec.uri, us.key_spec.uri) == ("local:a", "local:acme")
    assert len(eu.generations) == 1
    with server.client() as client:
        assert client.unwrap("prod", wrapped).plaintext == b"k" * 32


def test_a_seat_stays(cli: Cli, server: Served) -> None:
    """A region that has the seat it asks for is as the file says; the word is kept in the file."""
    uri, other = arn("eu-1"), arn("eu-1", "two")
    roles = [f"arn:aws:iam::999988887777:role/s{number}" for number in (1, 2)]
    seats = server.keyfold.replica.seats
    seats.pool.seats = [Seat(f"s{n}", "AWS_KMS", "eu", role) for n, role in enumerate(roles, 1)]

    def asking(uri: str, **also: Any) -> dict[str, Any]:
        return prod(
            region(key_spec={"type": "AWS_KMS", "uri": uri, "auth_principal": "seat"}, **also)
        )

    reserve = ("access-policy", "AWS_KMS", uri, "--principal", "seat", "--organization", "acme")
    reserved = cli(*reserve, "--region", "eu", "--seats", "2", "--json")
    assert reserved.json["seats"] == ["s1", "s2"], reserved.err
    assert cli(*reserve, "--region", "eu", "--seats", "3").code == 4
    # A region with the same key under a role of the customer's does not have a seat.
    plain = {"type": "AWS_KMS", "uri": uri, "auth_principal": "arn:aws:iam::1:role/customer"}
    cli(
        "access-policy",
        "AWS_KMS",
        uri,
        "--principal",
        plain["auth_principal"],
        "--organization",
        "acme",
    )
    assert apply(cli, prod(region(key_spec=plain))).code == 0
    assert apply(cli, asking(uri), "--plan").code == 13
    assert apply(cli, asking(uri)).code == 0
    assert server.status().regions[0].key_spec.auth_principal == roles[0]
    generations = server.status().regions[0].generations
    for _ in range(2):
        again = apply(cli, asking(uri), "-o", "json")
        assert (again.code, changes(again)) == (0, [])
    assert server.status().regions[0].generations == generations
    policy = apply(cli, asking(uri, policy={"outage_grace": "60s"}), "-o", "json")
    assert set(fields_of(policy)) == {"region_specs[eu].policy.outage_grace"}
    assert apply(cli, asking(other)).code == 0
    key = server.status().regions[0].key_spec
    assert (key.uri, key.auth_principal) == (other, roles[0])
    assert apply(cli, asking(other), "--plan").code == 0
    cli("revoke", "prod", "--yes")
    assert apply(cli, asking(other), "--plan").code == 0


def test_what_the_file_does_not_say_is_left_alone(cli: Cli, server: Served) -> None:
    """Neither a field, nor a region, nor a link, nor a cluster goes because a file lacks it."""
    apply(cli, DOCUMENT)
    few: dict[str, Any] = {
        "organizations": [{"organization": "beta", "max_clusters": 7}],
        "clusters": [{"cluster": "beta-2", "region_specs": [{"region": "us"}]}],
    }
    ran = apply(cli, few, "-o", "json")
    assert fields_of(ran) == {"max_clusters": (0, 7)}
    assert ran.json["left_alone"] == ["link/beta/main", "cluster/beta-1", "region/beta-2/eu"]
    [request] = server.requests["UpdateOrganization"][1:]
    assert list(request.update_mask.paths) == ["max_clusters"]
    assert apply(cli, DOCUMENT, "--plan").code == 0


def test_a_policy_is_one_value(cli: Cli, server: Served) -> None:
    """A policy in the file replaces the region's; without one, the region keeps its own."""
    apply(cli, prod(region(policy={"cache_ttl": "30s", "auto_rotate": True})))
    assert apply(cli, prod(region()), "--plan").code == 0
    ran = apply(cli, prod(region(policy={"outage_grace": "60s"})), "-o", "json")
    assert fields_of(ran) == {
        "region_specs[eu].policy.cache_ttl": ("30s", None),
        "region_specs[eu].policy.outage_grace": (None, "60s"),
        "region_specs[eu].policy.auto_rotate": (True, False),
    }
    [request] = [one for one in server.requests["Rotate"][-1:] if not one.validate_only]
    assert not request.region_specs[0].HasField("key_spec")


def test_regions_are_added(cli: Cli, server: Served) -> None:
    """A further region is added and declared; together with a rotation it takes two calls."""
    specs = (region(key_spec=a_key("a")), region("us"), region("asia", key_spec=a_key("b")))
    document = prod(*specs, regions=["asia", "eu", "us"])
    planned = apply(cli, document, "--plan", "-o", "json")
    assert [one["action"] for one in changes(planned)] == ["ROTATE", "ADD_REGIONS"]
    assert fields_of(planned)["regions"] == (None, ["asia", "eu", "us"])
    done = apply(cli, document, "-o", "json")
    assert changes(done) == changes(planned)
    assert server.status().declared_regions == ("asia", "eu", "us")
    assert apply(cli, document, "--plan").code == 0


def test_replicas_follow_in_the_plan(cli: Cli, server: Served) -> None:
    """A rotation that takes replicas along says so, also of a region that the file leaves out."""
    key, other = ({"type": "AWS_KMS", "uri": arn("eu-1", one)} for one in ("one", "two"))
    first = region("eu-1", key_spec=key)
    document: dict[str, Any] = {
        "clusters": [
            {
                "cluster": "test",
                "region_specs": [first, {"region": "eu-2", "replica_of": "eu-1"}],
            }
        ]
    }
    assert apply(cli, document).code == 0
    assert apply(cli, document, "--plan").code == 0
    first["key_spec"] = other
    document["clusters"][0]["region_specs"][1]["policy"] = {"cache_ttl": "5s"}
    planned = apply(cli, document, "--plan", "-o", "json")
    assert changes(apply(cli, document, "-o", "json")) == changes(planned)
    eu_1, eu_2 = server.status("test").regions
    assert (eu_1.key_spec.uri, eu_2.key_spec.uri) == (arn("eu-1", "two"), arn("eu-2", "two"))
    assert (eu_2.replica_of, str(eu_2.policy.cache_ttl)) == ("eu-1", "0:00:05")
    assert apply(cli, document, "--plan").code == 0
    alone: dict[str, Any] = {
        "clusters": [{"cluster": "test", "region_specs": [region("eu-1", key_spec=key)]}]
    }
    assert apply(cli, alone).code == 0
    assert server.status("test").regions[1].key_spec.uri == arn("eu-2", "one")


def test_a_new_replica_of_a_moving_key(cli: Cli, server: Served) -> None:
    """A region that is to be a replica of a key that moves first comes after it, not tried."""
    key = {"type": "AWS_KMS", "uri": arn("eu-1")}
    cli("enable", "test", "--region", f"eu-1=AWS_KMS,{arn('eu-1', 'two')}")
    specs = [region("eu-1", key_spec=key), {"region": "eu-2", "replica_of": "eu-1"}]
    document = {"clusters": [{"cluster": "test", "region_specs": specs}]}
    ran = apply(cli, document, "--plan")
    assert "add regions to cluster/test (rests on a change before it; not tried yet)" in (
        ran.out.decode()
    )
    assert apply(cli, document).code == 0
    assert server.status("test").regions[1].key_spec.uri == arn("eu-2")


def test_a_geo(cli: Cli, server: Served, geos: dict[str, tuple[str, ...]]) -> None:
    """A geo stands for its regions: made, rotated, and added to when it grows."""
    spec: dict[str, Any] = {"geo": "EU", "key_spec": {"type": "AWS_KMS", "uri": arn("eu-1")}}
    document = {"clusters": [{"cluster": "test", "region_specs": [spec]}]}
    assert apply(cli, document).code == 0
    assert apply(cli, document, "--plan", "-o", "json").json["left_alone"] == []
    spec["key_spec"]["uri"] = arn("eu-2")  # the same key, by the name of its other replica
    assert apply(cli, document, "--plan").code == 0
    spec |= {"key_spec": {"type": "AWS_KMS", "uri": arn("eu-1", "two")}, "policy": {}}
    assert changes(apply(cli, document, "-o", "json"))[0]["action"] == "ROTATE"
    assert [one.key_spec.uri for one in server.status("test").regions] == [
        arn("eu-1", "two"),
        arn("eu-2", "two"),
    ]
    geos["EU"] = ("eu-1", "eu-2", "eu-3")
    [change] = changes(apply(cli, document, "-o", "json"))
    assert change["action"] == "ADD_REGIONS"
    assert server.status("test").regions[2].key_spec.uri == arn("eu-3", "two")
    assert apply(cli, document, "--plan").code == 0


def test_two_geos_rotate_at_once(
    cli: Cli, server: Served, geos: dict[str, tuple[str, ...]]
) -> None:
    """The server tries the spec of each geo, also where another geo's spec names a link."""
    geos["NORTH"] = ("eu-3",)
    key = {"type": "AWS_KMS", "uri": arn("eu-1")}
    link = {"organization": "acme", "key_link": "main", "geo": "EU", "key_spec": key}
    north = {"geo": "NORTH", "key_spec": {"type": "AWS_KMS", "uri": arn("eu-3")}}
    cluster: dict[str, Any] = {
        "cluster": "test",
        "organization": "acme",
        "region_specs": [{"geo": "EU", "key_spec": key}, north],
    }
    document = {"key_links": [link], "clusters": [cluster]}
    assert apply(cli, document).code == 0
    north["key_spec"] = {"type": "AWS_KMS", "uri": arn("eu-3", "two")}
    cluster["region_specs"] = [
        {"geo": "EU", "key_link": "main", "policy": {"cache_ttl": "9s"}},
        north,
    ]
    planned = apply(cli, document, "--plan", "-o", "json")
    assert fields_of(planned)["region_specs[eu-3].key_spec"] == (
        {"type": "AWS_KMS", "uri": arn("eu-3")},
        north["key_spec"],
    )
    assert changes(apply(cli, document, "-o", "json")) == changes(planned)


def test_regions_come_to_a_link_and_leave_it(cli: Cli, server: Served) -> None:
    """A region adopts a link that the same file makes, and leaves it for a key of its own."""
    link = {"organization": "acme", "key_link": "main", "region": "eu", "key_spec": a_key("a")}
    document = prod(region(key_link="main")) | {"key_links": [link]}
    planned = apply(cli, document, "--plan", "-o", "json")
    assert fields_of(planned)["region_specs[eu].key_link"] == (None, "main")
    assert all(one["proven"] for one in changes(planned))
    assert changes(apply(cli, document, "-o", "json")) == changes(planned)
    assert server.status().regions[0].key_link == "main"
    assert apply(cli, document, "--plan").code == 0
    own = prod(region(key_spec=a_key("a"))) | {"key_links": [link]}
    assert fields_of(apply(cli, own, "-o", "json")) == {
        "region_specs[eu].key_link": ("main", None),
        "region_specs[eu].key_spec": (None, a_key("a")),
    }
    link |= {"key_spec": a_key("b"), "description": "new"}
    assert fields_of(apply(cli, own, "-o", "json")) == {
        "description": ("", "new"),
        "key_spec": (a_key("a"), a_key("b")),
    }


def linked(key: str, **fields: Any) -> dict[str, Any]:
    """Returns a document with a link of acme that prod uses in eu, and that says its policy."""
    link = {"organization": "acme", "key_link": "main", "region": "eu", "key_spec": a_key(key)}
    return prod(region(key_link="main", **fields)) | {"key_links": [link]}


def test_a_link_in_use_moves(cli: Cli, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another key for a link in use moves all that uses it in place, and nothing is lost."""
    apply(cli, linked("a"))
    with server.client() as client:
        wrapped = client.wrap("prod", "eu", b"k" * 32).wrapped_key
    document = linked("b", policy={"cache_ttl": "9s"})
    document["key_links"][0]["description"] = "new"
    planned = apply(cli, document, "--plan", "-o", "json")
    assert [(one["resource"], one["action"]) for one in changes(planned)] == [
        ("link/acme/main", "CHANGE"),
        ("link/acme/main", "MOVE"),
        ("cluster/prod", "ROTATE"),
    ]
    assert planned.json["changes"][1]["notes"] == [
        "1 regions rotate to its key, and nothing wrapped is lost"
    ]
    assert fields_of(planned)["key_spec"] == (a_key("a"), a_key("b"))
    # Time passes, so the rotation by the link is seen in the cluster; it was the plan's own.
    began, ticks = server.clock.wall(), itertools.count(1)
    monkeypatch.setattr(server.clock, "wall", lambda: began + next(ticks) / 1000)
    done = apply(cli, document, "-o", "json")
    assert changes(done) == changes(planned)
    eu = server.status().regions[0]
    assert (eu.key_link, eu.key_spec.uri) == ("main", "local:b")
    with server.client() as client:
        assert client.unwrap("prod", wrapped).plaintext == b"k" * 32
    assert apply(cli, document, "--plan").code == 0


def test_a_move_that_fails_goes_on(cli: Cli, server: Served) -> None:
    """A region that cannot move keeps its key; the next apply of the same file goes on."""
    apply(cli, linked("a"))
    cli("revoke", "prod", "--region", "eu", "--yes")
    ran = apply(cli, linked("b"))
    assert ran.code == 12
    assert "error: link/acme/main: operation " in ran.err
    assert "prod/eu: " in ran.err
    assert "failed: move link/acme/main with all that uses it" in ran.out.decode()
    assert apply(cli, linked("b"), "--plan").code == 13
    cli("restore", "prod")
    again = apply(cli, linked("b"), "-o", "json")
    assert [(one["action"], one["fields"]) for one in changes(again)] == [("MOVE", [])]
    assert server.status().regions[0].key_spec.uri == "local:b"
    assert apply(cli, linked("b"), "--plan").code == 0


def test_a_rule_of_the_same_file(cli: Cli, server: Served) -> None:
    """A region without a key gets what the file makes its organization say."""
    document: dict[str, Any] = {
        "organizations": [{"organization": "acme", "default_key": "DEFAULT_KEY_PLATFORM"}],
        "clusters": [
            {"cluster": "test", "organization": "acme", "regions": ["eu"], "region_specs": []}
        ],
    }
    planned = apply(cli, document, "--plan", "-o", "json")
    assert fields_of(planned)["region_specs[eu].key_spec"] == (None, {"type": "PLATFORM"})
    assert changes(apply(cli, document, "-o", "json")) == changes(planned)
    document["organizations"][0]["default_key"] = "REQUIRE_OWN"
    document["clusters"][0]["regions"] = ["eu", "us"]
    refused = apply(cli, document)
    assert refused.code == 2
    assert "region us names no key, and organization acme will not give it one" in refused.err
    assert b" PLATFORM " in cli("organizations", "list").out


# --- where it stops ---


def test_everything_is_tried_first(cli: Cli, server: Served) -> None:
    """A change that the server refuses leaves everything before it undone, too."""
    server.local_keys.disable("b")
    before = logged(server)
    ran = apply(cli, DOCUMENT)
    assert ran.code == 5
    assert ran.err.startswith("error: cluster/beta-2: ")
    assert "; nothing was changed (KEY_DISABLED)" in ran.err
    assert ran.out == b""
    assert not [one for one in logged(server)[len(before) :] if one[1] == "done"]
    assert cli("organizations", "get", "beta").code == 3


def test_it_stops_at_the_first_failure(cli: Cli, server: Served) -> None:
    """It says what was done and what was not, and the next apply goes on from there."""
    gone = WireError(grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", "the policy changed")
    server.fail("Enable", None, None, gone)  # two trials, and then the first Enable
    ran = apply(cli, DOCUMENT)
    assert ran.code == 8
    assert ran.out.decode().splitlines()[-4:] == [
        "done: create organization/beta",
        "done: create link/beta/main",
        "failed: create cluster/beta-1",
        "not done: create cluster/beta-2",
    ]
    assert "error: cluster/beta-1: the policy changed" in ran.err
    server.fail("Enable", None, None, gone)
    ran = apply(cli, DOCUMENT, "-o", "json")
    assert ran.code == 8
    assert [(one["resource"], one["result"]) for one in ran.json["changes"]] == [
        ("cluster/beta-1", "FAILED"),
        ("cluster/beta-2", "NOT_DONE"),
    ]
    assert ran.json["changes"][0]["error"]["reason"] == ran.error["reason"] == "NOT_ALLOWED"
    assert apply(cli, DOCUMENT).code == 0
    assert apply(cli, DOCUMENT, "--plan").code == 0


def test_a_change_between_plan_and_apply(cli: Cli, server: Served) -> None:
    """With --expect, apply goes on only with the plan that somebody has looked at."""
    document = prod(region(key_spec=a_key("a")))
    plan = apply(cli, document, "--plan", "-o", "json").json["plan"]
    assert apply(cli, document, "--plan", "-o", "json").json["plan"] == plan
    server.clock.advance(1)
    cli("rotate", "prod", "--region", "us")
    ran = apply(cli, document, "--expect", plan)
    assert ran.code == 4
    assert f"and not {plan}: the file, or what exists, has changed" in ran.err
    assert server.status().regions[0].key_spec == KEY
    plan = apply(cli, document, "--plan", "-o", "json").json["plan"]
    assert apply(cli, document, "--expect", plan).code == 0


@pytest.mark.parametrize("what", ["cluster", "state", "organization"])
def test_a_change_while_somebody_reads_the_plan(server: Served, tmp_path: Path, what: str) -> None:
    """A resource that was changed since the plan was made is not touched."""
    file = tmp_path / "document.yaml"
    document: dict[str, Any] = prod(region(key_spec=a_key("a")))
    if what == "organization":
        Cli(server.target)("organizations", "create", "acme")
        document = {"organizations": [{"organization": "acme", "max_clusters": 3}]}
    file.write_text(yaml.safe_dump(document))
    with server.client() as client:
        client.enable("unused", [keyfold.RegionSpec("eu", KEY)])
    arguments = ("--delete", "cluster/unused", "--waiting-period", "0s")
    with Terminal(
        server.target, "apply", "-f", str(file), *arguments, environment={"NO_COLOR": "1"}
    ) as terminal:
        terminal.until("[y/N]")
        server.clock.advance(1)
        with server.client() as client:
            if what == "cluster":
                client.rotate("prod", [keyfold.RegionSpec("us")])
            elif what == "state":
                client.revoke("prod", regions=["us"])
            else:
                client.update_organization(keyfold.Organization("acme", max_clusters=9))
        terminal.type("y\n")
        assert terminal.end() == 4
    assert "has changed since the plan was made" in terminal.seen
    assert "not done: delete cluster/unused" in terminal.seen
    assert server.status().regions[0].key_spec == KEY
    server.status("unused")


def test_what_is_revoked_or_deleted(cli: Cli, server: Served) -> None:
    """A revoked region stays revoked, and does not rotate; a deleted one cannot be declared."""
    with server.client() as client:
        client.wrap("prod", "eu", b"k" * 32)
    cli("revoke", "prod", "--region", "eu", "--yes")
    assert apply(cli, prod(region()), "--plan").code == 0
    ran = apply(cli, prod(region(key_spec=a_key("a"))))
    assert ran.code == 4
    assert "(REVOKED)" in ran.err
    assert cli("delete", "prod", "--region", "eu", "--yes").code == 0
    ran = apply(cli, prod(region()))
    assert ran.code == 4
    assert "region eu is deleted; take it back with keyfold undelete" in ran.err


def test_limits_of_the_whole_file(cli: Cli, server: Served) -> None:
    """What the file asks for together, and by limits that it sets itself, is checked first."""
    document = yaml.safe_load_all(DOCUMENT)
    whole: dict[str, Any] = {name: value for one in document for name, value in one.items()}
    owner = whole["organizations"][0]
    for limits, problem in (
        ({"max_clusters": 1}, "organization beta would have 2 clusters and may have 1"),
        ({"cluster_patterns": ["x-*", "*-1"]}, "cluster/beta-2: organization beta may have"),
        ({"default_key": "REQUIRE_OWN"}, "region eu names no key"),
        ({"default_key": "LINKED"}, "region us names no key, and organization beta will have no"),
    ):
        changed = {**whole, "organizations": [{**owner, **limits}]}
        if "LINKED" in limits.values():
            first = {"cluster": "beta-1", "organization": "beta", "regions": ["us"]}
            changed["clusters"] = [first]
        ran = apply(cli, changed)
        assert ran.code in {2, 4}
        assert problem in ran.err
    link = {**whole["key_links"][0], "key_link": "other", "region": "us"}
    owner["max_key_links"] = 1
    ran = apply(cli, {**whole, "key_links": [*whole["key_links"], link]})
    assert "organization beta would have 2 key links and may have 1" in ran.err
    assert cli("organizations", "get", "beta").code == 3
    apply(cli, DOCUMENT)
    more = {**whole["clusters"][0], "cluster": "beta-3"}
    cli("organizations", "update", "beta", "--max-clusters", "3")
    beyond = {"clusters": [more, {**more, "cluster": "beta-4"}]}
    assert "would have 4 clusters and may have 3" in apply(cli, beyond).err
    assert apply(cli, {"clusters": [more]}).code == 0


# --- deletions ---


def test_deletion_is_a_word_of_its_own(cli: Cli, server: Served) -> None:
    """What --delete names goes after the changes: clusters, links, then organizations."""
    apply(cli, DOCUMENT)
    names = ("organization/beta", "link/beta/main", "cluster/beta-1", "cluster/beta-2")
    options = [word for name in names for word in ("--delete", name)]
    options += ["--waiting-period", "0s"]
    planned = apply(cli, "{}", *options, "--plan", "-o", "json")
    order = [one["resource"] for one in changes(planned)]
    assert order == ["cluster/beta-1", "cluster/beta-2", "link/beta/main", "organization/beta"]
    assert [one["proven"] for one in changes(planned)] == [True, True, False, False]
    refused = apply(cli, "{}", *options)
    assert refused.code == 2
    assert "there is no terminal to ask at; give --yes" in refused.err
    assert cli("status", "beta-1").code == 0
    assert apply(cli, "{}", *options, "--yes").code == 0
    assert cli("organizations", "get", "beta").code == 3
    assert apply(cli, "{}", *options, "--yes").code == 3


def test_deletion_has_the_rules_of_delete_cluster(cli: Cli, server: Served) -> None:
    """A region in service has to be revoked first; then it waits, and the plan says how long."""
    with server.client() as client:
        client.wrap("prod", "eu", b"k" * 32)
    one = ("--delete", "region/prod/eu", "--yes")
    ran = apply(cli, "{}", *one)
    assert ran.code == 4
    assert "region/prod/eu: the key of region eu is not revoked" in ran.err
    cli("revoke", "prod", "--yes")
    ran = apply(cli, "{}", *one, "--delete", "region/prod/us")
    assert ran.code == 0
    assert "what it wrapped opens no more after 2027-01-22 08:00:00Z: eu generation 1" in (
        ran.out.decode()
    )
    assert [region.state for region in server.status().regions] == [keyfold.State.DELETED] * 2
    assert "region_specs: []" in cli("get", "cluster", "prod").out.decode()


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("prod", 2, "'prod' is not cluster/NAME, region/CLUSTER/NAME"),
        ("cluster/", 2, "is not cluster/NAME"),
        ("cluster/a/b", 2, "is not cluster/NAME"),
        ("key/a", 2, "is not cluster/NAME"),
        ("cluster/prod", 2, "stdin declares cluster/prod; take it out first"),
        ("region/prod/eu", 2, "stdin declares region/prod/eu; take it out first"),
        ("cluster/none", 3, "cluster none does not exist"),
        ("region/prod/none", 3, "REGION_NOT_FOUND"),
        ("link/acme/none", 3, "key link none of organization acme does not exist"),
        ("organization/none", 3, "organization none does not exist"),
        ("organization/acme", 4, "ORGANIZATION_NOT_EMPTY"),
    ],
)
def test_what_cannot_be_deleted(
    cli: Cli, server: Served, name: str, code: int, problem: str
) -> None:
    """A wrong name, one that the file declares and one that does not exist stop everything."""
    ran = apply(cli, prod(region()), "--delete", name, "--yes")
    assert ran.code == code
    assert problem in ran.err
    assert not [one for one in server.requests["DeleteCluster"] if not one.validate_only]


def test_options_that_mean_nothing(cli: Cli) -> None:
    """An unknown form, and a waiting period without a deletion, are refused."""
    assert "--output: 'xml' is not table, json or yaml" in apply(cli, "{}", "-o", "xml").err
    assert "--waiting-period needs --delete" in apply(cli, "{}", "--waiting-period", "0s").err
    ran = apply(cli, "{", "-o", "json")
    assert (ran.code, ran.error["reason"]) == (2, "INVALID_INPUT")


def test_a_geos_link_gives_its_regions_their_keys(
    cli: Cli, server: Served, geos: dict[str, tuple[str, ...]]
) -> None:
    """A cluster of a geo's link is seen as it is: nothing, a policy, a region, another link."""
    key = {"type": "AWS_KMS", "uri": arn("eu-1")}
    link = {"organization": "acme", "key_link": "main", "geo": "EU", "key_spec": key}
    spec: dict[str, Any] = {"geo": "EU", "key_link": "main"}
    cluster = {"cluster": "test", "organization": "acme", "region_specs": [spec]}
    document: dict[str, Any] = {"key_links": [link], "clusters": [cluster]}
    assert apply(cli, document).code == 0
    planned = apply(cli, document, "--plan", "-o", "json")
    assert planned.code == 0
    assert [one for one in planned.json["left_alone"] if "test" in one] == []
    spec["policy"] = {"cache_ttl": "9s"}
    assert fields_of(apply(cli, document, "-o", "json")) == {
        "region_specs[eu-1].policy.cache_ttl": (None, "9s"),
        "region_specs[eu-2].policy.cache_ttl": (None, "9s"),
    }
    geos["EU"] = ("eu-1", "eu-2", "eu-3")
    link["key_spec"] = {"type": "AWS_KMS", "uri": arn("eu-2")}
    grown = changes(apply(cli, document, "-o", "json"))
    assert [one["action"] for one in grown] == ["MOVE", "ADD_REGIONS"]
    assert [one.key_link for one in server.status("test").regions] == ["main"] * 3
    assert apply(cli, document, "--plan").code == 0


def test_a_geo_comes_to_a_link_that_exists(cli: Cli, server: Served) -> None:
    """A cluster whose geo has a key of its own takes the key of the organization's link."""
    key = {"type": "AWS_KMS", "uri": arn("eu-1")}
    link = {"organization": "acme", "key_link": "main", "geo": "EU", "key_spec": key}
    cluster: dict[str, Any] = {"cluster": "test", "organization": "acme"}
    for own in ({"geo": "EU", "key_spec": key}, {"geo": "EU", "key_link": "main"}):
        document = {"key_links": [link], "clusters": [cluster | {"region_specs": [own]}]}
        assert apply(cli, document).code == 0
        assert apply(cli, document, "--plan").code == 0
    assert [one.key_link for one in server.status("test").regions] == ["main", "main"]
