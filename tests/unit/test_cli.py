"""The operator's commands: their calls, their output and their exit codes."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from typer.main import get_command
from typer.testing import CliRunner

import keyfold
from cli_runner import Cli, on_terminal, start
from keyfold.cli import completion
from keyfold.cli.app import app
from keyfold.transport.timeouts import CONTROL_TIMEOUT
from keyfold.v1 import event_service_pb2, organization_service_pb2
from keyfold.v1 import key_management_service_pb2 as api
from keyfold_server.domain.errors import AccessDeniedError
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.service.life import listing
from served import Served, read_with, served

_MAIN = "from keyfold.cli import main; main()"
COMMANDS = {
    "enable": ["enable", "test", "--region", "eu=LOCAL,local:a"],
    "add-regions": ["add-regions", "prod", "--region", "asia=LOCAL,local:a"],
    "rotate": ["rotate", "prod", "--region", "eu"],
    "retire-generation": [
        "retire-generation",
        "prod",
        "--region",
        "eu",
        "--generation",
        "1",
        "--yes",
    ],
    "revoke": ["revoke", "prod", "--yes"],
    "restore": ["restore", "prod"],
    "delete": ["delete", "prod", "--all-regions", "--yes"],
    "undelete": ["undelete", "prod"],
    "test-key": ["test-key", "LOCAL", "local:a"],
    "access-policy": ["access-policy", "LOCAL", "local:a", "--cluster", "test"],
    "onboard": ["onboard", "test", "--region", "eu=LOCAL,local:a", "--wait"],
    "recheck": ["recheck", "prod"],
    "probe": ["probe"],
    "status": ["status", "prod"],
    "clusters": ["clusters"],
    "get": ["get", "all"],
    "apply": ["apply", "--file", "-", "--plan"],
    "key-usage": ["key-usage", "local:acme"],
    "what-if": ["what-if", "remove-describe", "local:acme"],
    "watch": ["watch", "prod"],
    "usage": ["usage"],
    "whoami": ["whoami"],
    "check": ["check"],
    "events list": ["events", "list"],
    "events show": ["events", "show", "1"],
    "events verify": ["events", "verify"],
    "events anchor": ["events", "anchor"],
    "events export": ["events", "export"],
    "cursors list": ["cursors", "list"],
    "cursors delete": ["cursors", "delete", "siem", "--yes"],
    "operations start": ["operations", "start", "op", "rotate", "--cluster", "prod"],
    "operations get": ["operations", "get", "op"],
    "operations list": ["operations", "list"],
    "operations wait": ["operations", "wait", "op"],
    "operations cancel": ["operations", "cancel", "op"],
    "operations delete": ["operations", "delete", "op"],
    "organizations create": ["organizations", "create", "new"],
    "organizations get": ["organizations", "get", "acme"],
    "organizations list": ["organizations", "list"],
    "organizations update": ["organizations", "update", "acme", "--max-clusters", "5"],
    "organizations delete": ["organizations", "delete", "empty", "--yes"],
    "links create": [
        *("links", "create", "acme", "other", "--region", "us"),
        *("--type", "LOCAL", "--uri", "local:a"),
    ],
    "links get": ["links", "get", "acme", "main"],
    "links list": ["links", "list", "acme"],
    "links update": ["links", "update", "acme", "main", "--description", "new"],
    "links move": [
        *("links", "move", "acme", "main", "--operation", "m"),
        *("--type", "LOCAL", "--uri", "local:b"),
    ],
    "links delete": ["links", "delete", "acme", "main", "--yes"],
    "wrap": ["wrap", "prod", "--region", "eu"],
    "unwrap": ["unwrap", "prod"],
    "generate-data-key": ["generate-data-key", "prod", "--region", "eu"],
    "rewrap": ["rewrap", "prod"],
    "encrypt": ["encrypt", "prod", "-", "--region", "eu"],
    "decrypt": ["decrypt", "prod", "-"],
    "rekey": ["rekey", "prod", "-"],
}


KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"

ANSWERS = {
    "status": "GetStatus",
    "clusters": "ListClusters",
    "test-key": "TestKey",
    "access-policy": "GetAccessPolicy",
    "onboard": "Enable",
    "delete": "DeleteCluster",
    "undelete": "UndeleteCluster",
    "events list": "ListEvents",
    "events verify": "VerifyEvents",
    "events anchor": "GetAnchor",
    "cursors list": "ListCursors",
    "cursors delete": "DeleteCursor",
    "usage": "ListUsage",
    "whoami": "GetCaller",
    "key-usage": "ListKeyUsage",
    "what-if": "ListKeyUsage",
    "organizations create": "CreateOrganization",
    "organizations get": "GetOrganization",
    "organizations list": "ListOrganizations",
    "organizations update": "UpdateOrganization",
    "organizations delete": "DeleteOrganization",
    "links create": "CreateKeyLink",
    "links get": "GetKeyLink",
    "links list": "ListKeyLinks",
    "links update": "UpdateKeyLink",
    "links move": "StartOperation",
    "links delete": "DeleteKeyLink",
}
"""The RPC whose response a command prints, if it is not that of the command's name."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


