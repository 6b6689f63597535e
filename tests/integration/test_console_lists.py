"""The operator's lists in the console: root keys, events and operations."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import pytest

import keyfold
from console_site import POLICY, Shown, Site, enable, site, token_of


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Site]:
    """Two customers with clusters; `shared` is the key of two of them. The vendor visits."""
    async with site(tmp_path, POLICY) as found:
        await enable(found, "acme-prod", "eu", "us", organization="acme", key="shared")
        await enable(found, "acme-stage", organization="acme", key="shared")
        await enable(found, "globex-prod", organization="globex")
        found.visit(token_of("vendor"))
        yield found


def _next(shown: Shown) -> str:
    """Returns where the link to the next page leads; empty: there is none."""
    found = re.search(r'href="([^"]*)" rel="next"', shown.body)
    return unescape(found[1]) if found else ""


async def test_the_keys_in_use_are_listed(console: Site) -> None:
    """Nobody has to know a uri by heart: the page has each root key once, with its worst health."""
    console.server.provider.disable("fake:globex-prod")
    await console.keyfold.recheck("globex-prod")
    text = (await console.get("/keys")).text
    assert text.count("fake:shared") == 1
    assert "fake:shared FAKE the server's own ✓" in text.replace("Healthy 2 3", "✓ 2 3")
    assert "fake:globex-prod FAKE the server's own Key disabled 1 1" in text


async def test_a_key_in_use_is_not_safe_to_disable(console: Site) -> None:
    """The page says so first, then why, and shows each cluster, region and generation."""
    text = (await console.get("/keys?uri=fake:shared")).text
    assert "Not safe to disable" in text
    assert "it opens 3 generations of enabled regions: callers use them" in text
    assert "3 uses of these keys" in text
    assert re.search(r"acme-prod eu Enabled 1 newest use ", text)
    unused = (await console.get("/keys?principal=nobody")).text
    assert "Safe to disable" in unused
    assert "Check the spelling before you believe it" in unused


async def test_what_would_stop(console: Site) -> None:
    """Before a customer does something at the KMS, the page says what stops, and when."""
    text = (await console.get("/keys?uri=fake:shared&what_if=DISABLE")).text
    assert "If the customer should disable the key 3 of 3 regions stop serving." in text
    assert re.search(r"wrap, unwrap, rotate .* KEY_DISABLED", text)


async def test_a_customer_sees_the_own_uses_of_a_key_alone(console: Site) -> None:
    """Of another customer's clusters the page tells neither name nor key."""
    console.visit(token_of("customer-ann", org="globex"))
    assert "shared" not in (await console.get("/keys")).text
    text = (await console.get("/keys?uri=fake:shared")).text
    assert "acme" not in text


@pytest.mark.parametrize("query", ["version=3", "uri=fake:shared&page=xx"])
async def test_a_wrong_question_about_keys(console: Site, query: str) -> None:
    """What the form got wrong stands beside it, and what was filled in stays."""
    shown = await console.get(f"/keys?{query}")
    assert shown.status == 400
    assert 'role="alert"' in shown.body
    assert ('value="3"' in shown.body) == (query == "version=3")


async def test_events_are_narrowed(console: Site) -> None:
    """The log can be narrowed to a cluster, a caller, a kind, and what was refused."""
    console.server.provider.disable("fake:globex-prod")
    await console.keyfold.recheck("globex-prod")
    everything = (await console.get("/events")).text
    assert re.search(r"All events that you may see .* The KMS refused a key .* Enable ", everything)
    one = (await console.get("/events?cluster=acme-stage")).text
    assert "acme-stage" in one
    assert "globex" not in one
    for query in ("kind=REFUSAL", "refused=1&within=hour", "outcome=KEY_DISABLED"):
        refused = (await console.get(f"/events?{query}")).text
        assert "The KMS refused a key fake:globex-prod KEY_DISABLED Keyfold" in refused, query
        assert "Enable" not in refused
    assert "No event that you may see matches" in (await console.get("/events?caller=x")).text
    assert "before" not in (await console.get("/events?to=2020-01-01T00:00")).text


