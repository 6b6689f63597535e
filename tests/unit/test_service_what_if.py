"""ListKeyUsage with `what_if`: which uses an action concerns, and what it says of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from callers import EVERYTHING
from fakes import FakeProvider
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    InvalidPageError,
    InvalidSelectorError,
    KeyDisabledError,
    KeyNotFoundError,
)
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.domain.what_if import Reach, WhatIf, When
from keyfold_server.providers.vault.foresight import Foresight
from keyfold_server.service.life.key_usage import KeySelector, KeyUsagePage
from replicas import House, Member, house_in, under

ONE: Final = KeySelector(uri="fake:one")


class FakeVault(Foresight, FakeProvider):
    """A KMS in memory that stops versions as Vault does."""


class FakeGoogle(FakeVault):
    """A KMS in memory that stops versions one by one."""

    def reach(self, what: WhatIf) -> Reach:
        return Reach.VERSION


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a store and a KMS with fake:one and fake:two, without a replica yet."""
    async with house_in(tmp_path) as house:
        yield house


async def a_member(house: House, kms: type[FakeProvider] = FakeProvider) -> Member:
    """Starts a replica whose KMS is of a class, and enables cluster acme in eu."""
    house.provider = kms()
    house.provider.create_key("one")
    house.provider.create_key("two")
    member = await house.replica()
    await member.enable()
    return member


async def asked(
    member: Member,
    what: WhatIf | None = WhatIf.DISABLE,
    selector: KeySelector = ONE,
    who: Rights = EVERYTHING,
    size: int = 0,
    token: str = "",
) -> KeyUsagePage:
    """Asks a replica."""
    return await member.replica.key_usage.page(who, selector, size, token, what)


async def test_each_use_has_its_impact(house: House) -> None:
    """C6: what is said is in the order of the uses, and asks no KMS."""
    member = await a_member(house)
    await member.rotate({"eu": None}, new_generation=True)
    await member.rotate({"eu": "fake:two"}, "acme")
    await member.enable("beta", {"eu": "fake:one"})
    before = house.provider.counts.copy()
    page = await asked(member)
    assert house.provider.counts == before
    assert [
        (use.cluster, use.generation, use.superseded, said.stops)
        for use, said in zip(page.uses, page.impacts, strict=True)
    ] == [
        ("acme", 1, True, False),
        ("acme", 1, True, False),
        ("acme", 2, True, False),
        ("beta", 1, False, True),
    ]
    assert (await asked(member, None)).impacts == ()


async def test_a_region_has_its_own_time(house: House) -> None:
    """F1: the policy of the region counts, and the server's where it leaves a span open."""
    member = await a_member(house)
    await member.enable("beta", {"eu": under("fake:one", ttl=5.0)})
    await member.enable("never", {"eu": under("fake:one", ttl=0.0)})
    said = (await asked(member)).impacts
    assert [(each.when, each.stops_within) for each in said] == [
        (When.AT_ONCE, 60 + 15),
        (When.AT_ONCE, 5 + 15),
        (When.AT_ONCE, 0),
    ]


async def test_a_provider_that_foresees_nothing_gives_no_all_clear(house: House) -> None:
    """Another package's provider need not know: then every use is said to stop."""
    member = await a_member(house)
    for what in WhatIf:
        [said] = (await asked(member, what)).impacts
        assert said.stops, what
        assert "does not say" in said.because


async def test_a_provider_that_is_gone_gives_no_all_clear(house: House) -> None:
    """A server that has lost the provider of a stored key expects the worst of its KMS."""
    member = await a_member(house, FakeVault)
    kms: Any = member.replica._kms
    kms._made.clear()
    house.provider_of = lambda type_: House.provider_of(house, f"NO_{type_}")  # type: ignore[method-assign]
    kms._providers = house.provider_of
    [said] = (await asked(member, selector=KeySelector(holder="fake"))).impacts
    assert "does not say" in said.because


@pytest.mark.parametrize("what", WhatIf)
async def test_a_version_needs_a_button_of_its_own(house: House, what: WhatIf) -> None:
    """A KMS that can only do it to the whole key gets no answer about a version, found or not."""
    member = await a_member(house)
    for version in ("1", "9"):
        with pytest.raises(InvalidSelectorError, match="with all its versions") as caught:
            await asked(member, what, KeySelector("fake:one", version))
        assert caught.value.field == "selector.key_version"
    # Without the question, a version may be looked for.
    assert len((await asked(member, None, KeySelector("fake:one", "1"))).uses) == 1


