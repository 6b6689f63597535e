"""A cluster that nobody has used: its mark, its first use, and its deletion at once (D6)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from audit_chain import verified_events
from callers import EVERYTHING
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    NotAllowedError,
    NotRevokedError,
    RegionNotFoundError,
    RevokedError,
    StoreUnavailableError,
    UnreachableError,
    WrappedKeyCorruptError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.service.data.data_plane import Destination
from keyfold_server.service.life.rechecks import RecheckRequest
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from replicas import House, Member, entered, house_in, under

UNASKED = UnreachableError("the KMS does not answer")
DOWN = StoreUnavailableError("the store cannot be used")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme in regions eu and us, which nobody has used."""
    member = await house.replica()
    await member.enable(specs={"eu": "fake:one", "us": "fake:two"})
    return member


def stored(house: House, name: str = "acme") -> Cluster:
    """Reads a cluster that the store has."""
    found = house.store.cluster(name)
    assert found is not None
    return found


def unused(house: House, name: str = "acme") -> bool:
    """Returns whether a cluster has the mark."""
    return stored(house, name).unused


def granted(*roles: str, regions: str = "") -> Rights:
    """Returns the rights of a caller with these roles."""
    me = Identity(("dns:me.example",), "certificate")
    listed = ", ".join(f'"{role}"' for role in roles)
    text = f'[[grant]]\ncallers = ["{me.name}"]\nroles = [{listed}]\n{regions}\n'
    return parse(text, "policy.toml").rights(me)


def log(house: House, name: str = "acme") -> list[tuple[str, str, str]]:
    """Reads the log of a cluster, which may be gone: who did what, and how it ended."""
    verified_events(house.store, None)
    found = house.store.events(EventQuery(None, newest_first=False, limit=1_000)).events
    return [(each.caller, each.action, each.outcome) for each in found if each.cluster == name]


def first_uses(house: House, name: str = "acme") -> list[str]:
    """Returns who used a cluster first, by the log."""
    return [who for who, action, _ in log(house, name) if action == "server:cluster:use"]


# --- the mark ---


async def test_the_first_use_takes_the_mark_away_once(house: House, one: Member) -> None:
    """D6: the mark stands from Enable until the first use; the log says whose that was."""
    assert unused(house)
    blob = await one.wrap()
    assert not unused(house)
    before = stored(house)
    await one.wrap(region="us")
    await one.unwrap(blob)
    two = await house.replica()
    await two.unwrap(blob)
    assert stored(house) == before
    assert first_uses(house) == ["local"]


@pytest.mark.parametrize("ttl", [0.0, 60.0])
async def test_the_mark_is_gone_before_the_load(house: House, ttl: float) -> None:
    """D6: the store no longer has the mark when the KMS is asked, so no crash leaves it behind."""
    one = await house.replica()
    await one.enable(specs={"eu": under("fake:one", ttl=ttl)})
    hang = house.provider.hang(operations=("unwrap",))
    using = asyncio.create_task(one.wrap())
    await entered(hang)
    assert not unused(house)
    house.provider.mend()
    await using


async def test_a_load_that_fails_was_a_use(house: House, one: Member) -> None:
    """D6: the mark does not come back when the KMS gives no answer."""
    house.provider.disconnect()
    with pytest.raises(UnreachableError):
        await one.wrap()
    assert not unused(house)


async def test_no_use_without_the_store(house: House, one: Member) -> None:
    """D6: if the store does not take the change, the call could not tell, and no KMS is asked."""
    asked = house.calls("unwrap")
    one.line.fail("apply", DOWN)
    with pytest.raises(StoreUnavailableError):
        await one.wrap()
    assert unused(house)
    assert house.calls("unwrap") == asked
    one.line.mend()
    await one.wrap()
    assert not unused(house)


async def test_an_answer_that_was_lost_is_no_use(house: House, one: Member) -> None:
    """D6: the store took the change and did not say so: the call fails, and the next one works."""
    held = one.line.hold("apply", answered=True)
    using = asyncio.create_task(one.wrap())
    await held.reached()
    assert not unused(house)
    one.line.fail("apply", DOWN)
    one.line.let_go("apply")
    await using
    assert first_uses(house) == ["local"]


async def check_sweep(house: House, one: Member) -> None:
    """Sweeps."""
    await one.sweep()


async def check_status(house: House, one: Member) -> None:
    """Reads the status, which unwraps."""
    house.clock.advance(3_600)
    await one.poll()
    before = house.calls("unwrap")
    await one.status()
    assert house.calls("unwrap") > before


