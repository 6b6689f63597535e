"""Rates of calls to customers' KMSs (protocol C4, F8): calls within them, and calls beyond."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes import FakeClock
from keyfold_server import telemetry
from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import KeyDisabledError, RateLimitedError
from keyfold_server.domain.health import Health
from keyfold_server.service.kms import gates
from keyfold_server.service.kms.gates import Gates, Permit
from keyfold_server.service.limits import Bucket
from replicas import House, Member, house_in, under

FAST = 1e6
BUDGET = 60.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


async def limited(house: House, *, ttl: float = 0, **rates: float) -> Member:
    """Gives a replica with cluster acme, whose calls wait 0.1 s for a rate at most.

    The rest of their budget is ample, so that no busy machine uses it up.
    """
    given = Rates(**({"per_key": FAST, "per_account": FAST, "per_provider": FAST} | rates))
    one = await house.replica(rates=given, provider_budget=BUDGET)
    await one.enable(specs={"eu": under("fake:one", ttl=ttl)})
    await house.after(10)
    waits = one.replica._kms._gates
    enter = waits.enter

    def hurried(
        key: tuple[str, ...],
        account: tuple[str, ...],
        type_: str,
        patience: float,
        *,
        proof: bool = False,
    ) -> Permit:
        assert patience == BUDGET / 2
        return enter(key, account, type_, 0.1, proof=proof)

    waits.enter = hurried  # type: ignore[method-assign]
    return one


async def outcomes(one: Member, calls: int, cluster: str = "acme") -> list[BaseException]:
    """Makes calls at once, and returns the errors of those that failed."""
    done = await asyncio.gather(*(one.wrap(cluster) for _ in range(calls)), return_exceptions=True)
    return [each for each in done if isinstance(each, BaseException)]


def test_a_bucket_gives_its_rate_and_a_second_s_worth_at_once() -> None:
    """C4: after a quiet second as many calls as the rate pass at once, then one at a time."""
    bucket = Bucket(20, 0.0)
    for _ in range(20):
        assert not bucket.wait(0.0)
        bucket.take(0.0)
    assert bucket.wait(0.0) == pytest.approx(0.05)
    assert bucket.wait(0.05) == pytest.approx(0.0)
    assert not bucket.full(0.5)
    assert bucket.full(1.0)


@pytest.mark.parametrize(
    ("rate", "named"),
    [("per_key", "root key"), ("per_account", "account"), ("per_provider", "provider")],
)
async def test_what_is_over_a_rate_is_keyfold_s_own_refusal(
    house: House, rate: str, named: str
) -> None:
    """C4: at TTL 0 calls over a rate are RATE_LIMITED by Keyfold, with the time to wait."""
    one = await limited(house, **{rate: 10})
    before = house.calls()
    failed = await outcomes(one, 40)
    assert {type(error) for error in failed} == {RateLimitedError}
    error = failed[0]
    assert isinstance(error, RateLimitedError)
    assert f"this {named} gets more than 10 calls a second" in error.message
    assert error.source == "keyfold"
    assert error.retry_after is not None
    assert error.retry_after > 0.1
    # Ten at once, and those that could pass within the 0.1 s that a call waits.
    assert house.calls() - before == 40 - len(failed) == 11
    await house.after(1)
    assert not await outcomes(one, 10)


async def test_a_call_over_the_rate_waits_where_it_can(house: House) -> None:
    """C4: a call that the rate holds up for less than half of its budget waits and is served."""
    one = await limited(house, per_key=20)
    assert not await outcomes(one, 21)


async def test_the_rate_of_one_root_key_is_not_another_s(house: House) -> None:
    """C4: calls over one root key's rate do not delay another's."""
    one = await limited(house, per_key=10)
    await one.enable("other", {"eu": under("fake:two", ttl=0)})
    assert await outcomes(one, 40)
    await one.wrap("other")


async def test_to_be_over_a_rate_takes_no_key_out_of_use(house: House) -> None:
    """C4, F8: a root key in use is proven ahead of calls that are over its rate."""
    one = await limited(house, ttl=60, per_key=10)
    await one.wrap()
    house.provider.new_version("fake:one")
    await one.enable("busy", {"eu": under("fake:one", ttl=0)})
    await house.after(61)
    assert await outcomes(one, 40, "busy")
    asked = house.calls()
    await one.wrap()
    await one.settle()
    assert house.calls() == asked + 1
    subjects = [f"root:{root_id}" for root_id in one.cache._roots]
    known = one.replica._health.combined(house.store.observations(subjects), subjects)
    assert {seen.health for seen in known.values()} == {Health.HEALTHY}


async def in_use(house: House, keys: int = 1) -> Member:
    """Gives a replica with root keys in use, each in an account of its own, and two neighbours.

    Their clusters are c0, c1 and so on; `near` shares the account of c0's key, `far` does not.
    """
    one = await house.replica(provider_budget=1.9)
    for number in range(keys):
        house.provider.create_key(f"a{number}.key")
        await one.enable(f"c{number}", {"eu": under(f"fake:a{number}.key")})
        await one.wrap(f"c{number}")
    for name, key in (("near", "a0.busy"), ("far", "other.busy")):
        house.provider.create_key(key)
        await one.enable(name, {"eu": under(f"fake:{key}", ttl=0)})
    return one


def limit(one: Member, **rates: float) -> None:
    """Limits rates from now on. At one call a second, a call passes at once or not at all."""
    given = Rates(**({"per_key": FAST, "per_account": FAST, "per_provider": FAST} | rates))
    one.replica._kms._gates = Gates(given, one.house.clock)


@pytest.mark.parametrize(("rate", "neighbour"), [("per_account", "near"), ("per_provider", "far")])
async def test_a_busy_neighbour_keeps_no_disabled_key_in_use(
    house: House, rate: str, neighbour: str
) -> None:
    """F8: while other calls use up a rate, the KMS is asked about a root key in use all the same.

    Otherwise a customer's disabled key would serve through the whole outage grace.
    """
    one = await in_use(house)
    limit(one, **{rate: 1})
    house.provider.disable("fake:a0.key")
    await house.after(61)
    assert {type(e) for e in await outcomes(one, 5, neighbour)} == {RateLimitedError}
    with pytest.raises(KeyDisabledError):
        await one.wrap("c0")


async def test_a_busy_neighbour_delays_no_refresh(house: House) -> None:
    """F8: a root key in use is refreshed before its TTL ends, whatever other calls use up."""
    one = await in_use(house)
    limit(one, per_provider=1)
    await house.after(50)
    assert await outcomes(one, 5, "far")
    await one.look()
    await house.after(50)
    assert one.serves("c0")


def test_a_proof_counts_among_the_calls() -> None:
    """F8, C4: other calls wait for the proofs that went first, so the rate holds in the mean."""
    clock = FakeClock()
    gates = Gates(Rates(FAST, FAST, 10), clock)

    def enter(number: int, *, proof: bool = False) -> float:
        key, account = ("FAKE", f"fake:{number}", ""), ("FAKE", "fake")
        permit = gates.enter(key, account, "FAKE", 0.0, proof=proof)
        permit.release()
        return permit._pause

    for number in range(10):
        enter(number)
    with pytest.raises(RateLimitedError):
        enter(10)
    assert [enter(number, proof=True) for number in range(4)] == [0.0] * 4
    clock.advance(0.45)
    with pytest.raises(RateLimitedError):
        enter(10)
    clock.advance(0.06)
    enter(10)


def test_one_root_key_cannot_use_up_the_reserve() -> None:
    """F8: a root key of a very short TTL takes two calls a second from the reserve, at most."""
    gates = Gates(Rates(FAST, FAST, 10), FakeClock())

    def enter(key: str) -> None:
        gates.enter(("FAKE", key), ("FAKE", key), "FAKE", 0.0, proof=True).release()

    for _ in range(12):  # Ten within the rate, and two from the reserve.
        enter("fake:one")
    with pytest.raises(RateLimitedError):
        enter("fake:one")
    enter("fake:two")


def use_up(one: Member) -> None:
    """Uses up a provider's rate, and the reserve for root keys in use."""
    gates = one.replica._kms._gates
    with contextlib.suppress(RateLimitedError):
        for number in itertools.count():
            key, account = ("FAKE", f"fake:x{number}", ""), ("FAKE", "x")
            gates.enter(key, account, "FAKE", 0.0, proof=True).release()


