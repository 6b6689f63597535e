"""The commands access-policy and onboard: from a customer's key to an enabled cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.json_format import Parse

import keyfold
from cli_runner import Cli, Terminal
from keyfold.cli.commands import access_policy
from keyfold.v1 import key_management_service_pb2 as api
from keyfold_server.domain.errors import AccessDeniedError
from served import Served, served
from wire_errors import UNAVAILABLE

KEY = "arn:aws:kms:eu:111122223333:key/1"
ONBOARD = ("onboard", "new", "--region", "eu", "--type", "AWS_KMS", "--uri", KEY)
WAIT = ("--wait", "--interval", "20ms")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod, and a KMS key whose permission to unwrap is missing."""
    with served(tmp_path) as running:
        running.make_key(KEY)
        forbid(running, "kms:Decrypt")
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def forbid(server: Served, permission: str) -> None:
    """Makes the KMS refuse to unwrap because of a missing permission."""
    server.aws.mend()
    denied = AccessDeniedError("the KMS does not permit it", missing_permission=permission)
    server.aws.fail(denied, operations=("unwrap",))


# --- access-policy ---


def test_access_policy(cli: Cli, server: Served) -> None:
    """The command prints each statement with its title, its place and its permissions."""
    asked = [
        "access-policy", "AWS_KMS", "arn:key", "--principal", "arn:role", "--option", "a=b",
        "--cluster", "new", "--region", "eu", "--organization", "acme",
    ]  # fmt: skip
    issued = Cli(server.keyfold.target)(*asked, "--json").json["external_id"]
    ran = cli(*asked)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.decode() == (
        "principal    arn:role\n"
        f"external id  {issued}\n"
        "bound        keyfold:cluster=new, keyfold:region=eu\n"
        "\n1. Key policy of the root key\n"
        "   attach to  arn:key\n"
        "   permits    kms:Encrypt, kms:Decrypt\n"
        '\n{\n  "Principal": "arn:role"\n}\n'
        "\n2. The vendor's role (the vendor puts this in place)\n"
        "   attach to  arn:role\n"
        "   permits    -\n"
        "\ncloud iam attach\n"
        "\nnote: the role's session lasts 10 minutes\n"
    )
    [request] = server.requests["GetAccessPolicy"]
    assert (request.key_spec.type, dict(request.key_spec.options)) == ("AWS_KMS", {"a": "b"})


def test_access_policy_in_files(cli: Cli, tmp_path: Path) -> None:
    """With --out, each statement goes to a file of its own, ready to be used."""
    folder = tmp_path / "made" / "for it"
    ran = cli("access-policy", "AWS_KMS", KEY, "--cluster", "new", "--out", folder)
    names = ["1-key-policy-of-the-root-key.json", "2-the-vendor-s-role.sh"]
    assert sorted(one.name for one in folder.iterdir()) == names
    assert json.loads((folder / names[0]).read_text()) == {"Principal": "keyfold"}
    assert (folder / names[1]).read_text() == "cloud iam attach\n"
    assert all(str(folder / name) in ran.out.decode() for name in names)
    assert b"cloud iam attach" not in ran.out


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Policy, in a file keyfold-transit-a.hcl", "keyfold-transit-a.hcl"),
        ("Policy, in a file ../../a.hcl", "3-policy-in-a-file-a-hcl.hcl"),
        ("Policy, in a file .a.hcl", "3-policy-in-a-file-a-hcl.hcl"),
        ("Policy, in a file a.hcl and more", "3-policy-in-a-file-a-hcl-and-more.hcl"),
    ],
)
def test_a_file_that_another_statement_reads(title: str, name: str) -> None:
    """The file has the name in the statement's title, and is never outside the folder."""
    statement = keyfold.AccessStatement(title, "here", "hcl", "path", (), by_vendor=False)
    assert access_policy._file_name(3, statement) == name


def test_access_policy_for_nobody(cli: Cli) -> None:
    """Without a cluster and an organization, the server's error says what is missing."""
    ran = cli("access-policy", "LOCAL", "local:a")
    assert (ran.code, ran.err.splitlines()[1]) == (2, "hint: look at --cluster")
    assert ran.err.startswith("error: name the cluster that is to use the key")


# --- onboard, with a person ---


def test_walk_with_a_person(server: Served) -> None:
    """Onboard shows the policy, tests the key at each Enter until it works, and asks to enable."""
    role = ("--principal", "arn:role")
    with Terminal(server.target, *ONBOARD, *role, "--organization", "acme") as terminal:
        terminal.until("external id  ")
        terminal.until("press Enter to test the key of eu; q gives up")
        terminal.type("\n")
        terminal.until("kms:Decrypt")
        terminal.until("the key does not unwrap what it wrapped")
        terminal.until("q gives up")
        server.aws.mend()
        terminal.type("\n")
        terminal.until("Keyfold can use this key")
        terminal.until("Enable new in eu? [y/N]")
        assert not server.requests["Enable"]
        terminal.type("y\n")
        terminal.until("enabled")
        assert terminal.end() == 0
    tried = server.requests["TestKey"][0]
    assert (tried.cluster, tried.region, tried.organization) == ("new", "eu", "acme")
    assert server.requests["Enable"][0].organization == "acme"
    assert server.status("new").regions[0].key_spec.uri == KEY