async def test_pages_of_events_belong_together(console: Site) -> None:
    """With a time that is counted from now, too, the next page goes on where this one ended."""
    for _ in range(30):
        await console.keyfold.test_key(keyfold.KeySpec("FAKE", "fake:shared"))
    for _ in range(30):
        await console.keyfold.test_key(keyfold.KeySpec("FAKE", "fake:globex-prod"))
    shown = await console.get("/events?within=day")
    numbers = re.findall(r'href="/events/(\d+)"', shown.body)
    assert len(numbers) == 50
    following = await console.get(_next(shown))
    assert following.status == 200
    numbers += re.findall(r'href="/events/(\d+)"', following.body)
    assert [int(one) for one in numbers] == list(range(len(numbers), 0, -1))
    assert not _next(following)


async def test_a_wrong_time(console: Site) -> None:
    """A time that is not one is named, with one that is."""
    shown = await console.get("/events?from=yesterday")
    assert shown.status == 400
    assert "yesterday is not a time; write it in UTC, such as 2026-11-30T08:15" in shown.text


async def test_an_event_in_full(console: Site) -> None:
    """The page of an event has who did it and why, and what was asked and decided."""
    await console.keyfold.revoke("globex-prod", reason="<b>contract</b> ended")
    [number] = [
        event.number
        async for event in console.keyfold.list_events(
            keyfold.EventFilter(action="rpc:cluster:revoke")
        )
    ]
    shown = await console.get(f"/events/{number}")
    assert "<b>contract" not in shown.body
    assert "Why <b>contract</b> ended" in shown.text
    assert "Who jwt:https://issuer#vendor" in shown.text
    assert '"state": "REVOKED"' in shown.text
    assert (await console.get("/events/9999")).status == 404
    console.visit(token_of("customer-ann", org="acme"))
    assert (await console.get(f"/events/{number}")).status == 404


async def _started(console: Site, **fields: str) -> Shown:
    """Fills in the form, counts, starts, and returns the operation's page once it has ended."""
    wanted = {"operation": "spring", "action": "recheck", **fields}
    plan = await console.post("/operations/plan", **wanted)
    assert plan.status == 200, plan.text
    assert "Nothing has started yet" in plan.text
    assert [one async for one in console.keyfold.list_operations()] == []
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', plan.body))
    started = await console.post("/operations", **hidden)
    assert started.status == 303, started.text
    await console.keyfold.wait_operation("spring")
    return await console.get(started.location)


async def test_an_operation_is_counted_started_and_followed(console: Site) -> None:
    """It starts after a count and a second look; its page says what it did, and what failed."""
    console.server.provider.disable("fake:globex-prod")
    clusters = "acme-prod, globex-prod"
    shown = await _started(console, clusters=clusters, reason="audit")
    assert "Recheck: clusters acme-prod, globex-prod" in shown.text
    assert "Done, with failures It stepped over what failed. 3 of 3" in shown.text
    assert "Carried out 2 Failed 1" in shown.text
    assert "globex-prod eu KEY_DISABLED" in shown.text
    assert (
        "spring Recheck clusters acme-prod, globex-prod" in (await console.get("/operations")).text
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"action": "recheck"}, "none is filled in"),
        ({"action": "recheck", "organization": "acme", "uri": "fake:x"}, "more than one"),
        ({"action": "recheck", "key_link": "main"}, "needs the name of its organization"),
        ({"action": "recheck", "version": "3"}, "needs the uri of its key"),
        ({"action": "", "organization": "acme"}, "choose what to do"),
        ({"action": "recheck", "clusters": " ".join(map(str, range(1_001)))}, "1,000"),
    ],
)
async def test_a_form_that_cannot_be_started(
    console: Site, fields: dict[str, str], said: str
) -> None:
    """What is wrong with the form stands above it, and what was filled in stays."""
    shown = await console.post("/operations/plan", operation="spring", **fields)
    assert shown.status == 400
    assert said in shown.text
    assert 'value="spring"' in shown.body


