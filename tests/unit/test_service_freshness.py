"""Freshness (protocol F1, F6): how long a KEK may be used, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyfold_server.domain.errors import (
    CredentialsFailedError,
    KeyDisabledError,
    KeyfoldError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.health import Health
from keyfold_server.service.life.reports import ClusterReport
from replicas import House, Member, entered, house_in, under, until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme in region eu, under fake:one, and nothing in memory."""
    member = await house.replica()
    await member.enable()
    return member


async def test_a_kek_is_used_without_asking_until_its_proof_plus_ttl(
    house: House, one: Member
) -> None:
    """F1: a KEK serves from memory until proof + cache_ttl, and not a moment longer."""
    await one.wrap()
    asked = house.calls()
    house.clock.advance(59.9)
    assert one.serves()
    assert house.calls() == asked
    house.clock.advance(0.1)
    assert not one.serves()


async def test_a_proof_counts_from_when_its_unwrap_began(house: House, one: Member) -> None:
    """F1: an unwrap that took ten seconds proves the key for fifty more, not for sixty."""
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    call = asyncio.create_task(one.wrap(within=30))
    await entered(hang)
    house.clock.advance(10)
    house.provider.mend()
    await call
    house.clock.advance(49.9)
    assert one.serves()
    house.clock.advance(0.1)
    assert not one.serves()


