"""ListKeyUsage: who needs a root key, whether it may be disabled, and what hides from whom."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path

import pytest

from builders import a_cluster, an_event
from callers import EVERYTHING
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    InvalidPageError,
    InvalidSelectorError,
    KeyfoldError,
    StoreStaleError,
    UnknownProviderError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionSpec, RootKey
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.service.life.key_usage import KeySelector, KeyUsagePage
from replicas import House, Member, house_in

DAY = 86_400

ONE = KeySelector(uri="fake:one")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a store and a KMS with fake:one and fake:two, without a replica yet."""
    async with house_in(tmp_path) as house:
        yield house


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme of organization a in eu and us, and beta of b in eu."""
    one = await house.replica()
    await one.enable("acme", {"eu": "fake:one", "us": "fake:one"}, organization="a")
    await one.enable("beta", {"eu": "fake:one"}, organization="b")
    return one


def rights(*grants: str) -> Rights:
    """Returns the rights of a caller; each grant is written without its callers."""
    name = "dns:app.example"
    text = "".join(f'[[grant]]\ncallers = ["{name}"]\n{grant}\n' for grant in grants)
    return parse(text, "policy.toml").rights(Identity((name,), "certificate"))


async def asked(
    member: Member,
    selector: KeySelector = ONE,
    who: Rights = EVERYTHING,
    size: int = 0,
    token: str = "",
) -> KeyUsagePage:
    """Asks a replica."""
    return await member.replica.key_usage.page(who, selector, size, token)


async def refused(call: Awaitable[object]) -> KeyfoldError:
    """Returns the error with which a call is refused."""
    with pytest.raises(KeyfoldError) as caught:
        await call
    return caught.value


def shown(page: KeyUsagePage) -> list[tuple[str, str, int, bool]]:
    """Returns what a page shows: cluster, region, generation, and whether it is superseded."""
    return [(use.cluster, use.region, use.generation, use.superseded) for use in page.uses]


async def test_an_old_key_may_go_once_nobody_needs_it(one: Member) -> None:
    """C6: the answer turns to yes with the last rotation, and then the key really is not needed."""
    blobs = [await one.wrap("acme", region) for region in ("eu", "us")]
    blobs.append(await one.wrap("beta", "eu"))
    before = one.house.provider.counts.copy()
    page = await asked(one)
    assert one.house.provider.counts == before  # It asks no KMS.
    assert shown(page) == [
        ("acme", "eu", 1, False),
        ("acme", "us", 1, False),
        ("beta", "eu", 1, False),
    ]
    assert page.safety.safe is False
    assert page.safety.reasons[0] == "it opens 3 generations of enabled regions: callers use them"
    await one.house.after(60)
    await one.rotate({"eu": "fake:two", "us": "fake:two"}, "acme")
    assert (await asked(one)).safety.safe is False
    await one.rotate({"eu": "fake:two"}, "beta")
    page = await asked(one)
    assert page.safety.safe is True
    assert [superseded for *_, superseded in shown(page)] == [True] * 3
    assert "no cluster needs it now" in page.safety.reasons[0]
    assert page.safety.reasons[1].startswith("do not delete it: backups and exports taken from ")
    one.house.provider.disable("fake:one")
    await one.house.after(3_600)
    for blob, cluster in zip(blobs, ("acme", "acme", "beta"), strict=True):
        assert (await one.unwrap(blob, cluster)).plaintext == b"k" * 32
    await one.rotate({"eu": None, "us": None}, "acme", new_generation=True)
    await one.revoke("beta")
    assert (await one.restore("beta")).failed == {}


async def test_what_is_out_of_service_needs_its_key(one: Member) -> None:
    """C6: revoked, deleted and retired keys come back only with their root key."""
    await one.rotate({"eu": None}, "acme", new_generation=True)
    await one.revoke("beta")
    await one.revoke("acme", ["us"])
    await one.delete("acme", ["us"])
    page = await asked(one)
    assert [(u.cluster, u.region, u.generation, u.newest, u.state.value) for u in page.uses] == [
        ("acme", "eu", 1, False, "ENABLED"),
        ("acme", "eu", 1, False, "ENABLED"),
        ("acme", "eu", 2, True, "ENABLED"),
        ("acme", "us", 1, True, "DELETED"),
        ("beta", "eu", 1, True, "REVOKED"),
    ]
    assert page.safety.reasons[:3] == (
        "it opens 2 generations of enabled regions: callers use them",
        "it opens 1 generation of revoked regions: Restore needs it",
        "it opens 1 generation of deleted regions: Restore after an Undelete needs it",
    )
    assert page.safety.safe is False


async def test_hidden_uses_count(one: Member) -> None:
    """C7: who sees a part hears how many others there are, and the answer is about all of them."""
    mine = rights('roles = ["auditor"]\norganizations = ["a"]\nregions = ["eu"]')
    page = await asked(one, who=mine)
    assert shown(page) == [("acme", "eu", 1, False)]
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (1, 2, False)
    assert "(2 hidden from you)" in page.safety.reasons[0]
    await one.rotate({"eu": "fake:two"}, "acme")
    page = await asked(one, who=mine)
    assert shown(page) == [("acme", "eu", 1, True)]
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (1, 2, False)
    await one.rotate({"us": "fake:two"}, "acme")
    await one.rotate({"eu": "fake:two"}, "beta")
    page = await asked(one, who=mine)
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (1, 2, True)


async def test_who_may_not_ask_hears_nothing(one: Member) -> None:
    """C8: a key that only others use looks like one that nobody uses, or that does not exist."""
    stranger = rights('roles = ["auditor", "operator"]\nclusters = ["x-*"]')
    used = await asked(one, who=stranger)
    assert (used.uses, used.safety.safe, used.safety.hidden) == ((), None, 0)
    for other in ("fake:two", "fake:nobody"):
        page = await asked(one, KeySelector(uri=other), stranger)
        assert (page.uses, page.next_token, page.safety) == ((), "", used.safety)
    for selector in (KeySelector(holder="fake"), KeySelector(principal="ambient")):
        assert (await asked(one, selector, stranger)).safety == used.safety
        nowhere = KeySelector(holder="nobody", principal=selector.principal)
        assert (await asked(one, nowhere, stranger)).safety == used.safety
    assert one.line.counts["key_usage_summary"] == 0


async def test_a_grant_that_names_the_key_lets_ask(one: Member) -> None:
    """C7: an operator who may name a key hears how many others need it, and no more."""
    keys = 'keys = [{ type = "FAKE", uri = "fake:o*", principal = "somebody" }]'
    operator = rights(f'roles = ["operator"]\nclusters = ["x-*"]\n{keys}')
    page = await asked(one, who=operator)
    assert (page.uses, page.safety.visible, page.safety.hidden) == ((), 0, 3)
    assert page.safety.safe is False
    page = await asked(one, KeySelector(uri="fake:two"), operator)
    assert page.safety.safe is None
    page = await asked(one, KeySelector(uri="fake:o"), operator)
    assert page.safety.safe is True
    assert "neither now nor in its history" in page.safety.reasons[0]


async def test_a_shared_principal_tells_nothing_of_others(one: Member) -> None:
    """C7: the server's own identity is everybody's, so a narrowed caller hears of its own uses."""
    mine = rights('roles = ["auditor"]\norganizations = ["a"]')
    page = await asked(one, KeySelector(principal="ambient"), mine)
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (2, 0, False)
    assert "Keyfold does not say" in page.safety.reasons[1]
    page = await asked(one, KeySelector(principal="ambient", holder="fake"), mine)
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (2, 1, False)
    page = await asked(one, KeySelector(principal="ambient"))
    assert (page.safety.visible, page.safety.hidden) == (3, 0)


async def test_the_vendors_own_key(house: House) -> None:
    """C7: a PLATFORM key is never safe, and its users learn nothing of one another."""
    house.platform[""] = RootKey("FAKE", "fake:two")
    one = await house.replica()
    await one.enable("acme", {"eu": "PLATFORM"}, organization="a")
    await one.enable("beta", {"eu": "PLATFORM"}, organization="b")
    two = KeySelector(uri="fake:two")
    mine = rights('roles = ["auditor"]\norganizations = ["a"]')
    page = await asked(one, two, mine)
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (1, 0, False)
    for name in ("acme", "beta"):
        await one.rotate({"eu": "fake:one"}, name)
    page = await asked(one, two, mine)
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (1, 0, None)
    page = await asked(one, two)
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (2, 0, False)
    assert "KEYFOLD_PLATFORM_KEY names it" in page.safety.reasons[0]


async def test_the_vendors_key_of_a_region_that_is_not_served(house: House) -> None:
    """C7: a replica that cannot read the uri of another region's PLATFORM key knows whose it is."""
    house.platform["us"] = RootKey("ELSEWHERE", "fake:two")
    one = await house.replica()
    for name, organization in (("acme", "a"), ("beta", "b")):
        await one.enable(name, {"eu": "fake:two"}, organization=organization)
    two = KeySelector(uri="fake:two")
    page = await asked(one, two, rights('roles = ["auditor"]\norganizations = ["a"]'))
    assert (page.safety.visible, page.safety.hidden, page.safety.safe) == (1, 0, False)
    for name in ("acme", "beta"):
        await one.rotate({"eu": "fake:one"}, name)
    assert "KEYFOLD_PLATFORM_KEY names it" in (await asked(one, two)).safety.reasons[0]