# --- changes ---


def test_life_of_a_key(cli: Cli) -> None:
    """Enable, revoke and restore say what they did, and show the cluster after it."""
    ran = cli("enable", "test", "--region", "eu=LOCAL,local:a")
    assert ran.out.startswith(b"enabled\ntest")
    ran = cli("revoke", "test", "--reason", "asked", "--yes")
    assert ran.code == 0
    assert ran.out.startswith(b"revoked\n")
    assert b"confirmed by 1 of 1 replicas" in ran.out
    ran = cli("restore", "test")
    assert (ran.code, ran.out[:12]) == (0, b"restored eu\n")
    ran = cli("restore", "test")
    assert ran.code == 0
    assert ran.out.startswith(b"no region is revoked, so there is nothing to restore\n")


def test_restore_that_fails(cli: Cli, server: Served) -> None:
    """Restore shows a region that stays revoked, and exits with the code of its error."""
    cli("enable", "test", "--region", "eu=LOCAL,local:b", "--region", "us=LOCAL,local:a")
    cli("revoke", "test", "--yes")
    server.local_keys.disable("b")
    ran = cli("restore", "test")
    assert ran.code == 5
    assert b"restored us" in ran.out
    assert b"eu stays revoked: version 1 of root key local:b is disabled" in ran.out
    assert b"(KEY_DISABLED)" in ran.out
    ran = cli("restore", "test", "--json")
    assert ran.code == 5
    assert Parse(ran.out, api.RestoreResponse()).not_restored[0].region == "eu"


def test_recheck(cli: Cli, server: Served) -> None:
    """A recheck shows each key's answer, who has dropped a refused one, and its error's code."""
    ran = cli("recheck", "prod")
    assert ran.code == 0
    assert b"HEALTHY" in ran.out
    cli("enable", "test", "--region", "eu=LOCAL,local:b")
    server.local_keys.disable("b")
    ran = cli("recheck", "--key-uri", "local:b")
    assert ran.code == 5
    lines = [" ".join(line.split()) for line in ran.out.decode().splitlines()]
    assert "test eu LOCAL local:b KEY_DISABLED - no" in lines
    assert lines[-1] == "confirmed by 1 of 1 replicas"
    assert "test/eu: version 1 of root key local:b is disabled" in lines[-2]
    ran = cli("recheck", "test", "--json")
    assert ran.code == 5
    assert Parse(ran.out, api.RecheckResponse()).results[0].cluster == "test"
    cli("revoke", "test", "--yes")
    ran = cli("recheck", "test")
    assert (ran.code, ran.out) == (
        0,
        b"no region of the cluster is enabled, so there was no key to prove\n",
    )
    for wrong, said in (
        (("recheck",), "name a cluster, or give --key-uri\n"),
        (("recheck", "test", "--key-uri", "local:b"), "or give --key-uri, and not both\n"),
    ):
        ran = cli(*wrong)
        assert ran.code == 2
        assert said in ran.err


