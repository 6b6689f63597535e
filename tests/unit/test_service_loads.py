"""Loads and their bounds (protocol W1, W2): shared loads, the warm path, no leaks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from callers import EVERYTHING
from fakes import FakeClock
from keyfold_server.domain.errors import (
    DeadlineError,
    KeyDisabledError,
    KeyfoldError,
    OverloadedError,
    UnreachableError,
)
from keyfold_server.service.data.call import Call, Need, NeedsLoad
from keyfold_server.service.kms import client as kms
from keyfold_server.service.kms import gates
from replicas import LONG, UNHURRIED, House, Member, entered, house_in, spin, under, until


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


def hurry(one: Member, budget: float) -> None:
    """Gives calls to a KMS so many seconds from now on: too few for what prepares a test."""
    one.replica._kms._budget = budget


async def test_3000_cold_calls_make_one_kms_call(house: House, one: Member) -> None:
    """Concurrent misses on one KEK share one unwrap, and one read of the store."""
    blob = await one.wrap()
    one.loads.drop_all()
    house.clock.advance(1)
    before, reads = house.calls(), one.line.counts["cluster"]
    opened = await asyncio.gather(*(one.unwrap(blob) for _ in range(3_000)))
    assert {o.plaintext for o in opened} == {b"k" * 32}
    assert house.calls() == before + 1
    assert one.line.counts["cluster"] == reads + 1


async def test_the_warm_path_touches_nothing(house: House, one: Member) -> None:
    """R3: a warm call reads no store, calls no KMS and starts no thread or task."""
    blob = await one.wrap()
    await one.settle()
    kms_calls, store_calls = len(house.provider.calls), one.line.counts.total()
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    for _ in range(100):
        one.warm()
        one.plane.unwrap("acme", blob, {}, Call(EVERYTHING))
        one.plane.generate("acme", "eu", 32, {}, Call(EVERYTHING))
        one.plane.rewrap("acme", blob, {}, None, Call(EVERYTHING))
        one.plane.wrap_batch("acme", [("eu", b"k", None)] * 10, {}, Call(EVERYTHING))
        one.plane.unwrap_batch("acme", [(blob, None)] * 10, {}, Call(EVERYTHING))
        one.plane.rewrap_batch("acme", [(blob, {}, None)] * 10, Call(EVERYTHING))
    assert len(house.provider.calls) == kms_calls
    assert one.line.counts.total() == store_calls
    assert set(threading.enumerate()) == threads
    assert asyncio.all_tasks() == tasks


async def test_an_impatient_caller_cancels_nothing(house: House, one: Member) -> None:
    """W1: a caller that gives up, by deadline or by leaving, fails no other caller of the load."""
    hang = house.provider.hang(operations=("unwrap",))
    before = house.calls()
    first = asyncio.create_task(one.wrap())
    await entered(hang)
    short = asyncio.create_task(one.wrap(within=0.02))
    patient = asyncio.create_task(one.wrap())
    with pytest.raises(DeadlineError):
        await short
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    house.provider.mend()
    await patient
    assert house.calls() == before + 1


async def test_a_load_that_nobody_waits_for_still_arrives(house: House, one: Member) -> None:
    """W1: a load has the provider's budget, not its caller's deadline."""
    await one.wrap()
    # The KEK alone is missing, so that the load begins at once, however short the deadline is.
    [opened] = one.cache.opened()
    one.cache.drop_kek(opened.view, opened.kek.kek_id)
    hang = house.provider.hang(operations=("unwrap",))
    with pytest.raises(DeadlineError):
        await one.wrap(within=0.02)
    await entered(hang)
    house.provider.mend()
    await one.settle()
    assert one.serves()


async def test_one_hanging_root_key_leaves_others_served(house: House) -> None:
    """W2: a root key whose calls hang holds four slots; other keys of its account are served."""
    one = await house.replica()
    for name in ("corp.bad", "corp.good"):
        house.provider.create_key(name)
    bad = [f"bad-{i}" for i in range(12)]
    for name in bad:
        await one.enable(name, {"eu": "fake:corp.bad"})
    await one.enable("good", {"eu": "fake:corp.good"})
    hang = house.provider.hang("fake:corp.bad")
    calls = [asyncio.create_task(one.wrap(name)) for name in bad]
    await entered(hang, gates.AT_ONCE_PER_KEY)
    await one.wrap("good", within=2)
    assert hang._entered == gates.AT_ONCE_PER_KEY
    house.provider.mend()
    await asyncio.gather(*calls)


async def test_one_hanging_account_leaves_others_served(house: House) -> None:
    """W2: an account whose calls hang holds eight slots; other accounts are served."""
    one = await house.replica()
    for i in range(6):
        house.provider.create_key(f"corp.key-{i}")
        for j in range(3):
            await one.enable(f"bad-{i}-{j}", {"eu": f"fake:corp.key-{i}"})
    await one.enable("good")
    hangs = [house.provider.hang(f"fake:corp.key-{i}") for i in range(6)]
    calls = [asyncio.create_task(one.wrap(f"bad-{i}-{j}")) for i in range(6) for j in range(3)]
    await until(lambda: sum(h._entered for h in hangs) >= gates.AT_ONCE_PER_ACCOUNT)
    await one.wrap("good", within=2)
    assert sum(h._entered for h in hangs) == gates.AT_ONCE_PER_ACCOUNT
    house.provider.mend()
    await asyncio.gather(*calls)


async def test_waiting_at_a_gate_is_bounded(house: House) -> None:
    """W2: a call that waited its whole budget for a slot gets OVERLOADED and a time to retry."""
    one = await house.replica(cache_ttl=0)
    await one.enable()
    await one.wrap()
    hurry(one, 0.2)
    hang = house.provider.hang()
    results = await asyncio.gather(*(one.wrap() for _ in range(12)), return_exceptions=True)
    # The first in line may get a slot in the moment that their time is up.
    assert {type(r) for r in results} == {UnreachableError, OverloadedError}
    for result in results:
        if isinstance(result, OverloadedError):
            assert result.retry_after
    assert hang._entered <= 2 * gates.AT_ONCE_PER_KEY


async def test_a_line_that_is_too_long_is_refused_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W2: calls are refused before they join a full line, so its length is bounded."""
    monkeypatch.setattr(gates, "WAITING", 3)
    one = await house.replica(cache_ttl=0)
    await one.enable()
    hang = house.provider.hang()
    calls = [asyncio.create_task(one.wrap()) for _ in range(10)]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await entered(hang, gates.AT_ONCE_PER_KEY)
    await spin()
    done, waiting = await asyncio.wait(calls, timeout=0)
    assert len(waiting) == gates.AT_ONCE_PER_KEY + 3
    assert {type(call.exception()) for call in done} == {OverloadedError}
    house.provider.mend()
    await asyncio.gather(*waiting)


