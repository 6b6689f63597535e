"""The commands of organizations and key links: what they ask for, and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_runner import Cli
from keyfold.v1 import organization_service_pb2 as org
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.residency import ResidencyPolicy
from served import Served, served

ROW = ("--type", "LOCAL", "--uri", "local:a")
REGIONS = ResidencyPolicy(geos=Geos.of({"eu-west-1": ["EU"], "eu-central-1": ["EU"]}))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod of organization acme."""
    with served(tmp_path, regions=REGIONS) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def lines(out: bytes) -> list[str]:
    """Returns the lines of an output that have text, with one space between words."""
    every = (" ".join(line.split()) for line in out.decode().splitlines())
    return [line for line in every if line.strip("─ ")]


def test_an_organization_is_shown(cli: Cli) -> None:
    """One that nobody made is shown as such; a change shows what is now, with the etag."""
    shown = lines(cli("organizations", "get", "acme").out)
    assert shown[:3] == [
        "acme not made: has the defaults",
        "A region for which a request names no key is refused: the customer has to bring a key.",
        "1 cluster, 0 key links",
    ]
    ran = cli(
        *("organizations", "create", "acme", "--display-name", "Acme Inc.", "--max-clusters", "3"),
        *("--default-key", "linked", "--cluster-pattern", "acme-*", "--cluster-pattern", "prod"),
    )
    assert ran.code == 0, ran.err
    shown = lines(ran.out)
    assert shown[:2] == ["made", "acme, Acme Inc. made 2027-01-15 08:00:00Z"]
    assert "1 of 3 clusters, 0 key links" in shown
    assert "clusters named acme-*, prod" in shown
    assert shown[-1].startswith("etag ")
    listed = lines(cli("organizations", "list").out)
    assert listed[1] == "acme Acme Inc. LINKED 1 of 3 0 2027-01-15 08:00:00Z"


def test_only_what_an_option_names_changes(cli: Cli, server: Served) -> None:
    """The mask has the fields of the options that are given, those that clear a field included."""
    cli("organizations", "create", "acme", "--max-clusters", "3", "--cluster-pattern", "a-*")
    assert cli("organizations", "update", "acme", "--max-clusters", "0", "--any-cluster").code == 0
    request = server.requests["UpdateOrganization"][-1]
    assert list(request.update_mask.paths) == ["cluster_patterns", "max_clusters"]
    assert "1 cluster, 0 key links" in lines(cli("organizations", "get", "acme").out)
    for wrong, why in (
        ((), "give an option that says what to change"),
        (("--default-key", "mine"), "--default-key: 'mine' is not one of REQUIRE_OWN, LINKED"),
        (("--any-cluster", "--cluster-pattern", "x"), "but not both"),
    ):
        ran = cli("organizations", "update", "acme", *wrong)
        assert ran.code == 2
        assert why in ran.err
    ran = cli("organizations", "update", "acme", "--max-clusters", "9", "--etag", "old")
    assert ran.code == 4
    assert "ETAG_MISMATCH" in ran.err


def test_an_administrator_lists_what_an_organization_holds(cli: Cli, server: Served) -> None:
    """--holder names all that it is to have, --no-holders releases it, and others leave it."""
    cli("organizations", "create", "globex")
    two = ("--holder", "AWS_KMS:111122223333", "--holder", "AWS_KMS:444455556666")
    ran = cli("organizations", "update", "globex", *two)
    assert ran.code == 0, ran.err
    request = server.requests["UpdateOrganization"][-1]
    assert list(request.update_mask.paths) == ["holders"]
    held = "its own: AWS_KMS:111122223333, AWS_KMS:444455556666"
    assert held in lines(cli("organizations", "get", "globex").out)
    assert cli("organizations", "update", "globex", "--max-clusters", "3").code == 0
    assert held in lines(cli("organizations", "get", "globex").out)
    ran = cli("organizations", "delete", "globex", "--yes")
    assert ran.code == 4
    assert "AWS_KMS:111122223333" in ran.err
    ran = cli("organizations", "update", "globex", *two, "--no-holders")
    assert ran.code == 2
    assert "but not both" in ran.err
    assert cli("organizations", "update", "globex", "--no-holders").code == 0
    assert b"its own" not in cli("organizations", "get", "globex").out
    assert cli("organizations", "delete", "globex", "--yes").code == 0


def test_a_link_is_shown_with_its_users(cli: Cli) -> None:
    """Linked, adopted by a cluster, left again: each command shows who uses the link."""
    ran = cli("links", "create", "acme", "main", "--region", "eu", *ROW, "--description", "data")
    assert ran.code == 0, ran.err
    shown = lines(ran.out)
    assert shown[0] == "linked"
    assert "main acme eu AVAILABLE 0 LOCAL local:a 2027-01-15 08:00:00Z" in shown
    assert "data" in shown
    ran = cli("rotate", "prod", "--region", "eu", "--key-link", "main")
    assert ran.code == 0, ran.err
    shown = lines(cli("links", "get", "acme", "main").out)
    assert "main acme eu IN_USE 1 LOCAL local:a 2027-01-15 08:00:00Z" in shown
    assert "used by prod/eu" in shown
    policies = next(
        line for line in lines(cli("status", "prod", "--verbose").out) if line.endswith(" main")
    )
    assert policies.startswith("eu ")
    ran = cli("links", "delete", "acme", "main", "--yes")
    assert ran.code == 4
    assert "KEY_LINK_IN_USE" in ran.err
    assert "prod/eu" in ran.err
    cli("rotate", "prod", "--region", "eu=LOCAL,local:b")
    ran = cli("links", "delete", "acme", "main", "--yes")
    assert (ran.code, ran.out) == (0, b"deleted key link main of acme\n")
    assert cli("links", "list", "acme").out == b"no key links\n"