async def check_recheck(house: House, one: Member) -> None:
    """Rechecks the cluster, which unwraps."""
    one.replica.rechecks._wait = 0.0
    request = RecheckRequest("acme", (), "")
    before = house.calls("unwrap")
    await one.replica.rechecks.recheck(Caller(one.rights), request, house.clock.monotonic() + 5)
    assert house.calls("unwrap") > before


async def check_trial(house: House, one: Member) -> None:
    """Tries the key for the cluster."""
    asked = TestKeyRequest(KeySpec("FAKE", "fake:one"), Scope("acme", "eu", None))
    await one.replica.trials.test(Caller(one.rights), asked)


async def check_life(house: House, one: Member) -> None:
    """Takes the cluster through its life."""
    await one.rotate(new_generation=True)
    await one.revoke()
    await one.restore()
    await one.add_regions({"ap": "fake:one"})


CHECKS = [check_sweep, check_status, check_recheck, check_trial, check_life]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("ttl", [0.0, 60.0])
async def test_a_check_is_no_use(
    house: House, check: Callable[[House, Member], Awaitable[None]], ttl: float
) -> None:
    """D6: only a caller's use counts, and what a check opened serves no caller from memory."""
    one = await house.replica()
    await one.enable(specs={"eu": under("fake:one", ttl=ttl)})
    await check(house, one)
    assert unused(house)
    assert not any(root.open for root in one.cache._roots.values())
    assert not one.serves()
    await one.wrap()
    assert not unused(house)


async def test_what_is_refused_is_no_use(house: House, one: Member) -> None:
    """D6: a call that may not have the key, or names nothing, leaves the mark."""
    one.rights = granted("operator")
    with pytest.raises(NotAllowedError):
        await one.wrap()
    one.rights = granted("crypto")
    with pytest.raises(RegionNotFoundError):
        await one.wrap(region="mars")
    await (await house.replica()).hurry().revoke()
    await one.poll()
    with pytest.raises(RevokedError):
        await one.wrap()
    assert unused(house)


async def test_every_use_takes_the_mark_away(house: House, one: Member) -> None:
    """D6: GenerateDataKey, a Rewrap into the cluster, and an Unwrap that loads a KEK are uses."""
    await one.call(lambda call: one.plane.generate("acme", "eu", 32, {}, call))
    blob = await one.wrap()
    for name in ("into", "forged"):
        await one.enable(name)
        assert unused(house, name)
    await one.rewrap(blob, Destination("into", "eu", {}))
    kek_id = stored(house, "forged").regions[0].newest.kek_id
    with pytest.raises(WrappedKeyCorruptError):
        await one.unwrap(blob[:2] + kek_id + blob[18:], "forged")
    assert not any(unused(house, name) for name in ("acme", "into", "forged"))


async def test_a_crowd_takes_the_mark_away_once(house: House, one: Member) -> None:
    """W1: callers at once share the change and the load; one that gives up cancels nothing."""
    held = one.line.hold("apply")
    crowd = [asyncio.create_task(one.wrap()) for _ in range(50)]
    impatient = asyncio.create_task(one.wrap(within=0.01))
    await held.reached()
    impatient.cancel()
    before = house.calls("unwrap")
    one.line.let_go("apply")
    await asyncio.gather(*crowd)
    assert first_uses(house) == ["local"]
    assert house.calls("unwrap") == before + 1


async def test_use_costs_the_store_nothing_more(house: House, one: Member) -> None:
    """S13: once the cluster is in use, a cold load reads it once, and a warm call asks nobody."""
    await one.wrap()
    for member in (one, await house.replica()):
        member.loads.drop_all()
        member.line.counts.clear()
        await member.wrap()
        assert dict(member.line.counts) == {"cluster": 1}
        member.line.counts.clear()
        member.warm()
        assert not member.line.counts


async def test_a_first_use_costs_no_change_its_turn(house: House, one: Member) -> None:
    """R6, S5: a rotation that was being proven meanwhile commits, and no answer calls it later."""
    hang = house.provider.hang(operations=("wrap",))
    rotating = asyncio.create_task(one.rotate({"eu": "fake:two"}, request_id="r-1"))
    await entered(hang)
    two = await house.replica()
    blob = await two.wrap(region="us")
    house.provider.mend()
    done = await rotating
    again = await one.enable("other", request_id="r-2")
    await one.wrap("other")
    assert not (await one.enable("other", request_id="r-2")).superseded
    assert not (await one.rotate({"eu": "fake:two"}, request_id="r-1")).mutation.superseded
    assert not done.mutation.cluster.unused
    assert again.cluster.unused
    assert (await one.unwrap(blob)).region == "us"
    await one.rotate({"eu": None}, "other", new_generation=True)
    assert (await one.enable("other", request_id="r-2")).superseded


