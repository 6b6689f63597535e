"""Files of CockroachDB's form, geos and replicas on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import keyfold
from cli_runner import Cli
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.residency import ResidencyPolicy
from served import Served, served

_REGIONS: Final = ("us-west-1", "us-central-1")


def arn(region: str, name: str = "one") -> str:
    """Returns the uri of a multi-Region key's replica in a region."""
    return f"arn:aws:kms:{region}:111122223333:key/mrk-{name}"


@pytest.fixture
def geos() -> dict[str, tuple[str, ...]]:
    """The geos of the server's settings; a test may change them."""
    return {"EU": ("eu-1", "eu-2"), "US": ("us-1",)}


@pytest.fixture
def server(tmp_path: Path, geos: dict[str, tuple[str, ...]]) -> Iterator[Served]:
    """A server whose settings have geos, with two multi-Region keys and their replicas."""
    with served(tmp_path, regions=ResidencyPolicy(geos=Geos(geos))) as running:
        for region in ("eu-1", "eu-2", "us-1"):
            for name in ("one", "two"):
                running.make_key(arn(region, name))
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def dedicated(*specs: str, nodes: tuple[str, ...] = _REGIONS) -> str:
    """Returns a text of CockroachDB's documentation: a comment, then a cluster's description."""
    content: dict[str, Any] = {
        "region_nodes": dict.fromkeys(nodes, 3),
        "cmek_region_specs": [
            {
                "region": region,
                "key_spec": {"type": "LOCAL", "uri": "local:a", "auth_principal": ""},
            }
            for region in specs
        ],
        "hardware": {"machine_type": "n2-standard-8"},
    }
    return "# cmek_aws_config.json\n" + json.dumps({"dedicated": content}, indent=4)


def test_region_nodes_declare_the_regions(cli: Cli, server: Served) -> None:
    """A region with nodes and without a key is named, nothing is done, and it stays so later."""
    refused = cli("enable", "test", "--file", "-", stdin=dedicated("us-west-1"))
    assert refused.code == 2
    assert "no key spec for region us-central-1" in refused.err
    assert cli("status", "test").code == 3
    assert cli("enable", "test", "--file", "-", stdin=dedicated(*_REGIONS)).code == 0
    assert server.status("test").declared_regions == ("us-central-1", "us-west-1")
    partial = json.dumps([{"region": "us-west-1", "key_spec": {"type": "LOCAL", "uri": "local:a"}}])
    assert "us-central-1" in cli("enable", "test", "--file", "-", stdin=partial).err


def test_add_a_region_with_its_nodes(cli: Cli, server: Served) -> None:
    """Add-regions takes all nodes with the specs of the new regions, or of all of them."""
    assert cli("enable", "test", "--file", "-", stdin=dedicated(*_REGIONS)).code == 0
    nodes = (*_REGIONS, "eu-1")
    refused = cli("add-regions", "test", "--file", "-", stdin=dedicated(*_REGIONS, nodes=nodes))
    assert "no key spec for region eu-1" in refused.err
    added = cli("add-regions", "test", "--file", "-", stdin=dedicated("eu-1", nodes=nodes))
    assert added.code == 0, added.err
    both = dedicated(*nodes, "us-1", nodes=(*nodes, "us-1"))
    assert cli("add-regions", "test", "--file", "-", stdin=both).code == 0
    declared = server.status("test").declared_regions
    assert declared == ("eu-1", "us-1", "us-central-1", "us-west-1")
    shown = cli("status", "test", "--verbose")
    assert b"declared regions: eu-1, us-1, us-central-1, us-west-1" in shown.out


@pytest.mark.parametrize("comment", ["# cmek_config.json\n", "  // ours\n\t# too\n", ""])
def test_comments_in_files(cli: Cli, server: Served, comment: str) -> None:
    """Lines that are only a comment do not count; a # inside a value does."""
    content = json.dumps(
        [{"region": "x", "key_spec": {"type": "LOCAL", "uri": "local:a"}}], indent=1
    )
    odd = content.replace('"region"', '\n# in between\n"region"')
    assert cli("enable", "test", "--file", "-", stdin=comment + odd).code == 0
    [spec] = server.requests["Enable"][0].region_specs
    assert (spec.region, spec.key_spec.uri) == ("x", "local:a")
    hashed = content.replace("local:a", "local:#1//2")
    cli("enable", "other", "--file", "-", stdin=hashed)
    assert server.requests["Enable"][1].region_specs[0].key_spec.uri == "local:#1//2"


