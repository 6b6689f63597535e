"""Bad days of a replica: clocks that are set, keys that half work, somebody else's answers.

What each of them must not do is the same: store what was not proven, lose what was, or leave a
caller without a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import ElsewhereClock, FakeProvider
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    InvalidKeySpecError,
    KekMismatchError,
    KeyDisabledError,
    KeyfoldError,
    KeyInvalidError,
    RefusedError,
    RevokedError,
    StoreStaleError,
    UnreachableError,
)
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.keyspec import KeySpec, RegionSpec, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import Entry
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.store.opening import open_store
from regional import set_regions
from replicas import House, Member, Spec, house_in, until

HOUR = 3_600.0

each_way = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["an-hour-on", "an-hour-back"])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with clusters acme and other under fake:one, both in use."""
    member = await house.replica()
    for name in ("acme", "other"):
        await member.enable(name)
        await member.wrap(name)
    return member


async def seen(member: Member, cluster: str = "acme") -> Observation:
    """Reads what a status says of a cluster's only region."""
    found = (await member.status(cluster)).regions[0].seen
    assert found is not None
    return found


def stored(house: House) -> Cluster:
    """Reads cluster acme from the store."""
    found = house.store.cluster("acme")
    assert found is not None
    return found


def noted(house: House) -> list[Entry]:
    """Reads every entry of the log after which replicas drop keys."""
    read = house.store.poll(Heartbeat("reader", 0, b"", 120, 0))
    return [entry for entry in read if entry.is_news]


# A clock that is set


async def set_clock(house: House, step: float) -> None:
    """Sets the wall clock of the machine, as an operator or NTP does; replicas poll on."""
    house.clock.step_wall(step)
    await house.after(0)


@each_way
async def test_a_clock_that_is_set_moves_no_proof(house: House, one: Member, step: float) -> None:
    """F1: a proof lasts its TTL by the clock that no one can set, and not a moment longer."""
    asked = house.calls()
    await set_clock(house, step)
    house.clock.advance(59.9)
    assert one.serves()
    assert house.calls() == asked
    house.clock.advance(0.1)
    assert not one.serves()


@each_way
async def test_a_clock_that_is_set_moves_no_grace(house: House, one: Member, step: float) -> None:
    """F1: grace ends at the same moment, and the status gives it by the new wall clock."""
    house.provider.disconnect()
    await house.after(61)
    await one.wrap()
    await one.settle()
    await set_clock(house, step)
    await one.wrap()
    (told,) = (await one.status()).regions[0].notices
    assert "serves on from memory until" in told
    # The last of a replica that polls: 960 s after the proof.
    await house.after(898)
    await one.wrap()
    await one.settle()
    await house.after(1)
    with pytest.raises(UnreachableError):
        await one.wrap()