async def versions(house: House, kms: type[FakeProvider]) -> Member:
    """Makes clusters under versions 1, 2 and 3 of fake:one."""
    member = await a_member(house, kms)
    for name in ("beta", "gamma"):
        house.provider.new_version("fake:one")
        await member.enable(name, {"eu": "fake:one"})
    return member


async def test_older_versions_stop_with_a_version(house: House) -> None:
    """C6: where a KMS stops versions from the oldest on, the uses of all of these are listed."""
    member = await versions(house, FakeVault)
    page = await asked(member, selector=KeySelector("fake:one", "2"))
    assert [(u.cluster, u.key_version) for u in page.uses] == [("acme", "1"), ("beta", "2")]
    assert {said.error for said in page.impacts} == {KeyDisabledError}
    assert any("together with all older ones" in reason for reason in page.safety.reasons)
    gone = await asked(member, WhatIf.DELETE, KeySelector("fake:one", "2"))
    assert {said.error for said in gone.impacts} == {KeyNotFoundError}
    assert not any(said.resumes for said in gone.impacts)
    with pytest.raises(InvalidSelectorError, match="is a number"):
        await asked(member, selector=KeySelector("fake:one", "two"))


async def test_a_version_may_be_the_one_that_wraps(house: House) -> None:
    """C6: the store does not know it, so the answer says what happens to the other uses then."""
    member = await versions(house, FakeGoogle)
    page = await asked(member, selector=KeySelector("fake:one", "3"))
    assert [use.cluster for use in page.uses] == ["gamma"]
    assert any("the one that wraps" in reason for reason in page.safety.reasons)


async def test_a_version_is_as_safe_as_what_goes_with_it(house: House) -> None:
    """C6: an unused version is not called safe where the KMS disables used ones with it."""
    member = await versions(house, FakeVault)
    await member.rotate({"eu": "fake:two"}, "beta")
    unused = KeySelector("fake:one", "2")
    for what in (None, WhatIf.DISABLE):
        page = await asked(member, what, unused)
        assert page.safety.safe is False, "version 1 would go with it"
    house.provider.__class__ = FakeProvider
    page = await asked(member, None, unused)
    assert page.safety.safe is False, "the whole key would go with it"
    assert "with all its versions" in page.safety.reasons[0]
    assert page.safety.visible == 1, "the counts are of what was asked for"
    house.provider.__class__ = FakeGoogle
    assert (await asked(member, WhatIf.DISABLE, unused)).safety.safe is True


async def test_a_gone_principal_is_gone_for_all_keys(house: House) -> None:
    """C6: whoever asks about one key hears how to see all that stops."""
    member = await a_member(house)
    page = await asked(member, WhatIf.REMOVE_PRINCIPAL)
    assert any("gone for all keys" in reason for reason in page.safety.reasons)
    ambient = await asked(member, WhatIf.REMOVE_PRINCIPAL, KeySelector(principal="ambient"))
    assert not any("gone for all keys" in reason for reason in ambient.safety.reasons)


async def test_a_deletion_is_never_called_safe(house: House) -> None:
    """C6: the one answer that Keyfold does not give."""
    page = await asked(await a_member(house), WhatIf.DELETE, KeySelector("fake:two"))
    assert page.safety.safe is True
    assert any("never called safe" in reason for reason in page.safety.reasons)


async def test_hidden_uses_stay_hidden(house: House) -> None:
    """C7: impacts are of the uses that the caller may see, and the others are counted."""
    member = await a_member(house)
    await member.enable("beta", {"eu": "fake:one"})
    text = '[[grant]]\ncallers = ["dns:a"]\nroles = ["operator"]\nclusters = ["beta"]\n'
    narrow = parse(text, "policy.toml").rights(Identity(("dns:a",), "certificate"))
    page = await asked(member, who=narrow)
    assert [use.cluster for use in page.uses] == ["beta"]
    assert len(page.impacts) == 1
    assert page.safety.hidden == 1


async def test_pages_belong_to_their_question(house: House) -> None:
    """A token of a question about older versions, too, is none of a question about one."""
    member = await versions(house, FakeVault)
    selector = KeySelector("fake:one", "2")
    first = await asked(member, selector=selector, size=1)
    second = await asked(member, selector=selector, size=1, token=first.next_token)
    assert [use.cluster for use in (*first.uses, *second.uses)] == ["acme", "beta"]
    with pytest.raises(InvalidPageError):
        await asked(member, None, selector, token=first.next_token)
