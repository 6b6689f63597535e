"""Events: what happened is listed as the log has it, and each caller sees its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING, caller
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    InvalidPageError,
    KeyDisabledError,
    KeyfoldError,
    NotAllowedError,
)
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.log import EntryKind, KeyName
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.rpc.messages import events
from keyfold_server.service.events.listing import VisibleEvent
from keyfold_server.service.life.requests import MutationCall
from keyfold_server.service.life.revocation import RevokeRequest
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from replicas import House, Member, house_in

ADA: Final = Identity(("dns:ada.example",), "certificate")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a store and a KMS with fake:one and fake:two, without a replica yet."""
    async with house_in(tmp_path) as house:
        yield house


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with acme of organization a in eu and us, and beta of b in eu."""
    one = await house.replica()
    await one.enable("acme", {"eu": "fake:one", "us": "fake:one"}, organization="a")
    await one.enable("beta", {"eu": "fake:two"}, organization="b")
    return one


def rights(*grants: str) -> Rights:
    """Returns the rights of Ada; each grant is written without its callers."""
    text = "".join(f'[[grant]]\ncallers = ["{ADA.name}"]\n{grant}\n' for grant in grants)
    return parse(text, "policy.toml").rights(ADA)


def auditor(narrow: str = "") -> Rights:
    """Returns the rights of an auditor."""
    return rights(f'roles = ["auditor"]\n{narrow}')


EVERY: Final = EventFilter()


async def listed(
    member: Member,
    which: EventFilter = EVERY,
    who: Rights = EVERYTHING,
    *,
    newest_first: bool = False,
    size: int = 0,
) -> list[VisibleEvent]:
    """Lists all events, page by page."""
    found: list[VisibleEvent] = []
    token = ""
    while True:
        page = await member.replica.events.page(who, which, size, token, newest_first=newest_first)
        assert len(page.events) <= (size or 100)
        found += page.events
        token = page.next_token
        if not token:
            return found


async def told(member: Member, which: EventFilter = EVERY, who: Rights = EVERYTHING) -> list[str]:
    """Lists all events in short: the last word of the action, the cluster, and the outcome."""
    return [
        f"{e.event.action.rsplit(':', 1)[1]} {e.event.cluster or '-'} {e.event.outcome}"
        for e in await listed(member, which, who)
    ]


async def refuse(member: Member, cluster: str, key: str) -> None:
    """Has the KMS refuse a key that a cluster uses, and records that."""
    await member.wrap(cluster)
    member.house.provider.disable(key)
    await member.house.after(61)
    with pytest.raises(KeyDisabledError):
        await member.wrap(cluster)
    await member.settle()


async def test_an_event_says_who_what_and_why(one: Member) -> None:
    """Who, for whom, from where, what, on what, outcome, reason, request and trace are told."""
    who = Caller(rights('roles = ["operator"]'), "ipv4:192.0.2.1:9", "grace@example.org", "ab" * 16)
    request = RevokeRequest("acme", ("eu",), "contract ended")
    deadline = one.house.clock.monotonic() + 10
    await one.replica.revocation.revoke(MutationCall(who, "Revoke", "r-1", request, deadline))
    [shown] = await listed(one, EventFilter(action="rpc:cluster:revoke"))
    event = shown.event
    assert (event.caller, event.proof, event.address) == (ADA.name, "certificate", who.address)
    assert (event.on_behalf_of, event.reason) == ("grace@example.org", "contract ended")
    assert (event.request_id, event.trace_id) == ("r-1", "ab" * 16)
    assert (event.kind, event.outcome, event.epoch) == (EntryKind.DECISION, "done", 1)
    assert (event.cluster, event.organization, shown.regions) == ("acme", "a", ("eu",))
    assert event.replica == one.changes.replica
    assert event.time == int(one.house.clock.wall() * 1000)


async def test_a_refusal_tells_what_the_kms_said(one: Member) -> None:
    """A refusal has the root key's name, the KMS's message, and the KMS's own id of its answer."""
    await refuse(one, "acme", "fake:one")
    [shown] = await listed(one, EventFilter(kinds=frozenset([EntryKind.REFUSAL])))
    event = shown.event
    assert event.key == KeyName("FAKE", "fake:one")
    assert (event.outcome, event.action) == ("KEY_DISABLED", "kms:root_key:refuse")
    assert event.message
    assert event.refused
    # The key's name stays, although no wrap under the key is left.
    one.house.provider.enable("fake:one")
    await one.house.after(61)
    await one.rotate({"eu": "fake:two", "us": "fake:two"})
    assert event in [e.event for e in await listed(one)]


async def test_refused_calls_and_trials_are_events(one: Member) -> None:
    """R5, C8: refused calls, dry runs, TestKey and GetAccessPolicy are events."""
    one.house.provider.disable("fake:two")
    for work in (
        one.enable("new", {"eu": "fake:two"}, organization="a"),
        one.rotate({"eu": "fake:two"}),
    ):
        with pytest.raises(KeyDisabledError):
            await work
    await one.rotate({"eu": None}, validate_only=True)
    spec, scope = KeySpec("FAKE", "fake:two"), Scope("acme", "eu", None)
    await one.replica.trials.test(caller(), TestKeyRequest(spec, scope))
    with pytest.raises(KeyfoldError):
        await one.replica.access_policies.get(caller(), AccessPolicyRequest(spec, scope))
    assert (await told(one))[2:] == [
        "enable new KEY_DISABLED",
        "rotate acme KEY_DISABLED",
        "rotate acme validated",
        "testkey acme KEY_DISABLED",
        "getaccesspolicy acme INVALID_KEY_SPEC",
    ]
    refused = [e.event for e in await listed(one, EventFilter(only_refused=True))]
    assert [each.outcome for each in refused] == ["KEY_DISABLED"] * 3 + ["INVALID_KEY_SPEC"]
    assert all(each.message for each in refused)
    assert refused[0].organization == "a"
    assert refused[2].key == KeyName("FAKE", "fake:two")


async def test_an_organization_sees_its_own(one: Member) -> None:
    """C7: a narrowed grant shows its clusters' events and those of their root keys, and no more."""
    await refuse(one, "acme", "fake:one")
    await refuse(one, "beta", "fake:two")
    everything = await told(one)
    assert everything == [
        "enable acme done",
        "enable beta done",
        "use acme done",
        "refuse - KEY_DISABLED",
        "use beta done",
        "refuse - KEY_DISABLED",
    ]
    mine = ["enable acme done", "use acme done", "refuse - KEY_DISABLED"]
    for narrow in ('organizations = ["a"]', 'clusters = ["acme"]', 'organizations = ["a*"]'):
        assert await told(one, who=auditor(narrow)) == mine
        [refusal] = await listed(
            one, EventFilter(kinds=frozenset([EntryKind.REFUSAL])), auditor(narrow)
        )
        assert refusal.event.key == KeyName("FAKE", "fake:one")
    assert await told(one, who=auditor('organizations = ["c"]')) == []
    assert await told(one, who=rights('roles = ["operator"]')) == []


async def test_what_is_hidden_looks_absent(one: Member) -> None:
    """C7: a filter that names what is hidden finds what a filter of unknown names finds."""
    for _ in range(3):
        await one.revoke("beta")
    for narrow in ('organizations = ["a"]', 'clusters = ["acme"]'):
        for hidden, absent in (
            (EventFilter(cluster="beta"), EventFilter(cluster="nope")),
            (EventFilter(organization="b"), EventFilter(organization="nope")),
        ):
            pages = [
                await one.replica.events.page(auditor(narrow), which, 1, "", newest_first=False)
                for which in (hidden, absent)
            ]
            assert [(page.events, page.next_token) for page in pages] == [((), ""), ((), "")]


async def test_what_concerns_the_whole_store_needs_a_whole_grant(one: Member) -> None:
    """An entry about the store is visible only under a grant that narrows nothing."""
    await one.house.after(100)
    one.house.store.prune(int(one.house.clock.wall() * 1000), 1_000)
    pruned = EventFilter(kinds=frozenset([EntryKind.PRUNING]))
    assert len(await listed(one, pruned, auditor())) == 1
    for narrow in ('organizations = ["*"]', 'clusters = ["*e*"]', 'regions = ["*u*"]'):
        assert await listed(one, pruned, auditor(narrow)) == []


async def test_a_grant_of_some_regions_shows_those(one: Member) -> None:
    """A grant narrowed to regions shows events of these, without details of the others."""
    await one.revoke("acme", ["eu"])
    await one.revoke("acme")
    shown = await listed(one, EventFilter(cluster="acme"), auditor('regions = ["us"]'))
    # The second Revoke named no region, so it may tell of any.
    assert [(each.regions, each.whole) for each in shown] == [(("us",), False), (("us",), False)]
    await one.restore("acme", ["us"])
    assert (await listed(one, EventFilter(cluster="acme"), auditor('regions = ["us"]')))[-1].whole
    whole = await listed(one, EventFilter(cluster="acme"))
    assert [each.regions for each in whole] == [("eu", "us"), ("eu",), ("us",), ("us",)]
    assert all(each.whole for each in whole)


async def test_a_grant_of_some_regions_hears_nothing_of_what_the_others_met(one: Member) -> None:
    """What a Restore of a cluster says of one region does not show who may see another (C7)."""
    await one.enable("ours", {"eu": "fake:one", "us": "fake:two"}, organization="a")
    await one.revoke("ours")
    one.house.provider.disable("fake:two")
    await one.restore("ours")
    which = EventFilter(action="rpc:cluster:restore")
    [whole] = await listed(one, which)
    assert "us" in whole.event.message
    for narrow, seen in (('regions = ["eu"]', [("eu",)]), ('regions = ["us"]', [])):
        shown = await listed(one, which, auditor(narrow))
        assert [each.regions for each in shown] == seen
        for each in shown:
            message = events.event(each)
            assert not message.message
            assert not message.HasField("detail")


async def test_a_request_that_names_a_hidden_region_shows_no_details(one: Member) -> None:
    """Details are left out even if only the request, and not the decision, names the region."""
    await one.enable("ours", {"eu": "fake:one", "us": "fake:two"}, organization="a")
    await one.revoke("ours")
    one.house.provider.disable("fake:two")
    await one.restore("ours", ["eu", "us"])
    [shown] = await listed(
        one, EventFilter(action="rpc:cluster:restore"), auditor('regions = ["eu"]')
    )
    assert (shown.regions, shown.whole) == (("eu",), False)


async def test_a_refused_request_is_found_by_the_regions_and_keys_that_it_names(
    one: Member,
) -> None:
    """Who tried to use a key shows, though nothing came of it, and in its own region only (C7)."""
    one.house.provider.disable("fake:two")
    for attempt in (
        one.enable("ours", {"us": "fake:two"}, organization="a"),
        one.add_regions({"ap": "fake:two"}),
        one.rotate({"us": "fake:two"}),
    ):
        with pytest.raises(KeyDisabledError):
            await attempt
    which = EventFilter(key_uri="fake:two", kinds=frozenset([EntryKind.ATTEMPT]))
    assert [each.regions for each in await listed(one, which)] == [("us",), ("ap",), ("us",)]
    us = await listed(one, which, auditor('regions = ["us"]'))
    assert [(each.regions, each.whole) for each in us] == [(("us",), True)] * 2
    assert await listed(one, which, auditor('regions = ["eu"]')) == []


async def test_a_filter_by_key_tells_nothing_of_hidden_regions(one: Member) -> None:
    """Nobody finds out the key of a region that is hidden by asking for events about it (C7)."""
    await one.enable("ours", {"eu": "fake:one", "us": "fake:two"}, organization="a")
    for narrow, uri in (("eu", "fake:one"), ("us", "fake:two")):
        who = auditor(f'clusters = ["ours"]\nregions = ["{narrow}"]')
        for asked in ("fake:one", "fake:two"):
            shown = await told(one, EventFilter(key_uri=asked), who)
            assert shown == (["enable ours done"] if asked == uri else [])


async def test_pages_come_in_either_order(one: Member) -> None:
    """Pages of any size hold every event once, and the opposite order is the exact opposite."""
    for _ in range(4):
        await one.revoke()
    numbers = [each.event.number for each in await listed(one)]
    assert numbers == list(range(1, 7))
    for size in (1, 2, 5, 6, 7):
        assert [e.event.number for e in await listed(one, size=size)] == numbers
        backwards = await listed(one, newest_first=True, size=size)
        assert [e.event.number for e in backwards] == numbers[::-1]


