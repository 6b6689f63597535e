"""docs/console.md says what the console is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import typer

import pages
from keyfold.errors import StoreStaleError, StoreUnavailableError
from keyfold_console import live, refusals, settings, unreadable, visitors
from keyfold_console.app import build
from keyfold_console.command import app
from keyfold_console.settings import Settings
from keyfold_server.access.policy.file import parse

PAGE = (Path(__file__).parents[2] / "docs" / "console.md").read_text(encoding="utf-8")


def options() -> dict[str, Any]:
    """Returns the options of `keyfold-console run`, by their flags."""
    command: Any = typer.main.get_command(app)
    return {one.opts[0]: one for one in command.commands["run"].params if one.name != "help"}


def test_every_option_is_there() -> None:
    """An operator finds each option, with the variable of the environment that gives it, too."""
    table = PAGE.split("### Options")[1].split("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `--")]
    said = {flag for row in rows for flag in re.findall(r"`(--[a-z-]+)`", row.split("|")[1])}
    assert said == set(options())
    variables = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[2])}
    assert variables == {one.envvar for one in options().values() if one.envvar}
    assert f"`{settings.DEFAULT_LISTEN}` if left out" in table


def test_the_commands_can_be_run() -> None:
    """Each command of the page is one that the console takes."""
    joined = PAGE.replace("\\\n", " ")
    found = [line.strip() for line in joined.splitlines() if "keyfold-console run" in line]
    found += re.findall(r"--entrypoint keyfold-console .* keyfold (run .*)", joined)
    flags = {flag for line in found for flag in re.findall(r" (--[a-z-]+)", line)}
    assert flags <= set(options())
    assert {"--behind-proxy", "--target", "--ca"} <= flags


def test_the_proxy_waits_as_long_as_a_page_may_take() -> None:
    """Whoever tries a key behind the page's proxy sees how it came out, not that it took long."""
    [waits] = re.findall(r"--upstream-timeout=(\d+)s", PAGE)
    assert int(waits) > refusals.PATIENCE


def test_the_policy_is_accepted() -> None:
    """The page's policy is one, and the customers' grant goes by the claim that it names."""
    [policy] = [text for text in pages.fenced(PAGE, "toml") if "[[grant]]" in text]
    assert parse(policy, "policy.toml").claims == {"org"}
    assert all(tomllib.loads(text) for text in pages.fenced(PAGE, "toml"))


def test_the_bounds_are_those_of_the_code() -> None:
    """A reader of the page knows what the console bounds."""
    for said in (
        f"{visitors._MOST:,} bytes",
        f"{refusals.AT_ONCE} requests are served at once",
        f"{unreadable.AT_ONCE} forms arrive at once, {unreadable.OF_ONE} of one address",
        f"{live._OF_ALL:,} streams of changes, {live._OF_A_VISITOR} of one visitor",
        f"{unreadable.PATIENCE:.0f} s to arrive, a page {refusals.PATIENCE:.0f} s",
    ):
        assert said in PAGE, said


def test_the_pages_that_are_named_exist() -> None:
    """Each address of the page is one that the console serves."""
    known = {one.canonical for one in build(Settings()).router.resources()}
    for path in re.findall(r"`(/[a-zA-Z/]*)`", PAGE):
        pattern = re.sub(r"NAME", "[^/]+", path)
        assert any(re.fullmatch(pattern, one) for one in known), path


def test_a_store_that_is_away_is_no_server_that_is_away() -> None:
    """At night nobody restarts servers that still use the keys in their memory."""
    away = refusals.kind_of(StoreUnavailableError("away", code="UNAVAILABLE"))
    stale = refusals.kind_of(StoreStaleError("stale", code="UNAVAILABLE"))
    assert away[:2] == stale[:2] == (503, "Keyfold cannot read its store")
    assert "do not restart" in away[2]
    assert "use no keys until it is back" in stale[2]


def test_the_titles_of_faults_are_those_of_pages() -> None:
    """Whoever looks a page up by its title finds it."""
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in Path(refusals.__file__).parent.rglob("*")
        if path.suffix in (".py", ".html")
    )
    table = PAGE.split("## When something is wrong")[1]
    titles = [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")][1:]
    assert titles
    for title in titles:
        assert title in code, title