async def test_pages(one: Member) -> None:
    """The pages hold every use once, and each costs the same, but for the first, which counts them.

    A token counts only for its own question, whole.
    """
    seen, token = [], ""
    for left in (2, 1, 0):
        page = await asked(one, size=1, token=token)
        seen += shown(page)
        # The first page answers for all uses, so the others need not count them.
        assert (page.safety.visible, page.safety.safe) == ((0, None) if token else (3, False))
        assert bool(page.next_token) == bool(left)
        token = page.next_token or token
    assert one.line.counts["key_usage_summary"] == 1
    assert seen == shown(await asked(one))
    for selector, bad in (
        (KeySelector(uri="fake:two"), token),
        (KeySelector(uri="fake:one", principal="ambient"), token),
        (ONE, "x"),
        (ONE, token[:-4] + "AAA="),
    ):
        error = await refused(asked(one, selector, token=bad))
        assert isinstance(error, InvalidPageError)
        assert error.field == "page_token"
    for size in (-1, 1_001):
        assert isinstance(await refused(asked(one, size=size)), InvalidPageError)


@pytest.mark.parametrize(
    ("selector", "kind", "field"),
    [
        (KeySelector(), InvalidSelectorError, "selector"),
        (KeySelector(key_version="1"), InvalidSelectorError, "selector.key_version"),
        (
            KeySelector(key_version="1", holder="fake"),
            InvalidSelectorError,
            "selector.key_version",
        ),
        (KeySelector(uri="x" * 1_025), InvalidSelectorError, "selector.uri"),
        (KeySelector(uri="fake:a\nb"), InvalidSelectorError, "selector.uri"),
        (KeySelector(holder="a\x1bb"), InvalidSelectorError, "selector.holder"),
        (KeySelector(uri="arn:aws:kms"), InvalidKeySpecError, "selector.uri"),
        (KeySelector(uri="fake:-"), InvalidKeySpecError, "selector.uri"),
    ],
)
async def test_what_no_key_can_be(
    one: Member, selector: KeySelector, kind: type[KeyfoldError], field: str
) -> None:
    """A question that says nothing, or names no key, gets an error that names the field."""
    error = await refused(asked(one, selector))
    assert isinstance(error, kind)
    assert error.field == field