@each_way
async def test_a_clock_that_is_set_moves_no_pause(house: House, one: Member, step: float) -> None:
    """W2: a replica remembers refusals and outages for as long, then calls the KMS again."""
    house.provider.disable("fake:one")
    await house.after(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    asked = house.calls()
    await set_clock(house, step)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    assert house.calls() == asked
    house.provider.enable("fake:one")
    await house.after(5)
    await one.wrap()
    house.provider.disconnect()
    one.loads.drop_all()
    with pytest.raises(UnreachableError):
        await one.wrap()
    await set_clock(house, -step)
    house.provider.mend()
    await house.after(5)
    await one.wrap()


async def test_a_clock_set_on_stops_service_for_a_poll_at_most(house: House, one: Member) -> None:
    """S3: the machine may have slept, so the replica serves nothing before the next poll."""
    house.clock.step_wall(HOUR)
    with pytest.raises(StoreStaleError):
        await one.wrap()
    await one.poll()
    assert one.serves()


async def test_a_clock_set_back_stops_nothing(house: House, one: Member) -> None:
    """S3: staleness goes on counting by the clock that no one can set."""
    house.clock.step_wall(-HOUR)
    assert one.serves()
    house.clock.advance(59)
    assert one.serves()
    house.clock.advance(62)
    with pytest.raises(StoreStaleError):
        await one.wrap()


@each_way
@pytest.mark.parametrize("flushed", [True, False])
async def test_health_is_seen_after_a_clock_was_set(
    house: House, one: Member, step: float, *, flushed: bool
) -> None:
    """The KMS's next answer counts, whatever the time of the one before."""
    if flushed:
        await one.replica._health.flush()
    await set_clock(house, step)
    house.provider.disable("fake:one")
    await house.after(60)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    told = await seen(one)
    assert told.health is Health.KEY_DISABLED
    assert told.last_check == int(house.clock.wall() * 1000)
    await one.replica._health.flush()
    two = await house.replica()
    assert (await seen(two)).health is Health.KEY_DISABLED
    house.provider.enable("fake:one")
    await house.after(61)
    await one.wrap()
    await one.replica._health.flush()
    assert (await seen(two)).health is Health.HEALTHY


async def test_a_status_asks_again_after_a_clock_was_set_back(house: House, one: Member) -> None:
    """An observation from the future is old, so GetStatus calls the KMS."""
    await set_clock(house, -HOUR)
    house.provider.disable("fake:one")
    house.clock.advance(61)
    await one.poll()
    assert (await seen(one)).health is Health.KEY_DISABLED


@each_way
async def test_the_chain_holds_across_a_clock_that_is_set(
    house: House, one: Member, step: float
) -> None:
    """A3, R5: the trail keeps the order and the times that events had, and verifies."""
    await set_clock(house, step)
    await one.revoke()
    await set_clock(house, -2 * step)
    await one.restore()
    trail = house.trail("acme")
    told = [action.rpartition(":")[2] for _, action, _ in trail]
    assert told == ["enable", "use", "revoke", "restore"]
    await one.wrap()


@each_way
async def test_a_request_is_not_carried_out_again_after_a_clock_was_set(
    house: House, one: Member, step: float
) -> None:
    """R6: the store keeps ids for a day, by a clock that may be wrong by an hour."""
    await one.revoke(request_id="r")
    await one.restore()
    await set_clock(house, step)
    house.store.prune(int(house.clock.wall() * 1000), 24 * 3600 * 1000)
    again = await one.revoke(request_id="r")
    assert (again.mutation.replayed, again.mutation.superseded) == (True, True)
    await one.wrap()


@each_way
async def test_the_sweep_goes_on_after_a_clock_was_set(
    house: House, one: Member, step: float
) -> None:
    """F5: no claim from before keeps an idle key from the sweep for more than an interval."""
    await one.sweep()
    await set_clock(house, step)
    house.provider.disable("fake:one")
    await house.after(600)
    await one.sweep()
    known = house.store.observations([f"root:{n.root}" for n in noted(house) if n.root])
    assert {o.health for o in known.values()} == {Health.KEY_DISABLED}


@each_way
async def test_a_databases_clock_that_is_set_hides_no_replica(
    tmp_path: Path, house: House, step: float
) -> None:
    """R4, S4: the store measures silence, so Revoke waits for a replica whatever its clock."""
    elsewhere = ElsewhereClock(house.clock)
    house.store.close()
    house.store = open_store(f"sqlite:///{house.file}", tmp_path / "service.key", clock=elsewhere)
    one, two = await house.replica(), await house.replica()
    await one.enable()
    elsewhere.step_wall(step)
    await house.after(1)
    await two.wrap()
    outcome = await one.hurry().revoke()
    assert two.serves()
    assert two.changes.replica in [p.replica for p in outcome.pending]
    await two.poll()
    assert not two.serves()


# Keys that half work


HALVES: dict[str, tuple[str, ...]] = {
    "encrypt alone": ("unwrap",),
    "decrypt alone": ("wrap",),
    "nothing, as in the wrong account": ("authenticate", "describe", "wrap", "unwrap"),
}

each_half = pytest.mark.parametrize("denied", HALVES.values(), ids=HALVES)


@each_half
async def test_a_key_that_half_works_is_not_enabled(
    house: House, one: Member, denied: tuple[str, ...]
) -> None:
    """F5: the error names the half that is missing, and nothing is stored."""
    house.provider.deny("fake:two", *denied)
    missing = "wrap" if "wrap" in denied else "unwrap"
    specs: tuple[dict[str, Spec], ...] = (
        {"eu": "fake:two"},
        {"eu": "fake:one", "us": "fake:two"},
    )
    for wanted in specs:
        with pytest.raises(AccessDeniedError) as raised:
            await one.enable("new", wanted)
        assert f"no permission to {missing} with fake:two" in raised.value.message
        assert (raised.value.cluster, raised.value.region) == ("new", list(wanted)[-1])
    assert house.store.cluster("new") is None
    with pytest.raises(AccessDeniedError):
        await one.add_regions({"us": "fake:two"})
    assert [region.name for region in stored(house).regions] == ["eu"]


@each_half
async def test_a_key_that_half_works_is_not_rotated_to(
    house: House, one: Member, denied: tuple[str, ...]
) -> None:
    """S5: the old key serves on, old wrapped keys open, and it has no refusal (F2)."""
    blob = await one.wrap()
    before, told = stored(house), len(noted(house))
    house.provider.deny("fake:two", *denied)
    for fresh in (False, True):
        with pytest.raises(AccessDeniedError) as raised:
            await one.rotate({"eu": "fake:two"}, new_generation=fresh)
        assert raised.value.region == "eu"
    await one.settle()
    assert stored(house) == before
    assert len(noted(house)) == told
    assert one.serves()
    await one.unwrap(blob)
    assert (await seen(one)).health is Health.HEALTHY
    assert [outcome for *_, outcome in house.trail("acme")][-2:] == ["ACCESS_DENIED"] * 2


async def test_a_key_that_loses_decrypt_in_service_stops_and_resumes(
    house: House, one: Member
) -> None:
    """F5: unwrapping decides: service stops, the status says it wraps, service resumes."""
    blob = await one.wrap()
    house.provider.deny("fake:one", "unwrap")
    await house.after(60)
    with pytest.raises(AccessDeniedError):
        await one.unwrap(blob)
    await house.after(61)
    told = await seen(one)
    assert (told.health, told.can_unwrap) == (Health.ACCESS_DENIED, False)
    with pytest.raises(AccessDeniedError):
        await one.rotate({"eu": "fake:two"})
    house.provider.allow("fake:one")
    await house.after(5)
    await one.unwrap(blob)


async def test_a_key_that_loses_encrypt_in_service_can_be_left(house: House, one: Member) -> None:
    """F5, S5: a key that cannot wrap serves, restores and can be left, but not rotated to."""
    blob = await one.wrap()
    house.provider.deny("fake:one", "wrap")
    await house.after(61)
    with pytest.raises(AccessDeniedError):
        await one.rotate()
    await one.unwrap(blob)
    await one.revoke()
    assert (await one.restore()).regions == ("eu",)
    await house.after(61)
    told = await seen(one)
    assert (told.health, told.can_wrap, told.can_unwrap) == (Health.HEALTHY, False, True)
    await one.rotate({"eu": "fake:two"})
    house.provider.disable("fake:one")
    one.loads.drop_all()
    await one.unwrap(blob)


async def test_our_own_fault_is_no_keys(house: House, one: Member) -> None:
    """F2a: if our credential fails, no change blames a key, and no region is refused."""
    house.provider.break_credentials()
    await house.after(61)
    told = len(noted(house))
    for change in (one.rotate, lambda: one.rotate({"eu": "fake:two"}), lambda: one.enable("new")):
        with pytest.raises(CredentialsFailedError):
            await change()
    await one.wrap()
    await one.wrap("other")
    await one.settle()
    for name in ("acme", "other"):
        assert (await seen(one, name)).health is Health.CREDENTIALS_FAILED
        assert (await seen(one, name)).can_unwrap is not False
    assert len(noted(house)) == told
    await one.hurry().revoke()
    (error,) = (await one.restore()).failed.values()
    assert isinstance(error, CredentialsFailedError)
    house.provider.mend()
    await house.after(5)
    assert (await one.restore()).regions == ("eu",)
    await one.wrap()


async def test_a_replica_in_a_partition_that_does_not_exist(house: House) -> None:
    """An ARN with a partition that does not exist is refused without a call to AWS."""
    aws = AwsKmsProvider()
    house.provider_of = lambda _: aws  # type: ignore[method-assign, assignment]
    one = await house.replica()
    set_regions(one.replica, ResidencyPolicy({"us": {"AWS_KMS": ("us-east-1",)}}, required=False))
    arn = "arn:{}:kms:eu-west-1:111122223333:key/mrk-" + 32 * "a"
    for partition, why in (("aws-moon", "no AWS partition aws-moon"), ("aws-cn", "eu-west-1")):
        specs: dict[str, Spec] = {
            "eu": KeySpec("AWS_KMS", arn.format(partition)),
            "us": RegionSpec("us", replica_of="eu"),
        }
        with pytest.raises(InvalidKeySpecError, match=why) as raised:
            await one.enable(specs=specs)
        assert (raised.value.field or "").startswith("region_specs[")
    assert house.store.cluster("acme") is None


# Somebody else's plaintext


async def test_somebody_elses_plaintext_becomes_no_key(house: House, one: Member) -> None:
    """C5, F4: a KMS that answers with something else is KEK_MISMATCH; no replica reports it."""
    blob = await one.wrap()
    two = await house.replica()
    await two.wrap()
    told = len(noted(house))
    house.provider.wrong_plaintext("fake:one")
    await house.after(60)
    for _ in range(3):
        with pytest.raises(KekMismatchError):
            await one.unwrap(blob)
        await house.after(5)
    await one.settle()
    assert len(noted(house)) == told
    assert (await seen(one)).health is Health.KEK_MISMATCH
    for uri in (None, "fake:two"):
        with pytest.raises(KekMismatchError):
            await one.rotate({"eu": uri})
    await one.hurry().revoke()
    (error,) = (await one.restore()).failed.values()
    assert isinstance(error, KekMismatchError)
    house.provider.wrong_plaintext("fake:one", wrong=False)
    await one.restore()
    await one.unwrap(blob)
    assert (await seen(one)).health is Health.HEALTHY


async def test_a_key_that_answers_with_somebody_elses_plaintext_is_never_taken(
    house: House, one: Member
) -> None:
    """Enable and Rotate refuse a key that does not unwrap to what it wrapped."""
    before = stored(house)
    house.provider.wrong_plaintext("fake:two")
    for change, cluster in ((one.enable, "new"), (one.rotate, "acme")):
        with pytest.raises(KeyInvalidError, match="does not unwrap to what it wrapped"):
            await change(specs={"eu": "fake:two"}, cluster=cluster)
    assert house.store.cluster("new") is None
    assert stored(house) == before
    assert one.serves()


async def test_a_mismatch_leaves_the_root_keys_other_keks_in_use(house: House, one: Member) -> None:
    """F4: of two clusters under a root key one gets wrong answers, and the other serves on."""
    unwrap = FakeProvider.unwrap

    def answer(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        got = unwrap(house.provider, key, key_version, ciphertext, binding, budget=budget)
        if binding.cluster != "acme":
            return got
        return replace(got, plaintext=replace(binding, cluster="other").payload(bytes(32)))

    house.provider.unwrap = answer  # type: ignore[method-assign]
    for _ in range(4):
        await house.after(61)
        one.cache.drop_cluster("acme")
        with pytest.raises(KekMismatchError):
            await one.wrap()
        await one.wrap("other")
        assert one.serves("other")
    assert (await seen(one, "other")).health is Health.HEALTHY


# A KMS that flaps


Bad = Callable[[FakeProvider], object]

FLAPS: dict[str, tuple[Bad, type[KeyfoldError]]] = {
    "network": (lambda p: p.disconnect(), UnreachableError),
    "throttle": (lambda p: p.throttle(), CouldNotTellError),
    "credential": (lambda p: p.break_credentials(), CredentialsFailedError),
    "disabled": (lambda p: p.fail(KeyDisabledError("the fake key is disabled")), KeyDisabledError),
}


@pytest.mark.parametrize("flap", FLAPS.values(), ids=FLAPS)
async def test_a_kms_that_flaps_every_second(
    house: House, flap: tuple[Bad, type[KeyfoldError]]
) -> None:
    """Every call gets its answer at once, and 5 s and a call after the end all is well.

    Where nobody could tell, what was warm serves all the time: no gap is as long as its grace.
    """
    bad, error = flap
    one = await house.replica(cache_ttl=3.0, outage_grace=60.0)
    await one.enable()
    await one.enable("cold")
    blob = await one.wrap()
    calls = house.calls()
    for second in range(40):
        if second % 2:
            bad(house.provider)
        else:
            house.provider.mend()
        one.cache.drop_cluster("cold")
        answers = await asyncio.wait_for(
            asyncio.gather(one.unwrap(blob), one.wrap("cold"), return_exceptions=True), 10
        )
        for answer in answers:
            assert not isinstance(answer, BaseException) or isinstance(answer, error), answer
        if not issubclass(error, RefusedError):
            assert not isinstance(answers[0], BaseException)
        await one.look()
        await house.after(1)
    # Neither the callers nor the keeper called the KMS once for each of them.
    assert house.calls() - calls < 40 * 3
    house.provider.mend()
    await house.after(5)
    await one.unwrap(blob)
    await one.wrap("cold")
    assert (await seen(one)).health is Health.HEALTHY
    await until(lambda: not one.replica._tasks._under_way)


# Restore, and requests that are repeated


async def test_restore_of_what_is_not_revoked_changes_nothing(house: House, one: Member) -> None:
    """R7: a region in service is in the answer if it is named, else Restore does nothing."""
    before, told = stored(house), len(noted(house))
    asked = house.calls()
    outcome = await one.restore()
    assert (outcome.regions, outcome.failed, outcome.mutation.number) == ((), {}, None)
    assert house.calls() == asked
    outcome = await one.restore(regions=["eu"])
    assert (outcome.regions, outcome.failed, outcome.mutation.number) == (("eu",), {}, None)
    assert stored(house) == before
    assert len(noted(house)) == told
    assert one.serves()


async def test_restore_of_what_is_not_revoked_loses_nothing(house: House, one: Member) -> None:
    """R7, F6: a region named while the KMS is away serves on; the answer has the error."""
    before = stored(house)
    house.provider.disconnect()
    outcome = await one.restore(regions=["eu"])
    assert outcome.regions == ()
    assert isinstance(outcome.failed["eu"], UnreachableError)
    assert outcome.mutation.cluster.region("eu").state is State.ENABLED
    assert stored(house) == before
    assert one.serves()


async def test_a_stale_replica_does_not_tell_of_a_repeated_request(
    house: House, one: Member
) -> None:
    """R6, S2: its database may have been deposed, and show a state that is long past."""
    await one.revoke(request_id="r")
    house.clock.advance(121)
    with pytest.raises(StoreStaleError):
        await one.revoke(request_id="r")
    await one.poll()
    assert (await one.revoke(request_id="r")).mutation.replayed


async def test_a_repeated_restore_undoes_no_later_revoke(house: House, one: Member) -> None:
    """R6: a Restore that found nothing revoked was carried out; repeated later it restores nothing.

    A client whose first answer was lost repeats it, and must not undo what came in between.
    """
    first = await one.restore(request_id="r")
    assert not first.mutation.replayed
    await one.revoke()
    again = await one.restore(request_id="r")
    assert (again.mutation.replayed, again.mutation.superseded) == (True, True)
    assert again.regions == ()
    assert isinstance(again.failed["eu"], RevokedError)
    assert stored(house).region("eu").state is State.REVOKED
    with pytest.raises(RevokedError):
        await one.wrap()
