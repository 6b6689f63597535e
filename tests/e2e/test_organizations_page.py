"""Whoever types what docs/organizations.md shows gets what the page says, on a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import pages
from e2e.conftest import StartServer
from e2e.server import ROOT, Server

PAGE: Final = (ROOT / "docs" / "organizations.md").read_text(encoding="utf-8")
_KEYS: Final = ("platform", "acme", "acme-2026", "new")
_BEGIN: Final = 3
"""Commands with which the page begins; those after them move a link."""


@pytest.fixture(name="server")
def server_fixture(start_server: StartServer) -> Server:
    """A server with the page's root keys and an own key of the vendor's."""
    return start_server(keys=_KEYS, KEYFOLD_PLATFORM_KEY="local:platform")


def begin(server: Server) -> None:
    """Types the three commands with which the page begins."""
    typed = commands()[:_BEGIN]
    assert [line[0] for line in typed] == ["organizations", "links", "enable"]
    for line in typed:
        server.cli(*line)


def commands() -> list[list[str]]:
    """Returns the commands that the page shows as blocks."""
    return [shlex.split(line) for line in re.findall(r"^    keyfold (.*)$", PAGE, re.MULTILINE)]


def answered(server: Server, *arguments: str) -> Any:
    """Runs a command with `--json`."""
    return json.loads(server.cli(*arguments, "--json"))


def owner(server: Server) -> tuple[str, str, str]:
    """Returns whose key the cluster has, through which link, and its uri."""
    [region] = answered(server, "status", "acme-prod")["status"]["regions"]
    return region["key_owner"], region["key_link"], region["key_spec"]["uri"]


def test_the_first_three_commands(server: Server) -> None:
    """A cluster whose Enable names no key has its organization's; the others are told why not."""
    begin(server)
    assert owner(server) == ("KEY_OWNER_ORGANIZATION", "main", "local:acme")
    [link] = answered(server, "links", "list", "acme")["key_links"]
    assert link["users"] == [{"cluster": "acme-prod", "region": "eu"}]
    [shown] = answered(server, "organizations", "list")["organizations"]
    assert (shown["organization"], shown["cluster_count"]) == ("acme", 1)
    enable = ("enable", "--organization", "acme", "--region")
    assert "KEY_LINK_MISSING" in server.cli(*enable, "us", "acme-test", code=4)
    assert "CLUSTER_NAME_NOT_ALLOWED" in server.cli(*enable, "eu", "beta", code=4)
    refused = server.cli("organizations", "delete", "acme", "--yes", code=4)
    assert "clusters acme-prod and key links main" in refused


def test_a_link_moves_as_the_page_says(server: Server) -> None:
    """C6: the dry run changes nothing, the move changes the key, and what was wrapped opens."""
    begin(server)
    with server.client() as client:
        wrapped = client.wrap("acme-prod", "eu", b"the first").wrapped_key
    dry_run, move = commands()[_BEGIN:]
    assert "1 region under 1 root key" in server.cli(*dry_run)
    assert owner(server) == ("KEY_OWNER_ORGANIZATION", "main", "local:acme")
    assert "1 done, 0 failed, 0 skipped" in server.cli(*move)
    assert owner(server) == ("KEY_OWNER_ORGANIZATION", "main", "local:acme-2026")
    link = answered(server, "links", "get", "acme", "main")["key_link"]
    assert (link["use"], link["key_spec"]["uri"]) == ("KEY_LINK_USE_IN_USE", "local:acme-2026")
    uses = answered(server, "key-usage", "local:acme")["uses"]
    assert {use["superseded"] for use in uses} == {True}, "only backups need the old key"
    with server.client() as client:
        assert client.unwrap("acme-prod", wrapped).plaintext == b"the first"


def test_a_link_goes_on_and_back(server: Server) -> None:
    """A region that was revoked is left, and the page's ways out lead to a clean end."""
    begin(server)
    with server.client() as client:
        wrapped = client.wrap("acme-prod", "eu", b"the first").wrapped_key
    move = ("links", "move", "acme", "main", "--type", "LOCAL", "--wait", "--uri")
    server.cli("revoke", "acme-prod", "--yes")
    assert "REVOKED" in server.cli(*move, "local:acme-2026", code=12)
    link = answered(server, "links", "get", "acme", "main")["key_link"]
    assert (link["use"], link["unmoved_count"]) == ("KEY_LINK_USE_MOVING", 1)
    assert link["previous_key_spec"]["uri"] == "local:acme"
    assert "moving from LOCAL local:acme" in server.cli("links", "get", "acme", "main")
    server.cli("restore", "acme-prod")
    assert "1 done, 0 failed" in server.cli(*move, "local:acme-2026")
    assert "1 done, 0 failed" in server.cli(*move, "local:acme")
    assert owner(server) == ("KEY_OWNER_ORGANIZATION", "main", "local:acme")
    with server.client() as client:
        assert client.unwrap("acme-prod", wrapped).plaintext == b"the first"


@pytest.mark.timeout(240)  # Eighteen runs of the command line.
def test_users_of_a_link_move_one_by_one(server: Server) -> None:
    """C6: by hand, too, a link comes to another key, and what was wrapped opens."""
    begin(server)
    with server.client() as client:
        wrapped = client.wrap("acme-prod", "eu", b"the first").wrapped_key
    update = ("links", "update", "acme", "main", "--type", "LOCAL", "--uri", "local:new")
    assert "acme-prod/eu" in server.cli(*update, code=4)
    rotate = ("rotate", "acme-prod", "--region")
    for arguments, has in (
        ((*rotate, "eu=LOCAL,local:new"), ("KEY_OWNER_CLUSTER", "", "local:new")),
        (update, ("KEY_OWNER_CLUSTER", "", "local:new")),
        (
            (*rotate, "eu", "--key-link", "main"),
            ("KEY_OWNER_ORGANIZATION", "main", "local:new"),
        ),
        ((*rotate, "eu"), ("KEY_OWNER_ORGANIZATION", "main", "local:new")),
        ((*rotate, "eu=PLATFORM"), ("KEY_OWNER_PLATFORM", "", "")),
        (
            (*rotate, "eu", "--key-link", "main"),
            ("KEY_OWNER_ORGANIZATION", "main", "local:new"),
        ),
    ):
        server.cli(*arguments)
        assert owner(server) == has
        with server.client() as client:
            assert client.unwrap("acme-prod", wrapped).plaintext == b"the first"


def test_the_program(server: Server) -> None:
    """The page's Python runs as it stands."""
    [program] = pages.fenced(PAGE, "python")
    assert "127.0.0.1:7443" in program
    done = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:7443", server.target)],
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "main" in done.stdout
    assert done.stdout.split()[-1] == "1"


def test_the_policy_by_a_claim() -> None:
    """The page shows the example file, and what the policy commands print about it."""
    [policy] = [text for text in pages.fenced(PAGE, "toml") if 'organization_claim = "org"' in text]
    assert policy == (ROOT / "docs" / "examples" / "customers-policy.toml").read_text("utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path}
    shown = []
    for command, answer in pages.blocks(PAGE):
        if "keyfold-server policy" not in command:
            continue
        assert answer is not None
        done = subprocess.run(
            ["bash", "-c", "export KEYFOLD_POLICY=docs/examples/customers-policy.toml\n" + command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout == answer
        shown.append(answer.split(":")[0])
    assert shown == ["allowed", "hidden"]
