"""`keyfold delete` and `keyfold undelete`: what a person reads before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.json_format import Parse

from cli_runner import Cli, on_terminal
from keyfold.v1 import key_management_service_pb2 as api
from served import Served, served

_AT = "2027-01-22 08:00:00Z"
"""7 days after the time at which the server's clock stands."""

_FINAL = "2027-02-21 08:00:00Z"
"""30 days later."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod, revoked."""
    with served(tmp_path) as running, running.client() as client:
        client.revoke("prod")
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def test_delete_and_undelete(cli: Cli) -> None:
    """Both say what they did; delete says what is lost, when, and what is final."""
    ran = cli("delete", "prod", "--region", "us", "--reason", "asked", "--yes")
    assert ran.code == 0
    lines = ran.out.decode().splitlines()
    assert lines[0] == f"deleted; `keyfold undelete` takes it back until {_AT}"
    assert lines[1] == f"after {_AT} nothing opens what these keys wrapped:"
    assert any(line.split()[:2] == ["us", "1"] and "never" in line for line in lines)
    assert f"backups may hold the keys until {_FINAL}; " in ran.out.decode()
    assert "confirmed by 1 of 1 replicas" in lines
    shown = cli("status", "prod").out.decode()
    assert "DELETED" in shown
    assert "us: deleted: after 2027-01-22T08:00:00Z Keyfold erases the keys" in shown
    ran = cli("wrap", "prod", "--region", "us", stdin=b"k" * 32)
    assert ran.code == 4
    assert "(KEY_DELETED)" in ran.err
    ran = cli("undelete", "prod")
    assert ran.code == 0
    said = "no region is deleted any more; `keyfold restore` proves the keys\n"
    assert ran.out.decode().startswith(said)
    assert cli("restore", "prod").code == 0


def test_who_deleted(cli: Cli) -> None:
    """With --verbose, status says who deleted a region, when and why; events list shows it all."""
    cli("delete", "prod", "--region", "us", "--reason", "the contract ended", "--yes")
    lines = cli("status", "prod", "--verbose").out.decode().splitlines()
    told = [line for line in lines if ": deleted 2027" in line or ": revoked 2027" in line]
    assert [line.split(",")[0] for line in told] == [
        "eu: revoked 2027-01-15 08:00:00Z by local",
        "us: deleted 2027-01-15 08:00:00Z by local",
    ]
    assert told[1].endswith(": the contract ended")
    cli("undelete", "prod", "--reason", "they stay")
    lines = cli("events", "list", "--cluster", "prod").out.decode().splitlines()
    actions = [line.split()[3] for line in lines if "rpc:cluster:" in line]
    assert actions[:3] == [
        "rpc:cluster:undeletecluster",
        "rpc:cluster:deletecluster",
        "rpc:cluster:revoke",
    ]
    told = [line for line in lines if "deletecluster" in line]
    assert "they stay" in told[0]
    assert "prod/us" in told[0]
    back = cli("status", "prod", "--verbose").out.decode()
    assert "us: revoked 2027-01-15 08:00:00Z by local, event" in back
    assert "(rpc:cluster:undeletecluster): they stay" in back


def test_what_delete_passes_on(cli: Cli, server: Served) -> None:
    """The options become the fields of the request; nothing is said for what is not given."""
    cli("delete", "prod", "--region", "us", "--yes")
    cli("undelete", "prod", "--region", "us", "--reason", "no", "--request-id", "u")
    given = ("--waiting-period", "36h", "--reason", "end", "--request-id", "d", "--yes")
    cli("delete", "prod", "--all-regions", *given)
    plain, full = server.requests["DeleteCluster"]
    assert (list(plain.regions), plain.all_regions) == (["us"], False)
    assert not plain.HasField("waiting_period")
    assert plain.request_id
    assert (full.all_regions, full.waiting_period.seconds) == (True, 36 * 3_600)
    assert (full.reason, full.request_id, full.validate_only) == ("end", "d", False)
    [undelete] = server.requests["UndeleteCluster"]
    assert (list(undelete.regions), undelete.reason, undelete.request_id) == (["us"], "no", "u")


def test_validate_only(cli: Cli, server: Served) -> None:
    """With --validate-only the command asks nobody, stores nothing, and shows what would be."""
    ran = cli("delete", "prod", "--all-regions", "--validate-only")
    assert ran.code == 0
    text = ran.out.decode()
    assert text.startswith("valid; nothing was stored, and the deletion would be:\n")
    assert f"after {_AT} nothing opens what these keys wrapped:" in text
    assert "confirmed" not in text
    assert {str(one.state) for one in server.status().regions} == {"REVOKED"}
    planned = Parse(
        cli("delete", "prod", "--all-regions", "--validate-only", "--json").out,
        api.DeleteClusterResponse(),
    )
    assert [loss.region for loss in planned.losses] == ["eu", "us"]


