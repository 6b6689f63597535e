"""Region specs of the operator's commands, from three forms of a file and from arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_runner import Cli
from served import Served, served

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"
SPECS = [
    {"region": "eu", "key_spec": {"type": "AWS_KMS", "uri": ARN, "auth_principal": "me"}},
    {"region": "us", "key_spec": {"type": "LOCAL", "uri": "local:b"}},
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        running.make_key(ARN)
        yield running


@pytest.fixture(name="unchanged", scope="module")
def unchanged_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for all tests whose commands change nothing."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


@pytest.mark.parametrize(
    "content", [{"region_specs": SPECS}, SPECS, {"dedicated": {"cmek_region_specs": SPECS, "x": 1}}]
)
@pytest.mark.parametrize("command", ["enable", "add-regions"])
def test_three_forms_of_the_file(
    cli: Cli, server: Served, tmp_path: Path, content: object, command: str
) -> None:
    """Enable and add-regions take CockroachDB's file, the list alone, and the cluster's form."""
    file = tmp_path / "cmek_config.json"
    file.write_text(json.dumps(content))
    if command == "add-regions":
        assert Cli(server.keyfold.target)("enable", "test", "--region", "x=LOCAL,local:a").code == 0
    assert cli(command, "test", "--file", file).code == 0
    assert cli(command, "test", "--file", "-", stdin=file.read_bytes()).code == 0
    method = {"enable": "Enable", "add-regions": "AddRegions"}[command]
    assert len(server.requests[method]) == 2
    for request in server.requests[method]:
        eu, us = request.region_specs
        assert (eu.region, eu.key_spec.type, eu.key_spec.uri) == ("eu", "AWS_KMS", ARN)
        assert (eu.key_spec.auth_principal, us.key_spec.auth_principal) == ("me", "")
        assert not eu.HasField("policy")


def test_regions_as_arguments(cli: Cli, server: Served) -> None:
    """An argument NAME=TYPE,URI,PRINCIPAL keeps the colons and slashes of an ARN."""
    role = "arn:aws:iam::111122223333:role/keyfold"
    issued = cli(
        "access-policy", "AWS_KMS", ARN, "--principal", role,
        "--cluster", "test", "--organization", "acme",
    )  # fmt: skip
    assert issued.code == 0, issued.err
    ran = cli(
        "enable", "test", "--region", f"eu=AWS_KMS,{ARN},{role}", "--region", "us=PLATFORM",
        "--organization", "acme", "--cache-ttl", "0s", "--outage-grace", "1h",
        "--request-id", "mine", "--validate-only",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert b"nothing was stored" in ran.out
    [request] = server.requests["Enable"]
    eu, us = request.region_specs
    assert (eu.key_spec.type, eu.key_spec.uri, eu.key_spec.auth_principal) == ("AWS_KMS", ARN, role)
    assert (us.key_spec.type, us.key_spec.uri) == ("PLATFORM", "")
    assert eu.policy.HasField("cache_ttl")
    assert (eu.policy.cache_ttl.seconds, eu.policy.outage_grace.seconds) == (0, 3600)
    assert (request.organization, request.request_id, request.validate_only) == (
        "acme",
        "mine",
        True,
    )


@pytest.mark.parametrize(("flag", "wanted"), [("--auto-rotate", True), ("--no-auto-rotate", False)])
def test_auto_rotate(cli: Cli, server: Served, flag: str, *, wanted: bool) -> None:
    """An option overrides a file's auto_rotate, and keeps the rest of its policy."""
    policy = {"auto_rotate": not wanted, "cache_ttl": "5s"}
    content = json.dumps([{**SPECS[0], "policy": policy}])
    assert cli("enable", "test", "--file", "-", flag, stdin=content).code == 0
    [spec] = server.requests["Enable"][0].region_specs
    assert (spec.policy.auto_rotate, spec.policy.cache_ttl.seconds) == (wanted, 5)
    assert cli("enable", "other", "--file", "-", stdin=content).code == 0
    [spec] = server.requests["Enable"][1].region_specs
    assert spec.policy.auto_rotate is not wanted


