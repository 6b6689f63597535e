"""Operations in regions with replicas of their own: which replica runs them, and what waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import REGISTRY

from keyfold_server.domain.errors import StoreUnavailableError, WrongRegionError
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy
from keyfold_server.domain.operations import (
    LEASE,
    ActionKind,
    Operation,
    OperationKey,
    Work,
    owner_of,
)
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.rpc.messages import operations as messages
from keyfold_server.service.operations import control as controlling
from replicas import House, Member, house_in, until

KEY: Final = OperationKey(owner_of("local"), "op")
WORKS: Final = (
    Work(ActionKind.ROTATE, organization="org"),
    Work(ActionKind.TEST, organization="org"),
    Work(ActionKind.RECHECK, organization="org"),
    Work(ActionKind.POLICY, organization="org", policy=RegionPolicy(auto_rotate=True)),
)
"""Work whose steps need KMSs."""

PLAIN: Final = Work(ActionKind.POLICY, organization="org", policy=RegionPolicy(cache_ttl=30.0))
"""Work whose steps need none."""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


async def serving(house: House, *regions: str) -> Member:
    """Starts a replica that serves some regions; none named: all."""
    return await house.replica(served=ServedRegions.of(regions or ("*",), {}))


async def a_fleet(house: House) -> tuple[Member, Member]:
    """Starts a control replica and one of region us; a cluster has both regions enabled."""
    control, us = await serving(house), await serving(house, "us")
    await control.enable("a", {"eu": "fake:one", "us": "fake:two"}, organization="org")
    return control, us


async def started(member: Member, work: Work) -> Operation:
    """Starts an operation."""
    deadline = member.house.clock.monotonic() + 60
    result = await member.replica.operations.start(
        Caller(member.rights), "op", work, deadline, dry_run=False
    )
    assert result.operation is not None
    return result.operation


async def looked(member: Member) -> Operation:
    """Has a replica look for operations, and run those that it takes; returns the operation."""
    runner = member.replica._runner
    assert runner is not None
    await runner.look()
    await until(lambda: not runner._runs)
    return known(member)


def known(member: Member) -> Operation:
    """Returns the operation as the store has it."""
    found = member.house.store.operation(KEY)
    assert found is not None
    return found


async def told(member: Member) -> str:
    """Returns what GetOperation says of why the operation does not go on."""
    caller = Caller(member.rights)
    shown = await member.replica.operations.get(caller, "op")
    notice = await member.replica.operations.notice(shown)
    reply = messages.operation(shown, (), notice)
    metadata = messages.metadata(shown, ())
    reply.metadata.Unpack(metadata)
    assert metadata.notice == notice
    return notice


def waiting() -> float | None:
    """Returns the number of operations that `/metrics` shows as waiting."""
    return REGISTRY.get_sample_value("keyfold_operations_waiting")


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.kind.value)
async def test_a_regions_replica_takes_nothing_that_needs_kmss(house: House, work: Work) -> None:
    """Its items may need KMSs that it cannot call: it leaves them to a control replica."""
    control, us = await a_fleet(house)
    with pytest.raises(WrongRegionError):
        await started(us, work)
    await started(control, work)
    before = len(house.provider.calls)
    assert not (await looked(us)).ended
    assert house.provider.calls[before:] == []
    done = await looked(control)
    assert (done.outcome, done.progress.failed) == ("done", 0)


async def test_a_regions_replica_carries_out_what_needs_no_kms(house: House) -> None:
    """A policy without auto_rotate asks no provider, so any replica gives it to every region."""
    control, us = await a_fleet(house)
    await control.stop()
    await started(us, PLAIN)
    us.replica._kms._made.clear()
    us.replica._kms._providers = lambda _: pytest.fail("a provider was made")
    done = await looked(us)
    assert (done.outcome, done.progress.done) == ("done", 2)
    cluster = house.store.cluster("a")
    assert cluster is not None
    assert {region.policy.cache_ttl for region in cluster.regions} == {30.0}


async def test_what_waits_for_a_control_replica_says_so(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """GetOperation, the log and a metric say it, from the beginning to the end of the wait."""
    caplog.set_level(logging.WARNING, controlling.__name__)
    control, us = await a_fleet(house)
    await started(control, WORKS[0])
    await looked(us)
    assert await told(us) == ""
    assert not waiting()
    await control.stop()
    house.clock.advance(controlling._LOOK_AGAIN)
    await us.poll()
    await looked(us)
    assert "no control replica lives" in await told(us)
    assert waiting() == 1.0
    [begins] = caplog.messages
    assert "1 operations wait" in begins
    assert "op" in begins
    # It looks for one now and then, and says it once.
    us.line.counts.clear()
    for _ in range(5):
        await looked(us)
    assert us.line.counts["replicas"] == 0
    another = await serving(house)
    assert await told(us) == await told(another) == ""
    house.clock.advance(controlling._LOOK_AGAIN)
    await us.poll()
    await another.poll()
    await looked(us)
    assert waiting() == 0.0
    assert (await looked(another)).outcome == "done"
    assert len(caplog.messages) == 2
    assert await told(us) == ""


async def test_what_was_cancelled_ends_without_a_control_replica(house: House) -> None:
    """Nothing is left to do but to end it, which needs no KMS."""
    control, us = await a_fleet(house)
    move = Work(ActionKind.ROTATE, organization="org", key_spec=KeySpec("FAKE", "fake:two"))
    await started(control, move)
    await control.stop()
    await us.replica.operations.cancel(Caller(us.rights), "op")
    assert await told(us) == ""
    before = len(house.provider.calls)
    assert (await looked(us)).outcome == "cancelled"
    assert house.provider.calls[before:] == []


async def test_what_a_dead_control_replica_ran_waits_for_the_next(house: House) -> None:
    """The lease of a control replica that died passes to another one, and to no region's."""
    control, us = await a_fleet(house)
    hang = house.provider.hang("fake:one")
    await started(control, WORKS[0])
    runner = control.replica._runner
    assert runner is not None
    await runner.look()
    await asyncio.to_thread(hang.wait_entered, 1)
    for task in runner._tasks._under_way:
        task.cancel()
    house.provider.mend()
    house.clock.advance(LEASE + 1)
    await us.poll()
    assert not (await looked(us)).ended
    another = await serving(house)
    assert (await looked(another)).outcome == "done"


async def test_a_store_that_is_away_says_nothing_of_control_replicas(house: House) -> None:
    """What nobody knows is not reported."""
    control, us = await a_fleet(house)
    await started(control, WORKS[0])
    await control.stop()
    us.line.fail("replicas", StoreUnavailableError("gone"))
    await looked(us)
    assert not waiting()
    assert await told(us) == ""