def test_revoke_by_a_file(cli: Cli, server: Served, tmp_path: Path) -> None:
    """A file of action REVOKE needs the same consent as the command itself."""
    file = tmp_path / "revoke.json"
    file.write_text('# revoke\n{"action": "REVOKE"}')
    unasked = cli("revoke", "prod", "--file", file)
    assert unasked.code == 2
    assert "there is no terminal to ask at; give --yes" in unasked.err
    assert not server.requests["Revoke"]
    done = cli("revoke", "prod", "--file", file, "--yes")
    assert done.code == 0, done.err
    assert list(server.requests["Revoke"][0].regions) == []
    assert {one.state for one in server.status().regions} == {keyfold.State.REVOKED}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"action": "RESTORE"}', "action: is not REVOKE"),
        ('{"action": ["REVOKE"]}', "action: is not REVOKE"),
        ('{"action": "REVOKE", "regions": ["eu"]}', "regions: unknown field"),
        ('{"region_specs": []}', "has no action"),
        ("[]", "has no action"),
        ("REVOKE", "is not JSON"),
    ],
)
def test_a_file_that_does_not_revoke(cli: Cli, server: Served, content: str, told: str) -> None:
    """Any other file is refused before anybody is asked, and nothing is revoked."""
    ran = cli("revoke", "prod", "--file", "-", "--yes", stdin=content)
    assert ran.code == 2
    assert told in ran.err
    assert not server.requests["Revoke"]


def test_a_geo(cli: Cli, server: Served) -> None:
    """One key serves a geo: it is tested, enabled and rotated in each of its regions."""
    key = ("AWS_KMS", arn("eu-1"))
    tested = cli("test-key", *key, "--geo", "EU", "--cluster", "test")
    assert tested.code == 0, tested.err
    assert arn("eu-2").encode() in tested.out
    done = cli("enable", "test", "--geo", f"EU={','.join(key)}")
    assert done.code == 0, done.err
    [first, second] = server.status("test").regions
    assert (first.key_spec.uri, first.geo, first.replica_of) == (arn("eu-1"), "EU", "")
    assert (second.key_spec.uri, second.geo, second.replica_of) == (arn("eu-2"), "", "eu-1")
    moved = cli("rotate", "test", "--region", f"eu-1=AWS_KMS,{arn('eu-1', 'two')}", "--dry-run")
    assert arn("eu-2", "two").encode() in moved.out
    assert cli("rotate", "test", "--geo", f"EU=AWS_KMS,{arn('eu-1', 'two')}").code == 0
    assert {one.key_spec.uri for one in server.status("test").regions} == {
        arn("eu-1", "two"),
        arn("eu-2", "two"),
    }
    asked = cli("rotate", "test", "--region", f"eu-1=AWS_KMS,{arn('eu-1')}", "--only-named-regions")
    assert asked.code == 0, asked.err
    assert [one.replica_of for one in server.status("test").regions] == ["", ""]


def test_what_is_wrong_with_a_geos_key(cli: Cli, server: Served) -> None:
    """Each region is named with what is wrong, in the test and when the cluster is enabled."""
    server.aws.delete(arn("eu-2"))
    tested = cli("test-key", "AWS_KMS", arn("eu-1"), "--geo", "EU", "--cluster", "test")
    assert tested.code == 5
    assert b"there is no replica of region eu-1's key" in tested.out
    refused = cli("enable", "test", "--geo", f"EU=AWS_KMS,{arn('eu-1')}")
    assert refused.code == 5
    assert f"region eu-2: there is no replica of region eu-1's key at {arn('eu-2')}" in refused.err
    unknown = cli("enable", "test", "--geo", f"EMEA=AWS_KMS,{arn('eu-1')}")
    assert unknown.code == 2
    assert "there is no geo EMEA: the settings have EU, US" in unknown.err
    assert "(UNKNOWN_GEO)" in unknown.err
    elsewhere = cli("enable", "test", "--geo", f"US=AWS_KMS,{arn('eu-1')}")
    assert "where geo US has no region; name its replica in one of us-1" in elsewhere.err


def test_a_geo_that_grew(cli: Cli, server: Served, geos: dict[str, tuple[str, ...]]) -> None:
    """The status and the list of clusters say which regions of a geo a cluster lacks."""
    assert cli("enable", "test", "--geo", f"EU=AWS_KMS,{arn('eu-1')}").code == 0
    assert b"further regions" not in cli("status", "test").out
    geos["EU"] = ("eu-1", "eu-2", "eu-3")
    line = b"geo EU has further regions: eu-3; add them with add-regions --geo EU=TYPE,URI"
    assert line in cli("status", "test").out
    assert b"test: " + line in cli("clusters").out
    server.make_key(arn("eu-3"))
    assert cli("add-regions", "test", "--geo", f"EU=AWS_KMS,{arn('eu-1')}").code == 0
    assert line not in cli("clusters").out


def test_a_geo_in_a_file(cli: Cli, server: Served) -> None:
    """A spec of a file may name a geo in place of a region; onboard says where that belongs."""
    spec = {"geo": "EU", "key_spec": {"type": "AWS_KMS", "uri": arn("eu-1")}}
    content = json.dumps({"region_specs": [spec]})
    assert cli("enable", "test", "--file", "-", stdin=content).code == 0
    assert [one.region for one in server.status("test").regions] == ["eu-1", "eu-2"]
    refused = cli("onboard", "other", "--file", "-", "--wait", stdin=content)
    assert "geo EU: give a geo its key with enable --geo" in refused.err
