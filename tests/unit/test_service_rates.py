"""Rates of calls to customers' KMSs (protocol C4): calls within them, and calls beyond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes import FakeClock
from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import RateLimitedError
from keyfold_server.domain.health import Health
from keyfold_server.service.kms import gates
from keyfold_server.service.kms.gates import Gates
from keyfold_server.service.limits import Bucket
from replicas import House, Member, house_in, under

FAST = 1e6


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


async def limited(house: House, *, ttl: float = 0, **rates: float) -> Member:
    """Gives a replica with cluster acme, whose calls wait 0.1 s for a rate at most."""
    given = Rates(**({"per_key": FAST, "per_account": FAST, "per_provider": FAST} | rates))
    one = await house.replica(rates=given, provider_budget=0.2)
    await one.enable(specs={"eu": under("fake:one", ttl=ttl)})
    await house.after(10)
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
    """C4, F1: KEKs in memory then serve on grace, and no key is shown as unreachable."""
    one = await limited(house, ttl=60, per_key=10)
    await one.wrap()
    house.provider.new_version("fake:one")
    await one.enable("busy", {"eu": under("fake:one", ttl=0)})
    await house.after(61)
    assert await outcomes(one, 40, "busy")
    asked = house.calls()
    await one.wrap()
    await one.settle()
    assert house.calls() == asked
    known = await one.replica._health.known([f"root:{root_id}" for root_id in one.cache._roots])
    assert {seen.health for seen in known.values()} == {Health.HEALTHY}


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