def test_a_person_reads_what_is_lost_before_agreeing(server: Served) -> None:
    """On a terminal the losses and the date come before the question; no is an answer."""
    with server.client() as client:
        client.restore("prod")
        client.wrap("prod", "eu", bytes(32))
        client.revoke("prod")
    ask = "Delete the keys of all of prod?"
    code, seen = on_terminal(
        server.target, "delete", "prod", "--all-regions", typed="n\n", prompt=ask
    )
    assert code == 1
    before = seen[: seen.index(ask)]
    assert f"after {_AT} nothing opens what these keys wrapped:" in before
    assert _FINAL in before
    assert [one.validate_only for one in server.requests["DeleteCluster"]] == [True]
    code, _ = on_terminal(
        server.target,
        *("delete", "prod", "--region", "us", "--request-id", "d"),
        typed="y\n",
        prompt="Delete the keys of us of prod?",
    )
    assert code == 0
    asked = [(one.validate_only, one.request_id == "d") for one in server.requests["DeleteCluster"]]
    assert asked == [(True, False), (True, False), (False, True)]
    assert [str(one.state) for one in server.status().regions] == ["REVOKED", "DELETED"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "name the regions with --region, or give --all-regions, but not both"),
        (("--region", "eu", "--all-regions"), "or give --all-regions, but not both"),
        (("--all-regions", "--waiting-period", "soon"), "'soon' is not a duration"),
        (("--all-regions", "--waiting-period", "9" * 20 + "d"), "is too long; the most is 90d"),
        (("--all-regions", "--waiting-period", "91d"), "waiting_period must be 0 to 90 days"),
    ],
)
def test_a_command_that_says_nothing_sure(
    cli: Cli, server: Served, given: tuple[str, ...], said: str
) -> None:
    """Neither or both kinds of regions, and a period that is none, change nothing."""
    ran = cli("delete", "prod", *given, "--yes")
    assert ran.code == 2
    assert said in ran.err
    assert {str(one.state) for one in server.status().regions} == {"REVOKED"}


def test_a_deletion_that_is_refused(cli: Cli, server: Served) -> None:
    """What is in use is not deleted, and the error says what comes first."""
    with server.client() as client:
        client.restore("prod", regions=["eu"])
    ran = cli("delete", "prod", "--all-regions", "--yes")
    assert ran.code == 4
    assert "the key of region eu is not revoked; call Revoke before you delete it" in ran.err
    ran = cli("undelete", "prod", "--region", "eu")
    assert ran.code == 4
    assert "(NOT_DELETED)" in ran.err
    assert cli("undelete", "nobody").code == 3


def test_a_repeated_deletion(cli: Cli) -> None:
    """A request id that was carried out is told as such, and a later change, too."""
    again = ("delete", "prod", "--all-regions", "--request-id", "d", "--yes")
    cli(*again)
    lines = cli(*again).out.decode().splitlines()
    assert lines[0] == "Keyfold had already made this change; the cluster is now:"
    cli("undelete", "prod")
    lines = cli(*again).out.decode().splitlines()
    assert lines[:2] == [
        "Keyfold had already made this change; the cluster is now:",
        "a later change has replaced what this one did",
    ]


def test_a_typo_goes_at_once(cli: Cli, tmp_path: Path) -> None:
    """D6: a cluster that nobody used goes in one command, in use or not; its name is free."""
    specs = tmp_path / "specs.json"
    key = {"type": "LOCAL", "uri": "local:acme"}
    specs.write_text(json.dumps([{"region": "eu", "key_spec": key}]))
    assert cli("enable", "prdo", "--file", specs).code == 0
    at_once = ("delete", "prdo", "--all-regions", "--waiting-period", "0s")
    ran = cli(*at_once, "--validate-only")
    nothing = "nobody ever used the cluster's keys, so nothing becomes unreadable\n"
    assert ran.out.decode() == f"valid; nothing was stored, and the deletion would be:\n{nothing}"
    ran = cli(*at_once, "--yes")
    assert ran.out.decode() == f"erased; the name can be used again\n{nothing}"
    assert "(CLUSTER_NOT_FOUND)" in cli("status", "prdo").err
    assert cli("enable", "prdo", "--file", specs).code == 0
    wrapped = cli("wrap", "prdo", "--region", "eu", stdin=b"k" * 32)
    assert wrapped.code == 0
    ran = cli(*at_once, "--yes")
    assert ran.code == 4
    assert "(NOT_REVOKED)" in ran.err
    assert cli("unwrap", "prdo", stdin=wrapped.out).out == b"k" * 32


def test_a_region_that_was_a_typo_goes_at_once(cli: Cli) -> None:
    """D6: the cluster's other regions stay, and the command shows them."""
    cli("restore", "prod")
    ran = cli("delete", "prod", "--region", "us", "--waiting-period", "0s", "--yes")
    lines = ran.out.decode().splitlines()
    assert lines[:2] == [
        "erased",
        "nobody ever used the cluster's keys, so nothing becomes unreadable",
    ]
    assert [line.split()[0] for line in lines if "ENABLED" in line] == ["eu"]
    assert "confirmed" not in ran.out.decode()
