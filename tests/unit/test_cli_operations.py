"""The commands about operations: what they send, what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_proto_pb2 as longrunning
from google.protobuf.json_format import Parse

from cli_runner import Cli, on_terminal
from fakes import OPERATIONS as CALLS
from keyfold.cli.output.operations import Waiting, show_census, show_operation
from keyfold.models.operations import Operation, OperationCensus
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import operations_pb2 as ops
from keyfold_server.domain.errors import KeyDisabledError
from served import Served, served

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
START = ("operations", "start", "op", "rotate", "--organization", "acme")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod of organization acme in eu and us."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def test_an_operation_from_start_to_end(cli: Cli) -> None:
    """Start, wait, get, list and delete say what an operation does and how far it is."""
    ran = cli(*START, "--reason", "spring")
    assert ran.code == 0
    assert b"/op: rotate " in ran.out
    ran = cli("operations", "wait", "op")
    assert (ran.code, ran.err) == (0, "")
    assert b"2 of 2 regions: 2 done, 0 failed, 0 skipped" in ran.out
    assert b"rotate DONE" in cli("operations", "get", "op").out
    listed = cli("operations", "list").out.decode().splitlines()
    heads = "NAME ACTION STATE DONE FAILED SKIPPED TOTAL STARTED"
    assert " ".join(listed[0].split()) == heads
    assert "rotate" in listed[1]
    assert cli("operations", "cancel", "op").code == 4
    assert cli("operations", "delete", "op").out == b"deleted\n"
    assert cli("operations", "get", "op").code == 3


def test_a_dry_run_counts_and_starts_nothing(cli: Cli) -> None:
    """With --dry-run the command says how many regions, keys and calls there are."""
    ran = cli(*START, "--dry-run")
    assert ran.code == 0
    assert ran.out.startswith(b"2 regions under 1 root key, about 6 calls to KMSs, at least 0 s")
    assert cli("operations", "list", "--json").json["operations"] == []


def test_a_dry_run_tells_what_a_pinned_version_makes_fail(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever starts the operation then knows what fails, why, and what to do."""
    show_census(OperationCensus(2, 1, 6, timedelta(), pinned_regions=1))
    told = capsys.readouterr().out
    assert "\n1 region fails (KEY_VERSION_PINNED): the key's uri names one version;" in told
    show_census(OperationCensus(2, 1, 6, timedelta(), pinned_regions=0))
    assert "KEY_VERSION_PINNED" not in capsys.readouterr().out


