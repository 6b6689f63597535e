"""Refusals (protocol F2 to F5): one refusal takes the key out of use everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KekMismatchError,
    KeyDisabledError,
    KeyfoldError,
    StoreUnavailableError,
    UnreachableError,
)
from keyfold_server.domain.health import Health
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.log import Entry
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.service.loading import announcements
from replicas import House, Member, entered, house_in, spin, until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with clusters a and b under fake:one, both in use."""
    member = await house.replica()
    for name in "ab":
        await member.enable(name)
        await member.wrap(name)
    return member


def refuse_context(house: House, *clusters: str, error: KeyfoldError | None = None) -> None:
    """Makes the customer's policy refuse KEKs that are bound to some clusters."""
    provider, unwrap = house.provider, type(house.provider).unwrap

    def refusing(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        answer = unwrap(provider, key, key_version, ciphertext, binding, budget=budget)
        if binding.cluster in clusters:
            raise error or AccessDeniedError("the policy's condition does not hold")
        return answer

    provider.unwrap = refusing  # type: ignore[method-assign]


def only_generation(house: House, cluster: str) -> bytes:
    """Returns the id of a cluster's only KEK."""
    found = house.store.cluster(cluster)
    assert found is not None
    return found.regions[0].newest.kek_id


def noted(house: House) -> list[Entry]:
    """Reads every entry of the log after which replicas drop keys."""
    read = house.store.poll(Heartbeat("reader", 0, b"", 120, 0))
    return [entry for entry in read if entry.is_news]


async def test_a_refusal_that_a_rotation_meets_counts(house: House, one: Member) -> None:
    """F2: a KMS's refusal of a stored KEK ends its use, even if an operator's call met it."""
    house.provider.disable("fake:one")
    assert one.serves("a")
    assert one.serves("b")
    with pytest.raises(KeyDisabledError):
        await one.rotate(cluster="a")
    assert not one.serves("a")
    assert not one.serves("b")
    await one.settle()
    assert [n.root is not None for n in noted(house)][-1]


async def test_a_key_that_cannot_be_moved_to_condemns_nothing(house: House, one: Member) -> None:
    """F2: a refusal of a rotation's new key says nothing about the key in use."""
    house.provider.create_key("bad")
    house.provider.disable("fake:bad")
    with pytest.raises(KeyDisabledError):
        await one.rotate({"eu": "fake:bad"}, cluster="a")
    assert one.serves("a")
    assert one.serves("b")


async def test_a_refusal_drops_every_kek_under_the_root_key(house: House, one: Member) -> None:
    """F2: one KEK's refusal ends the use of all KEKs under that root key at once."""
    house.provider.create_key("other")
    await one.enable("c", {"eu": "fake:other"})
    await one.wrap("c")
    house.clock.advance(50)
    house.provider.disable("fake:one")
    await one.look()
    assert not one.serves("a")
    assert not one.serves("b")
    assert one.serves("c")


async def test_a_refusal_is_one_numbered_change_and_an_observation(
    house: House, one: Member
) -> None:
    """F2, S7: a refusal is announced once, however many KEKs and calls meet it."""
    before = len(noted(house))
    house.provider.disable("fake:one")
    await house.after(60)
    for _ in range(3):
        for name in "ab":
            with pytest.raises(KeyDisabledError):
                await one.wrap(name)
        await one.settle()
        await house.after(6)
    told = noted(house)[before:]
    assert [n.cluster for n in told] == [None]
    assert told[0].replica == one.changes.replica
    [seen] = house.store.observations([f"root:{told[0].root}"]).values()
    assert seen.health is Health.KEY_DISABLED


async def test_a_refusal_noted_elsewhere_drops_keys_here(house: House, one: Member) -> None:
    """F2: a replica that never called the KMS drops KEKs when another one announces a refusal."""
    two = await house.replica()
    await two.wrap("a")
    house.provider.disable("fake:one")
    house.clock.advance(50)
    await one.look()
    assert two.serves("a")
    await two.poll()
    assert not two.serves("a")
    with pytest.raises(KeyDisabledError):
        await two.wrap("a")


async def test_a_refusal_noted_elsewhere_ends_grace_here(house: House, one: Member) -> None:
    """F2: blocking one replica's way to the KMS does not keep a disabled key alive there."""
    two = await house.replica()
    await two.wrap("a")
    house.provider.disconnect()
    await house.after(70)
    await two.wrap("a")  # On grace.
    await two.settle()
    house.provider.mend()
    house.provider.disable("fake:one")
    with pytest.raises(KeyDisabledError):
        await one.wrap("b")
    await one.settle()
    house.provider.disconnect()
    await two.poll()
    assert not two.serves("a")
    with pytest.raises(UnreachableError):
        await two.wrap("a")


async def test_a_load_from_before_a_refusal_noted_elsewhere_does_not_count(
    house: House, one: Member
) -> None:
    """F2, R2: an unwrap that began before the change was applied brings no KEK back."""
    two = await house.replica()
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    call = asyncio.create_task(two.wrap("a", within=100))
    await entered(hang)
    house.provider._faults.clear()
    house.provider.disable("fake:one")
    house.clock.advance(50)
    await one.look()
    await two.poll()
    hang.release()
    with pytest.raises(KeyDisabledError):
        await call
    assert not two.serves("a")


async def test_a_refusal_is_told_though_the_store_failed_at_first(
    house: House, one: Member
) -> None:
    """F2: a short outage of the store does not keep a refusal from the other replicas."""
    two = await house.replica()
    await two.wrap("a")
    one.line.fail("refused", StoreUnavailableError("away"), times=2)
    house.provider.disable("fake:one")
    house.clock.advance(50)
    await one.look()
    await one.settle()
    await two.poll()
    assert not two.serves("a")


async def test_a_replica_behind_a_rotation_believes_no_refusal_of_the_old_key(
    house: House, one: Member
) -> None:
    """F3: a replica one poll behind reads the row again and goes on under the new version."""
    two = await house.replica()
    blob = await two.wrap("a")
    house.provider.new_version("fake:one")
    await one.rotate(cluster="a")
    await one.rotate(cluster="b")
    house.provider.disable("fake:one", "1")
    before = len(noted(house))
    two.loads.drop_all()
    await two.unwrap(blob, "a")
    house.clock.advance(61)
    two.cache.drop_cluster("a")
    await two.unwrap(blob, "a")
    await two.settle()
    assert len(noted(house)) == before
    # Expired, in memory, and not polled since: a refresh of the old version is refused.
    third = await house.replica()
    await third.wrap("a")
    house.provider.new_version("fake:one")
    await one.rotate(cluster="a")
    house.provider.disable("fake:one", "2")
    house.clock.advance(60)
    before = len(noted(house))
    await third.unwrap(blob, "a")
    await third.settle()
    assert len(noted(house)) == before


async def test_a_refusal_stands_where_the_store_cannot_be_read(house: House, one: Member) -> None:
    """F3: a refusal that cannot be checked against the store counts: the service fails closed."""
    house.provider.disable("fake:one")
    house.clock.advance(60)
    one.line.fail("cluster", StoreUnavailableError("away"))
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    assert not one.serves("b")


async def test_a_kek_condemned_by_its_context_does_not_flush_others_again(
    house: House, one: Member
) -> None:
    """F4: a KEK's first refusal voids the root key's proofs; repeated ones affect no other KEK."""
    two = await house.replica()
    refuse_context(house, "a")
    house.clock.advance(60)
    with pytest.raises(AccessDeniedError):
        await one.wrap("a")
    await one.wrap("b")
    await one.settle()  # The first refusal is announced in the background.
    told = len(noted(house))
    await two.poll()
    await two.wrap("b")
    before = two.cache.root(str(noted(house)[-1].root)).invalidations
    for _ in range(10):
        await house.after(6)
        with pytest.raises(AccessDeniedError):
            await one.wrap("a")
        if not one.serves("b"):
            await one.wrap("b")  # Its TTL ran out; the other cluster did not cause that.
        await one.settle()
        with pytest.raises(AccessDeniedError):
            await one.wrap("a")
        assert one.serves("b")
    again = noted(house)[told:]
    # Announced again now and then, for replicas that opened it meanwhile; none did here.
    assert 1 <= len(again) <= 3
    assert {n.kek for n in again} == {only_generation(house, "a")}
    await two.poll()
    assert two.cache.root(str(again[0].root)).invalidations == before


async def test_a_refusal_that_is_met_again_reaches_who_opened_the_kek_since(
    house: House, one: Member
) -> None:
    """F2: a replica that proved the key after one refusal drops it at the next announcement."""
    two = await house.replica()
    await two.wrap("b")
    house.provider.disable("fake:one")
    house.clock.advance(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    await two.poll()
    house.provider.enable("fake:one")
    for name in "ab":
        await two.wrap(name)
    house.provider.disable("fake:one")
    # The first replica knows of no proof, and meets a refusal that it knows.
    await house.after(announcements.ANNOUNCE_AGAIN)
    assert two.serves("a")
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    house.provider.disconnect()
    await two.poll()
    assert not two.serves("a")
    assert not two.serves("b")


async def test_a_refusal_told_again_reaches_who_opened_another_kek_since(
    house: House, one: Member
) -> None:
    """F2b: disabled, told, enabled, disabled again: a replica that is cut off stops once it hears.

    It opened another KEK than the one that is refused, and would serve it through its grace.
    """
    two = await house.replica()
    house.provider.disable("fake:one")
    house.clock.advance(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    await two.poll()
    house.provider.enable("fake:one")
    await two.wrap("b")
    house.provider.disable("fake:one")
    two.cut_off()
    await house.after(announcements.ANNOUNCE_AGAIN)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    assert two.serves("b")
    await two.poll()
    assert not two.serves("b")
    await house.after(60)
    with pytest.raises(UnreachableError):
        await two.wrap("b")


async def test_a_refusal_that_is_met_again_too_early_is_told_later(
    house: House, one: Member
) -> None:
    """F2b: the bound on repeated announcements delays the last of them, and never loses it."""
    two = await house.replica()
    house.provider.disable("fake:one")
    house.clock.advance(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    told = len(noted(house))
    await two.poll()
    house.provider.enable("fake:one")
    await two.wrap("b")
    house.provider.disable("fake:one")
    two.cut_off()
    for _ in range(3):
        await house.after(6)
        with pytest.raises(KeyDisabledError):
            await one.wrap("a")
        await one.look()
    assert len(noted(house)) == told
    # No more calls come.
    await house.after(announcements.ANNOUNCE_AGAIN - 18)
    await one.look()
    assert len(noted(house)) == told + 1
    await two.poll()
    assert not two.serves("b")
    await house.after(10 * announcements.ANNOUNCE_AGAIN)
    await one.look()
    assert len(noted(house)) == told + 1


async def test_a_refusal_that_waits_is_told_when_the_replica_stops(
    house: House, one: Member
) -> None:
    """F2b: a replica that stops tells of a repeated refusal before its turn."""
    house.provider.disable("fake:one")
    house.clock.advance(60)
    for name in "ab":
        with pytest.raises(KeyDisabledError):
            await one.wrap(name)
        await one.settle()
    told = len(noted(house))
    await one.stop()
    assert [n.kek for n in noted(house)[told:]] == [None]


async def test_a_refused_kek_makes_the_replica_ask_about_another(house: House, one: Member) -> None:
    """F2b, F4: a KEK that is refused again has the replica prove another one that is in memory.

    Only that tells a KEK condemned by its context from a root key that is disabled again.
    """
    two = await house.replica()
    house.provider.disable("fake:one")
    house.clock.advance(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    await two.poll()
    house.provider.enable("fake:one")
    for member in (one, two):
        await member.wrap("b")
    house.provider.disable("fake:one")
    two.cut_off()
    await house.after(announcements.ANNOUNCE_AGAIN)
    assert one.serves("b")
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    assert not one.serves("b")
    await two.poll()
    assert not two.serves("b")


async def test_a_repeated_refusal_that_nobody_can_tell_apart_is_the_root_keys(
    house: House, one: Member
) -> None:
    """F2b: where the KMS does not answer about another KEK, a repeated refusal ends its use."""
    two = await house.replica()
    refuse_context(house, "a")
    house.clock.advance(60)
    with pytest.raises(AccessDeniedError):
        await one.wrap("a")
    await one.settle()
    await two.poll()
    for member in (one, two):
        await member.wrap("b")
    await house.after(6)
    with pytest.raises(AccessDeniedError):
        await one.wrap("a")
    house.provider.disconnect()
    await house.after(announcements.ANNOUNCE_AGAIN)
    assert one.serves("b")
    await one.look()
    await two.poll()
    assert not one.serves("b")
    assert not two.serves("b")


async def test_a_load_from_before_a_refusal_told_again_does_not_count(
    house: House, one: Member
) -> None:
    """F2, R2: an unwrap that began before a repeated announcement brings no KEK back either."""
    two = await house.replica()
    house.provider.disable("fake:one")
    house.clock.advance(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    await two.poll()
    house.provider.enable("fake:one")
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    call = asyncio.create_task(two.wrap("a", within=100))
    await entered(hang)
    house.provider._faults.clear()
    house.provider.disable("fake:one")
    await house.after(announcements.ANNOUNCE_AGAIN)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    await two.poll()
    hang.release()
    with pytest.raises(KeyDisabledError):
        await call
    assert not two.serves("a")


async def test_a_condemned_kek_stays_refused_whatever_proves_its_root_key(
    house: House, one: Member
) -> None:
    """F4: another KEK's unwrap does not bring a refused KEK back; its own does."""
    refuse_context(house, "a")
    house.clock.advance(60)
    with pytest.raises(AccessDeniedError):
        await one.wrap("a")
    await one.wrap("b")
    assert not one.serves("a")
    report = await one.status("a")
    assert report.regions[0].seen is not None
    assert report.regions[0].seen.health is Health.ACCESS_DENIED
    refuse_context(house)
    await house.after(5)
    await one.wrap("a")
    report = await one.status("a")
    assert report.regions[0].seen is not None
    assert report.regions[0].seen.health is Health.HEALTHY


@pytest.mark.parametrize("error", [AccessDeniedError("no"), KekMismatchError("no")])
async def test_a_call_that_joined_a_condemned_keks_load_is_not_condemned(
    house: House, one: Member, error: KeyfoldError
) -> None:
    """F4: a call that joins another KEK's load gets its own answer and no other cluster's name."""
    refuse_context(house, "a", error=error)
    house.clock.advance(60)
    bad, good = await asyncio.gather(one.wrap("a"), one.wrap("b"), return_exceptions=True)
    assert isinstance(bad, type(error))
    assert isinstance(good, bytes), good


async def test_a_mismatch_concerns_the_one_kek(house: House, one: Member) -> None:
    """F4: KEK_MISMATCH takes one KEK out of use, and is not announced."""
    two = await house.replica()
    told = len(noted(house))
    await two.wrap("b")
    refuse_context(house, "a", error=KekMismatchError("no"))
    with pytest.raises(KekMismatchError):
        await two.wrap("a")
    await two.settle()
    assert two.serves("b")
    assert len(noted(house)) == told
    report = await two.status("b")
    assert report.regions[0].seen is not None
    assert report.regions[0].seen.health is Health.HEALTHY


async def test_a_missing_wrap_permission_is_shown_while_service_goes_on(
    house: House, one: Member
) -> None:
    """F5: unwrapping decides service; a key that does not wrap is HEALTHY and shows the error."""
    house.provider.deny("fake:one", "wrap")
    await house.after(61)
    report = await one.status("a")
    seen = report.regions[0].seen
    assert seen is not None
    assert seen.health is Health.HEALTHY
    assert (seen.can_wrap, seen.can_unwrap) == (False, True)
    assert "wrap" in seen.message
    await one.wrap("a")
    house.provider.allow("fake:one")
    await house.after(61)
    seen = (await one.status("a")).regions[0].seen
    assert seen is not None
    assert seen.can_wrap


async def test_what_wrapping_answers_late_is_not_lost(house: House, one: Member) -> None:
    """F5: a lost permission to wrap shows, though unwrapping was recorded and written before."""
    await house.after(600)
    hang = house.provider.hang("fake:one", ("wrap",))
    asking = asyncio.create_task(one.status("a"))
    await entered(hang)
    await until(lambda: not one.replica._tasks._under_way)
    await one.replica._health.flush()
    assert not one.replica._health.pending
    house.provider.deny("fake:one", "wrap")
    house.provider.mend()
    seen = (await asking).regions[0].seen
    assert seen is not None
    assert (seen.health, seen.can_wrap, seen.can_unwrap) == (Health.HEALTHY, False, True)
    assert seen.reason == "ACCESS_DENIED"


async def test_a_wrap_that_works_does_not_hide_a_refusal(house: House, one: Member) -> None:
    """F5: some providers wrap under a disabled key; only unwrapping makes a key HEALTHY."""
    house.provider.deny("fake:one", "unwrap")
    await house.after(61)
    hang = house.provider.hang(operations=("wrap",), answered=True)
    asking = asyncio.create_task(one.status("a"))
    await entered(hang)
    await one.replica._health.flush()  # As a replica does every two seconds.
    house.provider.mend()
    seen = (await asking).regions[0].seen
    assert seen is not None
    assert seen.health is Health.ACCESS_DENIED
    assert seen.can_unwrap is False


async def test_a_status_asks_a_refused_key_no_more_than_needed(house: House, one: Member) -> None:
    """After a refusal the KMS gets no calls for a while, not even for repeated statuses."""
    house.provider.deny("fake:one", "unwrap", "wrap")
    await house.after(61)
    await one.status("a")
    before = house.calls() + house.calls("wrap")
    for _ in range(10):
        seen = (await one.status("a")).regions[0].seen
        assert seen is not None
        assert seen.health is Health.ACCESS_DENIED
    assert house.calls() + house.calls("wrap") == before


async def test_what_was_observed_is_known_while_it_is_written(house: House, one: Member) -> None:
    """S7: a status read while observations are on their way to the store shows them."""
    house.provider.disable("fake:one")
    await house.after(61)
    with pytest.raises(KeyDisabledError):
        await one.wrap("a")
    await one.settle()
    held = one.line.hold("observe")
    writing = asyncio.create_task(one.replica._health.flush())
    await held.reached()
    seen = (await one.status("a")).regions[0].seen
    assert seen is not None
    assert seen.health is Health.KEY_DISABLED
    held.release()
    await writing
    await spin()
    assert not one.replica._health.pending


async def test_a_lost_wrap_permission_stays_named(house: House, one: Member) -> None:
    """F5: while unwrapping succeeds, the status keeps saying why the key does not wrap."""
    await one.enable()
    house.provider.deny("fake:one", "wrap")
    house.clock.advance(61)
    await one.poll()
    (before,) = (await one.status()).regions
    assert before.seen is not None
    assert before.seen.can_wrap is False
    assert before.seen.message
    one.loads.drop_all()
    await one.wrap()
    (after,) = (await one.status()).regions
    assert after.seen is not None
    assert after.seen.can_wrap is False
    assert after.seen.message == before.seen.message


async def test_our_own_failed_credential_is_told_loudly(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """F2a: the log has a warning for an outage, and an error for a failed credential of ours."""
    await one.enable()
    await one.wrap()
    house.provider.disconnect()
    await house.after(61)
    await one.wrap()
    await one.settle()
    assert {r.levelname for r in caplog.records if "could not be asked" in r.message} == {"WARNING"}
    house.provider.mend()
    house.provider.break_credentials()
    await house.after(30)
    await one.wrap()
    await one.settle()
    told = [r for r in caplog.records if "CREDENTIALS_FAILED" in r.message]
    assert {r.levelname for r in told} == {"ERROR"}
    assert "fake:one" in told[0].message