async def test_a_hung_thread_keeps_its_place_until_it_returns(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W2: the service stops waiting for a thread that no timeout ends, and does not replace it."""
    monkeypatch.setattr(kms, "_LATE", 0.05)
    one = await house.replica(cache_ttl=0)
    await one.enable()
    hurry(one, 0.1)
    stuck, ends = threading.Semaphore(0), threading.Event()
    real = house.provider.unwrap

    def hanging(*args: object, **kwargs: object) -> object:
        stuck.release()
        ends.wait(20)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    house.provider.unwrap = hanging  # type: ignore[assignment, method-assign]
    try:
        calls = [one.wrap() for _ in range(gates.AT_ONCE_PER_KEY)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(r) for r in results} == {UnreachableError}
        with pytest.raises(OverloadedError):
            await one.wrap()
    finally:
        ends.set()
        house.provider.unwrap = real  # type: ignore[method-assign]
    hurry(one, LONG)
    latest = time.monotonic() + LONG
    while True:
        try:
            await one.wrap()
            break
        except OverloadedError:
            assert time.monotonic() < latest, "the slots stay taken"


async def test_an_account_that_hangs_leaves_all_its_keys_on_grace(house: House) -> None:
    """F1, W2: a key whose calls got no slot at the gate serves on grace, as in an outage."""
    one = await house.replica()
    names = [f"c-{i}" for i in range(20)]
    for name in names:
        house.provider.create_key(f"corp.{name}")
        await one.enable(name, {"eu": f"fake:corp.{name}"})
        await one.wrap(name)
    hurry(one, 0.2)
    house.provider.hang()
    await house.after(61)
    results = await asyncio.gather(*(one.wrap(n) for n in names), return_exceptions=True)
    assert [r for r in results if isinstance(r, BaseException)] == []
    # And at 80 % of the TTL, by the keeper.
    house.provider.mend()
    await house.after(6)
    for name in names:
        await one.wrap(name)


async def test_hanging_calls_keep_no_disabled_key_in_use(house: House) -> None:
    """F8: calls that hold every other slot of an account hold up no refresh of a key in use."""
    one = await house.replica(provider_budget=60.0)  # Longer than a call waits.
    for name in ("mine", "busy"):
        house.provider.create_key(f"corp.{name}")
        await one.enable(name, {"eu": f"fake:corp.{name}"})
    await one.wrap("mine")
    for number in range(3):
        house.provider.create_key(f"corp.{number}")
        await one.enable(f"c{number}", {"eu": under(f"fake:corp.{number}", ttl=0)})
    hangs = [house.provider.hang(f"fake:corp.{number}") for number in range(3)]
    calls = [asyncio.create_task(one.wrap(f"c{n}")) for n in range(3) for _ in range(4)]
    await until(lambda: sum(h._entered for h in hangs) >= gates.AT_ONCE_PER_ACCOUNT)
    house.provider.disable("fake:corp.mine")
    await house.after(61)
    with pytest.raises(KeyDisabledError):
        await one.wrap("mine")
    house.provider.mend()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_hanging_threads_keep_no_disabled_key_in_use(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F8: calls that hold every other thread of a provider hold up no refresh of a key in use."""
    monkeypatch.setattr(kms, "THREADS", 2)
    one = await house.replica(provider_budget=60.0)  # Longer than a call waits.
    await one.enable()
    await one.wrap()
    house.provider.create_key("corp.bad")
    await one.enable("bad", {"eu": under("fake:corp.bad", ttl=0)})
    hang = house.provider.hang("fake:corp.bad")
    calls = [asyncio.create_task(one.wrap("bad")) for _ in range(4)]
    await entered(hang, 2)
    house.provider.disable("fake:one")
    await house.after(61)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    house.provider.mend()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_flood_of_calls_at_ttl_0_gives_no_grace(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F8: a line that calls made too long for themselves is no outage of their root key."""
    monkeypatch.setattr(gates, "WAITING", 0)
    one = await house.replica()
    await one.enable()
    await one.wrap()
    await one.enable("busy", {"eu": under("fake:one", ttl=0)})
    hang = house.provider.hang()
    calls = [asyncio.create_task(one.wrap("busy")) for _ in range(8)]
    await entered(hang, gates.AT_ONCE_PER_KEY)
    house.provider._faults.clear()
    house.provider.disable("fake:one")
    await house.after(61)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    hang.release()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("answered", [True, False])
async def test_a_refresh_in_line_learns_whether_the_kms_answers(*, answered: bool) -> None:
    """F8: behind calls that get answers, Keyfold did not ask; behind silent ones, it could not."""
    clock = FakeClock()
    kept = gates.Gates(UNHURRIED, clock)
    ahead = []
    for number in range(gates.PROOFS_AT_ONCE_PER_ACCOUNT):
        key = ("FAKE", f"fake:{number}")
        ahead.append(kept.enter(key, ("FAKE", "corp"), "FAKE", 1.0, proof=True))
        await ahead[-1].acquire()
    waits = kept.enter(("FAKE", "fake:x"), ("FAKE", "corp"), "FAKE", 1.0, proof=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await waits.acquire()
    clock.advance(5)
    for permit in ahead:
        permit.ended(None if answered else UnreachableError("silent"))
    assert isinstance(waits.refused(), OverloadedError if answered else UnreachableError)


async def test_a_provider_that_fails_unexpectedly_tells_nothing(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """An SDK's exception becomes UNREACHABLE with an incident, and its text appears nowhere."""

    def broken(*_args: object, **_kwargs: object) -> object:
        raise ValueError("the request was SECRET")

    house.provider.unwrap = broken  # type: ignore[assignment, method-assign]
    with pytest.raises(UnreachableError) as caught:
        await one.wrap()
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in caplog.text
    assert "ValueError" in caplog.text


async def test_no_key_material_in_logs_or_reprs(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """No log line, error or repr has a root key, KEK or data key."""
    caplog.set_level(logging.DEBUG)
    plaintext = bytes(range(100, 132))
    blob = await one.wrap(plaintext=plaintext)
    problems: list[BaseException] = []

    async def tried(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except KeyfoldError as error:
            problems.append(error)

    house.provider.new_version("fake:one")
    await tried(one.rotate)
    await tried(lambda: one.rotate({"eu": "fake:missing"}))
    house.provider.disable("fake:one")
    await house.after(61)
    await tried(lambda: one.unwrap(blob))
    await tried(lambda: one.unwrap(blob[:-1] + b"x"))
    house.provider.enable("fake:one")
    house.provider.wrong_plaintext("fake:one")
    await house.after(6)
    await tried(lambda: one.unwrap(blob))
    house.provider.disconnect()
    await tried(one.revoke)
    await tried(one.restore)
    assert len(problems) >= 3
    house.provider.mend()
    house.provider.wrong_plaintext("fake:one", wrong=False)
    await one.restore()
    opened = await one.unwrap(blob)
    assert opened.plaintext == plaintext
    view = one.cache.view("acme")
    assert view is not None
    assert len(house.drawn) >= 1
    text = caplog.text + "".join(map(repr, problems)) + "".join(map(str, problems))
    text += "".join(repr(p.__cause__) for p in problems)
    text += repr(view.open) + repr(one.cache._roots) + repr(view.cluster)
    for secret in [*house.provider.secrets(), plaintext, *house.drawn]:
        for form in (secret.hex(), repr(secret)[2:-1], repr(list(secret))[1:-1]):
            assert form not in text


async def test_a_cold_refused_key_does_not_hold_threads(house: House, one: Member) -> None:
    """A refusal is remembered for 5 s, however many callers come."""
    house.provider.disable("fake:one")
    before = house.calls()
    results = await asyncio.gather(*(one.wrap() for _ in range(200)), return_exceptions=True)
    assert {type(r) for r in results} == {KeyDisabledError}
    for _ in range(50):
        with pytest.raises(KeyDisabledError):
            await one.wrap()
    assert house.calls() == before + 1


async def test_a_load_that_ended_meanwhile_is_not_made_again(house: House, one: Member) -> None:
    """A call that needed a KEK just before another call's load brought it makes no KMS call."""
    await one.enable()
    one.loads.drop_all()
    late = Call(EVERYTHING, house.clock.monotonic())
    await one.loads.satisfy([Need("acme")], late, house.clock.monotonic() + 10)
    with pytest.raises(NeedsLoad) as lacking:
        one.plane.wrap("acme", "eu", b"k", {}, late)
    await one.wrap()
    asked = house.calls()
    await one.loads.satisfy(lacking.value.needs, late, house.clock.monotonic() + 10)
    assert one.plane.wrap("acme", "eu", b"k", {}, late)
    assert house.calls() == asked