# --- deletion at once ---


async def test_a_typo_goes_at_once(house: House, one: Member) -> None:
    """D6: an operator deletes a cluster that nobody used, and its name is free."""
    two = await house.replica()
    one.rights = granted("operator")
    done = await one.delete(days=0)
    assert done.erased
    assert (done.report, done.losses, done.purge_time, done.final_after) == (None, (), None, None)
    # Nobody has its keys in memory, so nobody has to confirm anything.
    assert (done.confirmed, done.pending) == ((), ())
    assert house.store.cluster("acme") is None
    assert ("dns:me.example", "rpc:cluster:deletecluster", "done") in log(house)
    with pytest.raises(ClusterNotFoundError):
        await two.wrap()
    with pytest.raises(ClusterNotFoundError):
        await one.delete(days=0)
    await two.enable()
    await two.wrap()


@pytest.mark.parametrize("state", list(State))
async def test_from_any_state(house: House, one: Member, state: State) -> None:
    """D6: what nobody used need not be revoked first, and waits for no purge time."""
    if state is not State.ENABLED:
        await one.revoke()
    if state is State.DELETED:
        await one.delete()
    assert {region.state for region in stored(house).regions} == {state}
    assert (await one.delete(days=0)).erased
    assert house.store.cluster("acme") is None


async def test_some_regions_go_at_once(house: House, one: Member) -> None:
    """D6: a region that was a typo goes alone, and the cluster still bears the mark."""
    one.rights = granted("operator")
    with pytest.raises(RegionNotFoundError):
        await one.delete(regions=["us", "mars"], days=0)
    done = await one.delete(regions=["us"], days=0, request_id="r-1")
    assert done.erased
    assert done.report is not None
    assert [each.region.name for each in done.report.regions] == ["eu"]
    again = await one.delete(regions=["us"], days=0, request_id="r-1")
    assert (again.erased, again.mutation.replayed) == (True, True)
    assert unused(house)
    one.rights = EVERYTHING
    await one.add_regions({"us": "fake:one"})
    assert (await one.delete(days=0)).erased


async def test_it_is_tried_first(house: House, one: Member) -> None:
    """D1, D6: validate_only says that nothing becomes unreadable, and changes nothing."""
    before = stored(house)
    planned = await one.delete(days=0, validate_only=True)
    assert (planned.erased, planned.losses, planned.report) == (True, (), None)
    assert stored(house) == before


async def test_what_was_used_takes_a_destroyer(house: House, one: Member) -> None:
    """D1, D6: after the first use an operator deletes nothing, with any waiting period."""
    await one.wrap()
    await one.revoke()
    one.rights = granted("operator")
    for days in (None, 0, 7):
        with pytest.raises(NotAllowedError, match=r"destroyer.* an operator may delete a cluster"):
            await one.delete(days=days)
    with pytest.raises(NotAllowedError):
        await one.delete(days=0, validate_only=True)
    one.rights = granted("destroyer")
    done = await one.delete(days=0)
    assert not done.erased
    assert {region.state for region in stored(house).regions} == {State.DELETED}


async def test_only_at_once(house: House, one: Member) -> None:
    """D1, D6: an operator has no say in a deletion that waits, and others none in either."""
    for days in (None, 7):
        one.rights = granted("operator")
        with pytest.raises(NotAllowedError, match="with waiting_period 0"):
            await one.delete(days=days)
    for role in ("crypto", "auditor"):
        one.rights = granted(role)
        with pytest.raises(NotAllowedError):
            await one.delete(days=0)
    one.rights = granted("operator", regions='regions = ["us"]')
    with pytest.raises(NotAllowedError, match="name the regions"):
        await one.delete(days=0)
    assert (await one.delete(regions=["us"], days=0)).erased
    one.rights = granted("destroyer")
    with pytest.raises(NotRevokedError):
        await one.delete()
    assert (await one.delete(days=0)).erased


# --- two replicas ---