async def test_a_key_that_the_settings_no_longer_know(one: Member) -> None:
    """C6: what uses a key counts even if no provider of today takes its uri."""

    def nobody(uri: str) -> str:
        raise UnknownProviderError(f"nobody has {uri}", field="key_spec.uri")

    names = one.replica.key_usage._names
    object.__setattr__(names, "type_of", nobody)
    assert len((await asked(one)).uses) == 3
    error = await refused(asked(one, KeySelector(uri="fake:two")))
    assert isinstance(error, UnknownProviderError)
    assert error.field == "selector.uri"
    stranger = rights('roles = ["auditor"]\nclusters = ["x-*"]')
    assert isinstance(await refused(asked(one, who=stranger)), UnknownProviderError)


async def test_versions_principals_and_holders(one: Member) -> None:
    """C6: each part of the question narrows the answer, and a uri has one canonical form."""
    spec = RegionSpec("eu", KeySpec("FAKE", "fake:one", "somebody"))
    await one.enable("gamma", {"eu": spec})
    one.house.provider.new_version("fake:one")
    await one.rotate({"eu": None}, "beta")

    async def uses(**parts: str) -> list[str]:
        page = await asked(one, KeySelector(**parts))
        return [use.cluster for use in page.uses]

    everyone = ["acme", "acme", "beta", "beta", "gamma"]
    assert await uses(uri="fake:///one") == everyone
    assert await uses(uri="fake:one", key_version="2") == ["beta"]
    assert await uses(uri="fake:one", key_version="1") == ["acme", "acme", "beta", "gamma"]
    assert await uses(uri="fake:one", principal="ambient") == ["acme", "acme", "beta", "beta"]
    assert await uses(principal="somebody") == ["gamma"]
    assert await uses(holder="fake") == everyone
    assert await uses(holder="fake", principal="somebody") == ["gamma"]
    assert await uses(uri="fake:one", holder="other") == []