def test_key_that_does_not_work(cli: Cli, server: Served) -> None:
    """For an unusable key, test-key shows each step and exits with the error's code."""
    server.make_key(KEY)
    denied = AccessDeniedError("the KMS does not permit it", missing_permission="kms:Decrypt")
    server.aws.fail(denied, operations=("unwrap",))
    server.aws.latency = 0.007
    where = ("--cluster", "prod", "--region", "us-east-1")
    ran = cli("test-key", "AWS_KMS", KEY, "--option", "a=b", *where)
    assert ran.code == 5
    lines = [" ".join(line.split()) for line in ran.out.decode().splitlines()]
    assert lines[0] == "STEP OUTCOME LATENCY MESSAGE MISSING PERMISSION"
    assert lines[1] == "authenticate PASSED 7 ms - -"
    assert "unwrap FAILED 7 ms the KMS does not permit it (ACCESS_DENIED) kms:Decrypt" in lines
    assert "context SKIPPED 0 ms nothing was unwrapped -" in lines
    assert lines[-2].startswith("the root key is in eu-west-1, another region than us-east-1")
    assert "the key does not unwrap what it wrapped: the KMS does not permit it" in lines[-1]
    ran = cli("test-key", "LOCAL", "local:a")
    assert ran.code == 0
    assert ran.out.endswith(b"Keyfold can use this key: it wraps, and unwraps what it wrapped\n")


def test_revoke_asks_on_a_terminal(server: Served) -> None:
    """On a terminal, revoke asks for confirmation, and stops nothing after a no."""
    code, seen = on_terminal(server.target, "revoke", "prod", typed="n\n", prompt="[y/N]")
    assert code == 1
    assert "Revoke all regions of prod?" in seen
    assert not server.requests["Revoke"]
    code, _ = on_terminal(
        server.target, "revoke", "prod", "--region", "eu", typed="y\n", prompt="Revoke eu of prod?"
    )
    assert code == 0
    assert [list(one.regions) for one in server.requests["Revoke"]] == [["eu"]]


def test_revoke_does_not_ask_twice(server: Served, cli: Cli) -> None:
    """With --yes, revoke does not ask for confirmation, with a terminal or without."""
    assert on_terminal(server.target, "revoke", "prod", "--yes")[0] == 0
    assert cli("revoke", "prod", "--yes").code == 0
    assert len(server.requests["Revoke"]) == 2