def test_person_who_gives_up(server: Served) -> None:
    """Giving up exits with the code of the last test; a no at the end stores nothing."""
    with Terminal(server.target, *ONBOARD) as terminal:
        terminal.until("q gives up")
        terminal.type("\n")
        terminal.until("the key does not unwrap what it wrapped")
        terminal.until("q gives up")
        terminal.type("q\n")
        assert terminal.end() == 5
    server.aws.mend()
    with Terminal(server.target, *ONBOARD, *WAIT) as terminal:
        terminal.until("Enable new in eu?")
        terminal.type("n\n")
        assert terminal.end() == 1
    with server.client() as client, pytest.raises(keyfold.ClusterNotFoundError):
        client.get_status("new")


def test_server_that_is_away(server: Served) -> None:
    """Onboard reports a test without an answer, and lets the person repeat it."""
    server.aws.mend()
    with Terminal(server.target, *ONBOARD, "--yes") as terminal:
        terminal.until("q gives up")
        server.fail("TestKey", *[UNAVAILABLE] * 4)
        terminal.type("\n")
        terminal.until("no answer now: try again (BUSY)")
        terminal.until("q gives up")
        terminal.type("\n")
        terminal.until("enabled")
        assert terminal.end() == 0


# --- onboard, without a person ---


def test_waits_until_it_works(server: Served) -> None:
    """With --wait, onboard tests the key until it works, and prints a test only if it differs."""
    with Terminal(server.target, *ONBOARD, *WAIT, "--yes") as terminal:
        terminal.until("the key does not unwrap what it wrapped")
        server.await_requests("TestKey", 4)
        forbid(server, "kms:DescribeKey")
        terminal.until("kms:DescribeKey")
        server.aws.mend()
        terminal.until("Keyfold can use this key")
        terminal.until("enabled")
        assert terminal.end() == 0
        assert terminal.seen.count("the key does not unwrap what it wrapped") == 2


def test_waits_no_longer_than_it_may(cli: Cli, server: Served) -> None:
    """If the key does not work in time, onboard exits with the problem of the last test."""
    ran = cli(*ONBOARD, *WAIT, "--timeout", "2s")
    assert ran.code == 5
    assert ran.err.startswith("error: region eu is not ready: ")
    assert "the key does not unwrap what it wrapped" in ran.err
    assert len(server.requests["TestKey"]) > 1
    ran = cli(*ONBOARD, *WAIT, "--timeout", "2s", "--json")
    assert ran.code == 5
    assert not Parse(ran.out, api.TestKeyResponse()).accessible
    server.fail("TestKey", *[UNAVAILABLE] * 99)
    ran = cli(*ONBOARD, *WAIT, "--timeout", "300ms")
    assert ran.code in {6, 9}
    assert not server.requests["Enable"]


def test_several_regions(cli: Cli, server: Served) -> None:
    """Onboard tests a file's regions one by one, and enables them together."""
    specs = [
        {"region": name, "key_spec": {"type": "LOCAL", "uri": f"local:{name}"}}
        for name in ("eu", "us")
    ]
    ran = cli("onboard", "new", "--file", "-", *WAIT, stdin=json.dumps(specs))
    assert ran.code == 0, ran.err
    assert ran.out.index(b"region eu:") < ran.out.index(b"region us:") < ran.out.index(b"enabled")
    [request] = server.requests["Enable"]
    assert [one.region for one in request.region_specs] == ["eu", "us"]


def test_cluster_that_exists(cli: Cli, server: Served) -> None:
    """Onboard adds a region to a cluster that exists, with its organization's external id."""
    ran = cli("onboard", "prod", "--region", "asia=LOCAL,local:a", *WAIT, "--request-id", "mine")
    assert ran.code == 0, ran.err
    assert b"regions added" in ran.out
    assert not server.requests["Enable"]
    [request] = server.requests["AddRegions"]
    assert (request.request_id, request.organization) == ("mine", "acme")
    assert server.requests["GetAccessPolicy"][0].organization == "acme"


def test_nobody_to_ask(cli: Cli, server: Served) -> None:
    """Without a terminal and --wait, onboard does not hang; it says what to do instead."""
    for more in ((), ("--json",)):
        ran = cli(*ONBOARD, *more)
        assert ran.code == 2
        assert "give --wait" in ran.err
    content = json.dumps([{"region": "eu", "replica_of": "us"}])
    ran = cli("onboard", "new", "--file", "-", *WAIT, stdin=content)
    assert (ran.code, "add-regions --replica-of" in ran.err) == (2, True)
    assert not server.requests