async def test_a_refused_key_is_out_of_use_after_its_ttl(house: House, one: Member) -> None:
    """F1: a key that is disabled while nobody calls the KMS serves its TTL at most."""
    await one.wrap()
    house.provider.disable("fake:one")
    house.clock.advance(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap()


async def test_grace_ends_at_a_hard_bound_from_the_last_proof(house: House, one: Member) -> None:
    """F1: in an outage a key serves until proof + ttl + grace, whenever a call noticed it."""
    await one.wrap()
    house.provider.disconnect()
    await house.after(400)
    await one.wrap()
    await one.settle()
    await house.after(559.9)  # 959.9 s after the proof
    await one.wrap()
    await one.settle()
    await house.after(0.1)
    with pytest.raises(UnreachableError):
        await one.wrap()


def notices(report: ClusterReport) -> str:
    """Returns what the status of the first region says besides its health."""
    return "\n".join(report.regions[0].notices)


async def test_the_status_says_until_when_a_key_serves_on_grace(house: House, one: Member) -> None:
    """F1: in an outage the status says that this replica serves on, and until when."""
    await one.wrap()
    assert not notices(await one.status())
    ends = datetime.fromtimestamp(house.clock.wall() + 960, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    house.provider.disconnect()
    for _ in range(2):
        await house.after(100)
        report = await one.status()
        assert report.regions[0].seen is not None
        assert report.regions[0].seen.health is Health.UNREACHABLE
        assert f"serves on from memory until {ends}" in notices(report)
    two = await house.replica()
    assert "no key of this region in memory" in notices(await two.status())
    await house.after(760)
    assert f"the outage grace ended at {ends}" in notices(await one.status())
    house.provider.mend()
    await house.after(10)
    await one.wrap()
    assert not notices(await one.status())


async def test_grace_is_not_renewed_by_failures(house: House, one: Member) -> None:
    """F1: calls all through an outage do not move its end."""
    await one.wrap()
    house.provider.disconnect()
    for _ in range(95):
        await house.after(10)
        await one.wrap()
        await one.settle()
    await house.after(10)
    with pytest.raises(UnreachableError):
        await one.wrap()


async def test_grace_needs_an_outage(house: House, one: Member) -> None:
    """F1: without an outage a key does not serve on grace: the service calls the KMS."""
    await one.wrap()
    house.provider.disable("fake:one")
    await house.after(100)
    with pytest.raises(KeyDisabledError):
        await one.wrap()


async def test_an_old_failure_is_no_outage(house: House, one: Member) -> None:
    """F1: one failed refresh long ago gives no grace to a key that the KMS would refuse now."""
    await one.wrap()
    house.provider.disconnect()
    await house.after(48)
    await one.look()
    house.provider.mend()
    house.provider.disable("fake:one")
    await house.after(500)
    with pytest.raises(KeyDisabledError):
        await one.wrap()


async def test_calls_on_grace_do_not_wait(house: House, one: Member) -> None:
    """F1, W2: while the refresh hangs, a KEK on grace serves from memory at once."""
    await one.wrap()
    house.provider.disconnect()
    await house.after(100)
    await one.wrap()
    house.provider.mend()
    hang = house.provider.hang()
    await house.after(6)
    assert one.serves()
    await entered(hang)
    for _ in range(20):
        assert one.serves()


async def test_a_region_without_grace_has_none(house: House) -> None:
    """F6: outage_grace is a policy of the region, and may be 0."""
    one = await house.replica()
    await one.enable(specs={"eu": under("fake:one", grace=0)})
    await one.wrap()
    house.provider.disconnect()
    house.clock.advance(60)
    with pytest.raises(UnreachableError):
        await one.wrap()


@pytest.mark.parametrize("error", [UnreachableError("x"), CredentialsFailedError("x")])
async def test_could_not_tell_is_no_refusal(house: House, one: Member, error: KeyfoldError) -> None:
    """F6: a closed network and a failed credential of Keyfold's own drop no KEK."""
    await one.wrap()
    assert isinstance(error, UnreachableError | CredentialsFailedError)
    house.provider.fail(error)
    await house.after(60)
    await one.wrap()
    assert one.serves()


async def test_a_regions_policy_overrides_the_servers(house: House) -> None:
    """F1: cache_ttl of the region's policy counts, longer or shorter than the server's."""
    one = await house.replica(cache_ttl=60)
    for ttl in (10, 300):
        name = f"acme-{ttl}"
        house.provider.create_key(name)
        await one.enable(name, {"eu": under(f"fake:{name}", ttl=ttl)})
        await one.wrap(name)
        await house.after(ttl - 0.1)
        assert one.serves(name)
        house.clock.advance(0.1)
        assert not one.serves(name)
        await house.after(0)


async def test_a_restart_ends_grace(house: House, one: Member) -> None:
    """F7: grace lives in memory; a replica that starts in an outage cannot serve."""
    await one.wrap()
    house.provider.disconnect()
    await house.after(100)
    await one.wrap()
    other = await house.replica()
    with pytest.raises(UnreachableError):
        await other.wrap()


# TTL 0


async def test_at_ttl_0_each_call_asks(house: House) -> None:
    """F1: at cache_ttl 0 each RPC makes one KMS call per KEK."""
    one = await house.replica(cache_ttl=0)
    await one.enable()
    blob = await one.wrap()
    before = house.calls()
    for _ in range(5):
        await one.unwrap(blob)
    assert house.calls() - before == 5
    assert not one.serves()


async def test_at_ttl_0_there_is_no_single_flight(house: House) -> None:
    """F1: at cache_ttl 0 concurrent calls make a KMS call each, begun after the call arrived."""
    one = await house.replica(cache_ttl=0)
    await one.enable()
    before = house.calls()
    await asyncio.gather(*(one.wrap() for _ in range(10)))
    assert house.calls() - before == 10


async def test_at_ttl_0_there_is_no_grace(house: House) -> None:
    """F1: at cache_ttl 0 an outage stops service at once, whatever grace the policy has."""
    one = await house.replica(cache_ttl=0)
    await one.enable(specs={"eu": under("fake:one", grace=900)})
    await one.wrap()
    house.provider.disconnect()
    with pytest.raises(UnreachableError):
        await one.wrap()
    house.provider.mend()
    await one.wrap()


async def test_at_ttl_0_a_refusal_is_not_remembered(house: House) -> None:
    """F1: at cache_ttl 0 the KMS decides each call: disabled and enabled take effect at once."""
    one = await house.replica(cache_ttl=0)
    await one.enable()
    await one.wrap()
    house.provider.disable("fake:one")
    for _ in range(2):
        with pytest.raises(KeyDisabledError):
            await one.wrap()
    house.provider.enable("fake:one")
    await one.wrap()


async def test_at_ttl_0_a_batch_is_one_call(house: House) -> None:
    """F1: at cache_ttl 0 a batch of 500 items in two regions makes one KMS call per KEK."""
    one = await house.replica(cache_ttl=0)
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    before = house.calls()
    items = [("eu" if i % 2 else "us", b"k", None) for i in range(500)]
    results = await one.call(lambda c: one.plane.wrap_batch("acme", items, {}, c))
    blobs = [(blob, None) for blob, _ in results if isinstance(blob, bytes)]
    assert len(blobs) == 500
    assert house.calls() - before == 2
    before = house.calls()
    opened = await one.call(lambda c: one.plane.unwrap_batch("acme", blobs, {}, c))
    assert [key for key, _ in opened] == [b"k"] * 500
    assert house.calls() - before == 2


async def test_at_ttl_0_nothing_stays_in_memory(house: House) -> None:
    """R3: a KEK that a load fetched at TTL 0 belongs to that call alone."""
    one = await house.replica(cache_ttl=0)
    await one.enable()
    await one.wrap()
    view = one.cache.view("acme")
    assert view is not None
    assert not view.open
    assert not any(root.open for root in one.cache._roots.values())


# One proof for every KEK, and refreshing ahead


async def test_one_proof_serves_every_kek_under_a_root_key(house: House) -> None:
    """F1: 200 KEKs under 5 root keys cost 5 calls per TTL once warm, and no call waits."""
    one = await house.replica()
    for key in range(5):
        house.provider.create_key(f"root-{key}")
    names = [f"c-{i}" for i in range(200)]
    await asyncio.gather(
        *(one.enable(n, {"eu": f"fake:root-{i % 5}"}, within=60) for i, n in enumerate(names))
    )
    await asyncio.gather(*(one.wrap(n, within=60) for n in names))
    before = house.calls()
    for _ in range(10):
        # One look each second, as the keeper's queue does, with calls in between.
        for _ in range(60):
            house.clock.advance(1)
            for name in names:
                assert one.serves(name), "a call had to wait for a refresh"
            await one.look()
        await one.poll()
    # 600 s at one refresh per 0.72 to 0.8 TTL (43 to 49 s, on whole seconds).
    assert 5 * 10 <= house.calls() - before <= 5 * 14


async def test_an_expired_kek_is_proven_by_its_neighbours_unwrap(house: House) -> None:
    """F1: one unwrap under a root key makes its other KEKs in memory usable again."""
    one = await house.replica()
    await one.enable("a")
    await one.enable("b")
    await one.wrap("a")
    await one.wrap("b")
    house.clock.advance(60)
    before = house.calls()
    await one.wrap("a")
    assert one.serves("b")
    assert house.calls() - before == 1


async def test_many_expired_keks_share_one_unwrap(house: House) -> None:
    """F1: calls on 50 expired KEKs under one root key at once make one KMS call."""
    one = await house.replica()
    names = [f"c-{i}" for i in range(50)]
    for name in names:
        await one.enable(name)
        await one.wrap(name)
    house.clock.advance(60)
    before = house.calls()
    await asyncio.gather(*(one.wrap(n) for n in names))
    assert house.calls() - before == 1


async def test_a_used_root_key_is_refreshed_ahead_of_its_expiry(house: House, one: Member) -> None:
    """A root key in use is refreshed by 80 % of its TTL, so no call waits."""
    await one.wrap()
    before = house.calls()
    house.clock.advance(0.7 * 60)
    await one.look()
    assert house.calls() == before
    house.clock.advance(0.1 * 60)
    await one.look()
    assert house.calls() == before + 1
    house.clock.advance(0.3 * 60)
    assert one.serves()


async def test_an_idle_root_key_is_not_refreshed(house: House, one: Member) -> None:
    """A key that no call used since the last look is not refreshed."""
    await one.wrap()
    before = house.calls()
    for _ in range(100):
        house.clock.advance(10)
        await one.look()
    assert house.calls() <= before + 1  # The call that loaded it counts as one use.


async def test_an_idle_kek_leaves_memory_after_ttl_and_grace(house: House, one: Member) -> None:
    """An idle KEK stays in memory until its grace ends, in case of an outage, and no longer."""
    await one.wrap()
    proven = house.clock.monotonic()
    view = one.cache.view("acme")
    assert view is not None
    house.clock.advance(50)
    await one.look()  # A last refresh, since the key was used.
    proven = house.clock.monotonic()
    for _ in range(200):
        house.clock.advance(10)
        await one.look()
        if house.clock.monotonic() - proven < 960:
            assert view.open
    assert not view.open
    assert not one.cache._roots


async def test_an_idle_kek_leaves_memory_though_its_last_refresh_was_overtaken(
    house: House,
) -> None:
    """A refresh without a result leaves no other KEK in memory for ever."""
    one = await house.replica()
    await one.enable("a")
    await one.enable("b")
    await one.wrap("b")
    await one.wrap("a")
    hang = house.provider.hang()
    house.clock.advance(50)
    one.loads.freshness.run_due(house.clock.monotonic())
    await entered(hang)
    one.loads.invalidate("a")
    house.provider.mend()
    await one.settle()
    view = one.cache.view("b")
    assert view is not None
    assert view.open
    for _ in range(250):
        house.clock.advance(10)
        await one.look()
    assert not view.open


async def test_clusters_beyond_the_limit_leave_memory(house: House) -> None:
    """A setting bounds memory; the least recently used cluster leaves first."""
    one = await house.replica(max_clusters=3)
    for name in "abcd":
        await one.enable(name)
    for name in "abc":
        await one.wrap(name)
    assert one.serves("a")
    await one.wrap("d")
    assert not one.serves("b")
    assert one.serves("a")
    assert one.serves("c")
    assert one.serves("d")
    assert sum(len(root.open) for root in one.cache._roots.values()) == 3
    await one.wrap("b")


# Could not tell, and its end


async def test_could_not_tell_is_remembered(house: House, one: Member) -> None:
    """W2: not every call tries a KMS that is cut off; the error says when to retry."""
    house.provider.disconnect()
    before = house.calls()
    for _ in range(20):
        with pytest.raises(UnreachableError):
            await one.wrap()
    with pytest.raises(UnreachableError) as caught:
        await one.wrap()
    assert house.calls() == before + 1
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 5


async def test_service_resumes_once_the_backoff_is_over(house: House, one: Member) -> None:
    """W2: the first call after the pause that the error names finds the KMS again."""
    house.provider.disconnect()
    for _ in range(12):
        with pytest.raises(UnreachableError):
            await one.wrap()
        await house.after(5)
    with pytest.raises(UnreachableError) as caught:
        await one.wrap()
    house.provider.mend()
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= 5
    await house.after(caught.value.retry_after)
    await one.wrap()


async def test_a_throttling_kms_is_left_alone_for_as_long_as_it_asks(
    house: House, one: Member
) -> None:
    """W2: the service keeps to a KMS's hint how long to wait, up to 30 s."""
    house.provider.throttle(retry_after=20)
    with pytest.raises(ThrottledError):
        await one.wrap()
    asked = house.calls()
    house.clock.advance(19.9)
    with pytest.raises(ThrottledError) as caught:
        await one.wrap()
    assert house.calls() == asked
    assert caught.value.retry_after == pytest.approx(0.1)
    house.provider.mend()
    house.provider.throttle(retry_after=1e9)
    await house.after(0.1)
    with pytest.raises(ThrottledError):
        await one.wrap()
    house.provider.mend()
    await house.after(30)
    await one.wrap()


async def test_a_kek_in_memory_never_answers_for_another(house: House) -> None:
    """R3: calls that share a root key's proof each use their own KEK, however slow the KMS is."""
    one = await house.replica(cache_ttl=1)
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    blobs = {region: await one.wrap(region=region) for region in ("eu", "us")}
    house.clock.advance(2)
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    calls = [asyncio.create_task(one.wrap(region=r, within=30)) for r in ("eu", "us")]
    await entered(hang)
    house.clock.advance(2)  # Slower than the TTL: the proof is old before it arrives.
    house.provider.mend()
    made = dict(zip(("eu", "us"), await asyncio.gather(*calls), strict=True))
    for region in ("eu", "us"):
        assert made[region][2:18] == blobs[region][2:18]
        assert (await one.unwrap(made[region])).region == region


async def test_a_root_key_that_fails_and_recovers_while_a_load_is_slow_is_known_by_one_name(
    house: House,
) -> None:
    """F2: a KEK whose load outlasts the keeper's memory of its root key is still dropped."""
    one = await house.replica()
    await one.enable("a")
    await one.enable("b")
    await one.wrap("b")
    one.loads.drop_all()
    slow = house.provider.hang("fake:one", ("unwrap",), answered=True)
    late = asyncio.create_task(one.wrap("a"))
    await entered(slow)
    house.provider._faults.clear()  # The slow call stays on its way; others fail at once.
    house.provider.disconnect()
    with pytest.raises(UnreachableError):
        await one.wrap("b")
    house.clock.advance(4)
    one.loads.freshness.run_due(
        house.clock.monotonic()
    )  # No KEK is under the root key, so it is forgotten.
    house.provider.mend()
    slow.release()
    await late
    house.provider.disable("fake:one")
    with pytest.raises(KeyDisabledError):
        await one.wrap("b")
    assert not one.serves("a")


async def test_service_resumes_after_a_refusal_within_refusal_memory(
    house: House, one: Member
) -> None:
    """A refused key that works again is used again by itself, within 5 s and one call."""
    await one.wrap()
    house.provider.disable("fake:one")
    await house.after(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    house.provider.enable("fake:one")
    asked = house.calls()
    with pytest.raises(KeyDisabledError) as caught:
        await one.wrap()
    assert house.calls() == asked
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 5
    await house.after(caught.value.retry_after)
    await one.wrap()
    assert house.calls() == asked + 1


async def test_a_flapping_key_does_not_make_calls_hang(house: House, one: Member) -> None:
    """Every call on a key that is disabled and enabled again and again gets an answer."""
    for turn in range(30):
        if turn % 2:
            house.provider.disable("fake:one")
        else:
            house.provider.enable("fake:one")
        calls = [asyncio.create_task(one.wrap()) for _ in range(5)]
        done, pending = await asyncio.wait(calls, timeout=5)
        assert not pending
        for call in done:
            assert call.exception() is None or isinstance(call.exception(), KeyDisabledError)
        await house.after(7 if turn % 3 else 61)
    house.provider.enable("fake:one")
    await house.after(5)
    await one.wrap()
    await until(lambda: not one.replica._tasks._under_way)


async def test_a_key_fetched_before_a_long_pause_is_fetched_again(house: House) -> None:
    """F1: a process that was paused between a load and its use does not use what it loaded."""
    one = await house.replica()
    await one.enable()
    one.loads.drop_all()
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    calling = asyncio.create_task(one.wrap(within=500.0))
    await entered(hang)
    before = house.calls()
    house.clock.advance(100)
    house.provider.mend()
    await calling
    assert house.calls() == before + 1