@pytest.mark.parametrize(
    "command",
    [
        "revoke",
        "retire-generation",
        "delete",
        "cursors delete",
        "organizations delete",
        "links delete",
    ],
)
@pytest.mark.parametrize("stdin", ["", "no\n", "y\n"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_others_notice_needs_an_agreement(
    cli: Cli, server: Served, command: str, stdin: str, options: tuple[str, ...]
) -> None:
    """Without --yes and without a terminal nothing is done, whatever stdin holds."""
    cli("rotate", "prod", "--region", "eu", "--new-generation")
    dangerous = [one for one in COMMANDS[command] if one != "--yes"]
    ran = cli(*dangerous, *options, stdin=stdin)
    assert (ran.code, ran.out) == (2, b"")
    assert "there is no terminal to ask at; give --yes" in ran.err
    assert not server.requests["Revoke"]
    assert not server.requests["RetireGeneration"]
    assert not server.requests["DeleteCluster"]
    assert not server.requests["DeleteCursor"]
    assert not server.requests["DeleteOrganization"]
    assert not server.requests["DeleteKeyLink"]
    assert (
        cli("retire-generation", "prod", "--region", "eu", "--generation", "1", "--bring-back").code
        == 0
    )


# --- status and clusters ---


def test_status_table(cli: Cli) -> None:
    """The status shows state, health, what works, generations, version, key and last check."""
    ran = cli("status", "prod")
    head, region = ran.out.decode().splitlines()[1:3]
    heads = "REGION STATE HEALTH WRAP UNWRAP GENERATIONS VERSION KEY LAST CHECK"
    values = "eu ENABLED HEALTHY yes yes 1 1 LOCAL local:acme 2027-01-15 08:00:00Z"
    assert head.split() == heads.split()
    assert region.split() == values.split()


def test_status_below_the_table(tmp_path: Path) -> None:
    """Below the table, status shows the last error with its missing permission, and the notices."""
    regions = ResidencyPolicy({"eu": {"AWS_KMS": ("eu-central-1",)}})
    with served(tmp_path, regions=regions) as server:
        cli = Cli(server.target)
        server.make_key(KEY)
        cli("enable", "test", "--region", f"eu=AWS_KMS,{KEY}")
        denied = AccessDeniedError("not\npermitted", missing_permission="kms:Encrypt")
        server.aws.fail(denied, operations=("wrap",))
        server.clock.advance(61)
        lines = cli("status", "test").out.decode().splitlines()
    assert lines[-2:] == [
        "eu: not permitted (ACCESS_DENIED); missing permission: kms:Encrypt",
        "eu: the root key is in eu-west-1, and region eu in eu-central-1",
    ]


def test_status_marks_retired_generations(cli: Cli) -> None:
    """The status lists retired generations apart from those that unwrap."""
    for _ in range(4):
        cli("rotate", "prod", "--region", "eu", "--new-generation")
    for number in ("1", "2", "4"):
        cli("retire-generation", "prod", "--region", "eu", "--generation", number, "--yes")
    assert " 3, 5, retired 1-2, 4  " in cli("status", "prod").out.decode()


def test_verbose_status(cli: Cli, server: Served) -> None:
    """With --verbose, status shows every generation's last use and each region's policy."""
    server.make_key(KEY)
    policy = ("--cache-ttl", "0s", "--auto-rotate")
    cli("enable", "test", "--region", f"eu=AWS_KMS,{KEY}", "--region", "us=LOCAL,local:a", *policy)
    server.clock.advance(60)
    cli("wrap", "test", "--region", "eu", stdin=b"k")
    assert b"LAST USE" not in cli("status", "test").out
    shown = cli("status", "test", "--verbose").out.decode()
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    began, used = "2027-01-15 08:00:00Z", "2027-01-15 08:01:00Z"
    assert f"eu {began} {began} {used} eu-west-1 0 s default yes - -" in lines
    assert f"eu 1 {began} {used} - AWS_KMS {KEY} version 1" in lines
    assert f"us 1 {began} never - LOCAL local:a version 1" in lines


def test_colour_only_on_a_terminal(cli: Cli, server: Served) -> None:
    """Colour appears on terminals only, and not if NO_COLOR is set."""
    assert b"\x1b" not in cli("status", "prod").out
    _, seen = on_terminal(server.target, "status", "prod")
    assert "\x1b[32m" in seen
    _, seen = on_terminal(server.target, "status", "prod", environment={"NO_COLOR": "1"})
    assert "\x1b[3" not in seen


def test_clusters(cli: Cli, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command lists all pages, and passes its filters to the server."""
    monkeypatch.setattr(listing, "DEFAULT_PAGE", 2)
    for name in ("a", "b", "c"):
        cli("enable", name, "--region", "eu=LOCAL,local:a")
    lines = cli("clusters").out.decode().splitlines()
    named = [line.split()[0] for line in lines if "LOCAL" in line]
    assert named == ["a", "b", "c", "prod", "prod"]
    assert len(server.requests["ListClusters"]) == 2
    answer = Parse(cli("clusters", "--json").out, api.ListClustersResponse())
    assert [one.cluster for one in answer.clusters] == ["a", "b", "c", "prod"]
    ran = cli("clusters", "--state", "revoked", "--health", "Key_Disabled", "--organization", "x")
    assert ran.out == b"no clusters\n"
    request = server.requests["ListClusters"][-1]
    assert (request.state, request.health, request.organization) == (2, 4, "x")
    assert not request.HasField("can_wrap")
    for option, asked in (("--can-wrap", True), ("--cannot-wrap", False)):
        cli("clusters", option)
        request = server.requests["ListClusters"][-1]
        assert (request.HasField("can_wrap"), request.can_wrap) == (True, asked)


OWN_JSON = {"check", "probe", "watch", "get", "apply", "encrypt", "decrypt", "rekey"} | {
    command for command in COMMANDS if command.startswith("operations ")
}
"""The commands whose JSON is no response of one call; their own tests look at it."""


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - OWN_JSON))
def test_json_of_every_command(cli: Cli, server: Served, command: str) -> None:
    """With --json, each command prints the contract's response, with the contract's field names."""
    stdin = b"k" * 32
    if command in {"unwrap", "rewrap"}:
        stdin = cli("wrap", "prod", "--region", "eu", stdin=stdin).out
    if command == "retire-generation":
        cli("rotate", "prod", "--region", "eu", "--new-generation")
    if command in {"delete", "undelete"}:
        cli("revoke", "prod", "--yes")
    if command.startswith(("organizations ", "links ")):
        cli("organizations", "create", "empty")
        link = ("--region", "eu", "--type", "LOCAL", "--uri", "local:a")
        cli("links", "create", "acme", "main", *link)
    if command == "cursors delete":
        with server.client() as client:
            read_with(client, "siem")
    ran = cli(*COMMANDS[command], "--json", stdin=stdin)
    assert ran.code == 0, ran.err
    if command in {"events show", "events export"}:
        Parse(ran.out, event_service_pb2.Event())
        return
    name = ANSWERS.get(command, command.title().replace("-", ""))
    contract: Any = (
        event_service_pb2 if command.startswith(("events ", "cursors ", "usage")) else api
    )
    if command.startswith(("organizations ", "links ")) and command != "links move":
        contract = organization_service_pb2
    Parse(ran.out, getattr(contract, f"{name}Response")())
    camel = {"keySpec", "wrappedKey", "keyVersion", "alreadyCurrent", "nextPageToken"}
    assert not any(word.encode() in ran.out for word in camel)


# --- every command ---


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_the_common_options(command: str) -> None:
    """Every command has the options for target, TLS, deadline and JSON."""
    shown = Cli("127.0.0.1:1")(*command.split(), "--help").out.decode()
    for option in ("--json", "--target", "--timeout", "--ca", "--cert", "--key", "--server-name"):
        assert f"\n  {option}" in shown
    for variable in ("KEYFOLD_TARGET", "KEYFOLD_CA", "KEYFOLD_CERT", "KEYFOLD_KEY"):
        assert variable in shown


def test_no_argument_takes_a_key() -> None:
    """No option takes a key as its value, because every user sees the arguments of a process."""
    found: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    commands = {name: one for name, one in found.items() if not hasattr(one, "commands")}
    commands |= {
        f"{group} {name}": one
        for group, under in found.items()
        for name, one in getattr(under, "commands", {}).items()
    }
    assert set(commands) == set(COMMANDS)
    names = {option for one in commands.values() for each in one.params for option in each.opts}
    assert not {name for name in names if "plaintext" in name or "wrapped" in name} - {
        "--plaintext-out",
        "--wrapped-only",
    }


def test_completion() -> None:
    """The shell can complete commands and options."""
    done = _run(COMP_WORDS="keyfold re", COMP_CWORD="1", _KEYFOLD_COMPLETE="complete_bash")
    assert done.stdout.split() == [
        "retire-generation",
        "revoke",
        "restore",
        "recheck",
        "rewrap",
        "rekey",
    ]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("status p", ["prod", "proto"]),
        ("status prod p", ["proto"]),
        ("watch x", []),
        ("revoke prod --region ", ["eu", "us"]),
        ("revoke proto --region ", ["asia", "eu"]),
        ("enable new --region ", ["asia", "eu", "us"]),
        ("enable new --region eu=A", ["eu=AWS_KMS,", "eu=AZURE_KEY_VAULT,"]),
        ("test-key L", ["LOCAL"]),
        ("links create acme main --type G", ["GCP_CLOUD_KMS"]),
        ("clusters --organization a", ["acme"]),
        ("organizations get ", ["acme"]),
        ("--no-headers status proto", ["proto"]),
        ("--target 127.0.0.1:1 status p", []),
        ("--token-file nowhere status p", []),
    ],
)
def test_completion_of_names(
    server: Served, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    """The shell completes what the server knows; if it cannot, it says nothing."""
    monkeypatch.setattr(completion, "WAIT", 20.0)  # the machine may be busy
    key = keyfold.KeySpec("LOCAL", "local:acme")
    with server.client() as client:
        client.enable("proto", [keyfold.RegionSpec(name, key) for name in ("asia", "eu")])
    assert completed(server.target, line) == offered


def test_completion_does_not_wait() -> None:
    """A server that does not answer holds up nobody who types."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert completed(f"127.0.0.1:{silent.getsockname()[1]}", "status p") == []
    assert time.monotonic() - began < CONTROL_TIMEOUT


def completed(target: str, line: str) -> list[str]:
    """Returns what the shell is offered for the last word of a line; stderr must stay empty."""
    found = CliRunner().invoke(
        app,
        prog_name="keyfold",
        env={
            "COMP_WORDS": f"keyfold {line}",
            "COMP_CWORD": str(len(line.split(" "))),
            "KEYFOLD_TARGET": target,
            "_KEYFOLD_COMPLETE": "complete_bash",
        },
    )
    assert found.stderr == ""
    return found.stdout.split()


def test_reader_that_leaves(server: Served) -> None:
    """A reader that closes the pipe early causes no traceback."""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(_MAIN)} status prod | true"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "KEYFOLD_TARGET": server.target},
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "apply --file -",
        "clusters",
        "encrypt prod - --region eu",
        "events export",
        "events list",
        "generate-data-key prod --region eu --wrapped-only",
        "get all",
        "key-usage local:acme",
        "organizations get acme",
        "status prod --json",
        "test-key LOCAL local:acme",
        "usage",
        "wrap prod --region eu --batch",
    ],
)
def test_a_closed_pipe_ends_every_command_quietly(
    server: Served, tmp_path: Path, command: str
) -> None:
    """The exit code is 141, which a shell has for a program that SIGPIPE ends, and not 1 or 0."""
    inputs = {"wrap": '{"plaintext": "a2V5"}\n', "apply": "organizations: [{organization: a}]"}
    source, err = tmp_path / "source", tmp_path / "err"
    source.write_text(inputs.get(command.partition(" ")[0], ""))
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        process = start(server.target, command.split(), source=source, out=theirs, err=err)
    finally:
        os.close(theirs)
    assert (process.wait(50), err.read_text()) == (141, "")


def test_full_disk(server: Served, tmp_path: Path) -> None:
    """Output that cannot be written is an error."""
    err = tmp_path / "err"
    process = start(server.target, ["status", "prod"], out=Path("/dev/full"), err=err)
    assert process.wait(50) == 1
    assert err.read_text() == "error: cannot write to stdout: No space left on device\n"


def test_without_its_extra() -> None:
    """Where typer is not installed, the command says in one line what to install, and fails."""
    program = "import sys; sys.modules['typer'] = None; from keyfold.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "keyfold: typer is missing; install keyfold[cli]\n"


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", _MAIN, *arguments]
    return subprocess.run(
        program, check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )
