"""C8: whoever tries a key, or asks how to let Keyfold use one, leaves an event."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from callers import caller
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KeyNotGrantedError,
    RateLimitedError,
    StoreUnavailableError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.service.root_keys import external_ids
from keyfold_server.service.root_keys.access_policies import (
    AccessPolicyRequest,
    AccessPolicyResult,
)
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trial_results import TestKeyResult
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse, role
from replicas import Member

ENABLED: Final = ("local", "rpc:cluster:enable", "done")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """Gives a house whose KMS describes access policies."""
    built = RegionalHouse(tmp_path)
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """Gives a replica with cluster acme of organization inc."""
    one = await house.replica()
    await one.enable(organization="inc")
    return one


def tried(
    one: Member, uri: str = "fake:one", cluster: str = "acme", who: Caller | None = None
) -> Awaitable[TestKeyResult]:
    """Calls TestKey."""
    request = TestKeyRequest(KeySpec("FAKE", uri), Scope(cluster, "eu", None))
    return one.replica.trials.test(who or caller(), request)


def asked(
    one: Member,
    spec: KeySpec | None = None,
    cluster: str = "acme",
    organization: str | None = None,
    who: Caller | None = None,
) -> Awaitable[AccessPolicyResult]:
    """Calls GetAccessPolicy."""
    request = AccessPolicyRequest(
        spec or KeySpec("FAKE", "fake:one"), Scope(cluster, "", organization)
    )
    return one.replica.access_policies.get(who or caller(), request)


def details(house: RegionalHouse) -> list[dict[str, Any]]:
    """Returns the requests in the audit events."""
    with closing(sqlite3.connect(house.file)) as file:
        rows = file.execute("SELECT detail FROM log WHERE caller <> '' ORDER BY number").fetchall()
    return [json.loads(row[0]) for row in rows]


async def test_a_trial_leaves_an_event(house: RegionalHouse, one: Member) -> None:
    """C8: TestKey stands in the trail of its cluster, with who asked, the key, and the outcome."""
    await tried(one, who=caller("dns:ops"))
    house.provider.fail(AccessDeniedError("no"), operations=("wrap",))
    await tried(one, "fake:two")
    house.provider.mend()
    assert house.trail("acme") == [
        ENABLED,
        ("dns:ops", "rpc:key:testkey", "done"),
        ("local", "rpc:key:testkey", "ACCESS_DENIED"),
    ]
    request = details(house)[-1]
    assert request["key_spec"]["uri"] == "fake:two"
    assert (request["cluster"], request["region"], request["organization"]) == ("acme", "eu", "inc")


async def test_an_access_policy_leaves_an_event(house: RegionalHouse, one: Member) -> None:
    """C8: GetAccessPolicy and each issue of an external id stand in the trail."""
    await asked(one)
    await asked(one, role("fake:one"))
    await asked(one, role("fake:two"))
    assert house.trail("acme")[1:] == [
        ("local", "rpc:key:getaccesspolicy", "done"),
        ("local", "rpc:external_id:issue", "done"),
        ("local", "rpc:key:getaccesspolicy", "done"),
        ("local", "rpc:key:getaccesspolicy", "done"),
    ]


async def test_what_is_hidden_or_absent_stands_in_no_trail(
    house: RegionalHouse, one: Member
) -> None:
    """C8: the event about a hidden or absent cluster is an entry of the log, and in no trail."""
    text = (
        '[[grant]]\ncallers = ["dns:app"]\nroles = ["operator"]\nclusters = ["*"]\n'
        'organizations = ["mine", "*"]\n'
        'keys = [{ type = "FAKE", uri = "fake:one", principal = "ambient" }]\n'
    )
    await one.enable("loose")
    app = Caller(parse(text, "p").rights(Identity(("dns:app",), "certificate")), "ipv4:1.2.3.4:5")
    for cluster in ("loose", "absent"):
        request = TestKeyRequest(KeySpec("FAKE", "fake:one"), Scope(cluster, "eu", "mine"))
        await one.replica.trials.test(app, request)
    assert house.trail(None) == [("dns:app", "rpc:key:testkey", "done")] * 2
    told = details(house)[-2:]
    assert [(d["cluster"], d["organization"]) for d in told] == [
        ("loose", "mine"),
        ("absent", "mine"),
    ]
    assert house.trail("loose") == [ENABLED]


async def test_a_trial_without_a_cluster_leaves_an_event(house: RegionalHouse, one: Member) -> None:
    """C8: a call that names an organization alone, or nothing, is an entry of the log, too."""
    await tried(one, cluster="")
    await asked(one, cluster="", organization="inc")
    assert house.trail(None) == [
        ("local", "rpc:key:testkey", "done"),
        ("local", "rpc:key:getaccesspolicy", "done"),
    ]
    assert [d["organization"] for d in details(house)[-2:]] == [None, "inc"]
    assert house.trail("acme") == [ENABLED]


async def test_who_may_not_ask_leaves_none(house: RegionalHouse, one: Member) -> None:
    """R5: a flood of refused strangers does not fill the trail; the call log has it."""
    rights = parse('[[grant]]\ncallers = ["*"]\nroles = ["operator"]\n', "p").rights(
        Identity(("dns:x",), "certificate")
    )
    for call in (tried(one, who=Caller(rights)), asked(one, who=Caller(rights))):
        with pytest.raises(KeyNotGrantedError):
            await call
    assert house.trail("acme") == [ENABLED]


async def test_who_goes_away_leaves_an_event_too(house: RegionalHouse, one: Member) -> None:
    """C8, W1: a caller that stops waiting tries no key unseen, and keeps its place until then."""
    house.provider.fail(UnreachableError("away"), operations=("unwrap",))
    held = one.line.hold("attempted")
    call = asyncio.ensure_future(tried(one))
    await held.reached()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not one.replica.limits.room.empty
    one.line.let_go("attempted")
    await one.settle()
    assert one.replica.limits.room.empty
    assert house.trail("acme")[1:] == [("local", "rpc:key:testkey", "UNREACHABLE")]


async def test_an_event_that_cannot_be_recorded_fails_the_call(
    house: RegionalHouse, one: Member
) -> None:
    """C8: no key is tried, and no id issued, without an event."""
    one.line.fail("attempted", StoreUnavailableError("the disk is full"))
    for call in (tried(one), asked(one), asked(one, role("fake:one"))):
        with pytest.raises(StoreUnavailableError):
            await call
    # An id and its event are one transaction.
    assert one.line.counts["issue_external_id"] == 1
    assert house.trail("acme")[1:] == [("local", "rpc:external_id:issue", "done")]


async def test_external_ids_are_bounded_per_caller(
    house: RegionalHouse, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C8: a caller cannot fill the store with ids; one that was issued before costs nothing."""
    monkeypatch.setattr(external_ids, "_PER_HOUR", 3)
    for number in range(3):
        await asked(one, role("fake:one"), f"c-{number}")
    with pytest.raises(RateLimitedError, match="at most 3 identities") as caught:
        await asked(one, role("fake:one"), "c-3")
    assert caught.value.retry_after == pytest.approx(1_200)
    assert one.line.counts["issue_external_id"] == 3
    for _ in range(9):
        await asked(one, role("fake:one"), "c-0")
    await asked(one, role("fake:one"), "c-4", who=caller("dns:other"))
    house.clock.advance(1_200)
    await asked(one, role("fake:one"), "c-3")
    monkeypatch.setattr(external_ids, "_CALLERS", 1)
    house.clock.advance(3_600)
    await asked(one, role("fake:one"), "c-5", who=caller("dns:third"))
    ids = one.replica.access_policies._external_ids
    assert set(ids._issued_for) == {"dns:third"}
