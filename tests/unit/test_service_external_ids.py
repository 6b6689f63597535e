"""External ids: Keyfold issues each once, at random, keeps it, and shows it (C2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from builders import an_event
from callers import EVERYTHING
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    AccessDeniedError,
    ExternalIdNotIssuedError,
    KeyNotGrantedError,
)
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse, role
from replicas import Member


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """Gives a house whose KMS demands external ids of roles."""
    built = RegionalHouse(tmp_path)
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """Gives a replica."""
    return await house.replica()


def ids(member: Member) -> ExternalIds:
    """Returns the external ids of a replica."""
    return member.replica.access_policies._external_ids


async def test_an_id_is_issued_once_per_owner(house: RegionalHouse, one: Member) -> None:
    """An id is an organization's where one is named, else a cluster's, for good (protocol C2)."""
    assert await ids(one).issued_to(None, "acme") is None
    first = await ids(one).issue("prod", "acme", an_event(), None)
    assert re.fullmatch(r"[\w+=,.@:\/-]{32,1224}", first)
    assert await ids(one).issue("other", "acme", an_event(), None) == first
    assert await ids(one).issued_to(None, "acme") == first
    cluster = await ids(one).issue("acme", None, an_event(), None)
    assert cluster != first
    two = await house.replica()
    assert await ids(two).issue("acme", None, an_event(), None) == cluster
    assert await ids(two).issued_to("prod", "acme") == first
    assert await ids(one).issued_to(None, None) is None
    with pytest.raises(ValueError, match="organization or a cluster"):
        await ids(one).issue(None, None, an_event(), None)


async def test_two_replicas_issue_one_id(house: RegionalHouse, one: Member) -> None:
    """If two replicas issue at once, both get the first one's id."""
    two = await house.replica()
    issued = await asyncio.gather(
        *(ids(m).issue(None, "acme", an_event(), None) for m in (one, two) * 4)
    )
    assert len(set(issued)) == 1


async def test_without_an_id_no_call_is_made(house: RegionalHouse, one: Member) -> None:
    """EXTERNAL_ID_NOT_ISSUED names the owner and says what to do (protocol C2)."""
    with pytest.raises(ExternalIdNotIssuedError) as caught:
        await one.enable(specs={"eu": role("fake:one")}, organization="acme-inc")
    assert "for organization acme-inc; call GetAccessPolicy" in caught.value.message
    assert (caught.value.cluster, caught.value.region) == ("acme", "eu")
    with pytest.raises(ExternalIdNotIssuedError, match="for cluster acme"):
        await one.enable(specs={"eu": role("fake:one")})
    with pytest.raises(ExternalIdNotIssuedError, match="name one of them"):
        await one.replica.trials.test(
            Caller(EVERYTHING), TestKeyRequest(role("fake:one"), Scope("", "", None))
        )
    assert house.provider.calls == []
    await one.enable()


async def test_a_forbidden_key_is_not_told_to_lack_an_id(one: Member) -> None:
    """Keyfold checks the grant first (protocol C1)."""
    caller = Identity(("dns:app.example",), "certificate")
    text = '[[grant]]\ncallers = ["dns:app.example"]\nroles = ["operator"]\n'
    one.rights = parse(text, "policy.toml").rights(caller)
    with pytest.raises(KeyNotGrantedError):
        await one.enable(specs={"eu": role("fake:one")})


async def test_an_id_is_shown_with_every_call(house: RegionalHouse, one: Member) -> None:
    """Wrapping and unwrapping show the id, and the store keeps it with the wrapped KEK."""
    issued = house.provider.demanded = await ids(one).issue(None, "acme-inc", an_event(), None)
    await one.enable(specs={"eu": role("fake:one")}, organization="acme-inc")
    await one.add_regions({"us": role("fake:two")})
    blob = await one.wrap()
    two = await house.replica()
    assert (await two.unwrap(blob)).region == "eu"
    await one.rotate()
    await one.rotate({"us": "fake:one"})
    assert house.provider.shown == {issued}
    cluster = house.store.cluster("acme")
    assert cluster is not None
    roots = [cluster.region(name).newest.current.root for name in ("eu", "us")]
    assert [root.external_id for root in roots] == [issued, ""]


async def test_another_owners_id_opens_nothing(house: RegionalHouse, one: Member) -> None:
    """A customer's role that trusts one owner's id is of no use to another (protocol C2)."""
    house.provider.demanded = await ids(one).issue(None, "acme-inc", an_event(), None)
    await ids(one).issue(None, "other-inc", an_event(), None)
    with pytest.raises(AccessDeniedError):
        await one.enable(specs={"eu": role("fake:one")}, organization="other-inc")
    await one.enable(specs={"eu": KeySpec("FAKE", "fake:two")}, organization="other-inc")
    with pytest.raises(AccessDeniedError):
        await one.rotate({"eu": role("fake:one")})
