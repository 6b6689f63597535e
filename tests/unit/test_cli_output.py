"""What every command has: options before or after its name, forms of output, hints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf.json_format import Parse

from cli_runner import Cli, on_terminal
from keyfold.v1 import key_management_service_pb2 as api
from served import Served, served
from wire_errors import WireError


@pytest.fixture(name="server", scope="module")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the cluster prod, which no test here changes."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def test_options_before_and_after_the_name(server: Served) -> None:
    """A common option stands before a group's name, a command's or after it; the last one wins."""
    away = Cli("127.0.0.1:1")
    for words in (
        ("--target", server.target, "events", "list"),
        ("events", "--target", server.target, "list"),
        ("events", "list", "--target", server.target),
        (
            *("--target", "127.0.0.1:2", "events", "--target", "127.0.0.1:3"),
            *("list", "--target", server.target),
        ),
    ):
        assert away(*words).code == 0, words
    ran = away("--json", "--target", "127.0.0.1:2", "status", "prod")
    assert (ran.code, ran.error["reason"]) == (6, "UNAVAILABLE")


def test_forms(cli: Cli) -> None:
    """One option chooses among table, wide, name, JSON and YAML, and --json is -o json."""
    as_json = cli("clusters", "--json").out
    assert cli("clusters", "-o", "json").out == as_json
    assert cli("-o", "json", "clusters").out == as_json
    assert yaml.safe_load(cli("clusters", "-o", "yaml").out) == json.loads(as_json)
    assert cli("clusters", "-o", "name").out == b"prod\n"
    assert cli("get", "cluster", "-o", "name").out == b"cluster/prod\n"
    assert cli("status", "prod", "-o", "name", "--target", cli.target).out == b"prod\n"
    assert b"OUTAGE GRACE" in cli("status", "prod", "-o", "wide").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("clusters", "-o", "xml"), "'xml' is not table, wide, name, json or yaml"),
        (("test-key", "LOCAL", "local:a", "-o", "name"), "'name' is not table, wide, json or yaml"),
        (("-o", "yaml", "wrap", "prod", "--region", "eu"), "'yaml' is not table or json"),
        (("clusters", "--json", "-o", "yaml"), "give --json or --output yaml, but not both"),
    ],
)
def test_forms_that_a_command_has_not(cli: Cli, words: tuple[str, ...], said: str) -> None:
    """A form that the command does not have is refused before any call."""
    ran = cli(*words, stdin=b"k")
    assert (ran.code, ran.out) == (2, b"")
    assert said in ran.err


def test_plain_columns_in_a_pipe(cli: Cli) -> None:
    """A pipe gets a line for each row, without lines, colours or blanks at the ends."""
    head, *rows = cli("clusters").out.decode().splitlines()
    assert head.split() == ["CLUSTER", "ORGANIZATION", "REGION", "STATE", "HEALTH", "WRAP", "KEY"]
    assert [row.split()[0] for row in rows] == ["prod", "prod"]
    assert all(row == row.strip() and "─" not in row and "\x1b" not in row for row in (head, *rows))
    at = head.index("KEY")
    assert all(row[at - 1] == " " and row[at:].startswith("LOCAL ") for row in rows)


def test_lines_on_a_terminal(server: Served) -> None:
    """A terminal gets a table with lines."""
    assert "─" in on_terminal(server.target, "clusters")[1]


def test_rows_alone(cli: Cli) -> None:
    """With --no-headers stdout has rows alone, which name their cluster; remarks go to stderr."""
    rows = cli("status", "prod", "--no-headers").out.decode().splitlines()
    assert [row.split()[:3] for row in rows] == [
        ["prod", "eu", "ENABLED"],
        ["prod", "us", "ENABLED"],
    ]
    ran = cli("clusters", "--state", "revoked", "--no-headers")
    assert (ran.out, ran.err) == (b"", "no clusters\n")


def test_status_of_several(cli: Cli) -> None:
    """Status shows every cluster that it can, and then says of which it cannot, and why."""
    ran = cli("status", "prod", "nope", "prod")
    assert ran.code == 3
    assert ran.out.startswith(b"prod ")
    assert ran.out.count(b"updated") == 1
    assert "there is no cluster nope" in ran.err
    ran = cli("status", "prod", "nope", "--json")
    assert [one.cluster for one in Parse(ran.out, api.ListClustersResponse()).clusters] == ["prod"]
    assert ran.error["reason"] == "CLUSTER_NOT_FOUND"
    assert "shows one cluster" in cli("status", "prod", "nope", "--watch").err


@pytest.mark.parametrize("words", [("clusters",), ("usage",), ("events", "list")])
def test_unknown_organization(cli: Cli, words: tuple[str, ...]) -> None:
    """An empty list says if the organization that it is about does not exist."""
    ran = cli(*words, "--organization", "nope")
    assert ran.code == 0
    assert ran.err.startswith("note: there is no organization nope")
    assert cli(*words).err == ""


@pytest.mark.parametrize(
    ("method", "field", "words", "hint"),
    [
        ("TestKey", "key_spec.uri", ("test-key", "LOCAL", "x"), "URI"),
        ("TestKey", "key_spec.auth_principal", ("test-key", "LOCAL", "x"), "--principal"),
        ("TestKey", "key_spec.options", ("test-key", "LOCAL", "x"), "--option"),
        ("TestKey", "key_spec", ("test-key", "LOCAL", "x"), "URI"),
        ("TestKey", "odd.field", ("test-key", "LOCAL", "x"), "odd.field"),
        ("ListClusters", "states", ("clusters", "--state", "enabled"), "--state"),
        ("ListKeyUsage", "selector.key_version", ("key-usage", "x", "--version", "1"), "--version"),
        ("ListKeyUsage", "selector", ("key-usage", "x"), "KEY"),
        ("Rewrap", "destination", ("rewrap", "prod", "--to-cluster", "x"), "--to-cluster"),
        ("GetOperation", "operation", ("operations", "get", "x"), "NAME"),
        (
            "StartOperation",
            "scope.root_key",
            ("operations", "start", "x", "test", "--key-uri", "x"),
            "--key-uri",
        ),
        (
            "StartOperation",
            "scope.clusters",
            ("operations", "start", "x", "test", "--cluster", "x"),
            "--cluster",
        ),
    ],
)
def test_hints_name_flags(
    server: Served, method: str, field: str, words: tuple[str, ...], hint: str
) -> None:
    """A hint names what the command line calls the field, if it has a name for it."""
    with server.beside() as relay:
        failure = WireError(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_KEY_SPEC", fields={field: "is odd"}
        )
        relay.fail(method, failure)
        ran = Cli(relay.target)(*words, stdin=b"k")
    assert f"hint: look at {hint}: is odd\n" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ("status", "prod", "--ca", "{}"),
        ("enable", "test", "--file", "{}"),
        ("apply", "-f", "{}"),
        ("unwrap", "prod", "--in", "{}"),
        ("events", "verify", "--anchor", "{}"),
    ],
)
@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_files_that_cannot_be_read(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], kind: str
) -> None:
    """A file that cannot be read is an error that says so and names it."""
    place = tmp_path if kind == "folder" else tmp_path / "no"
    ran = cli(*(word.format(place) for word in words))
    assert ran.code == 2
    assert ran.err.startswith(f"error: cannot read {place}: ")


def test_a_file_that_breaks_off(cli: Cli) -> None:
    """A file that opens and then cannot be read is not taken for a full disk."""
    ran = cli("unwrap", "prod", "--in", "/proc/self/mem")
    assert (ran.code, ran.err) == (2, "error: cannot read /proc/self/mem: Input/output error\n")


def test_a_file_for_a_key_is_no_form(cli: Cli, tmp_path: Path) -> None:
    """The option --out of the commands for keys is a file, and never taken for a form."""
    words = ("wrap", "prod", "--region", "eu", "--out", tmp_path / "w")
    assert cli(*words, stdin=b"k").code == 0
    assert (tmp_path / "w").stat().st_size
    assert cli("unwrap", "prod", "--in", tmp_path / "w", "-o", "x").code == 2