def test_a_link_moves(cli: Cli, server: Served) -> None:
    """A dry run counts, --wait follows to the end, and a move that fails shows who is left."""
    cli("links", "create", "acme", "main", "--region", "eu", *ROW)
    cli("rotate", "prod", "--region", "eu", "--key-link", "main")
    move = ("links", "move", "acme", "main", "--type", "LOCAL", "--uri")
    ran = cli(*move, "local:b", "--dry-run")
    assert (ran.code, ran.out.split(b",")[0]) == (0, b"1 region under 1 root key"), ran.err
    ran = cli(*move, "local:b", "--wait", "--reason", "spring")
    assert ran.code == 0, ran.err
    assert b"1 of 1 regions: 1 done, 0 failed, 0 skipped" in ran.out
    request = server.requests["StartOperation"][-1]
    assert request.operation.startswith("move-main-")
    assert (request.reason, request.scope.key_link.key_link) == ("spring", "main")
    cli("revoke", "prod", "--yes")
    ran = cli(*move, "local:a", "--wait", "--operation", "back")
    assert ran.code == 12
    assert b"prod/eu: " in ran.out
    shown = lines(cli("links", "get", "acme", "main").out)
    assert any(line.startswith("main acme eu MOVING 1 LOCAL local:a ") for line in shown)
    [told] = [line for line in shown if line.startswith("moving from LOCAL local:b: 1 region ")]
    assert told.endswith("/back)")


def test_a_links_key_changes_as_a_whole(cli: Cli, server: Served) -> None:
    """A key has a type and a uri; a principal or an option without them is no key."""
    cli("links", "create", "acme", "main", "--region", "eu", *ROW)
    ran = cli("links", "update", "acme", "main", "--type", "LOCAL", "--uri", "local:b")
    assert ran.code == 0, ran.err
    request = server.requests["UpdateKeyLink"][-1]
    assert list(request.update_mask.paths) == ["key_spec"]
    assert request.key_link.key_spec.uri == "local:b"
    for wrong, why in (
        ((), "give an option that says what to change"),
        (("--principal", "role"), "belong to a key: give --type and --uri"),
        (("--option", "a=b"), "belong to a key: give --type and --uri"),
    ):
        ran = cli("links", "update", "acme", "main", *wrong)
        assert ran.code == 2
        assert why in ran.err


def test_a_geos_link_shows_each_replica(cli: Cli, server: Served) -> None:
    """Each region of the geo has a line, with the replica of the key there."""
    for region in ("eu-west-1", "eu-central-1"):
        server.make_key(f"arn:aws:kms:{region}:111122223333:key/mrk-1")
    key = ("--type", "AWS_KMS", "--uri", "arn:aws:kms:eu-west-1:111122223333:key/mrk-1")
    ran = cli("links", "create", "acme", "europe", "--geo", "EU", *key)
    assert ran.code == 0, ran.err
    shown = lines(ran.out)
    assert "eu-central-1 AWS_KMS arn:aws:kms:eu-central-1:111122223333:key/mrk-1 -" in shown
    assert "eu-west-1 AWS_KMS arn:aws:kms:eu-west-1:111122223333:key/mrk-1 -" in shown


def test_a_cluster_takes_what_its_organization_gives(cli: Cli, server: Served) -> None:
    """Regions without a key are sent without one, or with the link that --key-link names."""
    cli("organizations", "create", "acme", "--default-key", "linked")
    cli("links", "create", "acme", "main", "--region", "eu", *ROW)
    ran = cli("enable", "one", "--organization", "acme", "--region", "eu")
    assert ran.code == 0, ran.err
    ran = cli("enable", "two", "--organization", "acme", "--region", "eu", "--key-link", "main")
    assert ran.code == 0, ran.err
    sent = [request.region_specs[0] for request in server.requests["Enable"]]
    assert [(spec.HasField("key_spec"), spec.key_link) for spec in sent] == [
        (False, ""),
        (False, "main"),
    ]
    for wrong in (
        ("--region", "eu=LOCAL,local:a", "--key-link", "main"),
        ("--region", "us", "--key-link", "main", "--replica-of", "eu"),
    ):
        assert cli("enable", "three", "--organization", "acme", *wrong).code == 2


def test_lists_go_on_to_their_end(cli: Cli, server: Served) -> None:
    """A list fetches page after page up to --limit, and says that there is more."""
    for number in range(3):
        region = ("--region", f"r-{number}", "--type", "LOCAL", "--uri", "local:a")
        cli("links", "create", "acme", f"l-{number}", *region)
        cli("organizations", "create", f"o-{number}")
    shown = lines(cli("links", "list", "acme", "--limit", "2").out)
    assert [line.split()[0] for line in shown[1:3]] == ["l-0", "l-1"]
    assert shown[-1] == "there are more; raise --limit"
    shown = lines(cli("organizations", "list").out)
    assert [line.split()[0] for line in shown[1:]] == ["acme", "o-0", "o-1", "o-2"]
    first = server.requests["ListOrganizations"][0]
    assert isinstance(first, org.ListOrganizationsRequest)


def test_an_organization_of_whose_rows_somebody_wrote(cli: Cli, server: Served) -> None:
    """The others are listed, and the error names the one that is not authentic."""
    import sqlite3
    from contextlib import closing

    cli("organizations", "create", "spoilt")
    with closing(sqlite3.connect(server.keyfold.store)) as connection:
        connection.execute("UPDATE organizations SET max_clusters = 9")
        connection.commit()
    ran = cli("organizations", "list")
    assert ran.code == 1
    assert b"acme" in ran.out
    assert "organization spoilt" in ran.err
