"""ListUsage: how often callers used the keys of clusters (protocol S7, C7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callers import EVERYTHING
from keyfold_server.access.policy.grants import Grant, Role
from keyfold_server.access.policy.rights import CachedPolicy, Policy
from keyfold_server.domain.errors import (
    InvalidPageError,
    StoreStaleError,
    StoreUnavailableError,
)
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.domain.usage import MINUTE, UsageFilter
from keyfold_server.service.events.usage import UsageCount
from keyfold_server.service.observed import usage
from replicas import House, Member, house_in, spin

ALL = UsageFilter()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with clusters acme and rival, each in use and of its own organization."""
    member = await house.replica()
    for name in ("acme", "rival"):
        await member.enable(name, organization=name)
        await member.wrap(name)
    return member


def use(
    member: Member, cluster: str = "acme", region: str = "eu", items: int = 1, outcome: str = "OK"
) -> None:
    """Counts uses, as the server does after a call."""
    time = member.house.clock.wall()
    member.replica.usage_recorder.add(time, "Wrap", cluster, region, "me", outcome, items)


async def listed(
    member: Member, which: UsageFilter = ALL, rights: Rights = EVERYTHING, size: int = 0
) -> list[UsageCount]:
    """Lists counts, over all pages."""
    found: list[UsageCount] = []
    token = ""
    while True:
        page = await member.replica.usage.page(rights, which, size, token)
        found += page.counts
        token = page.next_token
        if not token:
            return found


def auditor(organization: str, region: str | None = None) -> Rights:
    """Makes the rights of an auditor of one organization."""
    grant = Grant(
        "tests",
        Patterns((Pattern("*"),)),
        frozenset({Role.AUDITOR}),
        organizations=Patterns((Pattern(organization),)),
        regions=None if region is None else Patterns((Pattern(region),)),
    )
    return CachedPolicy(Policy((grant,))).rights(Identity(("auditor",), "token"))


async def test_uses_are_counted_by_the_minute(house: House, one: Member) -> None:
    """A minute's uses of one kind are one count, from all replicas together."""
    two = await house.replica()
    await two.wrap("acme")
    for member in (one, two):
        use(member, items=2)
        await member.replica.usage_recorder.flush()
    house.clock.advance(60)
    use(one)
    await one.replica.usage_recorder.flush()
    counts = await listed(one)
    assert [each.count for each in counts] == [4, 1]
    assert {each.organization for each in counts} == {"acme"}
    assert counts[1].key.time - counts[0].key.time == MINUTE
    assert [each.count for each in await listed(one, UsageFilter(span=60 * MINUTE))] == [5]


async def test_made_up_names_are_not_counted(one: Member) -> None:
    """Nobody fills the store with names of clusters and regions that do not exist."""
    use(one, cluster="made-up", outcome="CLUSTER_NOT_FOUND")
    use(one, region="made-up", outcome="REGION_NOT_FOUND")
    use(one, region="made-up-too", outcome="REGION_NOT_FOUND")
    await one.replica.usage_recorder.flush()
    [count] = await listed(one)
    assert (count.key.cluster, count.key.region, count.count) == ("acme", "", 2)


async def test_a_change_loses_no_use(one: Member) -> None:
    """Calls that ended before a change are counted after it, when the cluster is out of memory."""
    use(one, outcome="DEADLINE")
    for name in ("acme", "rival"):
        await one.revoke(name)
    use(one)
    use(one, outcome="REVOKED")
    use(one, cluster="rival")
    await one.replica.usage_recorder.flush()
    found = {(c.key.cluster, c.key.region, c.key.outcome): c.count for c in await listed(one)}
    assert found == {
        ("acme", "eu", "DEADLINE"): 1,
        ("acme", "eu", "OK"): 1,
        ("acme", "eu", "REVOKED"): 1,
        ("rival", "eu", "OK"): 1,
    }


async def test_a_call_that_succeeded_tells_of_its_cluster(one: Member) -> None:
    """A cluster that a change dropped before anything was counted is none that somebody made up."""
    await one.revoke("acme")
    use(one)
    use(one, outcome="CONTEXT_MISMATCH")
    use(one, region="made-up", outcome="REGION_NOT_FOUND")
    await one.replica.usage_recorder.flush()
    assert {(c.key.region, c.key.outcome): c.count for c in await listed(one)} == {
        ("eu", "OK"): 1,
        ("eu", "CONTEXT_MISMATCH"): 1,
        ("", "REGION_NOT_FOUND"): 1,
    }