async def test_nothing_to_start(console: Site) -> None:
    """Where no region matches, the plan says so and its button is off."""
    fields = {"operation": "spring", "action": "test", "organization": "nobody"}
    shown = await console.post("/operations/plan", **fields)
    assert "there is nothing to start" in shown.text
    assert "<button disabled>" in shown.body


async def test_an_operation_is_deleted_and_cancelled(console: Site) -> None:
    """A record can go once the operation has ended; one that has ended cannot be cancelled."""
    await _started(console, organization="acme")
    [operation] = [one async for one in console.keyfold.list_operations()]
    cancelled = await console.post(f"/{operation.name}", do="cancel")
    assert (cancelled.status, "OPERATION_ENDED" in cancelled.text) == (409, True)
    assert (await console.post(f"/{operation.name}")).status == 400
    deleted = await console.post(f"/{operation.name}", do="delete")
    assert (deleted.status, deleted.location) == (303, "/operations")
    assert (await console.get(f"/{operation.name}")).status == 404


async def test_the_confirmations_of_a_revocation(console: Site) -> None:
    """A revocation is followed like an operation: which servers have dropped the keys."""
    revoked = await console.keyfold.revoke("globex-prod")
    shown = await console.get(f"/{revoked.operation}")
    assert shown.status == 200
    assert "Confirmations of revoke: cluster globex-prod" in shown.text
    assert "Confirmed Every server has confirmed. 1 of 1" in shown.text
    assert "Replicas that confirmed 1" in shown.text
    assert "Cancel" not in shown.text


async def test_a_server_that_does_not_confirm_is_named(console: Site) -> None:
    """After a Revoke that not every server confirms, the page leads to those that did not."""
    console.server.add_silent_replica("silent", 300.0)
    fields = {"region": "eu", "typed": "globex-prod"}
    revoked = await console.post("/clusters/globex-prod/revoke", **fields)
    assert revoked.status == 303
    page = await console.get(revoked.location)
    [link] = re.findall(r'href="([^"]*)">watch the confirmations', page.body)
    shown = await console.get(link)
    assert re.search(r"Not confirmed yet .* silent : in \d+ (minutes|seconds)", shown.text)
    assert 'data-every="2"' in shown.body


async def test_who_may_not_start_one_is_told(console: Site) -> None:
    """An auditor sees operations, no form to start one, and why; a form that is sent is refused."""
    console.visit(token_of("auditor"))
    shown = await console.get("/operations")
    assert "needs the role operator" in shown.text
    assert 'action="/operations/plan"' not in shown.body
    fields = {"operation": "spring", "action": "recheck", "organization": "acme"}
    assert (await console.post("/operations", **fields)).status == 403


async def test_the_name_of_another_operation(console: Site) -> None:
    """Who takes a name twice learns it above the form, which keeps what was filled in."""
    first = {"operation": "spring", "action": "recheck", "clusters": "acme-prod"}
    assert (await console.post("/operations", **first)).status == 303
    shown = await console.post("/operations", **first | {"clusters": "acme-stage"})
    assert shown.status == 400
    assert "an operation spring already" in shown.text
    assert 'value="spring"' in shown.body


async def test_text_that_turns_the_direction(console: Site) -> None:
    """Whoever reads a page sees what follows another's text as it is, a server's message too."""
    name = "\u202egnirps\u202c \u2066of contract"
    fields = {"operation": name, "action": "recheck", "clusters": "acme-prod"}
    shown = await console.post("/operations", **fields)
    assert shown.status == 400
    assert "of contract" in shown.body
    assert not set("\u202e\u202c\u2066") & set(shown.body)
