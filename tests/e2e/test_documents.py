"""Documents on real servers: docs/documents.md as it stands, and callers who may not see all."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest

import callers
import pages
from cli_runner import Cli
from e2e.conftest import StartServer
from e2e.server import ROOT, Server
from in_process import serving
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.clock import SystemClock

PAGE: Final = (ROOT / "docs" / "documents.md").read_text(encoding="utf-8")


@pytest.fixture(name="server")
def server_fixture(start_server: StartServer) -> Server:
    """A server with the page's root keys."""
    return start_server(keys=("acme", "own", "new"))


def typed(server: Server, folder: Path, number: int, code: int = 0) -> str:
    """Types one of the page's commands in a folder with its files."""
    [file] = pages.fenced(PAGE, "yaml")
    (folder / "acme.yaml").write_text(file)
    (folder / "rest.yaml").write_text("organizations: []\n")
    words = shlex.split(re.findall(r"^    keyfold (.*)$", PAGE, re.MULTILINE)[number])
    named = [str(folder / word) if word.endswith(".yaml") else word for word in words]
    return run(server, *named, code=code)


def run(server: Server, *arguments: str, code: int = 0) -> str:
    """Runs a command, in this process, which saves a start each time."""
    ran = Cli(server.target)(*arguments)
    assert ran.code == code, ran.err
    return ran.out.decode()


def log(server: Server) -> list[tuple[str, str]]:
    """Returns each call of the log with its outcome."""
    lines = run(server, "events", "export").splitlines()
    return [(one["action"], one["outcome"]) for one in map(json.loads, lines)]


def test_the_page(server: Server, tmp_path: Path) -> None:
    """The page's commands do what it says, from an empty server to the deletion of everything."""
    assert "create cluster/acme-prod" in typed(server, tmp_path, 0, 13)
    planned = json.loads(typed(server, tmp_path, 3, 13))
    tried = log(server)
    assert {outcome for _, outcome in tried} == {"validated"}
    done = typed(server, tmp_path, 1)
    assert done.splitlines()[-3:] == [
        "done: create organization/acme",
        "done: create link/acme/main",
        "done: create cluster/acme-prod",
    ]
    made = [each for each in log(server)[len(tried) :] if each[1] != "validated"]
    assert len(made) == len(planned["changes"]) == 3
    assert {one["result"] for one in planned["changes"]} == {"PLANNED"}

    before = log(server)
    assert ", 3 unchanged" in typed(server, tmp_path, 0)
    typed(server, tmp_path, 1)
    assert log(server) == before
    with server.client() as client:
        eu, us = client.get_status("acme-prod").regions
    assert (eu.key_link, us.key_spec.uri) == ("main", "local:own")

    for number in range(4, 8):
        (tmp_path / "got.yaml").write_text(typed(server, tmp_path, number))
        run(server, "apply", "-f", str(tmp_path / "got.yaml"), "--plan")
    assert "key_links:" in typed(server, tmp_path, 4)
    typed(server, tmp_path, 2)
    assert "organization: acme" in run(server, "get", "all")
    assert '"clusters"' not in run(server, "get", "all", "--json")


def test_a_key_changes_in_place_on_a_live_server(server: Server, tmp_path: Path) -> None:
    """What was wrapped before the file changed opens after it, and the log has one Rotate."""
    typed(server, tmp_path, 1)
    with server.client() as client:
        wrapped = client.wrap("acme-prod", "us", b"the first").wrapped_key
    file = tmp_path / "acme.yaml"
    changed = file.read_text().replace("local:own", "local:new").replace("60s", "5m")
    file.write_text(changed)
    plan = json.loads(run(server, "apply", "-f", str(file), "--plan", "-o", "json", code=13))
    before = len(log(server))
    done = json.loads(run(server, "apply", "-f", str(file), "--expect", plan["plan"], "-o", "json"))
    fields: list[Any] = [each["fields"] for each in plan["changes"]]
    assert [each["fields"] for each in done["changes"]] == fields
    assert [(one["field"], one["old"]) for one in fields[0]] == [
        ("region_specs[eu].policy.cache_ttl", "60s"),
        ("region_specs[us].key_spec", {"type": "LOCAL", "uri": "local:own"}),
    ]
    after = [each for each in log(server)[before:] if each[1] != "validated"]
    assert after == [("rpc:cluster:rotate", "done")]
    with server.client() as client:
        assert client.unwrap("acme-prod", wrapped).plaintext == b"the first"


# --- callers who may not see everything ---

POLICY: Final = """
[[grant]]
callers = ["dns:operator"]
roles = ["operator"]
clusters = ["acme-*"]
keys = [{type = "LOCAL", uri = "local:a"}]
"""


class Switch:
    """Takes every caller for one who may do everything, or for an operator of some clusters."""

    def __init__(self) -> None:
        self.narrow = False
        self._policy = CachedPolicy(parse(POLICY, "policy.toml"))

    def rights(self, identity: Identity) -> Rights:
        if not self.narrow:
            return callers.EVERYTHING
        return self._policy.rights(Identity(("dns:operator",), identity.proof))

    @property
    def claims(self) -> frozenset[str]:
        return self._policy.claims

    def believes(self, identity: Identity) -> bool:
        del identity
        return False


def test_what_the_caller_may_not_see(tmp_path: Path) -> None:
    """C8: a hidden cluster, key or organization is as one that does not exist; nothing is done."""
    switch = Switch()
    who = Callers(switch, callers.LOCAL, SystemClock())
    with serving(tmp_path, who=who, local_keys=["a", "b"]) as server:
        cli = Cli(server.target)
        enable = ("enable", "hidden", "--organization", "hidden", "--region", "eu=LOCAL,local:a")
        assert cli(*enable).code == 0
        switch.narrow = True

        def cluster(name: str, key: str = "local:a") -> dict[str, Any]:
            spec = {"region": "eu", "key_spec": {"type": "LOCAL", "uri": key}}
            return {"cluster": name, "region_specs": [spec]}

        def applied(**document: Any) -> tuple[int, str]:
            ran = cli("apply", "-f", "-", stdin=json.dumps(document))
            assert ran.out == b""
            return ran.code, ran.err

        seen = [cluster("acme-1")]
        for name in ("hidden", "absent"):
            code, error = applied(clusters=[*seen, cluster(name)])
            assert code == 8
            assert error.replace(name, "it") == applied(clusters=[*seen, cluster("never")])[
                1
            ].replace("never", "it")
            link = {
                "organization": name,
                "key_link": "main",
                "region": "eu",
                "key_spec": {"type": "LOCAL", "uri": "local:a"},
            }
            assert applied(clusters=seen, key_links=[link])[0] in {3, 8}
            assert applied(clusters=seen, organizations=[{"organization": name}])[0] in {3, 8}
            ran = cli("apply", "-f", "-", "--delete", f"cluster/{name}", "--yes", stdin="{}")
            assert ran.code == 3
        assert applied(clusters=[cluster("acme-1"), cluster("acme-2", "local:b")])[0] == 8
        assert cli("status", "acme-1").code == 3
        ran = cli("apply", "-f", "-", stdin=json.dumps({"clusters": seen}))
        assert ran.code == 0, ran.err
