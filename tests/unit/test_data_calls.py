"""Calls of batches (protocol R3, W5): in parts, between which the event loop has other turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from given_call import GivenCall
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import InvalidBatchError
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc import data_calls
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.data_calls import DataCalls
from keyfold_server.rpc.handlers.data import DataMethods
from replicas import Member, house_in, under


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Member]:
    """Gives a replica with cluster acme."""
    async with house_in(tmp_path) as house:
        member = await house.replica()
        await member.enable()
        yield member


def wraps(count: int, size: int = 32) -> pb.BatchWrapRequest:
    """Returns a batch of so many different keys."""
    items = [pb.BatchWrapItem(plaintext=n.to_bytes(2) * (size // 2)) for n in range(count)]
    return pb.BatchWrapRequest(cluster="acme", region="eu", items=items)


async def called(one: Member, method: str, asked: Any) -> tuple[bytes, Facts]:
    """Makes a call."""
    core = DataMethods(one.plane).table()[method]
    answer = DataCalls(one.replica).batch(method, core)
    facts = Facts()
    account = one.replica.callers.of("caller")
    caller = Caller(one.rights)
    return await answer(asked.SerializeToString(), GivenCall(), caller, account, facts), facts


def between(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[Any]]) -> list[int]:
    """Does something in the turns between parts, and counts these turns."""
    turns: list[int] = []

    async def others() -> None:
        turns.append(len(turns))
        await work()

    monkeypatch.setattr(data_calls, "_others", others)
    return turns


async def nothing() -> None:
    """Does nothing."""


async def test_a_large_batch_leaves_turns_to_others(
    one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: a thousand items are five parts; a batch of up to 200 small ones takes no await."""
    turns = between(monkeypatch, nothing)
    reply, facts = await called(one, "BatchWrap", wraps(200))
    assert not turns
    reply, facts = await called(one, "BatchWrap", wraps(1_000))
    assert len(turns) == 4
    assert facts.items == 1_000
    made = pb.BatchWrapResponse.FromString(reply).results
    wrapped = [result.answer.wrapped_key for result in made]
    opened, _ = await called(
        one,
        "BatchUnwrap",
        pb.BatchUnwrapRequest(
            cluster="acme", items=[pb.BatchUnwrapItem(wrapped_key=key) for key in wrapped]
        ),
    )
    results = pb.BatchUnwrapResponse.FromString(opened).results
    assert [result.answer.plaintext for result in results] == [
        item.plaintext for item in wraps(1_000).items
    ]
    moved, _ = await called(
        one,
        "BatchRewrap",
        pb.BatchRewrapRequest(
            cluster="acme", items=[pb.BatchRewrapItem(wrapped_key=key) for key in wrapped]
        ),
    )
    assert all(r.answer.already_current for r in pb.BatchRewrapResponse.FromString(moved).results)
    assert len(turns) == 12


async def test_a_revocation_between_two_parts_stops_the_second(
    one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: each part checks for itself what may be used, so no part is served after a Revoke."""
    one.hurry()
    turns = between(monkeypatch, one.revoke)
    reply, _ = await called(one, "BatchWrap", wraps(300))
    assert len(turns) == 1
    results = pb.BatchWrapResponse.FromString(reply).results
    assert [result.HasField("answer") for result in results] == [True] * 200 + [False] * 100
    assert "revoked" in results[-1].error.message


async def test_at_ttl_0_a_batch_of_many_parts_asks_once(
    one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: a batch is one call, whatever its parts: one call to the KMS for each KEK."""
    between(monkeypatch, nothing)
    await one.enable("strict", {"eu": under("fake:one", ttl=0)})
    before = one.house.calls()
    asked = wraps(1_000)
    asked.cluster = "strict"
    reply, _ = await called(one, "BatchWrap", asked)
    assert len(pb.BatchWrapResponse.FromString(reply).results) == 1_000
    assert one.house.calls() - before == 1


async def test_too_large_an_answer_is_refused_before_any_work(
    one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: what the answer of all parts will have is counted before the first is carried out."""
    between(monkeypatch, nothing)
    worked = []
    monkeypatch.setattr(one.plane, "wrap_batch", lambda *_: worked.append(1))
    with pytest.raises(InvalidBatchError, match="the answer would have about 4,218,000 bytes"):
        await called(one, "BatchWrap", wraps(1_000, 4_096))
    assert not worked