def test_replica_of(cli: Cli, server: Served) -> None:
    """With --replica-of, a region without a key gets the replica of another region's key."""
    for region in ("eu", "us", "asia"):
        server.make_key(f"arn:aws:kms:{region}:111122223333:key/mrk-1")
    arn = "arn:aws:kms:eu:111122223333:key/mrk-1"
    assert cli("enable", "test", "--region", f"eu=AWS_KMS,{arn}").code == 0
    ran = cli("add-regions", "test", "--region", "us", "--replica-of", "eu")
    assert b"arn:aws:kms:us:111122223333:key/mrk-1" in ran.out
    [spec] = server.requests["AddRegions"][0].region_specs
    assert (spec.replica_of, spec.HasField("key_spec")) == ("eu", False)
    content = json.dumps([{"region": "asia", "replica_of": "eu"}])
    assert cli("add-regions", "test", "--file", "-", stdin=content).code == 0
    assert server.requests["AddRegions"][1].region_specs[0].replica_of == "eu"


def test_regions_into_a_revoked_cluster(cli: Cli, server: Served) -> None:
    """R10: the command refuses, and says how to add the regions all the same."""
    assert cli("enable", "test", "--region", "eu=LOCAL,local:a").code == 0
    assert cli("revoke", "test", "--yes").code == 0
    add = ("add-regions", "test", "--region", "us=LOCAL,local:a")
    refused = cli(*add)
    assert refused.code == 4
    assert "into_revoked" in refused.err
    assert "CLUSTER_REVOKED" in refused.err
    assert cli(*add, "--into-revoked").code == 0
    assert [one.into_revoked for one in server.requests["AddRegions"]] == [False, True]


def test_expected_regions_of_a_file(cli: Cli, server: Served) -> None:
    """The command sends the list of the cluster's regions if the file has one."""
    cli("enable", "t", "--file", "-", stdin=json.dumps({"region_specs": SPECS, "regions": ["eu"]}))
    assert list(server.requests["Enable"][0].regions) == ["eu"]


