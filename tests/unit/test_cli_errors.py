"""The errors of the operator's commands: one line, hints, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

import keyfold
from cli_runner import Cli
from keyfold.cli.errors import EXIT_CODES, ExitCode, exit_code
from served import Served, served
from wire_errors import KEY_DISABLED, WireError


@pytest.fixture(name="shared", scope="module")
def shared_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the cluster prod, which no test here changes."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(shared: Served) -> Iterator[Served]:
    """That server, behind a relay of the test's own."""
    with shared.beside() as relay:
        yield relay


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


@pytest.mark.parametrize(
    ("code", "reason", "source", "expected"),
    [
        ("INTERNAL", "", "keyfold", 1),
        ("DATA_LOSS", "ROW_NOT_AUTHENTIC", "keyfold", 1),
        ("INVALID_ARGUMENT", "INVALID_NAME", "keyfold", 2),
        ("NOT_FOUND", "CLUSTER_NOT_FOUND", "keyfold", 3),
        ("ALREADY_EXISTS", "CLUSTER_EXISTS", "keyfold", 4),
        ("FAILED_PRECONDITION", "REVOKED", "keyfold", 4),
        ("FAILED_PRECONDITION", "WRONG_REGION", "keyfold", 4),
        ("ABORTED", "CONCURRENT_CHANGE", "keyfold", 4),
        ("FAILED_PRECONDITION", "ACCESS_DENIED", "kms", 5),
        ("FAILED_PRECONDITION", "FROM_THE_FUTURE", "kms", 5),
        ("UNAVAILABLE", "STORE_STALE", "keyfold", 6),
        ("FAILED_PRECONDITION", "CREDENTIALS_FAILED", "kms", 6),
        ("RESOURCE_EXHAUSTED", "OVERLOADED", "keyfold", 7),
        ("RESOURCE_EXHAUSTED", "THROTTLED", "kms", 7),
        ("RESOURCE_EXHAUSTED", "RATE_LIMITED", "keyfold", 7),
        ("PERMISSION_DENIED", "", "keyfold", 8),
        ("PERMISSION_DENIED", "NOT_ALLOWED", "keyfold", 8),
        ("PERMISSION_DENIED", "KEY_NOT_GRANTED", "keyfold", 8),
        ("PERMISSION_DENIED", "CONTEXT_NOT_GRANTED", "keyfold", 8),
        ("UNAUTHENTICATED", "", "keyfold", 8),
        ("UNAUTHENTICATED", "CALLER_UNKNOWN", "keyfold", 8),
        ("UNAUTHENTICATED", "CALLER_CREDENTIAL_INVALID", "keyfold", 8),
        ("UNAVAILABLE", "ISSUER_UNREACHABLE", "keyfold", 6),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "keyfold", 9),
    ],
)
def test_exit_codes(
    cli: Cli, server: Served, code: str, reason: str, source: str, expected: int
) -> None:
    """The exit code tells the kind of error."""
    failure = WireError(grpc.StatusCode[code], reason, metadata={"source": source})
    server.fail("GetStatus", *[failure] * 4)
    ran = cli("status", "prod")
    assert ran.code == expected
    assert ran.err.startswith(f"error: it went wrong ({reason or code})\n")


def test_every_error_has_an_exit_code() -> None:
    """Only errors that are truly unexpected have the exit code for it."""
    unexpected = {
        name
        for name in keyfold.__all__
        if name.endswith("Error") and exit_code(getattr(keyfold, name)) is ExitCode.UNEXPECTED
    }
    assert unexpected == {
        "CancelledError",
        "ClosedError",
        "EventLoopError",
        "ForkedError",
        "InternalError",
        "KekMismatchError",
        "KeyfoldError",
        "KmsError",
        "RowNotAuthenticError",
        "UnimplementedError",
    }


def test_exit_codes_are_documented(cli: Cli) -> None:
    """The help and the package's docstring list every exit code."""
    listed = [line.strip() for line in EXIT_CODES.splitlines()[2:]]
    assert [int(line.split()[0]) for line in listed] == list(ExitCode)
    shown = cli("--help").out.decode()
    documented = __import__("keyfold.cli").cli.__doc__
    assert all(line in shown and line in documented for line in listed)


def test_error_with_hints(cli: Cli, server: Served) -> None:
    """An error names the wrong field and the time to try again, each on a line of its own."""
    failure = WireError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_KEY_SPEC",
        "uri is not\nan \x1b[31mARN",
        fields={"region_specs[0].key_spec.uri": "has no region"},
        retry_after=7,
    )
    server.fail("Enable", failure)
    ran = cli("enable", "test", "--region", "eu=LOCAL,local:a")
    assert ran.err.splitlines() == [
        "error: uri is not an [31mARN (INVALID_KEY_SPEC)",
        "hint: look at --region eu=LOCAL,local:a: has no region",
        "hint: try again in 7 s",
    ]


def test_where_another_region_is_served(cli: Cli, server: Served) -> None:
    """WRONG_REGION says the command to repeat, if the server knows the address."""
    place = {"region": "eu", "served_at": "eu.keyfold.example:7443"}
    server.fail(
        "Unwrap", WireError(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_REGION", metadata=place)
    )
    ran = cli("unwrap", "prod", stdin=b"wrapped")
    assert ran.code == 4
    assert ran.err.splitlines()[1:] == [
        "hint: repeat the command with --target eu.keyfold.example:7443"
    ]


def test_error_as_json(cli: Cli, server: Served) -> None:
    """With --json, an error is one JSON object on stderr, and stdout stays empty."""
    server.fail("Revoke", KEY_DISABLED)
    ran = cli("revoke", "prod", "--yes", "--json", "--request-id", "mine")
    assert (ran.code, ran.out) == (5, b"")
    assert ran.error == {
        "reason": "KEY_DISABLED",
        "message": "the key is disabled",
        "code": "FAILED_PRECONDITION",
        "source": "kms",
        "cluster": "prod",
        "metadata": {"cluster": "prod", "region": "eu", "source": "kms"},
        "request_id": "mine",
    }
    assert cli("enable", "test", "--json").error["reason"] == "INVALID_INPUT"


def test_how_to_repeat_a_change(cli: Cli, server: Served) -> None:
    """If a change may have been made, the error says how to repeat it safely."""
    server.delays["Revoke"] = 2.0
    ran = cli("revoke", "prod", "--yes", "--timeout", "1s")
    assert ran.code == 9
    request_id = server.requests["Revoke"][0].request_id
    assert f"it is safe to repeat the command with --request-id {request_id}\n" in ran.err
    server.fail("GetStatus", WireError(grpc.StatusCode.DEADLINE_EXCEEDED))
    assert "request-id" not in cli("status", "prod").err


def test_nobody_answers(server: Served) -> None:
    """If no server answers, the error names the address and the setting for it."""
    with server.beside() as relay:
        gone = relay.target
    ran = Cli(gone)("status", "prod")
    assert ran.code == 6
    assert f"hint: tried {gone}; set --target or KEYFOLD_TARGET" in ran.err