async def test_a_page_token_is_sealed(one: Member) -> None:
    """A token that was changed, made up, or used with another filter or order is refused."""
    events = one.replica.events
    first = await events.page(EVERYTHING, EVERY, 1, "", newest_first=False)
    changed = first.next_token[:-6] + ("A" if first.next_token[-6] != "A" else "B") * 6
    for token in (changed, "AAAA", "nonsense!", "\u00e9", first.next_token + "AAAA"):
        with pytest.raises(InvalidPageError, match="not one that this server gave out"):
            await events.page(EVERYTHING, EVERY, 1, token, newest_first=False)
    other = EventFilter(cluster="acme")
    for which, backwards in ((other, False), (EVERY, True)):
        with pytest.raises(InvalidPageError, match="another filter or order"):
            await events.page(EVERYTHING, which, 1, first.next_token, newest_first=backwards)
    for size in (-1, 1_001):
        with pytest.raises(InvalidPageError, match="page_size"):
            await events.page(EVERYTHING, EVERY, size, "", newest_first=False)


async def test_a_page_ends_after_bounded_work(one: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that finds nothing for long ends its page early; the next one goes on."""
    monkeypatch.setattr("keyfold_server.service.events.listing._READ", 3)
    for _ in range(8):
        await one.revoke()
    await one.enable("last", {"eu": "fake:one"})
    which = EventFilter(outcome="done", action="rpc:cluster:enable", key_uri="fake:one")
    page = await one.replica.events.page(EVERYTHING, which, 2, "", newest_first=False)
    assert [each.event.cluster for each in page.events] == ["acme"]
    assert page.next_token
    assert [each.event.cluster for each in await listed(one, which, size=2)] == ["acme", "last"]


FILTERS: Final = {
    "a caller": (EventFilter(caller="spiffe://x/bob"), ["revoke acme done"]),
    "a key that a request names": (EventFilter(key_uri="fake:two"), ["enable beta done"]),
    "a kind": (EventFilter(kinds=frozenset([EntryKind.IDENTITY])), []),
    "an outcome": (EventFilter(outcome="unchanged"), ["restore acme unchanged"]),
    "a time": (
        EventFilter(start=1_800_000_100_000),
        ["restore acme done", "restore acme unchanged"],
    ),
    "an end": (
        EventFilter(end=1_800_000_100_000, organization="a"),
        ["enable acme done", "revoke acme done"],
    ),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_selects(one: Member, name: str) -> None:
    """Each field of the filter selects what it says, alone or with others."""
    await one.revoke(caller="spiffe://x/bob")
    one.house.clock.advance(100)
    await one.poll()
    await one.restore()
    await one.restore()
    which, wanted = FILTERS[name]
    assert await told(one, which) == wanted


async def test_no_event_holds_key_material(one: Member) -> None:
    """No event of a whole life holds a byte string that was drawn or wrapped, in any writing."""
    await one.wrap()
    await one.rotate({"eu": "fake:two"}, new_generation=True)
    await one.revoke()
    await one.restore()
    await refuse(one, "beta", "fake:two")
    secrets = {*one.house.drawn, *one.house.provider.secrets()}
    assert secrets
    text = repr([each.event for each in await listed(one)])
    for secret in secrets:
        for part in (secret, secret[:16], secret[16:32]):
            assert part.hex() not in text.lower()
            assert repr(part)[2:-1] not in text
    assert re.search(r"[0-9a-f]{64}", text) is None


async def test_verification_needs_a_whole_grant(one: Member) -> None:
    """The chain is of the whole store, so a narrowed grant can neither verify nor anchor it."""
    checks = one.replica.log_checks
    for narrow in ('organizations = ["*"]', 'clusters = ["*e*"]', 'regions = ["*u*"]'):
        with pytest.raises(NotAllowedError, match="VerifyEvents"):
            await checks.verify(auditor(narrow), "", ())
        with pytest.raises(NotAllowedError, match="GetAnchor"):
            await checks.anchor(auditor(narrow))
    assert (await checks.verify(auditor(), "", ())).check.complete