def test_what_keeps_an_operation_from_going_on_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An operation that waits says for what, when it is shown and once while somebody waits."""
    message = longrunning.Operation(name="operations/0123/op")
    told = ops.OperationMetadata(notice="no control replica lives", total=2)
    message.metadata.Pack(told)
    operation = Operation.from_message(message)
    show_operation(operation)
    assert "no control replica lives" in capsys.readouterr().out
    with Waiting() as waiting:
        for _ in range(3):
            waiting.show(operation)
    assert capsys.readouterr().err.count("no control replica lives") == 1


def test_failures_are_shown_and_are_an_exit_code(cli: Cli, server: Served) -> None:
    """Regions that failed are listed with their reasons, and the exit code is 12."""
    server.make_key(KEY)
    cli("enable", "test", "--region", f"ap=AWS_KMS,{KEY}", "--organization", "acme")
    server.aws.fail(KeyDisabledError("the key is disabled"), operations=CALLS)
    ran = cli(*START, "--wait")
    assert ran.code == 12
    assert b"2 done, 1 failed" in ran.out
    assert b"test/ap: " in ran.out
    assert b"(KEY_DISABLED)" in ran.out
    assert cli("operations", "get", "op").code == 0


def test_a_cancelled_operation(cli: Cli, server: Served) -> None:
    """Cancelling says when the operation ends, and waiting for it then ends with exit code 12."""
    server.make_key(KEY)
    cli("enable", "aaa", "--region", f"ap=AWS_KMS,{KEY}", "--organization", "acme")
    server.aws.hang(operations=("wrap",))
    cli(*START, "--max-concurrency", "1")
    ran = cli("operations", "wait", "op", "--timeout", "1s")
    assert ran.code == 9
    assert "the operation has not ended; it goes on" in ran.err
    assert cli("operations", "cancel", "op", "--json").out == b"{}\n"
    assert b"CANCELLING" in cli("operations", "get", "op").out
    assert cli("operations", "delete", "op").code == 4
    # The replica looks at its operation once a second by its clock, which stands.
    server.clock.advance(2)
    server.aws.mend()
    ran = cli("operations", "wait", "op")
    assert ran.code == 12
    assert b"somebody cancelled it" in ran.out


def test_a_terminal_gets_a_bar(server: Served, cli: Cli) -> None:
    """On a terminal, waiting shows a bar; the result stays below it."""
    cli(*START)
    code, seen = on_terminal(server.target, "operations", "wait", "op")
    assert code == 0
    assert "rotate, 0 failed" in seen
    assert "2 of 2 regions" in seen


def test_a_revoke_is_followed_as_an_operation(cli: Cli, server: Served) -> None:
    """The name that Revoke gives tells later which replicas have confirmed (R4)."""
    server.keyfold.add_silent_replica("host-2", stops_within=3)
    ran = cli("revoke", "prod", "--yes")
    assert ran.code == 0
    name = ran.out.decode().rpartition("to follow it: keyfold operations wait ")[2].strip()
    ran = cli("operations", "get", name)
    assert b"revoke of prod RUNNING, confirmed by 1 of 2 replicas" in ran.out
    assert b"host-2 has not confirmed yet" in ran.out
    assert cli("operations", "wait", name, "--timeout", "1s").code == 9
    server.clock.advance(4)
    ran = cli("operations", "wait", name)
    assert ran.code == 0
    assert b"revoke of prod DONE, confirmed by 1 of 1 replicas" in ran.out
    again = cli("revoke", "prod", "--yes")
    assert b"to follow it" not in again.out
    assert cli("operations", "cancel", name).code == 2
    assert cli("operations", "get", "operations/decision/9999").code == 3


@pytest.mark.parametrize(
    ("words", "scope", "action"),
    [
        (
            ("rotate", "--key-uri", "u", "--key-version", "2", "--to", "LOCAL,local:a,p"),
            {"root_key": {"uri": "u", "version": "2"}},
            {"rotate": {"key_spec": {"type": "LOCAL", "uri": "local:a", "auth_principal": "p"}}},
        ),
        (
            ("rotate", "--organization", "acme", "--link", "main", "--new-generation"),
            {"key_link": {"organization": "acme", "key_link": "main"}},
            {"rotate": {"new_generation": True}},
        ),
        (("test", "--principal", "ambient"), {"principal": {}}, {"test": {}}),
        (("recheck", "--principal", "p"), {"principal": {"auth_principal": "p"}}, {"recheck": {}}),
        (
            ("policy", "--cluster", "b", "--cluster", "a", "--cache-ttl", "5s", "--auto-rotate"),
            {"clusters": {"clusters": ["b", "a"]}},
            {"policy": {"policy": {"cache_ttl": "5s", "auto_rotate": True}}},
        ),
    ],
)
def test_options_are_scope_and_action(
    cli: Cli, server: Served, words: tuple[str, ...], scope: Any, action: Any
) -> None:
    """Each option stands for its part of the request."""
    cli("operations", "start", "op", *words)
    [request] = server.requests["StartOperation"]
    assert request.scope == _parsed(ops.OperationScope(), scope)
    assert request.action == _parsed(ops.OperationAction(), action)


def _parsed(message: Any, content: Any) -> Any:
    return Parse(json.dumps(content), message)


@pytest.mark.parametrize(
    "words",
    [
        ("rotate",),
        ("rotate", "--organization", "a", "--cluster", "b"),
        ("rotate", "--cluster", "b", "--link", "c"),
        ("rotate", "--cluster", "b", "--key-version", "1"),
        ("test", "--cluster", "b", "--new-generation"),
        ("rotate", "--cluster", "b", "--cache-ttl", "5s"),
        ("policy", "--cluster", "b"),
        ("dance", "--cluster", "b"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cli: Cli, server: Served, words: tuple[str, ...]
) -> None:
    """The command asks no server, and says what does not fit."""
    ran = cli("operations", "start", "op", *words)
    assert ran.code == 2
    assert ran.err
    assert not server.requests["StartOperation"]


def test_json_is_the_contracts(cli: Cli) -> None:
    """With --json each command prints the message of the contract, with its field names."""
    Parse(cli(*START, "--json").out, api.StartOperationResponse())
    for command in ("wait", "get"):
        ran = cli("operations", command, "op", "--json")
        told = Parse(ran.out, longrunning.Operation())
        metadata = ops.OperationMetadata()
        assert told.metadata.Unpack(metadata)
        assert (metadata.done, metadata.total) == (2, 2)
        assert b'"max_concurrency": 16' in ran.out
    Parse(cli("operations", "list", "--json").out, longrunning.ListOperationsResponse())
    assert cli("operations", "delete", "op", "--json").out == b"{}\n"
