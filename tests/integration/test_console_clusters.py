"""The pages of clusters: what an operator sees of them, and does to them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import keyfold
from console_site import POLICY, Shown, Site, enable, site, token_of


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Site]:
    """A console that the vendor's administrator visits, and the cluster prod in eu and us."""
    async with site(tmp_path, POLICY) as found:
        await enable(found, "prod", "eu", "us", organization="acme")
        found.visit(token_of("vendor"))
        yield found


def hidden(shown: Shown, name: str) -> str:
    """Returns the value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', shown.body)
    assert found is not None
    return found[1]


async def states(console: Site, cluster: str = "prod") -> list[str]:
    """Returns the states of a cluster's regions."""
    return [str(one.state) for one in (await console.keyfold.get_status(cluster)).regions]


async def test_the_list_is_narrowed_and_goes_on(console: Site) -> None:
    """The list has what the filter says, in pages that lead to one another."""
    for number in range(55):
        await enable(console, f"many-{number:02}", key="prod")
    first = await console.get("/clusters?prefix=many-")
    assert ("many-49" in first.text, "many-50" in first.text) == (True, False)
    [more] = re.findall(r'href="([^"]*)" rel="next"', first.body)
    text = (await console.get(more.replace("&amp;", "&"))).text
    assert ("many-49" in text, "many-54" in text, "First page" in text) == (False, True, True)
    await console.keyfold.revoke("prod")
    text = (await console.get("/clusters?state=REVOKED")).text
    assert ("prod" in text, "many-00" in text) == (True, False)
    assert "No cluster" in (await console.get("/clusters?organization=nobody")).text


async def test_a_cluster_that_is_well(console: Site) -> None:
    """The page has each region's key, health and generations, who did what, and who uses it."""
    await console.keyfold.generate_data_key("prod", "eu")
    shown = await console.get("/clusters/prod")
    assert shown.status == 200
    for said in (
        "fake:prod",
        "1 generation",
        "Healthy",
        "Enable done",
        "jwt:https://issuer",
    ):
        assert said in shown.text, said
    assert "What to do" not in shown.text


async def test_a_refused_key_says_why_since_when_and_what_to_do(console: Site) -> None:
    """Whoever is woken reads in one place which key fails, what the KMS said, and what helps."""
    console.server.provider.disable("fake:prod")
    shown = await console.post("/clusters/prod/recheck")
    assert shown.location == "/clusters/prod?done=recheck"
    text = (await console.get(shown.location)).text
    assert "eu, us: key disabled" in text
    assert "KEY_DISABLED" in text
    assert "Ask the customer whether this was meant" in text
    assert "The customer's KMS was asked just now" in text


async def test_revoke_needs_the_name(console: Site) -> None:
    """Only the cluster's name, typed, revokes; then each region is revoked, and the log has why."""
    form = await console.get("/clusters/prod/revoke")
    fields = {"region": "eu", "reason": "ticket 4711", "request_id": hidden(form, "request_id")}
    for typed in ("", "Prod", "prod2"):
        shown = await console.post("/clusters/prod/revoke", typed=typed, **fields)
        assert shown.status == 400
        assert "nothing was done" in shown.text
    assert await states(console) == ["ENABLED", "ENABLED"]
    shown = await console.post("/clusters/prod/revoke", typed="prod", **fields)
    assert shown.location.startswith("/clusters/prod?done=revoke")
    assert await states(console) == ["REVOKED", "ENABLED"]
    again = await console.post("/clusters/prod/revoke", typed="prod", **fields)
    assert again.status == 303
    text = (await console.get("/clusters/prod")).text
    assert text.count("Revoke done") == 1
    assert "ticket 4711" in text
    assert "eu: revoked" in text
    assert "By jwt:https://issuer#vendor : ticket 4711" in text


async def test_restore_says_which_regions_stay_revoked(console: Site) -> None:
    """Restore brings back what the KMS proves, and says of the rest why it stays revoked."""
    await console.keyfold.revoke("prod")
    console.server.provider.disable("fake:prod")
    shown = await console.post("/clusters/prod/restore", region="eu")
    assert shown.status == 200
    assert "eu stays revoked" in shown.text
    assert "KEY_DISABLED" in shown.text
    console.server.provider.enable("fake:prod")
    shown = await console.post("/clusters/prod/restore", region="eu")
    assert shown.location == "/clusters/prod?done=restore"
    assert await states(console) == ["ENABLED", "REVOKED"]