def test_rotate_to_the_newest_version(cli: Cli, server: Served) -> None:
    """A region without a key keeps its own key and policy."""
    server.keyfold.add_silent_replica("host-2", stops_within=3)
    ran = cli("rotate", "prod", "--region", "eu", "--new-generation")
    assert ran.code == 0
    assert b"host-2 has not confirmed yet; it may go on as before for 3 s" in ran.out
    [request] = server.requests["Rotate"]
    [spec] = request.region_specs
    assert not spec.HasField("key_spec")
    assert not spec.HasField("policy")
    assert request.new_generation


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"region_specs": [', "config.json is not JSON: Expecting value at line 1 column 19"),
        ("\xff", "is not JSON"),
        ("5", "config.json: must be region specs, not a number"),
        ("{}", "has no region_specs"),
        ('{"region_specs": {}}', "region_specs: must be a list, not an object"),
        ('{"region_specs": [], "region": 1}', "region: unknown field"),
        ('{"region_specs": [], "regions": "eu"}', "regions: must be a list of names"),
        ("[]", "name the regions"),
        ("[5]", "[0]: must be an object, not a number"),
        ('[{"region": 5}]', "[0].region: must be text, not a number"),
        (
            '{"region_specs": [{"region": "eu"}, {"key_spec": {"tpye": "X"}}]}',
            "config.json: region_specs[1].key_spec.tpye: unknown field; the fields are type, uri",
        ),
        (
            '{"dedicated": {"cmek_region_specs": [{"key_spec": []}]}}',
            "dedicated.cmek_region_specs[0].key_spec: must be an object, not a list",
        ),
        ('{"dedicated": {}}', "dedicated: has no cmek_region_specs"),
        (
            '{"dedicated": {"region_nodes": ["eu"], "cmek_region_specs": []}}',
            "dedicated.region_nodes: must be an object, not a list",
        ),
        (
            '{"dedicated": {"region_nodes": {"eu": true}, "cmek_region_specs": []}}',
            "dedicated.region_nodes.eu: must be a number, not a boolean",
        ),
        ('{"action": "REVOKE"}', "asks for an action; give it to keyfold revoke --file"),
        ("# a comment\n\n{,}", "is not JSON: Expecting property name enclosed in double quotes"),
        ("# a comment\n\n{,}", "at line 3 column 2"),
        ('{"region_specs": [1] # not a line of its own\n}', "is not JSON"),
        ('[{"key_spec": {"options": {"a": 1}}}]', "[0].key_spec.options.a: must be text"),
        (
            '[{"policy": {"auto_rotate": "yes"}}]',
            "policy.auto_rotate: must be true or false, not text",
        ),
        (
            '[{"policy": {"cache_ttl": "1m"}}]',
            "[0].policy.cache_ttl: must be a duration in seconds",
        ),
    ],
)
def test_wrong_files(unchanged: Served, tmp_path: Path, content: str, message: str) -> None:
    """The command refuses a malformed file, names the place of the fault, and makes no call."""
    file = tmp_path / "config.json"
    file.write_bytes(content.encode("latin-1"))
    with unchanged.beside() as server:
        ran = Cli(server.target)("enable", "test", "--file", file)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert not server.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enable", "test"], "name the regions"),
        (["rotate", "test"], "--region NAME or --all-regions"),
        (["enable", "test", "--file", "/nowhere"], "cannot read /nowhere: No such file"),
        (["enable", "test", "--region", "=LOCAL"], "is not NAME"),
        (["enable", "test", "--region", "eu=LOCAL", "--cache-ttl", "soon"], "is not a duration"),
        (["status", "prod", "--timeout", "0"], "more than 0"),
        (["status", "prod", "--watch", "--interval", "0"], "--interval must be more than 0"),
        (["status", "prod", "--interval", "1s"], "--interval needs --watch"),
        (["rotate", "prod", "--all-regions", "--region", "eu"], "not both"),
        (["rotate", "prod", "--all-regions", "--geo", "EU=A,b"], "not both"),
        (["enable", "test", "--geo", "=A,b"], "--geo: '=A,b' is not NAME"),
        (["test-key", "LOCAL", "local:a", "--region", "eu", "--geo", "EU"], "--region or --geo"),
        (["revoke", "prod", "--file", "-", "--region", "eu"], "revokes the whole cluster"),
        (["add-regions", "prod", "--region", "x=A,b", "--replica-of", "eu"], "key of its own"),
        (["onboard", "t", "--region", "eu=LOCAL,x"], "stdin is not a terminal"),
        (["onboard", "t", "--region", "eu=LOCAL,x", "--wait", "--interval", "0"], "more than 0"),
        (["onboard", "t", "--region", "eu", "--wait"], "region eu has no key"),
        (["onboard", "t", "--region", "eu=A,b", "--type", "C", "--wait"], "key of its own"),
        (
            ["access-policy", "LOCAL", "local:a", "--cluster", "t", "--out", "/dev/null"],
            "cannot make",
        ),
        (["status", "prod", "--target", "nonsense"], "is not host:port"),
        (["status", "prod", "--ca", "/nowhere"], "No such file"),
        (["status", "prod", "--cert", "/dev/null"], "together, or neither"),
        (["clusters", "--state", "broken"], "not one of ENABLED, REVOKED"),
        (["wrap", "prod"], "wrap needs --region"),
        (["wrap", "prod", "--region", "eu", "--context", "table"], "is not NAME=VALUE"),
        (["wrap", "prod", "--region", "eu", "--context", "a=1", "--context", "a=2"], "twice"),
        (["wrap", "prod", "--region", "eu", "--in", "/nowhere"], "cannot read"),
        (
            ["generate-data-key", "prod", "--region", "eu"],
            "give --plaintext-out FILE for the plaintext",
        ),
    ],
)
def test_wrong_arguments(unchanged: Served, arguments: list[str], message: str) -> None:
    """The command refuses a wrong argument with one line that says why, and exit code 2."""
    ran = Cli(unchanged.target)(*arguments)
    assert (ran.code, ran.out) == (2, b"")
    assert message in ran.err
    assert ran.err.startswith("error: ")