async def test_a_store_that_is_away_costs_no_count(one: Member) -> None:
    """S7: counts wait for the store, and an answer that got lost adds none twice."""
    use(one)
    one.line.fail("count_usage", StoreUnavailableError("away"), times=1)
    with pytest.raises(StoreUnavailableError):
        await one.replica.usage_recorder.flush()
    use(one)
    await one.replica.usage_recorder.flush()
    assert sum(each.count for each in await listed(one)) == 2


async def test_flushes_at_once_lose_nothing(one: Member) -> None:
    """S7: a flush that begins while another waits for the store loses no count, and adds none."""
    held = one.line.hold("count_usage")
    use(one)
    first = asyncio.create_task(one.replica.usage_recorder.flush())
    await held.reached()
    use(one, cluster="rival")
    second = asyncio.create_task(one.replica.usage_recorder.flush())
    await spin()
    one.line.let_go("count_usage")
    await asyncio.gather(first, second)
    assert [each.count for each in await listed(one)] == [1, 1]


async def test_counts_that_wait_are_bounded(one: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for long fills no memory: further uses are dropped, and counted."""
    monkeypatch.setattr(usage, "_MOST", 1)
    use(one)
    use(one, cluster="rival")
    use(one)
    await one.replica.usage_recorder.flush()
    assert [(e.key.cluster, e.count) for e in await listed(one)] == [("acme", 2)]


async def test_a_stop_writes_the_last_counts(house: House, one: Member) -> None:
    """S7: only a process that is killed loses counts."""
    two = await house.replica()
    use(one)
    await one.stop()
    assert [each.count for each in await listed(two)] == [1]


async def test_a_caller_sees_its_own(one: Member) -> None:
    """C7: an auditor of an organization sees the counts of its clusters and regions alone."""
    use(one)
    use(one, cluster="rival")
    await one.replica.usage_recorder.flush()
    assert [e.key.cluster for e in await listed(one, rights=auditor("acme"))] == ["acme"]
    assert await listed(one, UsageFilter(cluster="rival"), auditor("acme")) == []
    assert await listed(one, rights=auditor("acme", "us")) == []
    use(one, region="")
    await one.replica.usage_recorder.flush()
    assert [e.key.region for e in await listed(one, rights=auditor("acme", "eu"))] == ["eu"]
    assert len(await listed(one, rights=auditor("acme"))) == 2
    assert await listed(one, UsageFilter(organization="acme"), auditor("rival")) == []
    assert len(await listed(one)) == 3


async def test_pages(one: Member) -> None:
    """Pages of any size show each count once, and a token fits its own filter alone."""
    for cluster in ("acme", "rival"):
        use(one, cluster=cluster)
        use(one, cluster=cluster, region="")
    await one.replica.usage_recorder.flush()
    whole = await listed(one)
    assert len(whole) == 4
    assert await listed(one, size=1) == await listed(one, size=3) == whole
    page = await one.replica.usage.page(EVERYTHING, ALL, 1, "")
    for which, token in (
        (UsageFilter(cluster="acme"), page.next_token),
        (ALL, "garbage"),
        (ALL, page.next_token[:-4]),
    ):
        with pytest.raises(InvalidPageError):
            await one.replica.usage.page(EVERYTHING, which, 1, token)


async def test_bad_requests(house: House, one: Member) -> None:
    """A wrong size or span is named; a stale replica answers nothing."""
    for which, size in (
        (ALL, 1_001),
        (ALL, -1),
        (UsageFilter(span=MINUTE + 1), 0),
        (UsageFilter(span=0), 0),
        (UsageFilter(span=-MINUTE), 0),
        (UsageFilter(span=32 * 24 * 60 * MINUTE), 0),
    ):
        with pytest.raises(InvalidPageError):
            await one.replica.usage.page(EVERYTHING, which, size, "")
    house.clock.advance(1_000)
    with pytest.raises(StoreStaleError):
        await listed(one)