def not_asked(reason: str = "RATE_LIMITED") -> float:
    """Reads the metric of refreshes that Keyfold's limits kept from the KMS."""
    value: float = telemetry.REFRESHES_NOT_ASKED.labels("FAKE", reason)._value.get()
    return value


async def test_without_budget_a_key_ends_at_its_ttl(house: House) -> None:
    """F8: where refreshes use up even their reserve, there is no grace, and the error says why."""
    one = await in_use(house)
    limit(one, per_provider=1)
    await house.after(61)
    use_up(one)
    before, asked = not_asked(), house.calls()
    for _ in range(3):
        with pytest.raises(RateLimitedError, match="cannot be checked with its KMS") as caught:
            await one.wrap("c0")
        assert caught.value.source == "keyfold"
        assert caught.value.retry_after
    # The refresh was tried once, and not again by each call.
    assert (not_asked(), house.calls()) == (before + 1, asked)
    await house.after(5)
    await one.wrap("c0")
    await one.settle()
    assert one.serves("c0")


async def test_what_is_not_asked_prolongs_no_outage(house: House) -> None:
    """F8: grace lasts while the KMS gives no answer, and not while Keyfold does not ask it."""
    one = await in_use(house)
    limit(one, per_provider=1)
    house.provider.disconnect()
    await house.after(61)
    await one.wrap("c0")
    house.provider.mend()
    house.provider.disable("fake:a0.key")
    for _ in range(5):  # Longer than the longest pause, and the time for which it is believed.
        await house.after(3)
        use_up(one)
        with contextlib.suppress(RateLimitedError):
            await one.wrap("c0")
        await one.settle()
    with pytest.raises(RateLimitedError):
        await one.wrap("c0")


def test_gates_that_nobody_needs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """C4: the gates of root keys long unused take no memory."""
    monkeypatch.setattr(gates, "_KEPT", 10)
    clock = FakeClock()
    kept = Gates(Rates(FAST, FAST, FAST), clock)
    for number in range(1_000):
        clock.advance(1)
        kept.enter(("FAKE", f"fake:{number}", ""), ("FAKE", "fake"), "FAKE", 1.0).release()
    assert len(kept._gates) <= 1_010
    for number in range(1_010):
        clock.advance(1)
        kept.enter(("FAKE", f"fake:x{number}", ""), ("FAKE", "fake"), "FAKE", 1.0).release()
    assert len(kept._gates) < 1_010
    assert not any(gate.users for gate in kept._gates.values())