async def test_a_deletion_wins_against_a_use(house: House, one: Member) -> None:
    """D6: the use fails as for a cluster that does not exist, and no KMS was asked to unwrap."""
    two = await house.replica()
    held = two.line.hold("apply")
    using = asyncio.create_task(two.wrap())
    await held.reached()
    asked = house.calls("unwrap")
    assert (await one.delete(days=0)).erased
    two.line.let_go("apply")
    with pytest.raises(ClusterNotFoundError):
        await using
    assert house.calls("unwrap") == asked


async def test_a_use_wins_against_a_deletion(house: House, one: Member) -> None:
    """D6: the deletion that was decided on a cluster without use is not carried out."""
    held = one.line.hold("apply")
    one.rights = granted("operator")
    deleting = asyncio.create_task(one.delete(days=0))
    await held.reached()
    two = await house.replica()
    blob = await two.wrap()
    one.line.let_go("apply")
    with pytest.raises(ConcurrentChangeError, match="used for the first time"):
        await deleting
    with pytest.raises(NotAllowedError):
        await one.delete(days=0)
    assert (await two.unwrap(blob)).plaintext == b"k" * 32


async def test_a_use_of_the_name_is_of_the_cluster_that_has_it(house: House, one: Member) -> None:
    """D5, D6: a replica that knew the erased cluster uses the new one, whose mark it takes away."""
    two = await house.replica()
    held = two.line.hold("apply")
    using = asyncio.create_task(two.wrap())
    await held.reached()
    await one.delete(days=0)
    await one.enable()
    assert unused(house)
    two.line.let_go("apply")
    blob = await using
    assert not unused(house)
    assert (await one.unwrap(blob)).plaintext == b"k" * 32


async def test_a_deletion_is_of_the_cluster_that_was_meant(house: House, one: Member) -> None:
    """D5, D6: a deletion does not hit a cluster that somebody has made of the name meanwhile."""
    held = one.line.hold("apply")
    deleting = asyncio.create_task(one.delete(days=0))
    await held.reached()
    two = await house.replica()
    await two.delete(days=0)
    await two.enable()
    one.line.let_go("apply")
    with pytest.raises(ConcurrentChangeError):
        await deleting
    assert unused(house)


NAMES = [f"c-{number}" for number in range(6)]


class Traffic:
    """Random calls on several replicas, and what they returned."""

    def __init__(self, house: House, fleet: list[Member], seed: int) -> None:
        self.house = house
        self.fleet = fleet
        self.chance = random.Random(seed)
        self.kept: list[tuple[bytes, str, bytes]] = []
        self.ended: set[bytes] = set()

    async def some(self) -> None:
        """Makes some calls at once."""
        count = self.chance.randrange(2, 7)
        await asyncio.gather(*(self._one(self.chance.choice(self.fleet)) for _ in range(count)))

    async def _one(self, member: Member) -> None:
        name = self.chance.choice(NAMES)
        call = self.chance.choice((self.use, self.use, self._delete, self._delete, self._enable))
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        with contextlib.suppress(ClusterNotFoundError, ConcurrentChangeError, NotRevokedError):
            await call(member, name)

    async def use(self, member: Member, name: str) -> None:
        blob = await member.wrap(name)
        self.kept.append((stored(self.house, name).uid, name, blob))

    async def _delete(self, member: Member, name: str) -> None:
        done = await member.delete(name, days=0)
        assert done.erased
        self.ended.add(done.mutation.cluster.uid)

    async def _enable(self, member: Member, name: str) -> None:
        await member.enable(name)


@pytest.mark.parametrize("seed", range(12))
async def test_no_wrapped_key_is_ever_lost(house: House, seed: int) -> None:
    """D6: whatever replicas do at once, what a use returned opens, and a deletion means no use."""
    traffic = Traffic(house, [await house.replica() for _ in range(3)], seed)
    for name in NAMES:
        await traffic.fleet[0].enable(name)
    for _ in range(12):
        await traffic.some()
        if traffic.chance.random() < 0.5:
            await traffic.chance.choice(traffic.fleet).poll()
        if traffic.chance.random() < 0.3:
            traffic.chance.choice(traffic.fleet).loads.drop_all()
    for name in NAMES:
        with contextlib.suppress(ClusterNotFoundError):
            await traffic.use(traffic.fleet[0], name)
    assert len(traffic.kept) + len(traffic.ended) >= len(NAMES)
    assert not traffic.ended & {uid for uid, _, _ in traffic.kept}
    for member in traffic.fleet:
        await member.poll()
        for uid, name, blob in traffic.kept:
            assert stored(house, name).uid == uid
            assert (await member.unwrap(blob, name)).plaintext == b"k" * 32