async def test_rotate_moves_to_a_new_generation_or_key(console: Site) -> None:
    """Rotate makes a new generation if asked to, and moves to the key that is named."""
    shown = await console.post("/clusters/prod/rotate", region="eu", new_generation="1")
    assert shown.location == "/clusters/prod?done=rotate"
    console.server.provider.create_key("other")
    fields = {"region": "eu", "type": "FAKE", "uri": "fake:other"}
    assert (await console.post("/clusters/prod/rotate", **fields)).status == 303
    eu = (await console.keyfold.get_status("prod")).regions[0]
    assert (len(eu.generations), eu.key_spec.uri) == (2, "fake:other")


async def test_a_refused_form_stays_as_it_was_typed(console: Site) -> None:
    """What the API refuses stands above the form with its reason, and nothing typed is lost."""
    fields = {"region": "eu", "type": "FAKE", "uri": "fake:missing"}
    shown = await console.post("/clusters/prod/rotate", **fields)
    assert shown.status == 409
    assert "KEY_NOT_FOUND" in shown.text
    assert 'value="fake:missing"' in shown.body
    assert "Choose at least one region" in (await console.post("/clusters/prod/rotate")).text


async def test_a_trial_shows_each_step(console: Site) -> None:
    """Testing a key shows each step, and of the one that failed the missing permission."""
    shown = await console.post("/clusters/prod/test", region="us")
    assert "The key works" in shown.text
    assert shown.body.count('<li class="good">') == 5
    console.server.provider.deny("fake:prod", "unwrap")
    shown = await console.post("/clusters/prod/test", region="us")
    assert "The key does not work" in shown.text
    assert "ACCESS_DENIED" in shown.text


async def test_actions_that_are_not_allowed(console: Site) -> None:
    """An auditor sees which role an action needs; the server refuses the action all the same."""
    console.visit(token_of("auditor"))
    shown = await console.get("/clusters/prod")
    assert "Revoke is not allowed: it needs the role operator" in shown.text
    assert 'href="/clusters/prod/revoke"' not in shown.body
    assert 'action="/clusters/prod/recheck"' in shown.body
    shown = await console.post("/clusters/prod/revoke", region="eu", typed="prod")
    assert shown.status == 409
    assert "NOT_ALLOWED" in shown.text
    assert await states(console) == ["ENABLED", "ENABLED"]


async def test_hidden_and_absent_are_one_page(console: Site) -> None:
    """A cluster of another customer looks like one that does not exist."""
    await enable(console, "theirs", organization="globex")
    console.visit(token_of("customer-admin", org="acme"))
    hidden_one, absent = [await console.get(f"/clusters/{name}") for name in ("theirs", "nothing")]
    assert (hidden_one.status, absent.status) == (404, 404)
    said = [
        re.sub(r"[0-9a-f]{32}|theirs|nothing", "", shown.body) for shown in (hidden_one, absent)
    ]
    assert said[0] == said[1]


async def test_what_customers_write_is_text(console: Site) -> None:
    """A reason with markup in it is shown as it was written, and nothing else."""
    await console.keyfold.revoke("prod", reason="<script>alert(1)</script>")
    shown = await console.get("/clusters/prod")
    assert "&lt;script&gt;alert(1)" in shown.body
    assert "<script>alert" not in shown.body


async def test_a_dead_server_is_a_page_that_asks_again(console: Site) -> None:
    """While no server answers, the page says so with 503, asks again by itself, and recovers."""
    await console.server.stop()
    shown = await console.get("/clusters/prod")
    assert (shown.status, shown.headers["Retry-After"]) == (503, "5")
    assert "Keyfold cannot be reached" in shown.text
    assert 'data-again="5"' in shown.body
    assert (await console.get("/livez")).status == 200


async def test_the_log_has_the_trace_that_the_page_shows(console: Site) -> None:
    """The trace on a page leads to the events of the calls that it made."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    header = f"00-{trace}-b7ad6b7169203331-00"
    shown = await console.send(
        "/clusters/prod/revoke",
        {"Sec-Fetch-Site": "same-origin", "traceparent": header},
        typed="prod",
        region="eu",
    )
    assert shown.status == 303
    narrow = keyfold.EventFilter(action="rpc:cluster:revoke")
    [event] = [one async for one in console.keyfold.list_events(narrow)]
    assert event.trace_id == trace