async def test_backups_that_still_need_it(one: Member) -> None:
    """C6: the answer names the backups that only this key opens, until they are all gone."""
    start = round(one.house.clock.wall() * 1000)
    page = await asked(one)
    assert (page.safety.since, page.safety.until) == (None, None)  # Not a moment has passed.
    await one.house.after(10 * DAY)
    page = await asked(one)
    assert (page.safety.since, page.safety.until) == (start, None)
    await one.rotate({"eu": "fake:two", "us": "fake:two"}, "acme")
    await one.rotate({"eu": "fake:two"}, "beta")
    page = await asked(one)
    assert (page.safety.since, page.safety.until) == (start, start + 10 * DAY * 1000)
    assert page.safety.reasons[1] == (
        "do not delete it: backups and exports taken from 2027-01-15T08:00:00Z to "
        "2027-01-25T08:00:00Z hold wraps that only it opens, and the last of them is kept until "
        "2027-02-24T08:00:00Z (KEYFOLD_BACKUP_RETENTION is 30 days)"
    )
    await one.house.after(25 * DAY)
    page = await asked(one)
    assert page.safety.since == start + 5 * DAY * 1000
    await one.house.after(6 * DAY)
    page = await asked(one)
    assert (page.safety.since, page.safety.until, page.safety.safe) == (None, None, True)
    assert page.safety.reasons[1].startswith("no backup that still exists holds a wrap under it")


async def test_rows_that_are_not_authentic(one: Member) -> None:
    """A1, C7: what cannot be verified is named to who may see it, and the answer is no."""
    for name in ("acme", "beta"):
        await one.rotate({"eu": "fake:two"}, name)
    await one.rotate({"us": "fake:two"}, "acme")
    assert (await asked(one)).safety.safe is True
    with closing(sqlite3.connect(one.house.file)) as file:
        file.execute("UPDATE clusters SET epoch = epoch + 1 WHERE name = 'beta'")
        file.commit()
    page = await asked(one)
    assert [error.cluster for error in page.spoilt] == ["beta"]
    assert len(page.uses) == 2
    assert page.safety.safe is False
    assert page.safety.reasons[0].startswith("could not tell: the stored rows of beta are not")
    first = await asked(one, size=2)
    last = await asked(one, size=2, token=first.next_token)
    assert (first.safety.safe, last.safety.safe) == (True, False)
    assert last.safety.reasons == page.safety.reasons[:1]
    # Nobody can trust the organization in such a row.
    page = await asked(one, who=rights('roles = ["auditor"]\norganizations = ["*"]'))
    assert page.spoilt == ()
    assert page.safety.reasons[0].startswith("could not tell: rows of clusters that you may not")


async def test_banned_clusters_without_rows(one: Member) -> None:
    """A6, C7: a banned cluster whose rows are gone may have needed any key."""
    page = await asked(one, KeySelector(uri="fake:two"))
    assert page.safety.safe is True
    one.house.store.ban(Ban("ghost", an_event(), a_cluster("ghost")))
    page = await asked(one, KeySelector(uri="fake:two"))
    assert page.safety.safe is False
    assert page.safety.reasons[0].startswith("could not tell: 1 cluster is banned and has no rows")


async def test_a_stale_replica_does_not_answer(one: Member) -> None:
    """S3: whoever has not seen the store for too long does not say that a key may go."""
    one.house.clock.advance(3_600)
    assert isinstance(await refused(asked(one)), StoreStaleError)
