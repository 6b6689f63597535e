"""A Revoke whose confirmations are pending reads as an operation that no table has (R4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    InvalidOperationError,
    OperationNotFoundError,
    StoreUnavailableError,
)
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.service.operations.decisions import Followed, decision_name
from replicas import House, Member, house_in


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme of organization org in regions eu and us, in use."""
    member = await house.replica()
    await member.enable(specs={"eu": "fake:one", "us": "fake:one"}, organization="org")
    await member.wrap()
    return member


async def revoked(member: Member) -> str:
    """Revokes acme, and returns the name under which it is followed."""
    return decision_name((await member.hurry().revoke()).decision)


async def get(member: Member, name: str, caller: Caller | None = None) -> Followed:
    """Reads a decision as an operation."""
    found = await member.replica.decisions.get(caller or Caller(member.rights), name)
    assert found is not None
    return found


async def wait(member: Member, name: str, most: float) -> Followed:
    """Waits for the end of a decision as an operation."""
    deadline = member.house.clock.monotonic() + 60
    found = await member.replica.decisions.wait(Caller(member.rights), name, most, deadline)
    assert found is not None
    return found


def pending(shown: Followed) -> list[str]:
    """Returns the names of the replicas that are pending."""
    return [each.replica for each in shown.pending]


async def test_a_revoke_reads_as_an_operation_until_all_have_confirmed(
    house: House, one: Member
) -> None:
    """R4: the operation names who is pending, on any replica, and ends when nobody is."""
    two, three = await house.replica(), await house.replica()
    name = await revoked(one)
    # The one that revoked knows that it has applied it, ahead of its next heartbeat.
    assert (await get(one, name)).confirmed == (one.changes.replica,)
    await one.poll_once()
    await one.poll_once()
    for asked in (one, two):
        shown = await get(asked, name)
        assert not shown.ended
        assert shown.confirmed == (one.changes.replica,)
        assert set(pending(shown)) == {two.changes.replica, three.changes.replica}
        assert (shown.event.cluster, shown.regions) == ("acme", ("eu", "us"))
    waiting = asyncio.create_task(wait(two, name, 30))
    for member in (two, three):
        await member.poll_once()
        await member.poll_once()
    shown = await waiting
    assert shown.ended
    assert len(shown.confirmed) == 3
    assert (await get(two, name)).ended


async def test_a_replica_that_died_ages_out(house: House, one: Member) -> None:
    """R4, S4: the operation ends when a replica that cannot confirm has stopped by itself."""
    two = await house.replica(store_max_staleness=30)
    name = await revoked(one)
    [gone] = (await get(one, name)).pending
    assert gone.replica == two.changes.replica
    assert 0 < gone.stops_within <= 30.1
    house.clock.advance(gone.stops_within + 0.01)
    await one.poll()
    shown = await get(one, name)
    assert shown.ended
    assert shown.confirmed == (one.changes.replica,)


async def test_an_outage_is_no_end_and_no_error(house: House, one: Member) -> None:
    """R4: while the store does not answer nobody knows who has confirmed, and a wait goes on."""
    name = decision_name((await one.hurry().revoke()).decision)
    assert (await get(one, name)).ended
    one.line.fail("replicas", StoreUnavailableError("the store is away"))
    assert pending(await get(one, name)) == ["unknown"]
    assert not (await wait(one, name, 0.3)).ended
    one.line.mend()
    assert (await wait(one, name, 30)).ended


async def test_a_repeated_revoke_names_the_same_decision(house: House, one: Member) -> None:
    """R6: who repeats a Revoke follows the decision that the first one made."""
    first = await one.hurry().revoke(request_id="r")
    again = await one.revoke(request_id="r")
    assert again.mutation.replayed
    assert again.decision == first.decision


async def test_only_who_may_see_the_cluster_reads_it(house: House, one: Member) -> None:
    """C7: for anyone else, and with a number that is no decision, there is no such operation."""
    revoked = await one.hurry().revoke(regions=["eu"])
    name = decision_name(revoked.decision)

    def caller(roles: str, narrowed: str) -> Caller:
        grant = f'[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["{roles}"]\n{narrowed}\n'
        return Caller(parse(grant, "policy.toml").rights(Identity(("jwt:i#op",), "token")))

    for narrowed in ("", 'organizations = ["org"]', 'clusters = ["ac*"]', 'regions = ["eu"]'):
        shown = await get(one, name, caller("auditor", narrowed))
        assert shown.regions == ("eu",)
    hidden = (
        caller("auditor", 'organizations = ["other"]'),
        caller("auditor", 'clusters = ["b*"]'),
        caller("auditor", 'regions = ["us"]'),
        caller("crypto:wrap", ""),
    )
    for who in hidden:
        with pytest.raises(OperationNotFoundError):
            await get(one, name, who)
    for wrong in ("0", "99999", "9" * 30, "x", "-1", ""):
        with pytest.raises(OperationNotFoundError):
            await get(one, f"operations/decision/{wrong}")
    assert await one.replica.decisions.get(Caller(one.rights), "spring") is None


async def test_a_decision_is_neither_cancelled_nor_deleted(house: House, one: Member) -> None:
    """What is decided stays: cancelling and deleting are refused, and say what to do instead."""
    name = decision_name((await one.hurry().revoke()).decision)
    for rpc in ("CancelOperation", "DeleteOperation"):
        with pytest.raises(InvalidOperationError, match="Restore"):
            await one.replica.decisions.refuse(Caller(one.rights), name, rpc)
